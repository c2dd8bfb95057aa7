//! A component that reads in every way there is: ranges forwards and backwards with limits, absent keys,
//! keys computed from values, numbers; and lets what it read decide what it writes, refuses or traps on.
//!
//! Property tests compare engines on it, so each call does one thing and has no hidden rows.

use bindings::exports::example::scanner::commands::{self, Span};
use bindings::exports::example::scanner::queries;
use lattice_sdk::state::{self, Range};

lattice_sdk::plugin!(Scanner, world: "example:scanner/plugin", path: ["../../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Scanner;

impl commands::Guest for Scanner {
    fn put(key: String, value: i64) {
        write(&key, value);
    }

    fn delete(key: String) {
        state::delete(key.as_bytes());
    }

    fn delete_range(start: String, end: String) {
        state::delete_range(start.as_bytes(), end.as_bytes());
    }

    fn sum(over: Span, target: String) {
        let sum =
            state::scan(range(&over)).fold(0i64, |sum, (_, row)| sum.wrapping_add(decode(&row)));
        write(&target, sum);
    }

    fn count(over: Span, target: String) {
        write(&target, state::scan_keys(range(&over)).count() as i64);
    }

    fn rewrite(over: Span) {
        let rows: Vec<_> = state::scan(range(&over)).collect();
        for (key, row) in rows {
            state::put(
                &key,
                &decode(&row).wrapping_mul(2).wrapping_add(1).to_be_bytes(),
            );
        }
    }

    fn copy(source: String, target: String) {
        match read(&source) {
            Some(value) => write(&target, value),
            None => state::delete(target.as_bytes()),
        }
    }

    fn follow(pointer: String, target: String) {
        let named = read(&pointer).unwrap_or(0).to_string();
        write(&target, read(&named).unwrap_or(0));
    }

    fn mark(prefix: String, source: String) {
        write(&format!("{prefix}{}", read(&source).unwrap_or(0)), 1);
    }

    fn change(key: String, by: i64, floor: i64) -> Result<i64, i64> {
        let value = read(&key).unwrap_or(0);
        let changed = value.wrapping_add(by);
        if changed < floor {
            return Err(value);
        }
        write(&key, changed);
        Ok(changed)
    }

    fn claim(key: String, target: String) -> Result<(), i64> {
        match read(&key) {
            Some(value) => Err(value),
            None => {
                write(&target, 1);
                Ok(())
            }
        }
    }

    fn trap_if(key: String, target: String) {
        write(&target, 1);
        assert!(read(&key).is_none(), "the key has a value");
    }

    fn add(key: String, by: i64) {
        state::add(key.as_bytes(), by);
    }

    fn save_number(key: String, target: String) {
        write(&target, state::number(key.as_bytes()));
    }

    fn sum_numbers(target: String) {
        let numbers = state::scan_numbers(Range::all());
        write(
            &target,
            numbers.fold(0i64, |sum, (_, number)| sum.wrapping_add(number)),
        );
    }
}

impl queries::Guest for Scanner {
    fn get(key: String) -> Option<i64> {
        read(&key)
    }

    fn all() -> Vec<(String, i64)> {
        let rows = state::scan(Range::all());
        rows.map(|(key, row)| (String::from_utf8_lossy(&key).into_owned(), decode(&row)))
            .collect()
    }

    fn number(key: String) -> i64 {
        state::number(key.as_bytes())
    }
}

fn range(span: &Span) -> Range {
    let mut range = Range::all()
        .starting_at(span.start.as_bytes())
        .limit(span.limit);
    if let Some(end) = &span.end {
        range = range.before(end.as_bytes());
    }
    if span.reverse {
        range.reversed()
    } else {
        range
    }
}

fn decode(row: &[u8]) -> i64 {
    i64::from_be_bytes(row.try_into().expect("a value has 8 bytes"))
}

fn read(key: &str) -> Option<i64> {
    state::get(key.as_bytes()).map(|row| decode(&row))
}

fn write(key: &str, value: i64) {
    state::put(key.as_bytes(), &value.to_be_bytes());
}
