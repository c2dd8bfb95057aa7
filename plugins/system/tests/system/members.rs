//! Who is a member, with which rank and rights.

use super::*;

#[test]
fn the_founder_is_an_admin_of_rank_0_who_admitted_herself() {
    found();
    let ada = member("ada");
    assert_eq!(
        (rank("ada"), ada.role, ada.status),
        (0, Role::Admin, Status::Active)
    );
    assert_eq!((ada.admitted_by, ada.invite), (public("ada"), None));
    assert_eq!(testing::query(System::name), "notes");
    assert!(may("ada", Lane::System, "revoke") && may("ada", Lane::App, "put"));
    assert!(!may("stranger", Lane::System, "claim") && !may("stranger", Lane::App, "put"));
}

#[test]
fn roles_decide_what_is_authorized() {
    found();
    admit(&[("wes", Role::Writer), ("rae", Role::Reader)]);
    for function in [
        "claim",
        "resign",
        "set-member-name",
        "invite",
        "revoke",
        "no-such",
    ] {
        let open = matches!(function, "claim" | "resign");
        assert!(may("ada", Lane::System, function), "{function}");
        assert_eq!(
            may("wes", Lane::System, function),
            open || function == "set-member-name",
            "{function}"
        );
        assert_eq!(may("rae", Lane::System, function), open, "{function}");
    }
    assert!(may("wes", Lane::App, "put") && !may("rae", Lane::App, "put"));
    let elsewhere = |author: &str| {
        System::authorize(
            public(author),
            Lane::System,
            "other:system/commands".into(),
            "claim".into(),
        )
    };
    assert!(testing::query(|| elsewhere("ada")
        && !elsewhere("wes")
        && !elsewhere("rae")));
    assert!(testing::query(|| !System::authorize(
        vec![1; 5],
        Lane::App,
        COMMANDS.into(),
        "x".into()
    )));
}

#[test]
fn ranks_follow_the_times_of_admissions_not_their_arrival() {
    found();
    for key in ["i", "j"] {
        invite("ada", key, Role::Writer, 1).expect("ada is an admin");
    }
    let claim_at = |at, key: &str, device: &str| {
        let signature = sign(key, &testing::STORE, &public(device));
        by("ada")
            .at(at)
            .attempt(|| System::claim(public(key), public(device), String::new(), signature))
    };
    claim_at(9_000, "i", "late").expect("the invite is fresh");
    claim_at(8_000, "j", "early").expect("the invite is fresh");
    assert_eq!((rank("ada"), rank("early"), rank("late")), (0, 1, 2));
    assert!(members().is_sorted_by(|a, b| a.rank < b.rank));
}

#[test]
fn a_childs_members_are_those_of_the_list_and_its_creator_is_not_promoted() {
    testing::reset();
    let listed = |name: &str, role: &str| {
        (
            "member".to_owned(),
            format!("{}:{role}:{name}: x", hex(&public(name))),
        )
    };
    let params = vec![
        listed("ada", "admin"),
        listed("bob", "writer"),
        listed("cyd", "reader"),
    ];
    by("bob")
        .genesis()
        .attempt(|| System::init(params))
        .expect("the list is right");
    let members = members();
    let told: Vec<_> = (0..)
        .zip(&members)
        .map(|(rank, member)| (rank, member.name.as_str(), member.role))
        .collect();
    let expected = [
        (0, "ada: x", Role::Admin),
        (1, "bob: x", Role::Writer),
        (2, "cyd: x", Role::Reader),
    ];
    assert_eq!(told, expected);
}

#[test]
fn wrong_parameters_found_no_store() {
    let check = |params: &[(&str, &str)], expected: &str| {
        testing::reset();
        let params = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let error = by("ada")
            .genesis()
            .attempt(|| System::init(params))
            .expect_err("the parameters are wrong");
        assert!(error.contains(expected), "{error}");
    };
    let (ada, bob) = (hex(&public("ada")), hex(&public("bob")));
    check(&[("nane", "x")], "there is no parameter `nane`");
    check(&[("name", "x"), ("name", "y")], "twice");
    check(&[("name", &"x".repeat(257))], "257 bytes exceeds 256");
    check(&[("quota-bytes", "-1")], "not a number");
    check(&[("member", "x")], "<key>:<role>:<name>");
    check(&[("member", "00:admin:x")], "not a key of 32 bytes");
    check(
        &[("member", &format!("{}:admin:x", "0".repeat(64)))],
        "can be admitted",
    );
    check(&[("member", &format!("{ada}:owner:x"))], "not `owner`");
    check(&[("member", &format!("{bob}:admin:x"))], "creator");
    let twice = format!("{ada}:admin:x");
    check(&[("member", &twice), ("member", &twice)], "named before");
}

