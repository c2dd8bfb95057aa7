//! Revocation: entries that a cut does not keep are void on every replica, in whatever order entries arrive, and
//! callers who were told other outcomes learn of it.

use lattice_format::{ChainId, IntentionId, Lane};
use lattice_kernel::run::engine::{Answer, Question, Role};
use lattice_kernel::state::cell::Space;
use lattice_kernel::{CallError, Notice, Outcome, Store, Stored};
use lattice_testing::mutants::{self, Mutant};
use lattice_testing::{self as testing, Step, device};

use crate::world::{START_MS, adopt, all, deliver, judge, settle};
use lattice_testing::Dice;

pub const FOUNDER: u8 = 0;
pub const MEMBER: u8 = 1;
pub const ROGUE: u8 = 2;

/// Three devices in sync, and a clock that moves with each call.
pub struct Team {
    pub stores: Vec<Store>,
    pub now: u64,
}

impl Team {
    pub fn new() -> Self {
        let mut team = Self {
            stores: vec![testing::found(FOUNDER, START_MS)],
            now: START_MS,
        };
        for number in [MEMBER, ROGUE] {
            team.govern(testing::admit(device(number), Role::Writer));
        }
        let genesis = all(&team.stores[0].snapshot())[0].clone();
        for number in [MEMBER, ROGUE] {
            team.stores.push(adopt(number, &genesis));
        }
        team.sync();
        team
    }

    pub fn call(
        &mut self,
        by: u8,
        lane: Lane,
        call: lattice_format::Call,
    ) -> (IntentionId, Outcome) {
        self.now += 1;
        let chain = ChainId(u64::from(by) + 10);
        let store = &mut self.stores[usize::from(by)];
        let told = store.call(lane, vec![call], self.now, chain).unwrap();
        let headers = store.commit(self.now).unwrap();
        let id = headers
            .last()
            .unwrap_or_else(|| panic!("nothing was logged: {:?}", told.outcome))
            .id();
        (id, told.outcome)
    }

    pub fn app(&mut self, by: u8, steps: &[Step]) -> (IntentionId, Outcome) {
        self.call(by, Lane::App, testing::program(steps))
    }

    pub fn govern(&mut self, call: lattice_format::Call) -> IntentionId {
        self.call(FOUNDER, Lane::System, call).0
    }

    /// Gives `to` everything that `from` has.
    pub fn send(&mut self, from: u8, to: u8) {
        let entries = all(&self.stores[usize::from(from)].snapshot());
        deliver(&mut self.stores[usize::from(to)], &entries);
    }

    pub fn sync(&mut self) {
        for _ in 0..2 {
            for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)] {
                self.send(from, to);
            }
        }
    }

    /// Checks that all replicas agree, fresh ones included that receive everything in shuffled orders, and which
    /// entries are void.
    fn agree(&mut self, void: &[IntentionId], counts: &[IntentionId]) {
        self.sync();
        let entries = all(&self.stores[0].snapshot());
        let mut fresh: Vec<Store> = (0..12)
            .map(|seed| {
                let mut store = adopt(20, &entries[0]);
                for batch in shuffled(&entries[1..], seed).chunks(1 + seed as usize % 4) {
                    deliver(&mut store, batch);
                }
                store
            })
            .collect();
        let expected = self.stores[0].snapshot().summary().clone();
        for store in self.stores.iter_mut().chain(&mut fresh) {
            judge(store).unwrap();
            let snapshot = store.snapshot();
            assert_eq!(snapshot.summary().state_root, expected.state_root);
            assert_eq!(snapshot.summary().outcome_root, expected.outcome_root);
            for id in void {
                assert!(snapshot.is_void(id).unwrap(), "{id} counts");
                assert_eq!(snapshot.outcomes(id).unwrap(), None);
            }
            for id in counts {
                assert!(!snapshot.is_void(id).unwrap(), "{id} is void");
                assert!(snapshot.outcomes(id).unwrap().is_some());
            }
        }
    }

    pub fn keys(&self, of: u8) -> Vec<u8> {
        self.stores[usize::from(of)]
            .snapshot()
            .rows(Lane::App, Space::Bytes)
            .unwrap()
            .into_iter()
            .filter(|(key, _)| key[0] == b'k')
            .map(|(key, _)| key[1])
            .collect()
    }

    fn changed(&self, at: u8) -> Vec<(IntentionId, Option<Outcome>)> {
        self.stores[usize::from(at)]
            .notices()
            .unwrap()
            .into_iter()
            .filter_map(|(_, notice)| match notice {
                Notice::OutcomeChanged { entry, now, .. } => Some((entry, now)),
                _ => None,
            })
            .collect()
    }
}

