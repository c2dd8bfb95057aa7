//! The log, natively.

use lattice_plugin_log::bindings::exports::lattice::log::queries::Item;
use lattice_plugin_log::bindings::exports::lattice::log::{
    commands::Guest as _, queries::Guest as _,
};
use lattice_plugin_log::{Log, RECORD_BYTES_MAX};
use lattice_sdk::testing;

fn append(at: u64, author: &str, data: &[u8]) -> Vec<u8> {
    testing::call(author)
        .at(at)
        .run(|| Log::append(data.to_vec()))
}

fn text(items: &[Item]) -> String {
    let data: Vec<_> = items
        .iter()
        .map(|item| String::from_utf8_lossy(&item.data))
        .collect();
    data.join(" ")
}

#[test]
fn records_are_in_the_order_of_their_times_whatever_the_order_of_appends() {
    testing::reset();
    append(30, "a", b"third");
    append(10, "b", b"first");
    append(20, "a", b"second");
    assert_eq!(
        text(&testing::query(|| Log::read(None, 10)).items),
        "first second third"
    );
    assert_eq!(text(&testing::query(|| Log::tail(2))), "second third");
}

#[test]
fn calls_of_one_entry_stay_together_and_in_order() {
    testing::reset();
    testing::call("b")
        .at(10)
        .index(0)
        .run(|| Log::append(b"b0".to_vec()));
    testing::call("a")
        .at(10)
        .index(1)
        .run(|| Log::append(b"a1".to_vec()));
    testing::call("a")
        .at(10)
        .index(0)
        .run(|| Log::append(b"a0".to_vec()));
    assert_eq!(text(&testing::query(|| Log::tail(9))), "a0 a1 b0");
}

#[test]
fn pages_follow_one_another_to_the_end() {
    testing::reset();
    for n in 0..1_000u64 {
        append(n, "a", n.to_string().as_bytes());
    }
    let (mut seen, mut after) = (0, None);
    loop {
        let page = testing::query(|| Log::read(after, 300));
        seen += page.items.len();
        after = page.next;
        if after.is_none() {
            break;
        }
        assert_eq!(page.items.len(), 300);
    }
    assert_eq!(seen, 1_000);
    assert!(
        testing::query(|| Log::read(None, 1_000)).next.is_none(),
        "a full last page has no next"
    );
}

#[test]
fn a_page_of_nothing_and_a_foreign_cursor_are_harmless() {
    testing::reset();
    append(1, "a", b"x");
    let nothing = testing::query(|| Log::read(None, 0));
    assert!(nothing.items.is_empty());
    for cursor in [vec![], vec![0xff; 3], vec![0xff; 5_000]] {
        let page = testing::query(|| Log::read(Some(cursor.clone()), 5));
        assert_eq!(page.items.len(), usize::from(cursor.is_empty()));
    }
}

#[test]
fn a_record_is_found_by_its_id_with_author_and_time() {
    testing::reset();
    let id = append(77, "alice", b"data");
    let item = testing::query(|| Log::get(id.clone())).expect("it was appended");
    assert_eq!(
        (item.id, item.author, item.time.wall_ms),
        (id, testing::key("alice"), 77)
    );
    assert!(testing::query(|| Log::get(vec![0; 40])).is_none());
    assert!(testing::query(|| Log::get(vec![0; 4_000])).is_none());
}

#[test]
fn pages_end_before_their_bound_in_bytes() {
    testing::reset();
    for n in 0..6 {
        append(n, "a", &vec![b'x'; RECORD_BYTES_MAX]);
    }
    let page = testing::query(|| Log::read(None, 100));
    assert_eq!(page.items.len(), 4, "four of 255 KiB fit into 1 MiB");
    assert_eq!(testing::query(|| Log::read(page.next, 100)).items.len(), 2);
    assert_eq!(testing::query(|| Log::tail(100)).len(), 4);
}

#[test]
#[should_panic(expected = "exceeds 261120")]
fn a_record_above_the_limit_traps() {
    testing::reset();
    append(1, "a", &vec![0; RECORD_BYTES_MAX + 1]);
}
