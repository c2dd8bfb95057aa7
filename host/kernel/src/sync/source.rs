//! What a session asks the log, in one place.

use std::collections::BTreeSet;
use std::sync::Arc;

use lattice_format::{Digest, IntentionId, Position, VerifiedHeader};

use super::limits::VOID_WALK_MAX;
use super::message::PeerTip;
use crate::{LocalSeq, Snapshot, StorageError};

const TIPS_CONTEXT: &str = "lattice 2026-11 sync tips 1";

/// What a snapshot offers to peers.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    /// Sorted.
    pub(super) tips: Arc<[PeerTip]>,
    pub(super) digest: Digest,
}

/// The local position that the next witnessed entry gets.
pub(super) fn end(snapshot: &Snapshot) -> LocalSeq {
    LocalSeq(snapshot.summary().count)
}

/// This node's tips and their digest, as peers are told. All sessions with one snapshot share them.
pub(super) fn tips(snapshot: &Snapshot) -> Result<Offered, StorageError> {
    if let Some(offered) = snapshot.offered.get() {
        return Ok(offered.clone());
    }
    let tips = find_tips(snapshot)?;
    let offered = Offered {
        digest: digest(&tips),
        tips: tips.into(),
    };
    Ok(snapshot.offered.get_or_init(|| offered).clone())
}

/// A void entry (one that is cut off; what exceeds a quota is void and goes on as any other) is not
/// offered and not counted: instead of a void tip stands the last entry of its branch that counts.
fn find_tips(snapshot: &Snapshot) -> Result<Vec<PeerTip>, StorageError> {
    let any_void = snapshot.any_cut;
    let mut out = BTreeSet::new();
    // What another branch continues is no tip, so a branch that is void down to where it left
    // another one must vanish: its last counting entry is an inner one.
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
    // The void ones, and the one behind them.
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
    // Too long to look behind: offering void entries costs bytes, leaving out others would lose them.
    Ok(Some(tip))
}

/// Digest of sorted tips: equal digests end a round.
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

/// Up to `limit` entries in canonical order that sort after `from`, void ones included: where each
/// stands, its place in the log, and whether it counts.
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

/// The void `prev`-ancestors of a void entry, oldest first and at most `max`: nobody offers them, so
/// they go with the one that was asked for.
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
