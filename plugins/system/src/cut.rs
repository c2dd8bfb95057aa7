//! A revocation in the form that the host gets: the revoking call, and the intentions that it keeps.
//!
//! The row of a revocation stays when the member is admitted again, so the member's older entries stay void. The
//! row is the call's id followed by the kept ids.

use lattice_sdk::Entry;
use lattice_sdk::codec::Writer;
use lattice_sdk::state::{self, Range};

use crate::bindings::exports::lattice::system::commands::Error;
use crate::bindings::exports::lattice::system::governance::Cut;
use crate::key::PublicKey;
use crate::rows::{self, HASH_BYTES};

/// Ids that one revocation can keep. One for each chain of the member is enough, as an id keeps those before it.
pub const KEPT_MAX: usize = 4_096;

const _: () = assert!((KEPT_MAX + 1) * HASH_BYTES <= state::VALUE_BYTES_MAX);

/// Records that the call `entry` revokes `member`, but keeps `kept`.
///
/// # Errors
/// When there are too many ids, or one has the wrong length.
pub fn record(member: &PublicKey, entry: &Entry, kept: &[Vec<u8>]) -> Result<(), Error> {
    if kept.len() > KEPT_MAX {
        return Err(Error::TooManyKept(
            u32::try_from(kept.len()).unwrap_or(u32::MAX),
        ));
    }
    kept.iter().try_for_each(|id| rows::check_hash(id))?;
    let key = Writer::default()
        .bytes(&rows::keyed(rows::CUT, member))
        .position(entry)
        .finish();
    state::put(
        &key,
        &Writer::default()
            .bytes(&entry.id)
            .bytes(&kept.concat())
            .finish(),
    );
    Ok(())
}

/// Every revocation of `member`, in the order of history.
pub fn of(member: &PublicKey) -> Vec<Cut> {
    let rows = state::scan(Range::prefix(&rows::keyed(rows::CUT, member)));
    rows.map(|(_, row)| {
        let mut ids = row.chunks_exact(HASH_BYTES).map(<[u8]>::to_vec);
        let revocation = ids
            .next()
            .expect("a revocation's row begins with its call's id");
        Cut {
            revocation,
            kept: ids.collect(),
        }
    })
    .collect()
}
