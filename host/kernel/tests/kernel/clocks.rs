//! Clocks that are wrong: who signs by them, what they leave in a store, and how a device gets out of it.

use lattice_format::{ChainId, Lane, SignedHeader};
use lattice_kernel::clock::{ClockError, Clocks, Input, Reading, Standing, Terms, Verdict};
use lattice_kernel::limits::LEAP_MS;
use lattice_kernel::run::engine::Role;
use lattice_kernel::writer::{self, Effect, Job, Now};
use lattice_kernel::{BatchVerifier, CallError, Notice, RestartError, SetAside, Store};
use lattice_testing::mutants::{self, Mutant};
use lattice_testing::{self as testing, Step, device};
use proptest::prelude::*;

use crate::world::{START_MS, adopt, all, judge, settle, step, wire};

const NOW_MS: u64 = START_MS + 10_000;
const DRIFT_MS: u64 = 60_000;
const YEAR_MS: u64 = 365 * 86_400_000;
/// Where a clock stands that is five years ahead.
const AHEAD_MS: u64 = NOW_MS + 5 * YEAR_MS;

/// A verdict that members confirm.
fn agreed(wall_ms: u64) -> Verdict {
    Verdict {
        standing: Standing::Agrees,
        ..Verdict::alone(wall_ms)
    }
}

/// A founder's store, and the replica of a writer.
fn two() -> (Store, Store) {
    let mut founder = testing::found(0, START_MS);
    let admit = testing::admit(device(1), Role::Writer);
    let told = founder.call(Lane::System, vec![admit], START_MS, ChainId(1));
    assert!(told.unwrap().outcome.is_ok());
    founder.commit(START_MS).unwrap();
    let mut writer = adopt(1, &all(&founder.snapshot())[0]);
    give(&founder, &mut writer, NOW_MS);
    (founder, writer)
}

/// Gives one store everything of another, by a clock that shows `now_ms`. Returns how many entries it parks.
fn give(from: &Store, to: &mut Store, now_ms: u64) -> usize {
    let entries: Vec<(SignedHeader, _)> = all(&from.snapshot()).iter().map(wire).collect();
    let verifier = BatchVerifier([3; 32]);
    let received = to.receive(device(7), entries, now_ms, verifier).unwrap();
    assert_eq!(received.blame, vec![]);
    settle(to);
    to.parked().len()
}

fn try_call(store: &mut Store, steps: &[Step], now_ms: u64, chain: u64) -> Result<bool, CallError> {
    let call = testing::program(steps);
    let told = store.call(Lane::App, vec![call], now_ms, ChainId(chain))?;
    Ok(told.outcome.is_ok())
}

/// Calls, commits and settles. Returns the entry's time and place in its chain, and whether the call succeeded.
fn call(store: &mut Store, steps: &[Step], now_ms: u64, chain: u64) -> Option<(u64, u64)> {
    let is_ok = try_call(store, steps, now_ms, chain).unwrap();
    let written = store.commit(now_ms).unwrap();
    settle(store);
    let header = written.last().filter(|_| is_ok)?;
    Some((header.time.wall_ms, header.seq.0))
}

const PUT: [Step; 1] = [Step::Put {
    k: 1,
    dynamic: false,
    value: 1,
}];

/// Both stores hold the same and came to the same.
fn assert_equal(one: &Store, other: &Store) {
    let roots = |store: &Store| {
        let summary = store.snapshot().summary().clone();
        (summary.state_root, summary.outcome_root, summary.set)
    };
    assert_eq!(roots(one), roots(other));
    judge(one).unwrap();
    judge(other).unwrap();
}

