//! What a session offers of the log: its tips, its rows in order, and void entries that the peer asks for.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lattice_format::{Digest, IntentionId, Position, Seq, VerifiedHeader};

use super::limits::VOID_WALK_MAX;
use super::message::PeerTip;
use crate::graph::dag::{self, BranchId, Meta};
use crate::state::fingerprints;
use crate::{LocalSeq, Snapshot, StorageError};

/// The number that the next witnessed entry gets.
pub(super) fn end(snapshot: &Snapshot) -> LocalSeq {
    LocalSeq(snapshot.summary().count)
}

/// The digest of all entries that count, as peers are told. Equal digests end a round.
pub(super) fn digest(snapshot: &Snapshot) -> Result<Digest, StorageError> {
    Ok(fingerprints::all(&snapshot.rows)?.hash.digest())
}

/// An upper bound of the number of tips, found without a look at them: the number of branches.
pub(super) fn tips_at_most(snapshot: &Snapshot) -> Result<u64, StorageError> {
    dag::branch_count(&snapshot.rows)
}

/// This node's tips, sorted, as peers are told. They are found once a snapshot, for all sessions, and only where
/// digests differ and the tips are few.
pub(super) fn tips(snapshot: &Snapshot) -> Result<Arc<[PeerTip]>, StorageError> {
    snapshot.derive(|| Ok(find_tips(snapshot)?.into()))
}

/// The tips of all branches, void entries left out: in the place of a void tip stands the last entry of its branch
/// that counts.
fn find_tips(snapshot: &Snapshot) -> Result<Vec<PeerTip>, StorageError> {
    let any_void = snapshot.any_void;
    let mut out = Vec::new();
    let mut counting = Vec::new();
    // A branch may be void down to where it left another one. Its last entry that counts then lies inside the other
    // branch and is not a tip.
    let mut fallbacks = Vec::new();
    let mut passed = HashSet::new();
    for tip in snapshot.tips()? {
        let own = PeerTip {
            author: tip.author,
            chain: tip.chain,
            seq: tip.seq,
            id: tip.id,
        };
        if !any_void || !snapshot.is_left_out(&tip.id)? {
            out.push(own);
            counting.push(tip.local);
            continue;
        }
        match last_counting(snapshot, tip.local, &mut passed)? {
            Found::Counting(local, meta) => fallbacks.push((own, local, meta)),
            Found::TooFar => out.push(own),
            Found::Nothing => {}
        }
    }
    if !fallbacks.is_empty() {
        let mut reached = HashMap::new();
        for local in counting {
            reach_up(snapshot, local, &mut reached)?;
        }
        // The newest first, because an older one may lie inside its branch.
        fallbacks.sort_unstable_by_key(|(_, local, _)| Reverse(*local));
        for (tip, local, meta) in fallbacks {
            if reached.get(&meta.branch) < Some(&meta.seq) {
                reach_up(snapshot, local, &mut reached)?;
                out.push(PeerTip {
                    seq: meta.seq,
                    id: meta.id,
                    ..tip
                });
            }
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// Notes of each branch on the way from an entry to the first of its chain how far the way follows the branch.
fn reach_up(
    snapshot: &Snapshot,
    local: LocalSeq,
    reached: &mut HashMap<BranchId, Seq>,
) -> Result<(), StorageError> {
    let meta = dag::meta(&snapshot.rows, local)?;
    let (mut branch, mut seq) = (meta.branch, meta.seq);
    // Where a branch was followed as far already, so were those that it left.
    while reached.get(&branch) < Some(&seq) {
        reached.insert(branch, seq);
        match dag::branch(&snapshot.rows, branch)?.parent {
            Some((parent, at)) => (branch, seq) = (parent, at),
            None => break,
        }
    }
    Ok(())
}

enum Found {
    Counting(LocalSeq, Meta),
    TooFar,
    Nothing,
}

/// The last entry that counts behind a void tip of its chain. `passed` holds the void entries that were passed on the
/// way from other tips: what lies behind these was found already.
fn last_counting(
    snapshot: &Snapshot,
    tip: LocalSeq,
    passed: &mut HashSet<LocalSeq>,
) -> Result<Found, StorageError> {
    let mut local = tip;
    let mut meta = dag::meta(&snapshot.rows, local)?;
    // The range has one step more than the bound, for the entry that counts behind the last void one.
    for _ in 0..=VOID_WALK_MAX {
        if !snapshot.is_left_out(&meta.id)? {
            return Ok(Found::Counting(local, meta));
        }
        if !passed.insert(local) {
            return Ok(Found::Nothing);
        }
        // Before the first entry of a chain stands the genesis, which is of another chain.
        match meta.prev {
            Some(prev) if meta.seq.0 > 0 => local = prev,
            _ => return Ok(Found::Nothing),
        }
        meta = dag::meta(&snapshot.rows, local)?;
    }
    // The void entries are too many to pass over. To offer them costs bytes; to offer nothing would lose the entries
    // below, which count.
    Ok(Found::TooFar)
}

/// Up to `limit` entries behind `from` in canonical order, void ones included: the position of each, its number in
/// the log, and whether it counts.
pub(super) fn rows(
    snapshot: &Snapshot,
    from: Position,
    limit: usize,
) -> Result<Vec<(Position, LocalSeq, bool)>, StorageError> {
    let any_void = snapshot.any_void;
    snapshot
        .places(Some(from), limit, false)?
        .into_iter()
        .map(|(at, local)| Ok((at, local, !(any_void && snapshot.is_left_out(&at.id)?))))
        .collect()
}

/// The void `prev`-ancestors of a void entry, oldest first and at most `max`. Nobody offers void entries, so these
/// are sent along with the one that was asked for.
pub(super) fn void_ancestors(
    snapshot: &Snapshot,
    header: &VerifiedHeader,
    max: usize,
) -> Result<Vec<LocalSeq>, StorageError> {
    let mut out = Vec::new();
    let mut at: Option<IntentionId> = header.prev;
    while let Some(id) = at
        && out.len() < max
        && snapshot.is_left_out(&id)?
        && let Some(stored) = snapshot.entry(&id)?
    {
        out.push(stored.local);
        at = stored.header.prev;
    }
    out.reverse();
    Ok(out)
}
