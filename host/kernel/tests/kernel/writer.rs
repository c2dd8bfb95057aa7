//! The writer of a store as a value: what a group holds, in which order who is told, and when it ticks and sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lattice_format::{Call, ChainId, Lane, SignedHeader};
use lattice_kernel::clock::Verdict;
use lattice_kernel::limits::{
    CUT_RUNS, GROUP_CALLS_MAX, SETTLE_RUNS_BUSY, SETTLE_RUNS_IDLE, TICK_MS, TICKS_IDLE,
};
use lattice_kernel::run::engine::{Engine, HostFault, Role};
use lattice_kernel::writer::{self, Effect, Job, Next, Now, Rebuild};
use lattice_kernel::{BatchVerifier, CallError, LocalSeq, NewStore, Store};
use lattice_testing::{self as testing, ModelEngine, Step, device, key};

use crate::engines::{Forgetful, Lack, Lacking};

pub const WALL_MS: u64 = 1_800_000_000_000;

pub type Writer = writer::Writer<u32, u32, BatchVerifier>;
pub type Input = writer::Input<u32, u32, BatchVerifier>;
pub type Effects = Vec<Effect<u32, u32>>;

/// A writer with a clock that stands until it is told to go on.
pub struct Driven {
    pub writer: Writer,
    pub elapsed_ms: u64,
    chains: u64,
}

impl Driven {
    pub fn new(store: Store) -> Self {
        let now = Now {
            clock: Verdict::alone(WALL_MS),
            elapsed_ms: 0,
        };
        let mut driven = Self {
            writer: Writer::new(store, now),
            elapsed_ms: 0,
            chains: 100,
        };
        driven.drain();
        driven
    }

    pub fn give(&mut self, input: Input) -> Effects {
        self.give_at(input, Verdict::alone(WALL_MS + self.elapsed_ms))
    }

    fn give_at(&mut self, input: Input, clock: Verdict) -> Effects {
        let now = Now {
            clock,
            elapsed_ms: self.elapsed_ms,
        };
        let mut effects = Vec::new();
        self.writer.handle(input, now, &mut effects);
        effects
    }

    pub fn nothing(&mut self) -> Effects {
        self.give(Input::Nothing)
    }

    pub fn call(&mut self, lane: Lane, call: Call, token: u32) -> Effects {
        self.chains += 1;
        self.give(Input::Job(Job::Call {
            lane,
            calls: vec![call],
            chain: ChainId(self.chains),
            accepts_leap: false,
            token,
        }))
    }

    pub fn add(&mut self, token: u32) -> Effects {
        self.call(
            Lane::App,
            testing::program(&[Step::Add { k: 1, by: 1 }]),
            token,
        )
    }

    /// Goes on until it waits for a job or for time.
    pub fn drain(&mut self) -> Effects {
        let mut effects = Vec::new();
        while matches!(self.writer.next(), Next::Continue | Next::Poll) {
            effects.extend(self.nothing());
        }
        effects
    }
}

pub fn tokens(effects: &Effects) -> Vec<u32> {
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::Answer(group) => Some(group.answers.iter().map(|(token, _)| *token)),
        _ => None,
    });
    answers.flatten().collect()
}

pub fn kinds(effects: &Effects) -> Vec<&'static str> {
    let kinds = effects.iter().map(|effect| match effect {
        Effect::Show { .. } => "show",
        Effect::Answer(_) => "answer",
        Effect::Received { .. } => "received",
        Effect::Tell { .. } => "tell",
        Effect::Notices(_) => "notices",
        Effect::Rebuild(_) => "rebuild",
        Effect::Stop(_) => "stop",
        Effect::Open => "open",
        Effect::Closed(_) => "closed",
    });
    kinds.collect()
}

/// A store that holds `count` entries, and another member's replica that holds the genesis alone.
fn behind(count: u64, engine: Arc<dyn Engine>) -> (Store, Store) {
    let spec = NewStore {
        genesis: testing::genesis(),
        admits: vec![device(2)],
        chain: ChainId(1),
    };
    let files = testing::memory_files();
    let mut store = Store::create(files, Arc::new(ModelEngine), key(1), spec, WALL_MS).unwrap();
    for _ in 0..count {
        let call = testing::program(&[Step::Add { k: 1, by: 1 }]);
        let told = store.call(Lane::App, vec![call], WALL_MS, ChainId(2));
        assert!(told.unwrap().outcome.is_ok());
        store.commit(WALL_MS).unwrap();
    }
    let genesis = store.snapshot().entry_at(LocalSeq(0)).unwrap().unwrap();
    let signed = genesis.header.signed().clone();
    let body = genesis.body.as_ref().unwrap().to_vec();
    let files = testing::memory_files();
    let replica = Store::adopt(files, engine, key(2), (signed, body), WALL_MS).unwrap();
    (store, replica)
}