#[test]
fn a_chain_that_was_signed_years_ahead_is_started_anew_below() {
    let (mut founder, mut store) = two();
    // Nobody was there to say that the clock is wrong.
    assert_eq!(call(&mut store, &PUT, AHEAD_MS, 5), Some((AHEAD_MS, 0)));
    assert_eq!(give(&store, &mut founder, NOW_MS), 1, "peers park it");
    // The clock is right again, and members say so.
    store.judge_by(agreed(NOW_MS));
    let error = try_call(&mut store, &PUT, NOW_MS, 6).unwrap_err();
    let CallError::ChainAhead { by_ms, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(by_ms, AHEAD_MS - NOW_MS);
    assert!(error.to_string().contains("5 years ahead"), "{error}");
    let aside = store.restart_chain(NOW_MS).unwrap().unwrap();
    assert_eq!(aside.above_ms, NOW_MS + DRIFT_MS);
    // A new chain, at the time that it is, and it goes on.
    assert_eq!(store.next_time(NOW_MS).unwrap().wall_ms, NOW_MS);
    assert_eq!(call(&mut store, &PUT, NOW_MS, 7), Some((NOW_MS, 0)));
    let later = NOW_MS + 1_000;
    assert_eq!(call(&mut store, &PUT, later, 8), Some((later, 1)));
    // The founder takes them, and only what lies ahead waits.
    assert_eq!(give(&store, &mut founder, later), 1);
    assert_eq!(
        founder.snapshot().summary().count,
        store.snapshot().summary().count - 1
    );
    judge(&founder).unwrap();
    judge(&store).unwrap();
    // What it says next, the device takes; and when the time has come, both are equal.
    founder.judge_by(agreed(later));
    call(&mut founder, &PUT, later, 9).unwrap();
    assert_eq!(give(&founder, &mut store, later), 0);
    founder.judge_by(agreed(AHEAD_MS));
    founder.tick(AHEAD_MS - DRIFT_MS).unwrap();
    settle(&mut founder);
    assert_equal(&founder, &store);
}

#[test]
fn who_has_set_a_chain_aside_follows_nothing_ahead_also_alone_and_after_a_restart() {
    let (_, mut store) = two();
    call(&mut store, &PUT, AHEAD_MS, 5).unwrap();
    // Nobody else is there: a person says that the clock was wrong.
    let aside = store.restart_chain(NOW_MS).unwrap().unwrap();
    let entries = all(&store.snapshot());
    let mut store = adopt(1, &entries[0]);
    // Like a store that was opened again: the log has the chain.
    give_own(&mut store, &entries);
    assert_eq!(store.own_chain(), Some(aside.chain));
    store.set_aside(aside);
    assert_eq!(call(&mut store, &PUT, NOW_MS, 7), Some((NOW_MS, 0)));
    // Even with a clock that was set back, it goes on after its own last entry.
    let back_ms = NOW_MS - 9_000;
    assert_eq!(call(&mut store, &PUT, back_ms, 8), Some((NOW_MS, 1)));
    // The clock gets there in the end, and everything is followed.
    let there_ms = AHEAD_MS + 1;
    assert_eq!(call(&mut store, &PUT, there_ms, 9), Some((there_ms, 2)));
    let last = all(&store.snapshot()).pop().unwrap();
    assert!(
        last.header
            .deps
            .contains(&entries[entries.len() - 1].header.id())
    );
    judge(&store).unwrap();
}

/// Gives a store its own entries, as its log has them, whatever their times.
fn give_own(store: &mut Store, entries: &[lattice_kernel::Stored]) {
    let entries: Vec<_> = entries.iter().map(wire).collect();
    let verifier = BatchVerifier([3; 32]);
    store
        .receive(device(7), entries, AHEAD_MS, verifier)
        .unwrap();
    settle(store);
}

#[test]
fn a_chain_that_is_not_ahead_is_not_started_anew() {
    let (_, mut store) = two();
    let edge_ms = NOW_MS + DRIFT_MS;
    assert_eq!(
        store.restart_chain(NOW_MS).unwrap(),
        Err(RestartError::NotAhead { drift_ms: DRIFT_MS }),
        "it has none"
    );
    call(&mut store, &PUT, edge_ms, 5).unwrap();
    store.judge_by(agreed(NOW_MS));
    let refused = Err(RestartError::NotAhead { drift_ms: DRIFT_MS });
    assert_eq!(store.restart_chain(NOW_MS).unwrap(), refused);
    // At the bound it is followed, and one beyond it is not.
    assert_eq!(call(&mut store, &PUT, NOW_MS, 6), Some((edge_ms, 1)));
    store.judge_by(agreed(NOW_MS - 1));
    let error = try_call(&mut store, &PUT, NOW_MS - 1, 7).unwrap_err();
    assert!(matches!(error, CallError::ChainAhead { .. }), "{error}");
    let expected = SetAside {
        chain: ChainId(5),
        above_ms: edge_ms - 1,
    };
    assert_eq!(store.restart_chain(NOW_MS - 1).unwrap(), Ok(expected));
}

#[test]
fn what_others_signed_ahead_is_not_followed_and_what_it_names_is() {
    let (mut founder, mut store) = two();
    let sound_ms = NOW_MS + 5;
    call(&mut store, &PUT, sound_ms, 5).unwrap();
    let sound = all(&store.snapshot()).pop().unwrap().header.id();
    call(&mut store, &PUT, AHEAD_MS, 6).unwrap();
    let ahead = all(&store.snapshot()).pop().unwrap().header.id();
    // The founder's clock was ahead as well when it received that.
    assert_eq!(give(&store, &mut founder, AHEAD_MS), 0);
    founder.judge_by(agreed(NOW_MS));
    assert_eq!(call(&mut founder, &PUT, NOW_MS, 9).unwrap().0, sound_ms);
    let own = all(&founder.snapshot()).pop().unwrap();
    let names: Vec<_> = own.header.names().collect();
    assert!(
        names.contains(&sound) && !names.contains(&ahead),
        "{names:?}"
    );
    judge(&founder).unwrap();
    // Alone it cannot tell, and follows what it has.
    founder.judge_by(Verdict::alone(NOW_MS));
    assert_eq!(founder.next_time(NOW_MS).unwrap().wall_ms, AHEAD_MS);
    assert_eq!(call(&mut founder, &PUT, NOW_MS, 9).unwrap().0, AHEAD_MS);
}

#[test]
fn while_the_own_clock_is_ahead_what_is_parked_stays_parked() {
    let (mut founder, mut store) = two();
    call(&mut store, &PUT, AHEAD_MS, 5).unwrap();
    founder.judge_by(agreed(NOW_MS));
    assert_eq!(give(&store, &mut founder, NOW_MS), 1);
    let leads = Verdict {
        wall_ms: AHEAD_MS,
        admits_ms: NOW_MS,
        standing: Standing::Ahead {
            by_ms: AHEAD_MS - NOW_MS,
        },
    };
    founder.judge_by(leads);
    assert_eq!(founder.tick(AHEAD_MS).unwrap().witnessed, vec![]);
    assert_eq!(give(&store, &mut founder, AHEAD_MS), 1);
    founder.judge_by(agreed(AHEAD_MS));
    assert_eq!(founder.tick(AHEAD_MS).unwrap().witnessed.len(), 1);
}

type Effects = Vec<Effect<u32, u32>>;

/// A writer, driven by verdicts.
struct Driven(writer::Writer<u32, u32, BatchVerifier>);

impl Driven {
    fn new(store: Store) -> Self {
        let mut driven = Self(writer::Writer::new(store, at(agreed(NOW_MS))));
        driven.drain(agreed(NOW_MS));
        driven
    }

    fn drain(&mut self, clock: Verdict) -> Effects {
        let mut effects = Vec::new();
        while !matches!(self.0.next(), writer::Next::Until(_) | writer::Next::Job) {
            self.0
                .handle(writer::Input::Nothing, at(clock), &mut effects);
        }
        effects
    }

    fn job(&mut self, job: Job<u32, u32, BatchVerifier>, clock: Verdict) -> Effects {
        let mut effects = Vec::new();
        let input = writer::Input::Job(job);
        self.0.handle(input, at(clock), &mut effects);
        effects.extend(self.drain(clock));
        effects
    }

    fn call(&mut self, clock: Verdict, accepts_leap: bool) -> (Result<bool, CallError>, Effects) {
        let call = Job::Call {
            lane: Lane::App,
            calls: vec![testing::program(&PUT)],
            chain: ChainId(40),
            accepts_leap,
            token: 1,
        };
        let mut effects = self.job(call, clock);
        let answer = effects.iter().position(|e| matches!(e, Effect::Answer(_)));
        let Effect::Answer(mut group) = effects.remove(answer.unwrap()) else {
            unreachable!("it was looked for");
        };
        let told = group.answers.pop().unwrap().1;
        (told.map(|told| told.outcome.is_ok()), effects)
    }
}

fn at(clock: Verdict) -> Now {
    Now {
        clock,
        elapsed_ms: 0,
    }
}

fn notices(effects: &Effects) -> Vec<Notice> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Notices(Ok(notices)) => Some(notices.iter().map(|(_, notice)| notice.clone())),
        _ => None,
    });
    told.flatten().collect()
}

