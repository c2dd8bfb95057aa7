//! A revocation in the form that the host gets: the revoking call, and what it keeps.
//!
//! The row of a revocation stays when the member is admitted again, so the member's older entries stay void.
//!
//! ```text
//! call id 32   kept: 0 seen | 1 ids, 32 each
//! ```

use lattice_sdk::Entry;
use lattice_sdk::codec::Writer;
use lattice_sdk::state::{self, Range};

use crate::bindings::exports::lattice::system::commands::Error;
use crate::bindings::exports::lattice::system::governance::{Cut, Kept};
use crate::key::PublicKey;
use crate::rows::{self, HASH_BYTES};

/// Ids that one revocation can keep. One for each chain of the member is enough, as an id keeps those before it.
pub const KEPT_MAX: usize = 4_096;

const _: () = assert!((KEPT_MAX + 1) * HASH_BYTES < state::VALUE_BYTES_MAX);

/// Records that the call `entry` revokes `member`, but keeps `kept`.
///
/// # Errors
/// When there are too many ids, or one has the wrong length.
pub fn record(member: &PublicKey, entry: &Entry, kept: &Kept) -> Result<(), Error> {
    let row = Writer::default().bytes(&entry.id);
    let row = match kept {
        Kept::Seen => row.u8(0),
        Kept::Ids(ids) => {
            if ids.len() > KEPT_MAX {
                return Err(Error::TooManyKept(
                    u32::try_from(ids.len()).unwrap_or(u32::MAX),
                ));
            }
            ids.iter().try_for_each(|id| rows::check_hash(id))?;
            row.u8(1).bytes(&ids.concat())
        }
    };
    let key = Writer::default()
        .bytes(&rows::keyed(rows::CUT, member))
        .position(entry)
        .finish();
    state::put(&key, &row.finish());
    Ok(())
}

/// Every revocation of `member`, in the order of history.
pub fn of(member: &PublicKey) -> Vec<Cut> {
    let rows = state::scan(Range::prefix(&rows::keyed(rows::CUT, member)));
    rows.map(|(_, row)| read(&row).expect("only `record` writes these rows"))
        .collect()
}

fn read(row: &[u8]) -> Option<Cut> {
    let (revocation, rest) = row.split_at_checked(HASH_BYTES)?;
    let kept = match rest.split_first()? {
        (0, _) => Kept::Seen,
        (_, ids) => Kept::Ids(ids.chunks_exact(HASH_BYTES).map(<[u8]>::to_vec).collect()),
    };
    Some(Cut {
        revocation: revocation.to_vec(),
        kept,
    })
}
