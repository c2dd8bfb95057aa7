//! How the graph grows: an admitted entry finds its branch, and what its past reaches.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use lattice_format::{IntentionId, Seq, VerifiedHeader};

use crate::dag::{
    Branch, BranchId, LocalSeq, Meta, branch, branches_of, damaged, key, local_key, local_of, meta,
    seen, seen_key,
};
use crate::mutant::{self, Mutant};
use crate::rows::{Rows, RowsView, StorageError};

type Vector = Arc<Vec<(BranchId, Seq)>>;

/// Version vectors of entries that were added lately, so that adding another needs no look-ups.
#[derive(Debug, Default)]
pub(crate) struct PastCache {
    vectors: HashMap<LocalSeq, Vector>,
    order: VecDeque<LocalSeq>,
}

const PAST_CACHE_MAX: usize = 512;

impl PastCache {
    fn get(
        &mut self,
        rows: &RowsView,
        local: LocalSeq,
        meta: &Meta,
    ) -> Result<Vector, StorageError> {
        if let Some(vector) = self.vectors.get(&local) {
            return Ok(vector.clone());
        }
        let vector = Arc::new(load_vector(rows, meta)?);
        self.put(local, vector.clone());
        Ok(vector)
    }

    fn put(&mut self, local: LocalSeq, vector: Vector) {
        if self.vectors.insert(local, vector).is_none() {
            self.order.push_back(local);
        }
        if self.order.len() > PAST_CACHE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.vectors.remove(&oldest);
        }
    }

    /// Forgets everything: entries were undone, and their places will be used again.
    pub(crate) fn clear(&mut self) {
        self.vectors.clear();
        self.order.clear();
    }
}

fn load_vector(rows: &RowsView, meta: &Meta) -> Result<Vec<(BranchId, Seq)>, StorageError> {
    let mut out = vec![(meta.branch, meta.seq)];
    let mut other = 0u32;
    loop {
        // Skips from branch to branch: one look-up for the number, one for the value.
        let row = rows.first(
            &seen_key(meta.branch, BranchId(other), 0),
            &key(b'S', &[&(meta.branch.0 + 1).to_be_bytes()]),
            false,
        )?;
        let Some((row, _)) = row else { break };
        let id: [u8; 4] = row
            .get(5..9)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| damaged("pasts"))?;
        let id = BranchId(u32::from_be_bytes(id));
        if let Some(seq) = seen(rows, meta.branch, id, meta.seq)? {
            out.push((id, seq));
        }
        let Some(next) = id.0.checked_add(1) else {
            break;
        };
        other = next;
    }
    out.sort_unstable();
    Ok(out)
}

/// What adding an entry found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) local: LocalSeq,
    /// The entry starts a branch of a chain that exists already: evidence of a fork.
    pub(crate) fork: bool,
    /// The entry starts a branch.
    pub(crate) new_branch: bool,
}

