//! Accounts that cannot be overdrawn: a small component whose calls do not commute.
//!
//! It is the example of a program that no merge function could replicate. Two members who are apart may both
//! spend the last coin; once they have heard of each other, one of the two withdrawals is refused on both
//! replicas, and it is the same one.

use bindings::exports::example::bank::commands::{self, Error, InsufficientFunds};
use bindings::exports::example::bank::queries::{self, Account};
use lattice_sdk::codec::Writer;
use lattice_sdk::state::{self, Range};

lattice_sdk::plugin!(Bank, world: "example:bank/plugin", path: ["../../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Bank;

/// Largest name of an account, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 256;

/// The tag of an account. A key is the tag and the account's name, a value the balance, 8 bytes big-endian.
const ACCOUNT: u8 = b'a';

impl commands::Guest for Bank {
    fn open(account: String) -> Result<(), Error> {
        assert!(
            account.len() <= NAME_BYTES_MAX,
            "a name of {} bytes exceeds {NAME_BYTES_MAX}",
            account.len()
        );
        if read(&account).is_some() {
            return Err(Error::AccountExists(account));
        }
        write(&account, 0);
        Ok(())
    }

    fn deposit(account: String, amount: u64) -> Result<u64, Error> {
        let balance = existing(&account)?;
        let balance = balance
            .checked_add(amount)
            .ok_or_else(|| Error::Overflow(account.clone()))?;
        write(&account, balance);
        Ok(balance)
    }

    fn withdraw(account: String, amount: u64) -> Result<u64, Error> {
        let balance = existing(&account)?;
        let Some(left) = balance.checked_sub(amount) else {
            let missing = InsufficientFunds {
                account,
                balance,
                asked: amount,
            };
            return Err(Error::InsufficientFunds(missing));
        };
        write(&account, left);
        Ok(left)
    }

    fn transfer(source: String, target: String, amount: u64) -> Result<u64, Error> {
        existing(&target)?;
        <Self as commands::Guest>::withdraw(source.clone(), amount)?;
        // A refusal here takes the withdrawal back: a call that returns an error writes nothing.
        <Self as commands::Guest>::deposit(target, amount)?;
        existing(&source)
    }
}

impl queries::Guest for Bank {
    fn balance(account: String) -> Option<u64> {
        read(&account)
    }

    fn accounts(after: Option<String>, limit: u32) -> Vec<Account> {
        let mut range = Range::prefix(&[ACCOUNT]);
        if let Some(after) = after {
            range = range.after(&row_key(&after));
        }
        let rows = state::scan(range.limit(limit));
        rows.map(|(key, row)| Account {
            name: String::from_utf8_lossy(&key[1..]).into_owned(),
            balance: decode(&row),
        })
        .collect()
    }

    fn total() -> u64 {
        let rows = state::scan(Range::prefix(&[ACCOUNT]));
        rows.fold(0, |total, (_, row)| total.saturating_add(decode(&row)))
    }
}

fn row_key(account: &str) -> Vec<u8> {
    Writer::tag(ACCOUNT).bytes(account.as_bytes()).finish()
}

fn decode(row: &[u8]) -> u64 {
    u64::from_be_bytes(row.try_into().expect("a balance has 8 bytes"))
}

fn read(account: &str) -> Option<u64> {
    state::get(&row_key(account)).map(|row| decode(&row))
}

fn existing(account: &str) -> Result<u64, Error> {
    read(account).ok_or_else(|| Error::NoSuchAccount(account.to_owned()))
}

fn write(account: &str, balance: u64) {
    state::put(&row_key(account), &balance.to_be_bytes());
}