#[test]
fn names_children_and_the_quota_change() {
    found();
    by("ada")
        .attempt(|| System::rename("plans".into()))
        .expect("short enough");
    assert_eq!(testing::query(System::name), "plans");
    assert_eq!(
        by("ada").attempt(|| System::rename("x".repeat(300))),
        Err(Error::NameTooLong(300))
    );
    by("ada")
        .attempt(|| System::set_member_name(public("ada"), "Ada".into()))
        .expect("her own");
    assert_eq!(member("ada").name, "Ada");

    let child = vec![7; 32];
    let add = |store: &[u8]| by("ada").attempt(|| System::add_child(store.to_vec(), "sub".into()));
    assert_eq!(add(&child), Ok(()));
    assert_eq!(add(&child), Err(Error::ChildExists(child.clone())));
    assert_eq!(add(&[1]), Err(Error::BadHash(1)));
    let listed = testing::query(|| <System as Queries>::children(None, None));
    assert_eq!(
        (listed.len(), &listed[0].store, listed[0].name.as_str()),
        (1, &child, "sub")
    );
    assert_eq!(
        by("ada").attempt(|| System::remove_child(child.clone())),
        Ok(())
    );
    assert_eq!(
        by("ada").attempt(|| System::remove_child(child.clone())),
        Err(Error::NoSuchChild(child))
    );

    assert_eq!(testing::query(System::in_effect).limits.quota_bytes, None);
    by("ada")
        .attempt(|| System::set_quota(Some(9)))
        .expect("ada is an admin");
    assert_eq!(
        testing::query(System::in_effect).limits.quota_bytes,
        Some(9)
    );
    by("ada")
        .attempt(|| System::set_quota(None))
        .expect("ada is an admin");
    assert_eq!(testing::query(System::in_effect).limits.quota_bytes, None);
    assert!(testing::query(System::in_effect).activated.is_none());
}

#[test]
fn the_founder_is_the_anchor_as_long_as_it_is_active() {
    found();
    admit(&[("bob", Role::Admin)]);
    let anchor = || testing::query(System::finality).anchor;
    assert_eq!(anchor(), Some(public("ada")));
    for member in members() {
        assert_eq!(member.devices.len(), 1);
        let device = &member.devices[0];
        assert_eq!(device.key, member.key);
        assert!(device.active && !device.away);
    }
    by("ada").attempt(System::resign).expect("anyone may leave");
    assert_eq!(anchor(), None);
    let policy = testing::query(System::finality).policy;
    assert!(policy.apart_ms < policy.after_ms);
}

#[test]
fn authorization_reads_the_row_of_its_author_alone() {
    found();
    admit(&[("bob", Role::Writer)]);
    assert!(may("bob", Lane::App, "put"));
    assert_eq!(testing::reads(), [[b"m", &public("bob")[..]].concat()]);
    by("ada")
        .attempt(|| System::set_member_name(public("bob"), "B".into()))
        .expect("ada outranks bob");
    let before = member("bob");
    by("bob")
        .attempt(|| System::set_member_name(public("bob"), "Bob".into()))
        .expect("his own");
    assert_eq!(
        Member {
            name: "Bob".into(),
            ..before
        },
        member("bob")
    );
}

#[test]
fn lists_come_in_pages() {
    found();
    let names: Vec<String> = (0..7).map(|n| format!("member {n}")).collect();
    let all: Vec<(&str, Role)> = names.iter().map(|n| (n.as_str(), Role::Reader)).collect();
    admit(&all);
    let whole = members();
    let mut paged: Vec<Member> = Vec::new();
    loop {
        let after = paged.last().map(|member| member.rank.clone());
        let page = testing::query(|| <System as Governance>::members(after, 3));
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        paged.extend(page);
    }
    assert_eq!((paged.len(), &paged), (8, &whole));
    let invites = testing::query(|| System::invites(None, None));
    let rest = testing::query(|| System::invites(Some(invites[4].key.clone()), Some(2)));
    assert_eq!((invites.len(), rest.len()), (7, 2));
    assert_eq!(rest[0].key, invites[5].key);
    let found = testing::query(|| System::invite_of(invites[5].key.clone()));
    assert_eq!(found.map(|invite| invite.key), Some(invites[5].key.clone()));
    assert!(testing::query(|| System::invite_of(public("nobody"))).is_none());
    assert!(testing::query(|| <System as Governance>::member_of(public("nobody"))).is_none());
    let none = testing::query(|| <System as Governance>::members(None, 0));
    assert!(none.is_empty());
}