#[test]
fn a_writer_signs_nothing_by_a_clock_that_its_members_deny() {
    let (founder, _) = two();
    let mut driven = Driven::new(founder);
    let before = driven.0.store().unwrap().snapshot().summary().count;
    let denied = |standing| Verdict {
        standing,
        ..agreed(NOW_MS)
    };
    let by_ms = 5 * YEAR_MS;
    let (told, _) = driven.call(denied(Standing::Ahead { by_ms }), true);
    assert_eq!(told, Err(CallError::Clock(ClockError::Ahead { by_ms })));
    let (told, _) = driven.call(denied(Standing::Behind { by_ms }), true);
    let drift_ms = DRIFT_MS;
    let behind = ClockError::Behind { by_ms, drift_ms };
    assert_eq!(told, Err(CallError::Clock(behind)));
    assert_eq!(driven.0.store().unwrap().snapshot().summary().count, before);
    assert_eq!(driven.call(agreed(NOW_MS), false).0, Ok(true));
}

#[test]
fn a_leap_without_peers_asks_first_and_leaves_a_notice() {
    let (founder, _) = two();
    let mut driven = Driven::new(founder);
    let last_ms = START_MS;
    let edge_ms = last_ms + LEAP_MS;
    assert_eq!(driven.call(Verdict::alone(edge_ms), false).0, Ok(true));
    let leapt_ms = edge_ms + LEAP_MS + 1;
    let leapt = Verdict::alone(leapt_ms);
    let (told, effects) = driven.call(leapt, false);
    let by_ms = LEAP_MS + 1;
    let leap = ClockError::Leap { by_ms };
    assert_eq!(told, Err(CallError::Clock(leap)));
    assert_eq!(notices(&effects), vec![]);
    let (told, effects) = driven.call(leapt, true);
    assert_eq!(told, Ok(true));
    let wall_ms = leapt_ms;
    assert!(notices(&effects).contains(&Notice::ClockLeapt { wall_ms, by_ms }));
    // The store is at that time now, and asks no more.
    assert_eq!(driven.call(leapt, false).0, Ok(true));
}

