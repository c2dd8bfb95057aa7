//! A writer whose disk fails: who is told what, and when the store is opened anew.

use std::sync::Arc;

use lattice_format::{ChainId, Lane};
use lattice_kernel::limits::TICK_MS;
use lattice_kernel::writer::{Effect, Job, Next};
use lattice_kernel::{NewStore, Store};
use lattice_testing::disk::{Disk, Power};
use lattice_testing::log_disk::{LogDisk, files, repaired};
use lattice_testing::{self as testing, ModelEngine, Step, key};

use crate::writer::{Driven, Input, WALL_MS, all_of, kinds, tokens};

/// A store on a disk that works until its power is told to fail.
fn on_a_disk() -> (Store, LogDisk, Power) {
    let power = Power::steady();
    let (log, state) = (LogDisk::new(&power), Disk::new(&power));
    let spec = NewStore {
        genesis: testing::genesis(),
        admits: Vec::new(),
        chain: ChainId(1),
    };
    let made = files(&log, &state).unwrap();
    let store = Store::create(made, Arc::new(ModelEngine), key(1), spec, WALL_MS).unwrap();
    (store, log, power)
}

/// Why the only call was refused.
fn refused(effect: &Effect<u32, u32>) -> String {
    let Effect::Answer(group) = effect else {
        panic!("{effect:?}")
    };
    assert!(group.written.is_empty() && group.answers.len() == 1);
    group.answers[0].1.as_ref().unwrap_err().to_string()
}

#[test]
fn after_a_failed_write_callers_are_told_and_the_store_is_asked_for_once_a_tick() {
    let (store, _, power) = on_a_disk();
    let mut driven = Driven::new(store);
    driven.add(1);
    // It is refused, and was never to be in the log.
    driven.call(
        Lane::App,
        testing::program(&[Step::RefuseIf { modulus: 1 }]),
        2,
    );
    power.fail_after(0);
    assert_eq!(kinds(&driven.nothing()), ["stop"]);
    // At once, so that it can be read, and then once a tick.
    assert_eq!(kinds(&driven.drain()), ["open"]);
    assert_eq!(driven.writer.next(), Next::Until(TICK_MS));
    // It did not open, so nobody knows what the log has.
    let effects = driven.add(3);
    assert_eq!(kinds(&effects), ["answer"]);
    let Effect::Answer(group) = &effects[0] else {
        panic!("{effects:?}")
    };
    assert!(group.written.is_empty());
    let error = group.answers[0].1.as_ref().unwrap_err().to_string();
    assert!(error.contains("not known yet"), "{error}");
    assert!(group.answers[1].1.is_ok(), "{group:?}");
    driven.drain();
    // Whoever asks meanwhile gets nothing back but the end of what was to answer.
    assert_eq!(kinds(&driven.add(3)), [""; 0]);
    driven.drain();
    for tick in 1..4 {
        driven.elapsed_ms = tick * TICK_MS;
        assert_eq!(kinds(&driven.nothing()), ["open"]);
        assert_eq!(driven.writer.next(), Next::Until((tick + 1) * TICK_MS));
    }
    let whole = testing::found(1, WALL_MS);
    let effects = driven.give(Input::Opened(Box::new(whole)));
    assert_eq!(kinds(&effects), ["show", "tell"]);
    driven.drain();
    driven.add(4);
    assert_eq!(tokens(&driven.nothing()), [4]);
}

#[test]
fn a_store_whose_disk_has_failed_is_read_at_once_and_written_again_after_a_tick() {
    let (store, _, mut power) = on_a_disk();
    let mut driven = Driven::new(store);
    for tick in 1..4 {
        driven.add(1);
        power.fail_after(0);
        assert_eq!(kinds(&driven.nothing()), ["stop"], "{tick}");
        assert_eq!(kinds(&driven.drain()), ["open"], "{tick}");
        let (store, _, next) = on_a_disk();
        power = next;
        let effects = driven.give(Input::Opened(Box::new(store)));
        assert_eq!(kinds(&effects), ["show", "answer", "tell"], "{tick}");
        refused(&effects[1]);
        // The disk is left alone until the tick.
        assert_eq!(kinds(&driven.add(2)), [""; 0], "{tick}");
        assert_eq!(kinds(&driven.drain()), [""; 0], "{tick}");
        let received = driven.give(all_of(&testing::found(1, WALL_MS), 3));
        assert_eq!(kinds(&received), ["received"]);
        assert_eq!(kinds(&driven.drain()), [""; 0], "{tick}");
        assert_eq!(driven.writer.next(), Next::Until(tick * TICK_MS));
        driven.elapsed_ms = tick * TICK_MS;
        driven.nothing();
        assert_eq!(tokens(&driven.nothing()), [2], "{tick}");
        driven.drain();
    }
    driven.add(4);
    assert_eq!(tokens(&driven.nothing()), [4]);
}

/// Holds: invariant 6.
#[test]
fn whoever_calls_while_the_disk_fails_is_told_what_the_log_has_afterwards() {
    let (mut kept, mut lost) = (0, 0);
    for operations in 0.. {
        let (store, log, power) = on_a_disk();
        let mut driven = Driven::new(store);
        driven.add(1);
        power.fail_after(operations);
        if kinds(&driven.nothing()) != ["stop"] {
            break;
        }
        assert_eq!(kinds(&driven.drain()), ["open"]);
        // The disk works again, and has what the process saw last.
        let power = Power::steady();
        let log = LogDisk::with_image(log.live(), &power);
        let (again, _) = repaired(&log, &Disk::new(&power), &power).unwrap();
        let store = Store::open(again, Arc::new(ModelEngine), key(1), WALL_MS).unwrap();
        let count = store.snapshot().summary().count;
        let effects = driven.give(Input::Opened(Box::new(store)));
        assert_eq!(kinds(&effects), ["show", "answer", "tell"]);
        let Effect::Answer(group) = &effects[1] else {
            panic!("{effects:?}")
        };
        let told = &group.answers[0].1;
        assert_eq!(
            (told.is_ok(), group.written.len() as u64),
            (count == 2, count - 1)
        );
        match told {
            Ok(told) => {
                assert!(told.outcome.is_ok());
                kept += 1;
            }
            Err(_) => lost += 1,
        }
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

#[test]
fn a_store_that_fails_twice_between_two_ticks_is_opened_at_the_next_one() {
    let (store, _, power) = on_a_disk();
    let mut driven = Driven::new(store);
    driven.add(1);
    power.fail_after(0);
    driven.nothing();
    assert_eq!(kinds(&driven.drain()), ["open"]);
    // One that cannot even be read any more.
    let (store, _, power) = on_a_disk();
    driven.give(Input::Opened(Box::new(store)));
    power.fail_after(0);
    assert_eq!(kinds(&driven.add(2)), [""; 0]);
    driven.drain();
    let effects = driven.give(Input::Job(Job::Rebuild));
    assert_eq!(tokens(&effects), [2], "{:?}", kinds(&effects));
    refused(&effects[0]);
    assert!(!kinds(&driven.drain()).contains(&"open"));
    assert!(driven.writer.store().is_none());
    driven.elapsed_ms = TICK_MS;
    assert_eq!(kinds(&driven.nothing()), ["open"]);
}