pub fn shuffled(entries: &[Stored], seed: u64) -> Vec<Stored> {
    let mut dice = Dice(seed);
    let mut out = entries.to_vec();
    for at in (1..out.len()).rev() {
        out.swap(at, dice.below(at as u64 + 1) as usize);
    }
    out
}

pub fn put(k: u8) -> Vec<Step> {
    vec![Step::Put {
        k,
        dynamic: false,
        value: 1,
    }]
}

fn get(k: u8) -> Vec<Step> {
    vec![Step::Get { k, dynamic: false }]
}

/// Holds: invariant 12.
#[test]
fn later_entries_of_a_revoked_member_are_void_and_kept_ones_count() {
    let mut team = Team::new();
    let (kept, _) = team.app(ROGUE, &put(1));
    let (cut_off, _) = team.app(ROGUE, &put(2));
    team.sync();
    assert_eq!(team.keys(MEMBER), [1, 2]);
    // The founder keeps the first entry only. The rogue does not know yet and goes on.
    let revocation = team.govern(testing::revoke(device(ROGUE), &[kept]));
    let (unaware, _) = team.app(ROGUE, &put(3));
    team.agree(&[cut_off, unaware], &[kept, revocation]);
    for of in [FOUNDER, MEMBER, ROGUE] {
        assert_eq!(team.keys(of), [1], "effects of void entries vanish");
    }
    // The rogue's own callers had been told that their calls took effect.
    let changed = team.changed(ROGUE);
    assert!(changed.contains(&(cut_off, None)) && changed.contains(&(unaware, None)));
    assert!(!changed.iter().any(|(id, _)| *id == kept));
}

/// Holds: invariant 12.
#[test]
fn governance_that_traps_at_the_question_for_cuts_has_cut_off_everything() {
    let wrong = || {
        let mut team = Team::new();
        let (before, _) = team.app(ROGUE, &put(1));
        let (others, _) = team.app(MEMBER, &put(2));
        team.sync();
        // The revocation keeps what was seen. Whoever makes the answer trap must not undo it.
        team.govern(testing::revoke_unseen(device(ROGUE)));
        team.govern(testing::trap_at_cuts(device(ROGUE)));
        team.sync();
        let snapshot = team.stores[0].snapshot();
        let fails_open = !snapshot.is_void(&before).unwrap();
        if !fails_open {
            team.agree(&[before], &[others]);
        }
        fails_open
    };
    assert!(!wrong());
    assert!(mutants::with(Mutant::TrappedCutsForgotten, wrong));
}

/// Holds: invariant 12.
#[test]
fn it_is_void_wherever_it_sorts() {
    let mut team = Team::new();
    // The rogue's clock lags, so its entry sorts before the revocation and arrives after it.
    let early = team.now;
    team.now += 200;
    let revocation = team.govern(testing::revoke(device(ROGUE), &[]));
    team.now = early;
    let (backdated, _) = team.app(ROGUE, &put(4));
    let before = team.stores[2].snapshot();
    assert!(!before.is_void(&backdated).unwrap());
    team.now += 500;
    team.agree(&[backdated], &[revocation]);
    assert_eq!(team.keys(MEMBER), [] as [u8; 0]);
}

