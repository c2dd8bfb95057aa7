//! The queue, natively.

use guest_queue::Queue;
use guest_queue::bindings::exports::example::queue::commands::{Error, Guest as _};
use guest_queue::bindings::exports::example::queue::queries::Guest as _;
use lattice_sdk::testing;

fn push(at: u64, item: &str) {
    testing::call("a").at(at).run(|| Queue::push(item.into()));
}

fn pop() -> Result<Vec<u8>, Error> {
    testing::call("a").attempt(Queue::pop)
}

#[test]
fn items_leave_in_the_order_of_their_times() {
    testing::reset();
    push(20, "two");
    push(10, "one");
    push(30, "three");
    assert_eq!(testing::query(Queue::len), 3);
    assert_eq!(testing::query(Queue::peek).as_deref(), Some(&b"one"[..]));
    assert_eq!(
        testing::query(|| Queue::items(2)),
        [b"one".to_vec(), b"two".to_vec()]
    );
    assert_eq!(pop(), Ok(b"one".to_vec()));
    assert_eq!(pop(), Ok(b"two".to_vec()));
    assert_eq!(pop(), Ok(b"three".to_vec()));
    assert_eq!(pop(), Err(Error::Empty));
    assert_eq!(testing::query(Queue::peek), None);
}
