//! Quotas of members and roles.

use super::*;

/// How many bytes a member may write in the system and the app lane.
fn quotas(name: &str) -> (Option<u64>, Option<u64>) {
    let of = |lane| testing::query(|| <System as Governance>::quota_of(public(name), lane));
    (of(Lane::System), of(Lane::App))
}

fn set_quota_of(author: &str, holder: QuotaHolder, bytes: Option<u64>) -> Result<(), Error> {
    by(author).attempt(|| System::set_quota_of(holder, bytes))
}

#[test]
fn the_nearest_quota_counts_and_readers_have_a_small_one() {
    found();
    admit(&[
        ("bob", Role::Admin),
        ("cyd", Role::Writer),
        ("dan", Role::Reader),
    ]);
    let small = Some(READER_BYTES);
    for name in ["ada", "bob", "cyd"] {
        assert_eq!(quotas(name), (None, None), "{name}");
    }
    assert_eq!(quotas("dan"), (small, small));
    assert_eq!(quotas("nobody"), (small, small));

    by("bob")
        .attempt(|| System::set_quota(Some(9)))
        .expect("bob is an admin");
    // An admin must be able to raise its own quota.
    assert_eq!(quotas("ada"), (None, Some(9)));
    assert_eq!(quotas("cyd"), (Some(9), Some(9)));
    assert_eq!(quotas("dan"), (small, small));
    let role = |role| QuotaHolder::Role(role);
    let one = |name: &str| QuotaHolder::Member(public(name));
    set_quota_of("bob", role(Role::Writer), Some(8)).expect("bob is an admin");
    set_quota_of("bob", role(Role::Reader), Some(7)).expect("bob is an admin");
    assert_eq!(quotas("ada"), (None, Some(9)));
    assert_eq!(quotas("cyd"), (Some(8), Some(8)));
    assert_eq!((quotas("dan").0, quotas("nobody").0), (Some(7), Some(7)));
    set_quota_of("bob", one("dan"), Some(6)).expect("bob outranks dan");
    set_quota_of("bob", one("cyd"), Some(u64::MAX)).expect("bob outranks cyd");
    assert_eq!(
        (quotas("cyd").1, quotas("dan").1),
        (Some(u64::MAX), Some(6))
    );
    let asked = testing::query(|| <System as Queries>::quota_of(public("dan")));
    assert_eq!(asked, Some(6));

    // Who is no member any more has the quota of readers, whatever quota of its own it has.
    by("cyd").attempt(System::resign).expect("cyd is a member");
    assert_eq!(quotas("cyd"), (Some(7), Some(7)));
    revoke("bob", "dan", Vec::new()).expect("bob outranks dan");
    assert_eq!(quotas("dan"), (Some(7), Some(7)));
    set_quota_of("bob", role(Role::Reader), None).expect("bob is an admin");
    assert_eq!(quotas("dan"), (small, small));

    let outranked = Err(Error::NotOutranked(public("ada")));
    assert_eq!(set_quota_of("bob", one("ada"), Some(1)), outranked);
    let unknown = Err(Error::NoSuchMember(public("eve")));
    assert_eq!(set_quota_of("bob", one("eve"), Some(1)), unknown);
    assert!(!may("dan", Lane::System, "set-quota-of"));
    assert!(!may("cyd", Lane::System, "set-quota-of"));
}

#[test]
fn a_quota_depends_on_its_member_and_quotas_alone() {
    found();
    admit(&[("bob", Role::Writer)]);
    assert_eq!(quotas("bob").1, None);
    let bob = public("bob");
    let own = [b"q", &bob[..]].concat();
    let rows = [[b"m", &bob[..]].concat(), own, vec![b'q', 1], vec![b'q']];
    assert_eq!(testing::reads(), rows);
}
