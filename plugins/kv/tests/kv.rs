//! Keys and values, natively.

use lattice_plugin_kv::Kv;
use lattice_plugin_kv::bindings::exports::lattice::kv::commands::{Conflict, Guest as _, Op, Pair};
use lattice_plugin_kv::bindings::exports::lattice::kv::queries::Guest as _;
use lattice_plugin_kv::heads::{HEADS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use lattice_sdk::{Hash, state, testing};

/// Puts a value as an author that has seen the calls `sees` alone, and returns the id of the call.
fn put_seeing(sees: &[Hash], key: &str, value: &str) -> Hash {
    let call = testing::call("a").sees(sees);
    let id = call.id();
    call.run(|| Kv::put(key.into(), value.into()));
    id
}

fn delete_seeing(sees: &[Hash], key: &str) -> Hash {
    let call = testing::call("a").sees(sees);
    let id = call.id();
    call.run(|| Kv::delete(key.into()));
    id
}

fn put(key: &str, value: &str) {
    testing::call("a").run(|| Kv::put(key.into(), value.into()));
}

fn get(key: &str) -> Option<String> {
    testing::query(|| Kv::get(key.into()))
        .map(|value| String::from_utf8(value).expect("text was put"))
}

/// The heads of a key in order, deletions as `-`.
fn heads(key: &str) -> String {
    let heads = testing::query(|| Kv::inspect(key.into())).into_iter();
    let texts = heads.map(|head| match head.value {
        Some(value) => String::from_utf8(value).expect("text was put"),
        None => "-".to_owned(),
    });
    texts.collect::<Vec<_>>().join(" ")
}

fn rows() -> usize {
    state::scan_keys(state::Range::all()).count()
}

#[test]
fn a_put_is_got_and_a_delete_removes_it() {
    testing::reset();
    assert_eq!(get("k"), None);
    put("k", "v");
    put("", "empty key");
    assert_eq!(get("k").as_deref(), Some("v"));
    assert_eq!(get("").as_deref(), Some("empty key"));
    testing::call("a").run(|| Kv::delete("k".into()));
    assert_eq!(get("k"), None);
    assert_eq!(heads("k"), "-");
    testing::call("a").run(|| Kv::delete("never was".into()));
    assert_eq!(heads("never was"), "");
}

#[test]
fn a_put_that_saw_the_only_head_leaves_one_row() {
    testing::reset();
    (0..10).for_each(|n| put("k", &n.to_string()));
    assert_eq!(heads("k"), "9");
    assert_eq!(rows(), 1);
}

#[test]
fn concurrent_puts_are_all_heads_and_the_last_in_order_wins() {
    testing::reset();
    put_seeing(&[], "k", "one");
    put_seeing(&[], "k", "two");
    put_seeing(&[], "k", "three");
    assert_eq!(heads("k"), "one two three");
    assert_eq!(get("k").as_deref(), Some("three"));
}

#[test]
fn a_put_takes_the_place_of_the_heads_it_saw_and_of_no_others() {
    testing::reset();
    let one = put_seeing(&[], "k", "one");
    let two = put_seeing(&[], "k", "two");
    let three = put_seeing(&[one, two.clone()], "k", "three");
    assert_eq!(heads("k"), "three");
    let four = put_seeing(&[two], "k", "four");
    assert_eq!(heads("k"), "three four");
    put_seeing(&[three, four], "k", "settled");
    assert_eq!(heads("k"), "settled");
    assert_eq!(rows(), 1, "older heads leave no rows behind");
}

#[test]
fn a_deletion_is_a_head_like_any_other() {
    testing::reset();
    let one = put_seeing(&[], "k", "one");
    delete_seeing(std::slice::from_ref(&one), "k");
    put_seeing(&[one], "k", "two");
    assert_eq!(heads("k"), "- two");
    assert_eq!(get("k").as_deref(), Some("two"));
    let three = put_seeing(&[], "k", "three");
    delete_seeing(&[three], "k");
    assert_eq!(heads("k"), "- two -");
    assert_eq!(get("k"), None);
}

#[test]
fn heads_of_keys_that_begin_alike_are_apart() {
    testing::reset();
    for key in ["a", "ab", "a\0", ""] {
        put_seeing(&[], key, "one");
        put_seeing(&[], key, "two");
    }
    for key in ["a", "ab", "a\0", ""] {
        assert_eq!(heads(key), "one two", "{key:?}");
    }
}

#[test]
fn the_oldest_head_falls_out_at_the_bound() {
    testing::reset();
    for n in 0..HEADS_MAX + 3 {
        put_seeing(&[], "k", &n.to_string());
    }
    let expected: Vec<String> = (3..HEADS_MAX + 3).map(|n| n.to_string()).collect();
    assert_eq!(heads("k"), expected.join(" "));
    assert_eq!(rows(), HEADS_MAX);
}

#[test]
fn a_batch_makes_its_changes_in_order_and_sees_its_own() {
    testing::reset();
    put("gone", "x");
    let pair = |key: &str, value: &str| {
        Op::Put(Pair {
            key: key.into(),
            value: value.into(),
        })
    };
    let ops = vec![
        pair("k", "one"),
        pair("k", "two"),
        pair("l", "three"),
        Op::Delete("gone".into()),
    ];
    testing::call("a").run(|| Kv::batch(ops));
    assert_eq!(heads("k"), "two");
    assert_eq!(get("l").as_deref(), Some("three"));
    assert_eq!(get("gone"), None);
}

#[test]
fn compare_and_put_refuses_with_what_is_there() {
    testing::reset();
    let cas = |expected: Option<&str>, value: &str| {
        let expected = expected.map(Into::into);
        testing::call("a").attempt(|| Kv::compare_and_put("k".into(), expected, value.into()))
    };
    assert_eq!(cas(Some("x"), "one"), Err(Conflict { current: None }));
    assert_eq!(cas(None, "one"), Ok(()));
    assert_eq!(
        cas(None, "two"),
        Err(Conflict {
            current: Some("one".into())
        })
    );
    assert_eq!(cas(Some("one"), "two"), Ok(()));
    assert_eq!(get("k").as_deref(), Some("two"));
    testing::call("a").run(|| Kv::delete("k".into()));
    assert_eq!(cas(None, "three"), Ok(()), "a deleted key counts as absent");
}

#[test]
fn a_listing_pages_by_prefix_and_skips_what_was_deleted() {
    testing::reset();
    for key in ["a", "b/1", "b/2", "b/3", "b/4", "c"] {
        put(key, key);
    }
    testing::call("a").run(|| Kv::delete("b/2".into()));
    let list = |after: Option<&str>, limit| {
        let page = testing::query(|| Kv::list("b/".into(), after.map(Into::into), limit));
        let keys: Vec<String> = page.pairs.into_iter().map(|pair| pair.key).collect();
        (keys.join(" "), page.next)
    };
    assert_eq!(list(None, 10), ("b/1 b/3 b/4".into(), None));
    assert_eq!(list(None, 2), ("b/1 b/3".into(), Some("b/3".into())));
    assert_eq!(list(Some("b/3"), 2), ("b/4".into(), None));
    assert_eq!(list(Some("b/2"), 1), ("b/3".into(), Some("b/3".into())));
    assert_eq!(list(None, 0), (String::new(), None));
    assert_eq!(list(Some("zzz"), 5), (String::new(), None));
    assert_eq!(
        list(Some("a"), 5).0,
        "b/1 b/3 b/4",
        "a cursor before the prefix"
    );
    assert_eq!(
        testing::query(|| Kv::list(String::new(), None, 10))
            .pairs
            .len(),
        5
    );
}

#[test]
fn a_page_ends_before_its_bound_in_bytes() {
    testing::reset();
    let value = "x".repeat(VALUE_BYTES_MAX);
    (0..6).for_each(|n| put(&n.to_string(), &value));
    let page = testing::query(|| Kv::list(String::new(), None, 100));
    assert_eq!(page.pairs.len(), 4, "four of 255 KiB fit into 1 MiB");
    assert_eq!(page.next.as_deref(), Some("3"));
}

#[test]
fn keys_and_values_at_their_bounds_have_heads_too() {
    testing::reset();
    let (key, value) = ("k".repeat(KEY_BYTES_MAX), "v".repeat(VALUE_BYTES_MAX));
    (0..3).for_each(|_| drop(put_seeing(&[], &key, &value)));
    assert_eq!(testing::query(|| Kv::inspect(key)).len(), 3);
}

#[test]
#[should_panic(expected = "a key of 961 bytes exceeds 960")]
fn a_key_above_the_limit_traps() {
    testing::reset();
    put(&"k".repeat(KEY_BYTES_MAX + 1), "v");
}

#[test]
#[should_panic(expected = "a value of 261121 bytes exceeds 261120")]
fn a_value_above_the_limit_traps() {
    testing::reset();
    put("k", &"v".repeat(VALUE_BYTES_MAX + 1));
}

#[test]
fn a_put_reads_one_row_and_a_get_too() {
    testing::reset();
    put("fresh", "v");
    assert_eq!(testing::reads(), [b"wfresh"]);
    put("fresh", "seen");
    assert_eq!(testing::reads(), [b"wfresh"]);
    put_seeing(&[], "fresh", "concurrent");
    assert_eq!(get("fresh").as_deref(), Some("concurrent"));
    assert_eq!(testing::reads(), [b"wfresh"]);
}