/// The founder's store, and the replica of a member that may write.
fn two_writers() -> (Store, Store) {
    let (mut store, mut replica) = behind(0, Arc::new(ModelEngine));
    let admit = testing::admit(device(2), Role::Writer);
    let told = store.call(Lane::System, vec![admit], WALL_MS, ChainId(2));
    assert!(told.unwrap().outcome.is_ok());
    store.commit(WALL_MS).unwrap();
    let entries = sent(&store);
    let received = replica.receive(device(1), entries, WALL_MS, BatchVerifier([3; 32]));
    assert_eq!(received.unwrap().witnessed.len(), 1);
    replica.settle(u64::MAX).unwrap();
    (store, replica)
}

/// All entries but the genesis, as they are sent.
fn sent(store: &Store) -> Vec<(SignedHeader, Option<Vec<u8>>)> {
    let entries = store.snapshot().entries_from(LocalSeq(1), usize::MAX);
    let entries = entries.unwrap().into_iter().map(|entry| {
        let body = entry.body.as_ref().map(|body| body.to_vec());
        (entry.header.signed().clone(), body)
    });
    entries.collect()
}

pub fn all_of(store: &Store, token: u32) -> Input {
    Input::Job(Job::Receive {
        from: device(1),
        entries: sent(store),
        verifier: BatchVerifier([3; 32]),
        token,
    })
}

#[test]
fn calls_that_wait_share_a_commit_up_to_a_bound() {
    let mut driven = Driven::new(testing::found(1, WALL_MS));
    for token in 1..GROUP_CALLS_MAX as u32 {
        assert_eq!(kinds(&driven.add(token)), [""; 0]);
        assert_eq!(driven.writer.next(), Next::Gather);
    }
    let full = driven.add(GROUP_CALLS_MAX as u32);
    let all: Vec<u32> = (1..=GROUP_CALLS_MAX as u32).collect();
    assert_eq!(tokens(&full), all, "nobody waits for one more");
    driven.drain();
    // One more begins another commit, which is made when no job waits.
    assert_eq!(kinds(&driven.add(0)), [""; 0]);
    assert_eq!(tokens(&driven.nothing()), [0]);
}

#[test]
fn a_system_call_ends_its_group() {
    let mut driven = Driven::new(testing::found(1, WALL_MS));
    driven.add(1);
    let admit = testing::admit(device(2), Role::Writer);
    assert_eq!(tokens(&driven.call(Lane::System, admit, 2)), [1, 2]);
    assert_ne!(driven.writer.next(), Next::Gather);
}

#[test]
fn the_view_comes_before_the_answers_and_they_before_the_rest_of_the_world() {
    let mut driven = Driven::new(testing::found(1, WALL_MS));
    driven.add(7);
    let effects = driven.nothing();
    assert_eq!(kinds(&effects), ["show", "answer", "tell"]);
    let [
        Effect::Show { snapshot, .. },
        Effect::Answer(group),
        Effect::Tell { written, .. },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    let id = group.written[0].id();
    assert!(snapshot.contains(&id).unwrap(), "who is answered finds it");
    assert_eq!(written, &[id]);
    let (store, replica) = behind(1, Arc::new(ModelEngine));
    let effects = Driven::new(replica).give(all_of(&store, 1));
    assert_eq!(kinds(&effects), ["show", "received", "tell"]);
}

#[test]
fn another_job_ends_a_group_and_is_done_once_its_callers_are_answered() {
    let mut driven = Driven::new(testing::found(1, WALL_MS));
    driven.add(1);
    let asked = Arc::new(AtomicBool::new(false));
    let done = asked.clone();
    let ask = Job::Ask(Box::new(move |_: &mut Store| {
        done.store(true, Ordering::Relaxed)
    }));
    assert_eq!(tokens(&driven.give(Input::Job(ask))), [1]);
    assert!(!asked.load(Ordering::Relaxed));
    assert_eq!(driven.writer.next(), Next::Continue, "before any other job");
    driven.drain();
    assert!(asked.load(Ordering::Relaxed));
}

#[test]
fn late_entries_are_run_in_slices_which_are_short_where_a_job_may_wait() {
    let count = SETTLE_RUNS_IDLE + 3 * SETTLE_RUNS_BUSY;
    let (store, replica) = behind(count, Arc::new(ModelEngine));
    let mut driven = Driven::new(replica);
    let before = driven.writer.runs();
    let runs = |driven: &Driven| driven.writer.runs() - before;
    driven.give(all_of(&store, 1));
    assert_eq!(runs(&driven), SETTLE_RUNS_BUSY, "seen with the answer");
    driven.nothing();
    assert_eq!(runs(&driven), 2 * SETTLE_RUNS_BUSY, "a job was done");
    // A call goes in between, and waits for a short slice alone.
    assert_eq!(driven.writer.next(), Next::Poll);
    driven.add(2);
    assert_eq!(tokens(&driven.nothing()), [2]);
    driven.nothing();
    assert_eq!(runs(&driven), 3 * SETTLE_RUNS_BUSY);
    assert_eq!(driven.writer.next(), Next::Poll);
    driven.nothing();
    assert_eq!(runs(&driven), 3 * SETTLE_RUNS_BUSY + SETTLE_RUNS_IDLE);
    driven.drain();
    assert_settled(&driven.writer);
}

#[test]
fn a_writer_with_nothing_to_do_sleeps_after_some_ticks() {
    let mut driven = Driven::new(testing::found(1, WALL_MS));
    for tick in 1..=u64::from(TICKS_IDLE) {
        let at_ms = tick * TICK_MS;
        assert_eq!(driven.writer.next(), Next::Until(at_ms));
        driven.elapsed_ms = at_ms;
        driven.nothing();
    }
    assert_eq!(driven.writer.next(), Next::Job);
    // A job wakes it, and what time asked meanwhile is done at once.
    driven.elapsed_ms += 10 * TICK_MS;
    driven.add(1);
    driven.nothing();
    driven.drain();
    let next_ms = driven.elapsed_ms + TICK_MS;
    assert_eq!(driven.writer.next(), Next::Until(next_ms));
}

fn paused(effects: &Effects) -> Option<bool> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Show { paused, .. } => Some(paused.is_some()),
        _ => None,
    })
}

