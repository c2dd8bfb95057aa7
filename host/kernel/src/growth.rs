//! How the work of the graph grows with chains, forks and heads: counted, not timed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use lattice_format::{
    Body, BodyRef, ChainId, Header, IntentionId, Lane, Seq, StoreId, Time, VerifiedHeader,
};
use proptest::prelude::*;

use crate::graph::lookup_cache::LookupCache;
use crate::graph::{dag, insert};
use crate::storage::keys::LocalSeq;
use crate::storage::rows::Rows;
use crate::storage::rows::work::{self, Work};
use crate::testing::{self, device, key};

/// A graph alone, without a fold.
struct Graph {
    rows: Rows,
    cache: LookupCache,
    headers: Vec<VerifiedHeader>,
    store: StoreId,
    work: Work,
}

impl Graph {
    fn new() -> Self {
        let store = testing::found(0, 1_000);
        let genesis = store.core.log.entry(LocalSeq(0)).unwrap().unwrap().header;
        let mut graph = Self {
            rows: Rows::in_memory().unwrap(),
            cache: LookupCache::default(),
            headers: Vec::new(),
            store: store.id(),
            work: Work::default(),
        };
        graph.add(genesis);
        graph
    }

    fn add(&mut self, header: VerifiedHeader) {
        let local = LocalSeq(self.headers.len() as u64);
        let (work, _) = work::of(|| {
            insert::add(&mut self.rows, &mut self.cache, &header, local).unwrap();
        });
        self.work.read += work.read;
        self.work.written += work.written;
        self.work.bytes += work.bytes;
        self.headers.push(header);
        if self.headers.len().is_multiple_of(1_000) {
            self.rows.flush().unwrap();
        }
    }

    fn id(&self, at: usize) -> IntentionId {
        self.headers[at].id()
    }

    /// Adds an entry of device `by` behind the entry at `prev`, which also names `deps`.
    fn entry(&mut self, by: u8, chain: u64, prev: usize, deps: &[usize]) -> usize {
        let before = &self.headers[prev];
        let seq = match prev {
            0 => Seq(0),
            _ => Seq(before.seq.0 + 1),
        };
        let mut deps: Vec<_> = deps.iter().filter(|at| **at != prev).collect();
        deps.sort_unstable();
        deps.dedup();
        let mut deps: Vec<_> = deps.into_iter().map(|at| self.id(*at)).collect();
        deps.sort_unstable();
        let header = Header {
            store: Some(self.store),
            author: device(by),
            chain: ChainId(chain),
            seq,
            prev: Some(before.id()),
            deps,
            time: Time {
                wall_ms: 2_000 + self.headers.len() as u64,
                counter: 0,
            },
            grant: Some(self.id(0)),
            admits: Vec::new(),
            lane: Lane::App,
            body: BodyRef {
                hash: Body::hash_of(&[]),
                len: 0,
                key: 0,
            },
            chain_bytes: 0,
            parent_view: None,
            hints: Vec::new(),
            critical: 0,
        };
        self.add(VerifiedHeader::sign(header, &key(by)).unwrap());
        self.headers.len() - 1
    }
}