#[test]
fn a_chain_ahead_is_noticed_once_as_soon_as_a_member_tells_the_time() {
    let (_, mut store) = two();
    call(&mut store, &PUT, AHEAD_MS, 5).unwrap();
    let entry = all(&store.snapshot()).pop().unwrap().header.id();
    let mut driven = Driven(writer::Writer::new(store, at(Verdict::alone(NOW_MS))));
    let alone = driven.job(Job::Wake, Verdict::alone(NOW_MS));
    assert_eq!(notices(&alone), vec![], "nothing says who is wrong");
    // A clock that is behind does not make entries lie ahead.
    let behind = Verdict {
        standing: Standing::Behind { by_ms: YEAR_MS },
        ..Verdict::alone(NOW_MS)
    };
    assert_eq!(notices(&driven.job(Job::Wake, behind)), vec![]);
    let told = notices(&driven.job(Job::Wake, agreed(NOW_MS)));
    let wall_ms = AHEAD_MS;
    assert!(told.contains(&Notice::ChainAhead { entry, wall_ms }));
    let count = |driven: &Driven| driven.0.store().unwrap().notices().unwrap().len();
    assert_eq!(count(&driven), 1);
    driven.job(Job::Wake, agreed(NOW_MS + 1));
    assert_eq!(count(&driven), 1);
    // The way out ends it.
    let restart = Job::Ask(Box::new(|store: &mut Store| {
        store.restart_chain(NOW_MS).unwrap().unwrap();
    }));
    driven.job(restart, agreed(NOW_MS));
    assert_eq!(driven.call(agreed(NOW_MS), false).0, Ok(true));
    assert_eq!(count(&driven), 1);
    // The same wrong clock asks again, although the store holds an entry of that time.
    let (told, _) = driven.call(Verdict::alone(AHEAD_MS), false);
    let Err(CallError::Clock(ClockError::Leap { by_ms })) = told else {
        panic!("{told:?}");
    };
    assert_eq!(by_ms, AHEAD_MS - NOW_MS - DRIFT_MS);
}