fn assert_settled(writer: &Writer) {
    let summary = writer.store().unwrap().snapshot().summary().clone();
    assert_eq!((summary.pending, summary.applied), (0, summary.count));
}

#[test]
fn a_lane_that_stands_still_is_shown_and_tried_with_each_tick_and_when_woken() {
    let lacks = Arc::new(AtomicBool::new(true));
    let (store, replica) = behind(3, Arc::new(Lacking(Lack::Code, lacks.clone())));
    let mut driven = Driven::new(replica);
    assert_eq!(paused(&driven.give(all_of(&store, 1))), Some(true));
    driven.drain();
    // Never does it sleep, and never does it try in between.
    for _ in 0..2 * TICKS_IDLE {
        let Next::Until(at_ms) = driven.writer.next() else {
            panic!("{:?}", driven.writer.next())
        };
        driven.elapsed_ms = at_ms;
        driven.nothing();
        assert_eq!(driven.writer.next(), Next::Poll, "another try");
        assert_eq!(paused(&driven.drain()), Some(true));
    }
    lacks.store(false, Ordering::Relaxed);
    driven.give(Input::Job(Job::Wake));
    assert_eq!(paused(&driven.drain()), Some(false));
    assert_settled(&driven.writer);
}

#[test]
fn a_question_without_an_answer_is_asked_again_though_no_run_is_due() {
    let lacks = Arc::new(AtomicBool::new(true));
    let (_, replica) = behind(0, Arc::new(Lacking(Lack::Cuts, lacks.clone())));
    let mut driven = Driven::new(replica);
    let pending = |driven: &Driven| driven.writer.store().unwrap().snapshot().summary().pending;
    assert_eq!(pending(&driven), 0);
    lacks.store(false, Ordering::Relaxed);
    let Next::Until(at_ms) = driven.writer.next() else {
        panic!("{:?}", driven.writer.next())
    };
    driven.elapsed_ms = at_ms;
    assert_eq!(paused(&driven.nothing()), Some(true), "as before");
    assert_eq!(paused(&driven.drain()), Some(false));
    assert_settled(&driven.writer);
}

