//! The graph of witnessed intentions: who names whom, which chains there are, what is in whose past.
//!
//! Everything here is derived from the log and kept in the same map as the state, so a reader's
//! view of both is of one moment. Rows (integers big-endian):
//!
//! ```text
//! 'I' id[..16]                         → local (8)
//! 'D' local (8)                        → Meta
//! 'B' branch (4)                       → Branch
//! 'A' author (32) chain (8) branch (4) → nothing
//! 'C' branch (4) seq (8)               → local (8)
//! 'S' branch (4) other (4) seq (8)     → seq of `other` (8)
//! 'K' call id[..16]                    → call id[16..] local (8) index (4)
//! 'H' id                               → local (8): heads
//! 'P' key (32) local (8)               → nothing: who admits whom
//! 'T' position (44)                    → local (8): the canonical order
//! ```
//!
//! A *branch* is a chain without forks: a fork starts a new branch. `S` says how far into another
//! branch an entry's past reaches, and holds a row only where that changed, so that a question
//! about the past is one look-up (version vectors: Parker et al., "Detection of Mutual
//! Inconsistency in Distributed Systems", 1983, stored as differences).

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use lattice_format::{
    CallId, ChainId, DeviceKey, IntentionId, Lane, Position, Seq, Time, VerifiedHeader,
};

use crate::kv::{Kv, KvView, StorageError, prefix_end};

/// Place of an entry in this node's log, from 0. It differs from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalSeq(pub u64);

/// Number of a chain without forks on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BranchId(pub(crate) u32);

