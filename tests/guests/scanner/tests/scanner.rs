//! The scanner, natively.

use guest_scanner::Scanner;
use guest_scanner::bindings::exports::example::scanner::commands::{Guest as _, Span};
use guest_scanner::bindings::exports::example::scanner::queries::Guest as _;
use lattice_sdk::testing;

fn run<T>(act: impl FnOnce() -> T) -> T {
    testing::call("a").run(act)
}

fn fill() {
    testing::reset();
    for (key, value) in [("a", 1), ("b", 2), ("c", 4), ("d", 8)] {
        run(|| Scanner::put(key.into(), value));
    }
}

fn span(start: &str, end: Option<&str>, limit: u32, reverse: bool) -> Span {
    Span {
        start: start.into(),
        end: end.map(Into::into),
        limit,
        reverse,
    }
}

fn get(key: &str) -> Option<i64> {
    testing::query(|| Scanner::get(key.into()))
}

#[test]
fn sums_and_counts_are_over_the_span() {
    fill();
    let sum = |over: Span| {
        run(|| Scanner::sum(over, "~".into()));
        let sum = get("~").expect("it was written");
        run(|| Scanner::delete("~".into()));
        sum
    };
    assert_eq!(sum(span("", None, 100, false)), 15);
    assert_eq!(sum(span("b", Some("d"), 100, false)), 6);
    assert_eq!(sum(span("", None, 2, false)), 3);
    assert_eq!(sum(span("", None, 2, true)), 12);
    assert_eq!(sum(span("", None, 0, false)), 0);
    run(|| Scanner::count(span("b", None, 100, true), "~".into()));
    assert_eq!(get("~"), Some(3));
}

#[test]
fn what_is_read_decides_what_is_written() {
    fill();
    run(|| Scanner::rewrite(span("", None, 2, true)));
    assert_eq!((get("b"), get("c"), get("d")), (Some(2), Some(9), Some(17)));
    run(|| Scanner::copy("a".into(), "e".into()));
    run(|| Scanner::copy("absent".into(), "b".into()));
    assert_eq!((get("e"), get("b")), (Some(1), None));
    run(|| Scanner::mark("m".into(), "c".into()));
    assert_eq!(get("m9"), Some(1));
    run(|| Scanner::put("9".into(), 77));
    run(|| Scanner::follow("c".into(), "f".into()));
    assert_eq!(get("f"), Some(77));
    run(|| Scanner::delete_range("a".into(), "d".into()));
    let left: Vec<String> = testing::query(Scanner::all)
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(left.join(" "), "9 d e f m9");
}

#[test]
fn refusals_depend_on_what_is_there() {
    fill();
    let change = |by, floor| testing::call("a").attempt(|| Scanner::change("a".into(), by, floor));
    assert_eq!(change(-2, 0), Err(1));
    assert_eq!(change(-1, 0), Ok(0));
    let claim = |key: &str| testing::call("a").attempt(|| Scanner::claim(key.into(), "won".into()));
    assert_eq!(claim("a"), Err(0));
    assert_eq!(claim("absent"), Ok(()));
    assert_eq!(get("won"), Some(1));
}

#[test]
fn numbers_are_read_after_blind_adds() {
    fill();
    run(|| Scanner::add("a".into(), 5));
    run(|| Scanner::add("z".into(), -2));
    run(|| Scanner::save_number("a".into(), "s".into()));
    run(|| Scanner::sum_numbers("t".into()));
    assert_eq!((get("s"), get("t"), get("a")), (Some(5), Some(3), Some(1)));
    assert_eq!(testing::query(|| Scanner::number("z".into())), -2);
}
