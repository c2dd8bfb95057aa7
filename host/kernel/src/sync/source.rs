//! What a session offers of the log: its tips, its rows in order, and void entries that the peer asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use lattice_format::{Digest, IntentionId, Position, VerifiedHeader};

use super::limits::VOID_WALK_MAX;
use super::message::PeerTip;
use crate::{LocalSeq, Snapshot, StorageError};

const TIPS_CONTEXT: &str = "lattice 2026-11 sync tips 1";

/// What a snapshot offers to peers: the tips of its branches, and their digest.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    /// The tips, sorted.
    pub(super) tips: Arc<[PeerTip]>,
    pub(super) digest: Digest,
}

/// The number that the next witnessed entry gets.
pub(super) fn end(snapshot: &Snapshot) -> LocalSeq {
    LocalSeq(snapshot.summary().count)
}

/// This node's tips and their digest, as peers are told. They are computed once a snapshot, for all sessions.
pub(super) fn tips(snapshot: &Snapshot) -> Result<Offered, StorageError> {
    snapshot.derive(|| {
        let tips = find_tips(snapshot)?;
        Ok(Offered {
            digest: digest(&tips),
            tips: tips.into(),
        })
    })
}

/// The tips of all branches, void entries left out: in the place of a void tip stands the last entry of its branch
/// that counts. Void means cut off. An entry that exceeds a quota travels like any other.
fn find_tips(snapshot: &Snapshot) -> Result<Vec<PeerTip>, StorageError> {
    let any_void = snapshot.any_cut;
    let mut out = BTreeSet::new();
    // A branch may be void down to where it left another one. Its last entry that counts then lies inside the other
    // branch and is not a tip.
    let mut fallbacks = Vec::new();
    for tip in snapshot.tips()? {
        let own = PeerTip {
            author: tip.author,
            chain: tip.chain,
            seq: tip.seq,
            id: tip.id,
        };
        if !any_void || !snapshot.is_cut_off(&tip.id)? {
            out.insert(own);
        } else if let Some(counting) = last_counting(snapshot, own)? {
            fallbacks.push(counting);
        }
    }
    for fallback in fallbacks {
        let mut inner = false;
        for tip in out
            .iter()
            .filter(|tip| tip.author == fallback.author && tip.chain == fallback.chain)
        {
            inner |= snapshot
                .branch_from(&tip.id, fallback.seq, 1)?
                .first()
                .copied()
                == snapshot
                    .branch_from(&fallback.id, fallback.seq, 1)?
                    .first()
                    .copied();
        }
        if !inner {
            out.insert(fallback);
        }
    }
    Ok(out.into_iter().collect())
}

fn last_counting(snapshot: &Snapshot, tip: PeerTip) -> Result<Option<PeerTip>, StorageError> {
    let mut at = tip.id;
    // The range has one step more than the bound, for the entry that counts behind the last void one.
    for _ in 0..=VOID_WALK_MAX {
        let Some(stored) = snapshot.entry(&at)? else {
            return Ok(None);
        };
        let header = stored.header;
        if (header.author, header.chain) != (tip.author, tip.chain) {
            return Ok(None);
        }
        if !snapshot.is_cut_off(&at)? {
            return Ok(Some(PeerTip {
                seq: header.seq,
                id: at,
                ..tip
            }));
        }
        match header.prev {
            Some(prev) => at = prev,
            None => return Ok(None),
        }
    }
    // The void entries are too many to pass over. To offer them costs bytes; to offer nothing would lose the entries
    // below, which count.
    Ok(Some(tip))
}

/// The digest of sorted tips. Equal digests end a round.
fn digest(tips: &[PeerTip]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(TIPS_CONTEXT);
    for tip in tips {
        hasher.update(&tip.author.0);
        hasher.update(&tip.chain.0.to_be_bytes());
        hasher.update(&tip.seq.0.to_be_bytes());
        hasher.update(&tip.id.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Up to `limit` entries behind `from` in canonical order, void ones included: the position of each, its number in
/// the log, and whether it counts.
pub(super) fn rows(
    snapshot: &Snapshot,
    from: Position,
    limit: usize,
) -> Result<Vec<(Position, LocalSeq, bool)>, StorageError> {
    let any_void = snapshot.any_cut;
    snapshot
        .places(Some(from), limit, false)?
        .into_iter()
        .map(|(at, local)| Ok((at, local, !(any_void && snapshot.is_cut_off(&at.id)?))))
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
        && snapshot.is_cut_off(&id)?
        && let Some(stored) = snapshot.entry(&id)?
    {
        out.push(stored.local);
        at = stored.header.prev;
    }
    out.reverse();
    Ok(out)
}
