//! The graph of witnessed intentions: which entries name which, which chains there are, and what lies in an entry's
//! past.
//!
//! The graph is derived from the log and kept in the same rows as the state, so a reader's view shows both at one
//! moment. [`crate::storage::keys`] lists the rows.
//!
//! A *branch* is a chain without forks: a fork starts a new branch. Rows of the kinds `S` and `U` say how far an
//! entry's past reaches into other branches (version vectors: Parker et al., "Detection of Mutual Inconsistency in
//! Distributed Systems", 1983, stored as persistent trees).

use std::ops::ControlFlow;

use lattice_format::{ChainId, DeviceKey, IntentionId, Lane, Position, Seq, Time};

use crate::graph::lookup_cache::Heads;
use crate::graph::slot::Slot;
use crate::graph::version_vector;
use crate::storage::error::StorageError;
use crate::storage::keys::{LocalSeq, last_number, put_last_number, put_varint, take, take_varint};
use crate::storage::rows::{RowsView, prefix_end};

/// The number of a chain without forks on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BranchId(pub(crate) u32);

/// The row of one entry in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) id: IntentionId,
    pub(crate) time: Time,
    pub(crate) branch: BranchId,
    pub(crate) seq: Seq,
    pub(crate) lane: Lane,
    pub(crate) chain_bytes: u64,
    /// `None` in the genesis.
    pub(crate) prev: Option<LocalSeq>,
    pub(crate) grant: Option<LocalSeq>,
    pub(crate) deps: Vec<LocalSeq>,
}

impl Meta {
    pub(crate) fn position(&self) -> Position {
        Position {
            time: self.time,
            id: self.id,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = LocalSeq> + '_ {
        self.prev
            .into_iter()
            .chain(self.grant)
            .chain(self.deps.iter().copied())
    }

    /// Position (44), then varints: branch, seq, lane, chain bytes, then prev, grant and deps. A named entry is
    /// written as the number of entries from it to this one, and 0 stands for no entry.
    pub(crate) fn encode(&self, local: LocalSeq) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&self.position().to_bytes());
        for number in [
            u64::from(self.branch.0),
            self.seq.0,
            u64::from(self.lane.number()),
            self.chain_bytes,
        ] {
            put_varint(number, &mut out);
        }
        for name in [self.prev, self.grant] {
            put_varint(name.map_or(0, |name| local.0 - name.0), &mut out);
        }
        for dep in &self.deps {
            put_varint(local.0 - dep.0, &mut out);
        }
        out
    }

    fn decode(local: LocalSeq, mut rest: &[u8]) -> Option<Self> {
        let position = Position::from_slice(take(&mut rest, Position::LEN)?)?;
        let branch = BranchId(u32::try_from(take_varint(&mut rest)?).ok()?);
        let seq = Seq(take_varint(&mut rest)?);
        let lane = Lane::from_number(u32::try_from(take_varint(&mut rest)?).ok()?)?;
        let chain_bytes = take_varint(&mut rest)?;
        let named = |rest: &mut &[u8]| -> Option<Option<LocalSeq>> {
            match take_varint(rest)? {
                0 => Some(None),
                before => Some(Some(LocalSeq(local.0.checked_sub(before)?))),
            }
        };
        let prev = named(&mut rest)?;
        let grant = named(&mut rest)?;
        let mut deps = Vec::new();
        while !rest.is_empty() {
            deps.push(named(&mut rest)??);
        }
        Some(Self {
            id: position.id,
            time: position.time,
            branch,
            seq,
            lane,
            chain_bytes,
            prev,
            grant,
            deps,
        })
    }
}

/// A chain without forks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    pub(crate) author: DeviceKey,
    pub(crate) chain: ChainId,
    /// The branch that this one left, and the last seq that both share; `None` for a chain's first branch.
    pub(crate) parent: Option<(BranchId, Seq)>,
    pub(crate) first: Seq,
    pub(crate) tip: Seq,
    pub(crate) tip_local: LocalSeq,
}

impl Branch {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.extend_from_slice(&self.author.0);
        out.extend_from_slice(&self.chain.0.to_be_bytes());
        let (parent, at) = self.parent.unwrap_or((BranchId(u32::MAX), Seq(0)));
        out.extend_from_slice(&parent.0.to_be_bytes());
        out.extend_from_slice(&at.0.to_be_bytes());
        out.extend_from_slice(&self.first.0.to_be_bytes());
        out.extend_from_slice(&self.tip.0.to_be_bytes());
        out.extend_from_slice(&self.tip_local.0.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 76] = bytes.try_into().ok()?;
        let parent = u32::from_be_bytes(bytes[40..44].try_into().ok()?);
        Some(Self {
            author: DeviceKey::from_slice(&bytes[..32])?,
            chain: ChainId(u64_of(&bytes[32..40])?),
            parent: (parent != u32::MAX)
                .then_some((BranchId(parent), Seq(u64_of(&bytes[44..52])?))),
            first: Seq(u64_of(&bytes[52..60])?),
            tip: Seq(u64_of(&bytes[60..68])?),
            tip_local: LocalSeq(u64_of(&bytes[68..76])?),
        })
    }
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