#[test]
fn what_cannot_be_signed_is_told_to_its_callers_and_the_store_goes_on() {
    let left = Arc::new(AtomicU32::new(u32::MAX));
    let spec = NewStore {
        genesis: testing::genesis(),
        admits: Vec::new(),
        chain: ChainId(1),
    };
    let files = testing::memory_files();
    let engine = Arc::new(Forgetful(left.clone()));
    let store = Store::create(files, engine, key(1), spec, WALL_MS).unwrap();
    let mut driven = Driven::new(store);
    let count = |driven: &Driven| driven.writer.store().unwrap().snapshot().summary().count;
    let before = count(&driven);
    driven.add(1);
    // The question is asked when the call has run, and again when its entry is signed.
    left.store(1, Ordering::Relaxed);
    let admission = testing::admit(device(2), Role::Writer);
    let mut effects = driven.call(Lane::System, admission, 2);
    effects.extend(driven.drain());
    assert!(!kinds(&effects).contains(&"stop"), "{:?}", kinds(&effects));
    let answers = effects.iter().find_map(|effect| match effect {
        Effect::Answer(group) => Some(&group.answers),
        _ => None,
    });
    let exhausted = Err(CallError::Host(HostFault::Exhausted("memory".into())));
    assert_eq!(
        answers.unwrap()[..],
        [(1, exhausted.clone()), (2, exhausted)]
    );
    assert_eq!(count(&driven), before, "nothing of it is in the log");
    left.store(u32::MAX, Ordering::Relaxed);
    driven.add(3);
    let effects = driven.nothing();
    assert_eq!(tokens(&effects), [3]);
    assert_eq!(count(&driven), before + 1);
    assert_settled(&driven.writer);
}

#[test]
fn a_parked_entry_keeps_a_writer_awake_until_its_time() {
    let (store, mut replica) = two_writers();
    let parked_ms = u64::from(TICKS_IDLE + 3) * TICK_MS;
    let ahead_ms = WALL_MS + store.snapshot().genesis().drift_ms + parked_ms;
    let call = testing::program(&[Step::Add { k: 1, by: 1 }]);
    let told = replica.call(Lane::App, vec![call], ahead_ms, ChainId(3));
    assert!(told.unwrap().outcome.is_ok());
    let id = replica.commit(ahead_ms).unwrap()[0].id();
    let mut driven = Driven::new(store);
    driven.give(all_of(&replica, 1));
    driven.drain();
    let has = |driven: &Driven| {
        let store = driven.writer.store().unwrap();
        store.snapshot().contains(&id).unwrap()
    };
    while driven.elapsed_ms < parked_ms {
        assert!(!has(&driven), "not before its time");
        let Next::Until(at_ms) = driven.writer.next() else {
            panic!("asleep at {} ms", driven.elapsed_ms)
        };
        driven.elapsed_ms = at_ms;
        driven.nothing();
        driven.drain();
    }
    assert!(has(&driven));
    assert_settled(&driven.writer);
}

#[test]
fn what_a_change_of_governance_leaves_to_run_is_run_without_another_job() {
    let (store, mut replica) = two_writers();
    for _ in 0..2 * CUT_RUNS {
        let call = testing::program(&[Step::Add { k: 1, by: 1 }]);
        let told = replica.call(Lane::App, vec![call], WALL_MS, ChainId(3));
        assert!(told.unwrap().outcome.is_ok());
        replica.commit(WALL_MS).unwrap();
    }
    let mut driven = Driven::new(store);
    driven.give(all_of(&replica, 1));
    driven.drain();
    assert_settled(&driven.writer);
    let revoke = testing::revoke(device(2), &[]);
    assert_eq!(tokens(&driven.call(Lane::System, revoke, 2)), [2]);
    let left = driven.writer.store().unwrap().snapshot().summary().pending;
    assert!(left > 0, "the commit has done it all");
    driven.drain();
    assert_settled(&driven.writer);
}

#[test]
fn a_rebuild_lets_no_job_in_between() {
    let count = 2 * SETTLE_RUNS_IDLE;
    let (store, _) = behind(count, Arc::new(ModelEngine));
    let root = store.snapshot().summary().state_root;
    let mut driven = Driven::new(store);
    let before = driven.writer.runs();
    driven.give(Input::Job(Job::Rebuild));
    let mut steps = Vec::new();
    while driven.writer.next() == Next::Continue && steps.len() < 9 {
        let rebuilt = driven
            .nothing()
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Rebuild(step) => Some(step),
                _ => None,
            });
        steps.extend(rebuilt);
    }
    // The genesis runs in both lanes.
    assert_eq!(driven.writer.runs() - before, count + 2);
    let Some(Rebuild::Done(snapshot)) = steps.pop() else {
        panic!("{steps:?}")
    };
    assert_eq!(snapshot.summary().state_root, root);
    assert!(
        matches!(steps.last(), Some(Rebuild::Pending(0))),
        "{steps:?}"
    );
}

#[test]
fn closing_ends_a_group_first() {
    let mut driven = Driven::new(testing::found(1, WALL_MS));
    driven.add(1);
    assert_eq!(tokens(&driven.give(Input::Job(Job::Close))), [1]);
    let effects = driven.drain();
    assert!(
        matches!(effects[..], [.., Effect::Closed(Ok(()))]),
        "{effects:?}"
    );
}