/// One shape of a graph, by the number of its chains, forks or heads.
type Shape = (&'static str, fn(&mut Graph, usize));

/// A device writes each entry in a chain of its own, and each names the one before.
fn chains(graph: &mut Graph, n: usize) {
    for chain in 0..n as u64 {
        let last = graph.headers.len() - 1;
        graph.entry(1, chain, 0, &[last]);
    }
}

/// A device forks its chain again and again at the same place.
fn forks(graph: &mut Graph, n: usize) {
    let first = graph.entry(1, 7, 0, &[]);
    for _ in 0..n {
        let last = graph.headers.len() - 1;
        graph.entry(1, 7, first, &[last]);
    }
}

/// A device leaves each fork by another one, so that the forks form a ladder.
fn ladder(graph: &mut Graph, n: usize) {
    let mut at = graph.entry(1, 7, 0, &[]);
    for _ in 0..n / 2 {
        let on = graph.entry(1, 7, at, &[]);
        graph.entry(1, 7, at, &[on]);
        at = on;
    }
}

/// Chains that name nothing, and another device that gathers them, sixteen by an entry.
fn heads(graph: &mut Graph, n: usize) {
    let heads: Vec<_> = (0..n as u64).map(|c| graph.entry(1, c, 0, &[])).collect();
    let mut prev = 0;
    for some in heads.chunks(16) {
        prev = graph.entry(2, 7, prev, some);
    }
}

/// Two devices that hear of each other now and then, while a third one starts chain after chain.
fn readers(graph: &mut Graph, n: usize) {
    let mut tips = [0, 0];
    for n in 0..n {
        let one = graph.entry(1, n as u64, 0, &[]);
        let by = n % 2;
        let mut deps = vec![one];
        if n % 7 == 0 {
            deps.push(tips[1 - by]);
        }
        tips[by] = graph.entry(2 + by as u8, 7, tips[by], &deps);
    }
}

const SHAPES: [Shape; 5] = [
    ("chains", chains),
    ("forks", forks),
    ("ladder", ladder),
    ("heads", heads),
    ("readers", readers),
];

/// The work of the graph for each entry, in rows read, rows written and bytes written.
fn per_entry(grow: fn(&mut Graph, usize), n: usize) -> [u64; 3] {
    let mut graph = Graph::new();
    grow(&mut graph, n);
    let entries = graph.headers.len() as u64;
    let Work {
        read,
        written,
        bytes,
    } = graph.work;
    [read, written, bytes].map(|work| work.div_ceil(entries))
}

proptest! {
    /// Whatever forks, chains and names there are, an entry's past is what it reaches by names.
    #[test]
    fn an_entrys_past_is_what_it_reaches_by_names(
        entries in proptest::collection::vec(
            (1u8..4, any::<usize>(), any::<bool>(), proptest::collection::vec(any::<usize>(), 0..5)),
            1..60,
        ),
    ) {
        let mut graph = Graph::new();
        let mut pasts = vec![BTreeSet::from([0])];
        for (by, prev, fresh, deps) in entries {
            let count = graph.headers.len();
            let own: Vec<_> = (1..count).filter(|at| graph.headers[*at].author == device(by)).collect();
            // A new chain, or the next entry behind any of the device's own.
            let prev = match own.len() {
                len if len > 0 && !fresh => own[prev % len],
                _ => 0,
            };
            let chain = match prev {
                0 => count as u64,
                prev => graph.headers[prev].chain.0,
            };
            let deps: Vec<_> = deps.into_iter().map(|at| at % count).collect();
            let at = graph.entry(by, chain, prev, &deps);
            let mut past = BTreeSet::from([at]);
            for name in deps.into_iter().chain([prev, 0]) {
                past.extend(pasts[name].iter().copied());
            }
            pasts.push(past);
        }
        let local = |at: usize| LocalSeq(at as u64);
        for (y, past) in pasts.iter().enumerate() {
            for x in 0..pasts.len() {
                let found = dag::local_in_past_or_same(&graph.rows, local(x), local(y)).unwrap();
                prop_assert_eq!(found, past.contains(&x), "{} in the past of {}", x, y);
            }
        }
    }
}

/// Holds: invariant 10.
#[test]
fn an_entry_costs_the_graph_as_much_however_many_chains_forks_and_heads_there_are() {
    for (name, grow) in SHAPES {
        let few = per_entry(grow, 100);
        let many = per_entry(grow, 3_200);
        // Five times as many levels would be less than the growth that is let through; 32 times as many entries are
        // far beyond it.
        for (few, many) in few.into_iter().zip(many) {
            assert!(many <= 3 * few + 8, "{name}: {few} of 100, {many} of 3,200");
        }
    }
}