pub(crate) fn key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![table];
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(crate) fn local_key(local: LocalSeq) -> Vec<u8> {
    key(b'D', &[&local.0.to_be_bytes()])
}

// --- reading ---------------------------------------------------------------------------------------

pub(crate) fn id_prefix(id: &IntentionId) -> Vec<u8> {
    key(b'I', &[&id.0[..8]])
}

/// Key of the row that finds an entry by its id.
pub(crate) fn id_key(id: &IntentionId, local: LocalSeq) -> Vec<u8> {
    let mut key = id_prefix(id);
    put_last_number(local.0, &mut key);
    key
}

/// The number of an intention in the log; `None` where the log lacks it.
pub(crate) fn local_of(
    rows: &RowsView,
    id: &IntentionId,
) -> Result<Option<LocalSeq>, StorageError> {
    let prefix = id_prefix(id);
    let end = prefix_end(&prefix).expect("the kind is below 255");
    let mut candidates = Vec::new();
    rows.scan(&prefix, &end, false, |row, _| {
        candidates.extend(last_number(row, prefix.len()).map(LocalSeq));
        ControlFlow::Continue(())
    })?;
    // The key has the first bytes of an id, which several entries can share. The whole id decides.
    for local in candidates {
        if id_at(rows, local)? == *id {
            return Ok(Some(local));
        }
    }
    Ok(None)
}

/// The row of the entry at `local`, which must exist.
pub(crate) fn meta(rows: &RowsView, local: LocalSeq) -> Result<Meta, StorageError> {
    let key = local_key(local);
    rows.get(&key)?
        .and_then(|row| Meta::decode(local, &row))
        .ok_or_else(|| StorageError::row(&key))
}

/// The id of the entry at `local`, which must exist.
pub(crate) fn id_at(rows: &RowsView, local: LocalSeq) -> Result<IntentionId, StorageError> {
    Ok(position_of(rows, local)?.id)
}

/// The position of the entry at `local`, which must exist.
pub(crate) fn position_of(rows: &RowsView, local: LocalSeq) -> Result<Position, StorageError> {
    let key = local_key(local);
    rows.get(&key)?
        .and_then(|row| Position::from_slice(row.get(..Position::LEN)?))
        .ok_or_else(|| StorageError::row(&key))
}

/// The slot of the entry at `local`, which must exist.
pub(crate) fn slot_of(rows: &RowsView, local: LocalSeq) -> Result<Slot, StorageError> {
    let key = local_key(local);
    rows.get(&key)?
        .and_then(|row| Slot::from_slice(row.get(..Slot::LEN)?))
        .ok_or_else(|| StorageError::row(&key))
}

/// The branch `id`, which must exist.
pub(crate) fn branch(rows: &RowsView, id: BranchId) -> Result<Branch, StorageError> {
    let key = key(b'B', &[&id.0.to_be_bytes()]);
    rows.get(&key)?
        .and_then(|row| Branch::decode(&row))
        .ok_or_else(|| StorageError::row(&key))
}

/// How many branches there are. They are numbered densely.
pub(crate) fn branch_count(rows: &RowsView) -> Result<u64, StorageError> {
    let Some((row, _)) = rows.first(b"B", b"C", true)? else {
        return Ok(0);
    };
    let last = row[1..].try_into().map_err(|_| StorageError::row(&row))?;
    Ok(u64::from(u32::from_be_bytes(last)) + 1)
}

/// All branches, by number.
pub(crate) fn branches(rows: &RowsView) -> Result<Vec<(BranchId, Branch)>, StorageError> {
    let mut out = Vec::new();
    let mut damage = None;
    rows.scan(b"B", b"C", false, |row, value| {
        match (
            row[1..].try_into().map(u32::from_be_bytes),
            Branch::decode(value),
        ) {
            (Ok(id), Some(branch)) => out.push((BranchId(id), branch)),
            _ => damage = Some(StorageError::row(row)),
        }
        ControlFlow::Continue(())
    })?;
    damage.map_or(Ok(out), Err)
}

/// The bounds of the rows with the branches of an author: of one chain, or with `None` of all chains.
fn branch_rows(author: &DeviceKey, chain: Option<ChainId>) -> (Vec<u8>, Vec<u8>) {
    let start = match chain {
        Some(chain) => key(b'A', &[&author.0, &chain.0.to_be_bytes()]),
        None => key(b'A', &[&author.0]),
    };
    let end = prefix_end(&start).expect("the table's letter is below 255");
    (start, end)
}