/// Whether a right clock with one peer a year ahead is followed by the store into that year.
fn follows_a_wrong_peer() -> bool {
    let (founder, _) = two();
    let mut driven = Driven::new(founder);
    let now = Reading {
        wall_ms: NOW_MS,
        elapsed_ms: 77,
    };
    let mut clocks = Clocks::default();
    let peer = device(1);
    clocks.handle(Input::Connected(peer), now);
    let clock_ms = NOW_MS + YEAR_MS;
    clocks.handle(Input::Announced { peer, clock_ms }, now);
    let terms = Terms {
        drift_ms: DRIFT_MS,
        genesis_ms: START_MS,
        trusted: false,
    };
    let verdict = Verdict::of(now, &clocks.medians(|_| true), terms);
    driven.call(verdict, true).0.is_ok()
        || driven
            .0
            .store()
            .unwrap()
            .snapshot()
            .summary()
            .last_time
            .wall_ms
            > NOW_MS
}

#[test]
fn a_correction_without_a_bound_is_caught() {
    assert!(!follows_a_wrong_peer());
    assert!(mutants::with(
        Mutant::CorrectionUnbounded,
        follows_a_wrong_peer
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Holds: invariant 5.
    ///
    /// What runs below entries ahead is what a fold from nothing comes to, on every replica.
    #[test]
    fn calls_below_what_lies_ahead_run_at_their_place(
        ahead in prop::collection::vec(prop::collection::vec(step(), 1..5), 1..6),
        below in prop::collection::vec((prop::collection::vec(step(), 1..5), any::<bool>()), 1..10),
    ) {
        let (mut founder, mut store) = two();
        for program in &ahead {
            let _ = try_call(&mut store, program, AHEAD_MS, 5);
            store.commit(AHEAD_MS).unwrap();
        }
        // It may be that nothing succeeded.
        let _ = store.restart_chain(NOW_MS).unwrap();
        for (at, (program, commits)) in (0u64..).zip(&below) {
            let now_ms = NOW_MS + 100 * at;
            store.judge_by(agreed(now_ms));
            founder.judge_by(agreed(now_ms));
            let told = try_call(&mut store, program, now_ms, 6 + at);
            prop_assert!(told.is_ok(), "{:?}", told);
            let _ = try_call(&mut founder, program, now_ms, 90);
            founder.commit(now_ms).unwrap();
            if *commits {
                store.commit(now_ms).unwrap();
                settle(&mut store);
                judge(&store)?;
                give(&founder, &mut store, now_ms);
                give(&store, &mut founder, now_ms);
                judge(&founder)?;
                judge(&store)?;
            }
        }
        store.commit(NOW_MS + 5_000).unwrap();
        settle(&mut store);
        judge(&store)?;
        for now_ms in [NOW_MS + 5_000, AHEAD_MS] {
            founder.judge_by(agreed(now_ms));
            founder.tick(now_ms).unwrap();
            give(&store, &mut founder, now_ms);
            give(&founder, &mut store, now_ms);
        }
        assert_equal(&founder, &store);
        for notice in founder.notices().unwrap() {
            prop_assert!(!matches!(notice.1, Notice::Divergence { .. }), "{:?}", notice);
        }
    }
}
