//! How the graph grows: an admitted entry finds its branch, and what its past reaches.

use std::sync::Arc;

use lattice_format::{IntentionId, VerifiedHeader};

use crate::dag::{
    Branch, BranchId, LocalSeq, Meta, branch, branches_of, damaged, key, local_key, local_of, meta,
};
use crate::mutant::{self, Mutant};
use crate::past::{self, PastCache, Vector, merge};
use crate::rows::{Rows, StorageError};

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

    let mut vector = previous_vector.to_vec();
    for name in meta.names() {
        let named = meta_of(rows, name)?;
        // What is in the past has its own past there too.
        if !past::reaches(&vector, named.branch, named.seq) {
            vector = merge(&vector, &pasts.get(rows, name, &named)?);
        }
    }
    vector = merge(&vector, &[(branch_id, header.seq)]);
    past::store(rows, branch_id, header.seq, &previous_vector, &vector)?;
    pasts.put(local, Arc::new(vector));

    let local_bytes = local.0.to_be_bytes();
    for name in header.names() {
        rows.remove(key(b'H', &[&name.0]));
    }
    rows.put(key(b'H', &[&id.0]), local_bytes);
    rows.put(
        key(b'I', &[&id.0[..16]]),
        [&local_bytes, &id.0[16..]].concat(),
    );
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

fn meta_of(rows: &Rows, local: LocalSeq) -> Result<Meta, StorageError> {
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