#[test]
fn whoever_relied_on_a_void_entry_is_told() {
    let mut team = Team::new();
    let (cut_off, _) = team.app(ROGUE, &put(5));
    team.send(ROGUE, MEMBER);
    let (relied, told) = team.app(MEMBER, &get(5));
    let (independent, _) = team.app(MEMBER, &get(6));
    team.send(MEMBER, FOUNDER);
    team.govern(testing::revoke(device(ROGUE), &[]));
    team.agree(&[cut_off], &[relied, independent]);
    let changed = team.changed(MEMBER);
    assert_eq!(changed.len(), 1, "one outcome changed, once: {changed:?}");
    let now = team.stores[1]
        .snapshot()
        .outcomes(&relied)
        .unwrap()
        .unwrap();
    assert_ne!(now[0], told);
    assert_eq!(changed[0], (relied, Some(now[0].clone())));
    // The notice stays until it is acknowledged, and does not come back.
    team.sync();
    let numbers: Vec<u64> = team.stores[1]
        .notices()
        .unwrap()
        .iter()
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(team.stores[1].acknowledge(&numbers).unwrap(), 1);
    let now = team.now;
    team.stores[1].rebuild(now).unwrap();
    crate::world::settle(&mut team.stores[1]);
    assert_eq!(team.changed(MEMBER), vec![]);
}

/// Holds: invariant 12.
#[test]
fn what_was_admitted_again_with_a_new_grant_is_spared() {
    let mut team = Team::new();
    let (cut_off, _) = team.app(ROGUE, &put(1));
    team.sync();
    let revocation = team.govern(testing::revoke(device(ROGUE), &[]));
    let again = team.govern(testing::admit(device(ROGUE), Role::Writer));
    // The rogue does not know of its second admission yet.
    let (unaware, _) = team.app(ROGUE, &put(2));
    team.send(FOUNDER, ROGUE);
    let (spared, outcome) = team.app(ROGUE, &put(3));
    assert!(outcome.is_ok());
    let stored = team.stores[2].snapshot().entry(&spared).unwrap().unwrap();
    assert_eq!(stored.header.grant, Some(again));
    team.agree(&[cut_off, unaware], &[revocation, again, spared]);
    assert_eq!(team.keys(FOUNDER), [3]);
    // A second revocation also cuts off what the rogue wrote since its second admission.
    team.govern(testing::revoke(device(ROGUE), &[]));
    team.agree(&[cut_off, unaware, spared], &[again]);
    assert_eq!(team.keys(MEMBER), [] as [u8; 0]);
}

/// Holds: invariant 12.
#[test]
fn a_revoked_admin_takes_what_it_governed_with_it() {
    let mut team = Team::new();
    team.govern(testing::admit(device(ROGUE), Role::Admin));
    team.sync();
    let (crony, _) = team.call(ROGUE, Lane::System, testing::admit(device(5), Role::Writer));
    let (cut_member, _) = team.call(ROGUE, Lane::System, testing::resign());
    team.sync();
    let revocation = team.govern(testing::revoke(device(ROGUE), &[]));
    team.agree(&[crony, cut_member], &[revocation]);
    let snapshot = team.stores[1].snapshot();
    let found = snapshot.ask(&Question::Member(device(5))).unwrap();
    assert_eq!(found, Answer::Member(None));
}

/// Holds: invariant 12.
#[test]
fn voids_point_only_downwards() {
    let mut team = Team::new();
    team.govern(testing::admit(device(ROGUE), Role::Admin));
    team.sync();
    // The rogue ranks below the founder and the first member.
    for whom in [FOUNDER, MEMBER] {
        let now = team.now + 1;
        // The rogue may not give them a role either. A member that it promoted might revoke it. That revocation would
        // rest on a promotion which it voids itself.
        for call in [
            testing::revoke(device(whom), &[]),
            testing::admit(device(whom), Role::Admin),
        ] {
            let told = team.stores[2]
                .call(Lane::System, vec![call], now, ChainId(12))
                .unwrap();
            assert!(
                matches!(told.outcome, Outcome::Refused { .. }),
                "{:?}",
                told.outcome
            );
            assert_eq!(team.stores[2].commit(now).unwrap(), vec![]);
        }
    }
    let (own, _) = team.app(MEMBER, &put(1));
    team.agree(&[], &[own]);
}