/// Adds an admitted entry, everything that it names being there, as number `local`.
pub(crate) fn add(
    rows: &mut Rows,
    pasts: &mut PastCache,
    header: &VerifiedHeader,
    local: LocalSeq,
) -> Result<Added, StorageError> {
    let id = header.id();
    let named = |id: IntentionId| -> Result<LocalSeq, StorageError> {
        local_of(rows, &id)?
            .ok_or_else(|| StorageError(format!("entry {id} is named but not in the log")))
    };
    let prev = header.prev.map(named).transpose()?;
    let grant = header.grant.map(named).transpose()?;
    let deps = header
        .deps
        .iter()
        .map(|d| named(*d))
        .filter(|d| d.is_ok() || !mutant::active(Mutant::DependencyNotAwaited))
        .collect::<Result<Vec<_>, _>>()?;

    let (branch_id, previous_vector, new_branch, fork) =
        place_in_branch(rows, pasts, header, local, prev)?;
    let meta = Meta {
        id,
        time: header.time,
        branch: branch_id,
        seq: header.seq,
        lane: header.lane,
        chain_bytes: header.chain_bytes,
        prev,
        grant,
        deps,
    };

    let mut vector: Vec<(BranchId, Seq)> = previous_vector.to_vec();
    for name in meta.names() {
        let named = meta_of(rows, name)?;
        let past = pasts.get(rows, name, &named)?;
        vector = merge(&vector, &past);
    }
    vector = merge(&vector, &[(branch_id, header.seq)]);
    for (other, seq) in &vector {
        let before = match previous_vector.binary_search_by_key(other, |(b, _)| *b) {
            Ok(at) => Some(previous_vector[at].1),
            Err(_) => None,
        };
        if *other != branch_id && before != Some(*seq) {
            rows.put(
                seen_key(branch_id, *other, header.seq.0),
                seq.0.to_be_bytes(),
            );
        }
    }
    pasts.put(local, Arc::new(vector));

    let local_bytes = local.0.to_be_bytes();
    for name in header.names() {
        rows.remove(key(b'H', &[&name.0]));
    }
    rows.put(key(b'H', &[&id.0]), local_bytes);
    rows.put(key(b'I', &[&id.0[..16]]), local_bytes);
    rows.put(
        key(
            b'C',
            &[&branch_id.0.to_be_bytes(), &header.seq.0.to_be_bytes()],
        ),
        local_bytes,
    );
    for device in &header.admits {
        rows.put(key(b'P', &[&device.0, &local_bytes]), []);
    }
    rows.put(key(b'T', &[&header.position().to_bytes()]), local_bytes);
    rows.put(local_key(local), meta.encode());
    Ok(Added {
        local,
        fork,
        new_branch,
    })
}

fn meta_of(rows: &RowsView, local: LocalSeq) -> Result<Meta, StorageError> {
    meta(rows, local)
}

fn place_in_branch(
    rows: &mut Rows,
    pasts: &mut PastCache,
    header: &VerifiedHeader,
    local: LocalSeq,
    prev: Option<LocalSeq>,
) -> Result<(BranchId, Vector, bool, bool), StorageError> {
    let mut parent = None;
    if let Some(prev) = prev
        && header.seq.0 > 0
    {
        let prev_meta = meta(rows, prev)?;
        let mut row = branch(rows, prev_meta.branch)?;
        if row.tip == prev_meta.seq {
            row.tip = header.seq;
            row.tip_local = local;
            rows.put(
                key(b'B', &[&prev_meta.branch.0.to_be_bytes()]),
                row.encode(),
            );
            let vector = pasts.get(rows, prev, &prev_meta)?;
            return Ok((prev_meta.branch, vector, false, false));
        }
        parent = Some((prev_meta.branch, prev_meta.seq));
    }
    let fork = !branches_of(rows, &header.author, Some(header.chain))?.is_empty();
    let next = rows.first(b"B", b"C", true)?.map_or(Ok(0), |(row, _)| {
        row[1..]
            .try_into()
            .map(|id| u32::from_be_bytes(id) + 1)
            .map_err(|_| damaged("chains"))
    })?;
    let id = BranchId(next);
    let row = Branch {
        author: header.author,
        chain: header.chain,
        parent,
        first: header.seq,
        tip: header.seq,
        tip_local: local,
    };
    rows.put(key(b'B', &[&id.0.to_be_bytes()]), row.encode());
    rows.put(
        key(
            b'A',
            &[
                &header.author.0,
                &header.chain.0.to_be_bytes(),
                &id.0.to_be_bytes(),
            ],
        ),
        [],
    );
    Ok((id, Arc::new(Vec::new()), true, fork))
}

/// The larger of two vectors, branch by branch; both sorted.
fn merge(a: &[(BranchId, Seq)], b: &[(BranchId, Seq)]) -> Vec<(BranchId, Seq)> {
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => return out,
            (Some(_), None) => out.extend(a.by_ref()),
            (None, Some(_)) => out.extend(b.by_ref()),
            (Some(&&(x, m)), Some(&&(y, n))) => match x.cmp(&y) {
                std::cmp::Ordering::Less => {
                    out.push((x, m));
                    a.next();
                }
                std::cmp::Ordering::Greater => {
                    out.push((y, n));
                    b.next();
                }
                std::cmp::Ordering::Equal => {
                    out.push((x, m.max(n)));
                    a.next();
                    b.next();
                }
            },
        }
    }
}
