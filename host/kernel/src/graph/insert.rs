//! Insertion into the graph: an admitted entry gets its branch, its version vector and its rows.

use std::sync::Arc;

use lattice_format::{IntentionId, VerifiedHeader};

use crate::graph::dag::{self, Branch, BranchId, Meta, branches_of, key, local_key};
use crate::graph::lookup_cache::{LookupCache, Named};
use crate::graph::order;
use crate::graph::slot::Slot;
use crate::graph::version_vector::{self, Vector};
use crate::mutant::{self, Mutant};
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint};
use crate::storage::rows::Rows;

/// What the insertion of an entry found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) local: LocalSeq,
    /// Whether the entry starts a branch of a chain that exists already, which proves a fork.
    pub(crate) fork: bool,
    /// Whether the entry starts a branch.
    pub(crate) new_branch: bool,
}

/// Adds an admitted entry as number `local`. All entries that it names must be there.
pub(crate) fn add(
    rows: &mut Rows,
    cache: &mut LookupCache,
    header: &VerifiedHeader,
    local: LocalSeq,
) -> Result<Added, StorageError> {
    let id = header.id();
    let named = |id: IntentionId| -> Result<Named, StorageError> {
        cache
            .names
            .find(rows, &id)?
            .ok_or_else(|| StorageError::row(&dag::id_prefix(&id)))
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
        place_in_branch(rows, cache, header, local, prev)?;
    let meta = Meta {
        id,
        time: header.time,
        branch: branch_id,
        seq: header.seq,
        lane: header.lane,
        chain_bytes: header.chain_bytes,
        prev: prev.map(|named| named.local),
        grant: grant.map(|named| named.local),
        deps: deps.iter().map(|named| named.local).collect(),
    };

    let mut vector = previous_vector.to_vec();
    for named in prev.iter().chain(&grant).chain(&deps) {
        // Where the vector reaches a named entry, it covers the past of that entry as well.
        if !version_vector::reaches(&vector, named.branch, named.seq) {
            version_vector::merge_into(&mut vector, &cache.pasts.get(rows, named.local)?);
        }
    }
    version_vector::merge_into(&mut vector, &[(branch_id, header.seq)]);
    version_vector::store(rows, branch_id, header.seq, &previous_vector, &vector)?;
    cache.pasts.put(local, Arc::new(vector));

    let mut number = Vec::with_capacity(5);
    put_varint(local.0, &mut number);
    for name in header.names() {
        if cache.heads.remove(&name).is_some() {
            rows.remove(key(b'H', &[&name.0]));
        }
    }
    cache.heads.insert(id, local);
    rows.put(key(b'H', &[&id.0]), &number[..]);
    rows.put(dag::id_key(&id, local), []);
    rows.put(
        key(
            b'C',
            &[&branch_id.0.to_be_bytes(), &header.seq.0.to_be_bytes()],
        ),
        &number[..],
    );
    for device in &header.admits {
        rows.put(key(b'P', &[&device.0, &local.0.to_be_bytes()]), []);
    }
    order::put_new(rows, Slot::of(header.position()), local);
    rows.put(local_key(local), meta.encode(local));
    let named = Named {
        local,
        branch: branch_id,
        seq: header.seq,
        time: header.time,
        chain_bytes: header.chain_bytes,
    };
    cache.names.put(id, named);
    Ok(Added {
        local,
        fork,
        new_branch,
    })
}

fn place_in_branch(
    rows: &mut Rows,
    cache: &mut LookupCache,
    header: &VerifiedHeader,
    local: LocalSeq,
    prev: Option<Named>,
) -> Result<(BranchId, Vector, bool, bool), StorageError> {
    let mut parent = None;
    if let Some(prev) = prev
        && header.seq.0 > 0
    {
        let mut row = cache.branch(rows, prev.branch)?;
        if row.tip == prev.seq {
            row.tip = header.seq;
            row.tip_local = local;
            rows.put(key(b'B', &[&prev.branch.0.to_be_bytes()]), row.encode());
            cache.set_branch(prev.branch, row);
            let vector = cache.pasts.get(rows, prev.local)?;
            return Ok((prev.branch, vector, false, false));
        }
        parent = Some((prev.branch, prev.seq));
    }
    let fork = !branches_of(rows, &header.author, Some(header.chain))?.is_empty();
    let next = rows.first(b"B", b"C", true)?.map_or(Ok(0), |(row, _)| {
        row[1..]
            .try_into()
            .map(|id| u32::from_be_bytes(id) + 1)
            .map_err(|_| StorageError::row(&row))
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
    cache.set_branch(id, row);
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
