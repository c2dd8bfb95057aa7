//! The bank, natively.

use guest_bank::Bank;
use guest_bank::bindings::exports::example::bank::commands::{
    Error, Guest as _, InsufficientFunds,
};
use guest_bank::bindings::exports::example::bank::queries::Guest as _;
use lattice_sdk::testing;

fn run<T>(act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    testing::call("teller").attempt(act)
}

fn open(balances: &[(&str, u64)]) {
    testing::reset();
    for (account, balance) in balances {
        run(|| Bank::open((*account).to_owned())).expect("a fresh name");
        run(|| Bank::deposit((*account).to_owned(), *balance)).expect("it exists");
    }
}

fn balances() -> String {
    let accounts = testing::query(|| Bank::accounts(None, 100)).into_iter();
    let texts: Vec<_> = accounts
        .map(|account| format!("{} {}", account.name, account.balance))
        .collect();
    texts.join(", ")
}

#[test]
fn money_moves_and_none_is_made() {
    open(&[("ada", 10), ("bob", 5)]);
    assert_eq!(run(|| Bank::withdraw("ada".into(), 3)), Ok(7));
    assert_eq!(run(|| Bank::transfer("ada".into(), "bob".into(), 7)), Ok(0));
    assert_eq!(
        run(|| Bank::transfer("bob".into(), "bob".into(), 12)),
        Ok(12)
    );
    assert_eq!(balances(), "ada 0, bob 12");
    assert_eq!(testing::query(Bank::total), 12);
}

#[test]
fn an_overdraft_is_refused_and_changes_nothing() {
    open(&[("ada", 10), ("bob", 5)]);
    let missing = Error::InsufficientFunds(InsufficientFunds {
        account: "ada".into(),
        balance: 10,
        asked: 11,
    });
    assert_eq!(
        run(|| Bank::withdraw("ada".into(), 11)),
        Err(missing.clone())
    );
    assert_eq!(
        run(|| Bank::transfer("ada".into(), "bob".into(), 11)),
        Err(missing)
    );
    assert_eq!(balances(), "ada 10, bob 5");
}

#[test]
fn an_overflow_takes_the_withdrawal_back() {
    open(&[("ada", 10), ("bob", u64::MAX)]);
    assert_eq!(
        run(|| Bank::transfer("ada".into(), "bob".into(), 1)),
        Err(Error::Overflow("bob".into()))
    );
    assert_eq!(testing::query(|| Bank::balance("ada".into())), Some(10));
    assert_eq!(testing::query(Bank::total), u64::MAX);
}

#[test]
fn accounts_are_named_once_and_must_exist() {
    open(&[("ada", 1)]);
    assert_eq!(
        run(|| Bank::open("ada".into())),
        Err(Error::AccountExists("ada".into()))
    );
    let nobody = Err(Error::NoSuchAccount("zed".into()));
    assert_eq!(run(|| Bank::deposit("zed".into(), 1)), nobody);
    assert_eq!(
        run(|| Bank::transfer("ada".into(), "zed".into(), 1)),
        nobody
    );
    assert_eq!(testing::query(|| Bank::balance("zed".into())), None);
    assert_eq!(
        testing::query(|| Bank::accounts(Some("ada".into()), 9)).len(),
        0
    );
}