#[test]
fn nothing_is_claimed_while_it_is_open_what_a_revocation_cuts_off() {
    let mut team = Team::new();
    let (void, _) = team.app(ROGUE, &put(1));
    team.sync();
    // A revocation and a call behind it are committed together, so the call still sees an entry that will be void.
    let now = team.now + 1;
    let founder = &mut team.stores[0];
    for (lane, call) in [
        (Lane::System, testing::revoke(device(ROGUE), &[])),
        (Lane::App, testing::program(&put(2))),
    ] {
        let told = founder.call(lane, vec![call], now, ChainId(10)).unwrap();
        assert!(told.outcome.is_ok());
    }
    let last = founder.commit(now).unwrap().pop().unwrap().id();
    let entry = founder.snapshot().entry(&last).unwrap().unwrap();
    let body = lattice_format::Body::decode(entry.body.as_deref().unwrap()).unwrap();
    assert_eq!(body.claim, None);
    team.agree(&[void], &[last]);
    for store in &team.stores {
        let notices = store.notices().unwrap();
        let told = |(_, notice): &(u64, Notice)| matches!(notice, Notice::Divergence { .. });
        assert!(!notices.iter().any(told), "{notices:?}");
    }
    // The next entry makes a claim again, and a right one.
    let (next, _) = team.app(FOUNDER, &put(3));
    let entry = team.stores[0].snapshot().entry(&next).unwrap().unwrap();
    let body = lattice_format::Body::decode(entry.body.as_deref().unwrap()).unwrap();
    assert!(body.claim.is_some());
    team.agree(&[void], &[last, next]);
}

#[test]
fn nothing_is_compared_before_what_governance_cuts_off_is_void() {
    let mut team = Team::new();
    team.govern(testing::revoke(device(ROGUE), &[]));
    // The rogue has not heard of the revocation.
    let (void, _) = team.call(ROGUE, Lane::System, testing::resign());
    team.send(ROGUE, FOUNDER);
    let claims = team.govern(testing::set_quota(None));
    let entry = team.stores[0].snapshot().entry(&claims).unwrap().unwrap();
    let body = lattice_format::Body::decode(entry.body.as_deref().unwrap()).unwrap();
    assert!(body.claim.is_some());
    // In a replay from nothing, all of governance runs before its cuts are asked for, entries that they will make
    // void included.
    let now = team.now + 1;
    let founder = &mut team.stores[0];
    founder.rebuild(now).unwrap();
    settle(founder);
    team.agree(&[void], &[claims]);
    for store in &team.stores {
        let notices = store.notices().unwrap();
        let told = |(_, notice): &(u64, Notice)| matches!(notice, Notice::Divergence { .. });
        assert!(!notices.iter().any(told), "{notices:?}");
    }
}

#[test]
fn who_was_admitted_again_by_somebody_who_had_not_heard_of_a_revocation_writes_nothing() {
    let mut team = Team::new();
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    team.sync();
    // Two admins revoke the rogue at the same time. The first one admits it again before it hears of the second
    // revocation.
    team.govern(testing::revoke(device(ROGUE), &[]));
    team.call(MEMBER, Lane::System, testing::revoke(device(ROGUE), &[]));
    team.now += 10;
    team.govern(testing::admit(device(ROGUE), Role::Writer));
    team.sync();
    // The rogue is a member, and yet the second revocation makes everything void that it signs.
    let now = team.now + 1;
    let rogue = &mut team.stores[usize::from(ROGUE)];
    let before = rogue.snapshot().summary().clone();
    let told = rogue.call(Lane::App, vec![testing::program(&put(1))], now, ChainId(12));
    let device = device(ROGUE);
    assert_eq!(told.unwrap_err(), CallError::CutOff { device });
    assert!(rogue.commit(now).unwrap().is_empty());
    assert_eq!(*rogue.snapshot().summary(), before);
    // An admin that has heard of everything revokes the rogue and admits it again. Then the rogue writes.
    team.govern(testing::revoke(device, &[]));
    team.govern(testing::admit(device, Role::Writer));
    team.sync();
    let (own, _) = team.app(ROGUE, &put(2));
    team.agree(&[], &[own]);
}