/// What the graph knows of one entry.
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

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(100);
        out.extend_from_slice(&self.position().to_bytes());
        out.extend_from_slice(&self.branch.0.to_be_bytes());
        out.extend_from_slice(&self.seq.0.to_be_bytes());
        out.push(self.lane.number());
        out.extend_from_slice(&self.chain_bytes.to_be_bytes());
        for local in [self.prev, self.grant] {
            out.extend_from_slice(&local.map_or(u64::MAX, |l| l.0).to_be_bytes());
        }
        for dep in &self.deps {
            out.extend_from_slice(&dep.0.to_be_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let position = Position::from_slice(take(Position::LEN)?)?;
        let branch = BranchId(u32::from_be_bytes(take(4)?.try_into().ok()?));
        let seq = Seq(u64_of(take(8)?)?);
        let lane = Lane::from_number(u32::from(take(1)?[0]))?;
        let chain_bytes = u64_of(take(8)?)?;
        let some = |n: u64| (n != u64::MAX).then_some(LocalSeq(n));
        let prev = some(u64_of(take(8)?)?);
        let grant = some(u64_of(take(8)?)?);
        let deps = rest
            .chunks(8)
            .map(|c| u64_of(c).map(LocalSeq))
            .collect::<Option<_>>()?;
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
    /// Where it left another branch; `None` for a chain's first branch.
    pub(crate) parent: Option<(BranchId, Seq)>,
    pub(crate) first: Seq,
    pub(crate) tip: Seq,
    pub(crate) tip_local: LocalSeq,
}

impl Branch {
    fn encode(&self) -> Vec<u8> {
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

/// Where a call stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallPlace {
    pub(crate) local: LocalSeq,
    pub(crate) index: u32,
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn damaged(what: &str) -> StorageError {
    StorageError(format!(
        "the index of {what} is damaged: delete state.redb to rebuild it"
    ))
}

fn key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![table];
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

fn local_key(local: LocalSeq) -> Vec<u8> {
    key(b'D', &[&local.0.to_be_bytes()])
}

fn seen_key(branch: BranchId, other: BranchId, seq: u64) -> Vec<u8> {
    key(
        b'S',
        &[
            &branch.0.to_be_bytes(),
            &other.0.to_be_bytes(),
            &seq.to_be_bytes(),
        ],
    )
}

// --- reading ---------------------------------------------------------------------------------------

/// Place of an intention in the log.
pub(crate) fn local_of(kv: &KvView, id: &IntentionId) -> Result<Option<LocalSeq>, StorageError> {
    let Some(row) = kv.get(&key(b'I', &[&id.0[..16]]))? else {
        return Ok(None);
    };
    let local = LocalSeq(u64_of(&row).ok_or_else(|| damaged("ids"))?);
    // Half an id is enough to find an entry; the whole decides.
    Ok((meta(kv, local)?.id == *id).then_some(local))
}

/// What the graph knows of the entry at `local`, which exists.
pub(crate) fn meta(kv: &KvView, local: LocalSeq) -> Result<Meta, StorageError> {
    kv.get(&local_key(local))?
        .and_then(|row| Meta::decode(&row))
        .ok_or_else(|| damaged("entries"))
}

/// The branch with that number, which exists.
pub(crate) fn branch(kv: &KvView, id: BranchId) -> Result<Branch, StorageError> {
    kv.get(&key(b'B', &[&id.0.to_be_bytes()]))?
        .and_then(|row| Branch::decode(&row))
        .ok_or_else(|| damaged("chains"))
}

/// All branches, by number.
pub(crate) fn branches(kv: &KvView) -> Result<Vec<(BranchId, Branch)>, StorageError> {
    let mut out = Vec::new();
    let mut bad = false;
    kv.scan(b"B", b"C", false, |row, value| {
        match (
            row[1..].try_into().map(u32::from_be_bytes),
            Branch::decode(value),
        ) {
            (Ok(id), Some(branch)) => out.push((BranchId(id), branch)),
            _ => bad = true,
        }
        ControlFlow::Continue(())
    })?;
    if bad { Err(damaged("chains")) } else { Ok(out) }
}

/// Branches of one author, of one chain or of all.
pub(crate) fn branches_of(
    kv: &KvView,
    author: &DeviceKey,
    chain: Option<ChainId>,
) -> Result<Vec<BranchId>, StorageError> {
    let prefix = match chain {
        Some(chain) => key(b'A', &[&author.0, &chain.0.to_be_bytes()]),
        None => key(b'A', &[&author.0]),
    };
    let end = prefix_end(&prefix).expect("the table's letter is below 255");
    let mut out = Vec::new();
    kv.scan(&prefix, &end, false, |row, _| {
        if let Some(Ok(id)) = row.get(41..).map(TryInto::try_into) {
            out.push(BranchId(u32::from_be_bytes(id)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// The authors of witnessed entries, sorted.
pub(crate) fn authors(kv: &KvView) -> Result<Vec<DeviceKey>, StorageError> {
    let mut out: Vec<DeviceKey> = Vec::new();
    kv.scan(b"A", b"B", false, |row, _| {
        if let Some(author) = row.get(1..33).and_then(DeviceKey::from_slice)
            && out.last() != Some(&author)
        {
            out.push(author);
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// The entry at `seq` of a branch itself, its parents left out.
pub(crate) fn entry_of_branch(
    kv: &KvView,
    branch: BranchId,
    seq: Seq,
) -> Result<Option<LocalSeq>, StorageError> {
    kv.get(&key(b'C', &[&branch.0.to_be_bytes(), &seq.0.to_be_bytes()]))?
        .map(|row| u64_of(&row).map(LocalSeq).ok_or_else(|| damaged("chains")))
        .transpose()
}

/// The heads: entries that no witnessed entry names.
pub(crate) fn heads(kv: &KvView) -> Result<Vec<(IntentionId, LocalSeq)>, StorageError> {
    let mut out = Vec::new();
    kv.scan(b"H", b"I", false, |row, value| {
        if let (Some(id), Some(local)) = (IntentionId::from_slice(&row[1..]), u64_of(value)) {
            out.push((id, LocalSeq(local)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// Where the call with that id stands.
pub(crate) fn call(kv: &KvView, id: CallId) -> Result<Option<CallPlace>, StorageError> {
    let Some(row) = kv.get(&key(b'K', &[&id.0[..16]]))? else {
        return Ok(None);
    };
    if row.len() != 28 {
        return Err(damaged("calls"));
    }
    let (Some(local), Ok(index)) = (u64_of(&row[16..24]), row[24..28].try_into()) else {
        return Err(damaged("calls"));
    };
    Ok((row[..16] == id.0[16..]).then_some(CallPlace {
        local: LocalSeq(local),
        index: u32::from_be_bytes(index),
    }))
}

/// Whether the entry at `admitting` admits `device`.
pub(crate) fn admits(
    kv: &KvView,
    device: &DeviceKey,
    admitting: LocalSeq,
) -> Result<bool, StorageError> {
    Ok(kv
        .get(&key(b'P', &[&device.0, &admitting.0.to_be_bytes()]))?
        .is_some())
}

/// The entries that admit `device`, the latest witnessed first.
pub(crate) fn grants(kv: &KvView, device: &DeviceKey) -> Result<Vec<LocalSeq>, StorageError> {
    let prefix = key(b'P', &[&device.0]);
    let end = prefix_end(&prefix).expect("the table's letter is below 255");
    let mut out = Vec::new();
    kv.scan(&prefix, &end, true, |row, _| {
        if let Some(local) = u64_of(&row[33..]) {
            out.push(LocalSeq(local));
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

/// How far into `other` the past of entry `seq` of `branch` reaches.
fn seen(
    kv: &KvView,
    branch: BranchId,
    other: BranchId,
    seq: Seq,
) -> Result<Option<Seq>, StorageError> {
    if branch == other {
        return Ok(Some(seq));
    }
    let row = kv.first(
        &seen_key(branch, other, 0),
        &seen_key(branch, other, seq.0.saturating_add(1)),
        true,
    )?;
    row.map(|(_, value)| u64_of(&value).map(Seq).ok_or_else(|| damaged("pasts")))
        .transpose()
}

/// Whether `x` is the entry `y` or in its causal past.
pub(crate) fn local_in_past_or_same(
    kv: &KvView,
    x: LocalSeq,
    y: LocalSeq,
) -> Result<bool, StorageError> {
    if x == y {
        return Ok(true);
    }
    // Whatever an entry names was witnessed before it.
    if x > y {
        return Ok(false);
    }
    let (x, y) = (meta(kv, x)?, meta(kv, y)?);
    Ok(seen(kv, y.branch, x.branch, y.seq)?.is_some_and(|seq| seq >= x.seq))
}

/// Whether the entry at `x` is `y` or in its causal past; `y` is witnessed.
pub(crate) fn in_past_or_same(
    kv: &KvView,
    x: LocalSeq,
    y: IntentionId,
) -> Result<bool, StorageError> {
    match local_of(kv, &y)? {
        Some(y) => local_in_past_or_same(kv, x, y),
        None => Ok(false),
    }
}

/// Whether `x` is `y` or reached from it by following `prev` alone.
pub(crate) fn is_prev_ancestor_or_same(
    kv: &KvView,
    x: &Meta,
    y: &Meta,
) -> Result<bool, StorageError> {
    let (mut at, mut reach) = (y.branch, y.seq);
    loop {
        if at == x.branch {
            return Ok(x.seq <= reach);
        }
        match branch(kv, at)?.parent {
            Some((parent, seq)) => (at, reach) = (parent, seq),
            None => return Ok(false),
        }
    }
}

// --- writing ---------------------------------------------------------------------------------------

type Vector = Arc<Vec<(BranchId, Seq)>>;

/// Version vectors of entries that were added lately, so that adding another needs no look-ups.
#[derive(Debug, Default)]
pub(crate) struct PastCache {
    vectors: HashMap<LocalSeq, Vector>,
    order: VecDeque<LocalSeq>,
}

const PAST_CACHE_MAX: usize = 512;

impl PastCache {
    fn get(&mut self, kv: &KvView, local: LocalSeq, meta: &Meta) -> Result<Vector, StorageError> {
        if let Some(vector) = self.vectors.get(&local) {
            return Ok(vector.clone());
        }
        let vector = Arc::new(load_vector(kv, meta)?);
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

fn load_vector(kv: &KvView, meta: &Meta) -> Result<Vec<(BranchId, Seq)>, StorageError> {
    let mut out = vec![(meta.branch, meta.seq)];
    let mut other = 0u32;
    loop {
        // Skips from branch to branch: one look-up for the number, one for the value.
        let row = kv.first(
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
        if let Some(seq) = seen(kv, meta.branch, id, meta.seq)? {
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
    kv: &mut Kv,
    pasts: &mut PastCache,
    header: &VerifiedHeader,
    local: LocalSeq,
    call_count: u32,
) -> Result<Added, StorageError> {
    let id = header.id();
    let named = |id: IntentionId| -> Result<LocalSeq, StorageError> {
        local_of(kv, &id)?
            .ok_or_else(|| StorageError(format!("entry {id} is named but not in the log")))
    };
    let prev = header.prev.map(named).transpose()?;
    let grant = header.grant.map(named).transpose()?;
    let deps = header
        .deps
        .iter()
        .map(|d| named(*d))
        .collect::<Result<Vec<_>, _>>()?;

    let (branch_id, previous_vector, new_branch, fork) =
        place_in_branch(kv, pasts, header, local, prev)?;
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
        let named = self::meta(kv, name)?;
        let past = pasts.get(kv, name, &named)?;
        vector = merge(&vector, &past);
    }
    vector = merge(&vector, &[(branch_id, header.seq)]);
    for (other, seq) in &vector {
        let before = match previous_vector.binary_search_by_key(other, |(b, _)| *b) {
            Ok(at) => Some(previous_vector[at].1),
            Err(_) => None,
        };
        if *other != branch_id && before != Some(*seq) {
            kv.put(
                seen_key(branch_id, *other, header.seq.0),
                seq.0.to_be_bytes(),
            );
        }
    }
    pasts.put(local, Arc::new(vector));

    let local_bytes = local.0.to_be_bytes();
    for name in header.names() {
        kv.remove(key(b'H', &[&name.0]));
    }
    kv.put(key(b'H', &[&id.0]), local_bytes);
    kv.put(key(b'I', &[&id.0[..16]]), local_bytes);
    kv.put(
        key(
            b'C',
            &[&branch_id.0.to_be_bytes(), &header.seq.0.to_be_bytes()],
        ),
        local_bytes,
    );
    for device in &header.admits {
        kv.put(key(b'P', &[&device.0, &local_bytes]), []);
    }
    for index in 0..call_count {
        let call = header.call_id(index);
        let mut value = Vec::with_capacity(28);
        value.extend_from_slice(&call.0[16..]);
        value.extend_from_slice(&local_bytes);
        value.extend_from_slice(&index.to_be_bytes());
        kv.put(key(b'K', &[&call.0[..16]]), value);
    }
    kv.put(key(b'T', &[&header.position().to_bytes()]), local_bytes);
    kv.put(local_key(local), meta.encode());
    Ok(Added {
        local,
        fork,
        new_branch,
    })
}

fn place_in_branch(
    kv: &mut Kv,
    pasts: &mut PastCache,
    header: &VerifiedHeader,
    local: LocalSeq,
    prev: Option<LocalSeq>,
) -> Result<(BranchId, Vector, bool, bool), StorageError> {
    let mut parent = None;
    if let Some(prev) = prev
        && header.seq.0 > 0
    {
        let prev_meta = meta(kv, prev)?;
        let mut row = branch(kv, prev_meta.branch)?;
        if row.tip == prev_meta.seq {
            row.tip = header.seq;
            row.tip_local = local;
            kv.put(
                key(b'B', &[&prev_meta.branch.0.to_be_bytes()]),
                row.encode(),
            );
            let vector = pasts.get(kv, prev, &prev_meta)?;
            return Ok((prev_meta.branch, vector, false, false));
        }
        parent = Some((prev_meta.branch, prev_meta.seq));
    }
    let fork = !branches_of(kv, &header.author, Some(header.chain))?.is_empty();
    let next = kv.first(b"B", b"C", true)?.map_or(Ok(0), |(row, _)| {
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
    kv.put(key(b'B', &[&id.0.to_be_bytes()]), row.encode());
    kv.put(
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
