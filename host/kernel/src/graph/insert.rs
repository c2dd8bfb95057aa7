//! Insertion into the graph: an admitted entry gets its branch, its version vector and its rows.

use std::cmp::Reverse;
use std::sync::Arc;

use lattice_format::{IntentionId, VerifiedHeader};

use crate::graph::dag::{self, Branch, BranchId, Meta, key, local_key};
use crate::graph::lookup_cache::{LookupCache, Named};
use crate::graph::order;
use crate::graph::slot::Slot;
use crate::graph::version_vector::Past;
use crate::mutant::{self, Mutant};
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, put_varint};
use crate::storage::rows::{Rows, RowsView};

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

    let (branch_id, new_branch, fork) = place_in_branch(rows, cache, header, local, prev)?;
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

    let mut names: Vec<Named> = prev.into_iter().chain(grant).chain(deps).collect();
    // The newest mostly has seen most.
    names.sort_unstable_by_key(|named| Reverse(named.local));
    let past = past_of(rows, cache, branch_id, new_branch, &names)?;
    let unchanged = match prev {
        Some(prev) if !new_branch => *past_of_named(rows, cache, &prev)? == past,
        _ => past == Past::default(),
    };
    if !unchanged {
        past.store(rows, branch_id, header.seq);
    }
    cache.pasts.put(local, Arc::new(past));

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

fn past_of_named(
    rows: &RowsView,
    cache: &mut LookupCache,
    named: &Named,
) -> Result<Arc<Past>, StorageError> {
    cache.pasts.get(rows, named.local, named.branch, named.seq)
}

/// The past of a new entry of `branch` that names `names`, of which the newest come first.
fn past_of(
    rows: &mut Rows,
    cache: &mut LookupCache,
    branch: BranchId,
    new_branch: bool,
    names: &[Named],
) -> Result<Past, StorageError> {
    // In the entry's own branch the past goes down from the entry before, so it builds on that one's. The past of the
    // first entry of a branch builds on that of the newest entry that it names.
    let base = match new_branch {
        true => names.first(),
        false => names
            .iter()
            .filter(|named| named.branch == branch)
            .max_by_key(|named| named.seq),
    };
    let mut past = match base {
        Some(base) => Past::clone(&*past_of_named(rows, cache, base)?),
        None => Past::default(),
    };
    let others = base.into_iter().chain(names);
    for (at, named) in others.filter(|named| named.branch != branch).enumerate() {
        // Where the past reaches a named entry, it covers the past of that entry as well.
        if cache.pasts.reaches(rows, &past, named.branch, named.seq)? {
            continue;
        }
        if at > 0 || !new_branch {
            let other = past_of_named(rows, cache, named)?;
            cache.pasts.merge(rows, &mut past, &other)?;
        }
        cache
            .pasts
            .raise(rows, &mut past, named.branch, named.seq)?;
    }
    Ok(past)
}

fn place_in_branch(
    rows: &mut Rows,
    cache: &mut LookupCache,
    header: &VerifiedHeader,
    local: LocalSeq,
    prev: Option<Named>,
) -> Result<(BranchId, bool, bool), StorageError> {
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
            return Ok((prev.branch, false, false));
        }
        parent = Some((prev.branch, prev.seq));
    }
    let fork = dag::any_branch_of(rows, &header.author, Some(header.chain))?;
    let next = u32::try_from(dag::branch_count(rows)?);
    let id = BranchId(next.expect("a log of so many branches fits no disk"));
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
    Ok((id, true, fork))
}
