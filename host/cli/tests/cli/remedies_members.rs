//! What is told about members, invites and notices is done as it says, and helps.

use crate::harness::{Daemon, Home, advice};

/// Two homes with daemons, and the store `notes` that both share. The second is a member with this role.
fn shared(role: &str) -> (Home, Daemon, Home, Daemon) {
    let (a, b) = (Home::new(), Home::new());
    let (first, second) = (a.daemon(), b.daemon());
    a.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let token = a.ok(&["store", "invite", "notes", "--role", role]);
    b.ok(&["store", "join", "--yes", token.trim()]);
    (a, first, b, second)
}

/// Runs a command until it succeeds: what was done elsewhere must arrive first.
fn soon(home: &Home, words: &[&str]) -> String {
    let mut last = None;
    for _ in 0..300 {
        let ended = home.run(words);
        if ended.code == 0 {
            return ended.stdout;
        }
        last = Some(ended);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{words:?}: {last:?}");
}

#[test]
fn a_reader_who_asks_for_a_role_as_it_says_can_write() {
    let (a, _first, b, _second) = shared("reader");
    let put = ["call", "notes", "put", "a", "b"];
    let told = b.advice(
        &put,
        "an admin of the store can give it another role: `lattice store role",
    );
    told.ok(&a);
    soon(&b, &put);

    let told = b.advice(
        &["store", "invite", "notes"],
        "an admin of the store can give it another role: `lattice store role",
    );
    told.ok(&a);
    soon(&b, &["store", "invite", "notes"]);

    let parent = [
        "store", "create", "child", "--plugin", "kv", "--parent", "notes",
    ];
    b.ok(&parent);
}

#[test]
fn only_an_admin_gives_children_and_becomes_one_as_it_says() {
    let (a, _first, b, _second) = shared("writer");
    let words = [
        "store", "create", "child", "--plugin", "kv", "--parent", "notes",
    ];
    let told = b.advice(
        &words,
        "an admin of the store can give it another role: `lattice store role",
    );
    told.ok(&a);
    soon(&b, &words);
}

#[test]
fn who_exceeds_its_quota_gets_a_larger_one_as_it_says() {
    let (a, _first, b, _second) = shared("writer");
    let id = b.json(&["status"])["node"].clone();
    a.ok(&[
        "store",
        "quota",
        "notes",
        id.as_str().expect("an id"),
        "4000",
    ]);
    let large = "x".repeat(8000);
    let put = ["call", "notes", "put", "a", &large];
    let mut refused = b.run(&put);
    for _ in 0..300 {
        if refused.code != 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        refused = b.run(&put);
    }
    refused.failed(4, &["its quota in this store"]);
    let told = b.advice(&put, "an admin raises it with `lattice store quota");
    told.ok(&a);
    soon(&b, &put);
}

#[test]
fn who_is_not_found_among_members_is_found_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let id = home.json(&["status"])["node"].clone();
    let id = id.as_str().expect("an id");
    home.advice(
        &["store", "quota", "notes", "nobody"],
        "give a member's name, or at least 8 digits of its id",
    );
    home.ok(&["store", "quota", "notes", &id[..8]]);
    home.advice(
        &["store", "quota", "notes", "writer"],
        "name a member, or give BYTES to set the quota of the role",
    );
    home.ok(&["store", "quota", "notes", id]);
    home.ok(&["store", "quota", "notes", "writer", "100000"]);
    home.advice(
        &["store", "quota", "notes", "writer", "much"],
        "give a whole number, or `none` to take the bound back",
    );
    home.ok(&["store", "quota", "notes", "writer", "200000"]);
    home.ok(&["store", "quota", "notes", "writer", "none"]);
}

#[test]
fn invites_that_are_refused_are_made_or_asked_for_as_it_says() {
    let (a, _first, b, _second) = shared("writer");
    a.advice(
        &["store", "invite", "notes", "--expires", "400days"],
        "366 days are the most",
    );
    a.ok(&["store", "invite", "notes", "--expires", "366days"]);
    let c = Home::new();
    let _third = c.daemon();
    let token = a.ok(&["store", "invite", "notes"]);
    c.ok(&["store", "join", "--yes", token.trim()]);
    let d = Home::new();
    let _fourth = d.daemon();
    let join = |token: &str| d.run(&["store", "join", "--yes", token]);
    let spent = join(token.trim());
    advice(&spent.stderr, "ask for a new one");
    let token = a.ok(&["store", "invite", "notes"]);
    assert_eq!(join(token.trim()).code, 0);

    // Who was a member before.
    let id = b.json(&["status"])["node"].clone();
    let id = id.as_str().expect("an id");
    a.ok(&["store", "revoke", "notes", id]);
    let put = ["call", "notes", "put", "a", "b"];
    let mut refused = b.run(&put);
    for _ in 0..300 {
        if refused.code != 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        refused = b.run(&put);
    }
    let told = advice(
        &refused.stderr,
        "an admin of the store admits it again with `lattice store readmit",
    );
    told.ok(&a);
    soon(&b, &put);
}

#[test]
fn a_notice_that_does_not_exist_is_looked_up_as_it_says() {
    let home = Home::new();
    home.ok(&["store", "create", "notes", "--plugin", "kv"]);
    let told = home.advice(
        &["notices", "ack", "77"],
        "`lattice notices` shows their numbers",
    );
    told.ok(&home);
    let told = home.advice(&["store", "restart-chain", "notes"], "make calls as usual");
    assert!(told.commands().is_empty());
    home.ok(&["call", "notes", "put", "a", "b"]);
}