/// The branches of one author: of one chain, or with `None` of all chains.
pub(crate) fn branches_of(
    rows: &RowsView,
    author: &DeviceKey,
    chain: Option<ChainId>,
) -> Result<Vec<BranchId>, StorageError> {
    first_branches_of(rows, author, chain, usize::MAX)
}

/// At most `max` of the branches of one author: of one chain, or with `None` of all chains.
pub(crate) fn first_branches_of(
    rows: &RowsView,
    author: &DeviceKey,
    chain: Option<ChainId>,
    max: usize,
) -> Result<Vec<BranchId>, StorageError> {
    let (start, end) = branch_rows(author, chain);
    let mut out = Vec::new();
    rows.scan(&start, &end, false, |row, _| {
        if let Some(Ok(id)) = row.get(41..).map(TryInto::try_into) {
            out.push(BranchId(u32::from_be_bytes(id)));
        }
        match out.len() < max {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(out)
}

/// Whether an author has a branch: in one chain, or with `None` in any chain.
pub(crate) fn any_branch_of(
    rows: &RowsView,
    author: &DeviceKey,
    chain: Option<ChainId>,
) -> Result<bool, StorageError> {
    let (start, end) = branch_rows(author, chain);
    Ok(rows.first(&start, &end, false)?.is_some())
}

/// The authors of witnessed entries, sorted.
pub(crate) fn authors(rows: &RowsView) -> Result<Vec<DeviceKey>, StorageError> {
    let mut out: Vec<DeviceKey> = Vec::new();
    rows.scan(b"A", b"B", false, |row, _| {
        if let Some(author) = row.get(1..33).and_then(DeviceKey::from_slice)
            && out.last() != Some(&author)
        {
            out.push(author);
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// The entry at `seq` of a branch. Entries before the branch left its parent are not found.
pub(crate) fn entry_of_branch(
    rows: &RowsView,
    branch: BranchId,
    seq: Seq,
) -> Result<Option<LocalSeq>, StorageError> {
    let key = key(b'C', &[&branch.0.to_be_bytes(), &seq.0.to_be_bytes()]);
    rows.get(&key)?
        .map(|row| {
            take_varint(&mut &row[..])
                .map(LocalSeq)
                .ok_or_else(|| StorageError::row(&key))
        })
        .transpose()
}

/// The heads: entries that no witnessed entry names.
pub(crate) fn heads(rows: &RowsView) -> Result<Heads, StorageError> {
    let mut out = Heads::new();
    rows.scan(b"H", b"I", false, |row, value| {
        if let (Some(id), Some(local)) = (
            IntentionId::from_slice(&row[1..]),
            take_varint(&mut &value[..]),
        ) {
            out.insert(id, LocalSeq(local));
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// Whether the entry at `admitting` admits `device`.
pub(crate) fn admits(
    rows: &RowsView,
    device: &DeviceKey,
    admitting: LocalSeq,
) -> Result<bool, StorageError> {
    Ok(rows
        .get(&key(b'P', &[&device.0, &admitting.0.to_be_bytes()]))?
        .is_some())
}

/// The entries that admit `device`, the latest witnessed first.
pub(crate) fn grants(rows: &RowsView, device: &DeviceKey) -> Result<Vec<LocalSeq>, StorageError> {
    let prefix = key(b'P', &[&device.0]);
    let end = prefix_end(&prefix).expect("the table's letter is below 255");
    let mut out = Vec::new();
    rows.scan(&prefix, &end, true, |row, _| {
        if let Some(local) = u64_of(&row[33..]) {
            out.push(LocalSeq(local));
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// Whether `x` is the entry `y` or in its causal past.
pub(crate) fn local_in_past_or_same(
    rows: &RowsView,
    x: LocalSeq,
    y: LocalSeq,
) -> Result<bool, StorageError> {
    if x == y {
        return Ok(true);
    }
    // An entry is witnessed after all that it names, so its past has lower numbers.
    if x > y {
        return Ok(false);
    }
    let (x, y) = (meta(rows, x)?, meta(rows, y)?);
    Ok(version_vector::seen(rows, y.branch, x.branch, y.seq)?.is_some_and(|seq| seq >= x.seq))
}

/// Whether the entry at `x` is `y` or in its causal past. An unknown `y` has no past.
pub(crate) fn in_past_or_same(
    rows: &RowsView,
    x: LocalSeq,
    y: IntentionId,
) -> Result<bool, StorageError> {
    match local_of(rows, &y)? {
        Some(y) => local_in_past_or_same(rows, x, y),
        None => Ok(false),
    }
}