/// The entries without the bodies of some, as a peer gives them that keeps those bodies back.
fn without(entries: &[Stored], bodies: &[IntentionId]) -> Vec<Stored> {
    let mut entries = entries.to_vec();
    for entry in &mut entries {
        if bodies.contains(&entry.header.id()) {
            entry.body = None;
        }
    }
    entries
}

/// Holds: invariant 12.
#[test]
fn who_keeps_a_body_back_stops_nobody() {
    let mut team = Team::new();
    team.govern(testing::admit(device(MEMBER), Role::Admin));
    team.sync();
    // One of two members keeps a body back. The other one revokes it and names the entry.
    let (kept_back, _) = team.app(ROGUE, &put(1));
    team.send(ROGUE, MEMBER);
    let revoke = testing::revoke(device(ROGUE), &[]);
    let (accomplice, _) = team.call(MEMBER, Lane::System, revoke);
    let theirs = all(&team.stores[usize::from(MEMBER)].snapshot());
    assert!(theirs.iter().any(|e| e.header.id() == kept_back));
    deliver(&mut team.stores[0], &without(&theirs, &[kept_back]));
    // The founder cuts both off and goes on. A replica that lacks the body as well gets everything of the founder's.
    for whom in [MEMBER, ROGUE] {
        team.govern(testing::revoke(device(whom), &[]));
    }
    let (next, outcome) = team.app(FOUNDER, &put(2));
    assert!(outcome.is_ok());
    let entries = all(&team.stores[0].snapshot());
    let mut fresh = adopt(20, &entries[0]);
    deliver(&mut fresh, &without(&theirs[1..], &[kept_back]));
    for batch in shuffled(&entries[1..], 5).chunks(2) {
        deliver(&mut fresh, batch);
    }
    let snapshot = fresh.snapshot();
    assert!(snapshot.outcomes(&next).unwrap().is_some());
    assert_eq!(snapshot.summary().count, entries.len() as u64);
    assert_eq!(snapshot.summary().app_paused, None);
    assert!(snapshot.entry(&accomplice).unwrap().is_none());
    judge(&fresh).unwrap();
    assert_eq!(
        snapshot.tips_digest().unwrap(),
        team.stores[0].snapshot().tips_digest().unwrap()
    );
}

/// Each entry of two revoked members names the last ones of both, so there are two ways down from each: a search
/// without a memory of where it was would double with each entry.
#[test]
fn revoked_members_who_answer_each_other_cost_others_no_search() {
    let mut team = Team::new();
    for member in [MEMBER, ROGUE] {
        team.govern(testing::revoke(device(member), &[]));
    }
    let (before, _) = team.app(FOUNDER, &put(1));
    for round in 0..100 {
        for (by, other) in [(MEMBER, ROGUE), (ROGUE, MEMBER)] {
            team.app(by, &put(round));
            let entries = all(&team.stores[usize::from(by)].snapshot());
            let last = entries.len() - 1;
            deliver(&mut team.stores[usize::from(other)], &entries[last..]);
        }
    }
    team.send(MEMBER, FOUNDER);
    let store = &mut team.stores[usize::from(FOUNDER)];
    settle(store);
    let (next, _) = team.app(FOUNDER, &put(2));
    let store = &mut team.stores[usize::from(FOUNDER)];
    let header = |store: &Store, id: &IntentionId| {
        let entries = all(&store.snapshot());
        let entry = entries.iter().find(|entry| entry.header.id() == *id);
        entry.expect("it was logged").header.clone()
    };
    let named = header(store, &next);
    assert_eq!(named.prev, Some(before));
    assert!(named.deps.is_empty(), "void entries are named");
    // The same after a start, when nothing is known of the heads.
    store.rebuild(team.now).unwrap();
    settle(store);
    let (last, _) = team.app(FOUNDER, &put(3));
    let named = header(&team.stores[usize::from(FOUNDER)], &last);
    assert_eq!((named.prev, named.deps.len()), (Some(next), 0));
}
