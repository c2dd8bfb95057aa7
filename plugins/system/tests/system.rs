//! The rules of membership, natively.

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use lattice_plugin_system::System;
use lattice_plugin_system::bindings::exports::lattice::store::lifecycle::Guest as _;
use lattice_plugin_system::bindings::exports::lattice::system::commands::{
    Error, Guest as _, QuotaHolder,
};
use lattice_plugin_system::bindings::exports::lattice::system::governance::{
    Guest as Governance, Kept, Lane, Member, Role, Status,
};
use lattice_plugin_system::bindings::exports::lattice::system::queries::Guest as Queries;
use lattice_plugin_system::key::{PublicKey, claim_message};
use lattice_plugin_system::quota::READER_BYTES;
use lattice_sdk::testing;

const COMMANDS: &str = "lattice:system/commands";
const LONG_AFTER: u64 = 1 << 40;

fn secret(name: &str) -> SigningKey {
    let seed: [u8; 32] = testing::key(name).try_into().expect("32 bytes");
    SigningKey::from_bytes(&seed)
}

fn public(name: &str) -> Vec<u8> {
    secret(name).verifying_key().to_bytes().to_vec()
}

fn by(author: &str) -> testing::Call {
    testing::call(public(author))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sign(invite: &str, store: &[u8], device: &[u8]) -> Vec<u8> {
    let invite = secret(invite);
    let key = |bytes: &[u8]| PublicKey::admissible(bytes).expect("an honest key");
    let message = claim_message(
        store,
        &key(&invite.verifying_key().to_bytes()),
        &key(device),
    );
    invite.sign(&message).to_bytes().to_vec()
}

/// A store with `ada` as its founder.
fn found() {
    testing::reset();
    let params = vec![("name".to_owned(), "notes".to_owned())];
    by("ada")
        .genesis()
        .attempt(|| System::init(params))
        .expect("the parameters are right");
}

fn invite(author: &str, key: &str, role: Role, uses: u32) -> Result<(), Error> {
    by(author).attempt(|| System::invite(public(key), role, LONG_AFTER, uses))
}

fn claim(carrier: &str, key: &str, device: &str) -> Result<(), Error> {
    let signature = sign(key, &testing::STORE, &public(device));
    by(carrier).attempt(|| System::claim(public(key), public(device), device.to_owned(), signature))
}

/// Admits members by invites of `ada`, in order.
fn admit(members: &[(&str, Role)]) {
    for (name, role) in members {
        let key = format!("invite of {name}");
        invite("ada", &key, *role, 1).expect("ada is an admin");
        claim("ada", &key, name).expect("the invite is fresh");
    }
}

fn member(name: &str) -> Member {
    testing::query(|| <System as Queries>::member_of(public(name))).expect("a member")
}

/// Everyone who ever was a member, by rank.
fn members() -> Vec<Member> {
    testing::query(|| <System as Queries>::members(None, None))
}

/// How many members rank above one.
fn rank(name: &str) -> usize {
    let at = members()
        .iter()
        .position(|member| member.key == public(name));
    at.expect("a member")
}

fn revoke(author: &str, target: &str, kept: Vec<Vec<u8>>) -> Result<(), Error> {
    by(author).attempt(|| System::revoke(public(target), Some(Kept::Ids(kept))))
}

fn may(author: &str, lane: Lane, function: &str) -> bool {
    let interface = if lane == Lane::System {
        COMMANDS
    } else {
        "lattice:kv/commands"
    };
    testing::query(|| {
        System::authorize(
            public(author),
            lane,
            interface.to_owned(),
            function.to_owned(),
        )
    })
}

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
fn a_claim_admits_with_the_role_of_its_invite_by_any_member() {
    found();
    admit(&[("bob", Role::Reader)]);
    invite("ada", "i", Role::Writer, 2).expect("ada is an admin");
    claim("bob", "i", "cyd").expect("a reader may carry it");
    claim("cyd", "i", "dan").expect("it has two uses");
    assert_eq!(claim("ada", "i", "eve"), Err(Error::InviteSpent(2)));
    let cyd = member("cyd");
    assert_eq!(
        (rank("cyd"), cyd.role, cyd.name.as_str()),
        (2, Role::Writer, "cyd")
    );
    assert_eq!(
        (cyd.admitted_by, cyd.invite),
        (public("bob"), Some(public("i")))
    );
    let listed = testing::query(|| System::invites(None, None));
    let spent = listed
        .iter()
        .find(|invite| invite.key == public("i"))
        .expect("it is listed");
    assert_eq!(
        (spent.uses, spent.used, &spent.author),
        (2, 2, &public("ada"))
    );
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
fn expiry_is_judged_at_the_time_of_the_claim() {
    found();
    by("ada")
        .attempt(|| System::invite(public("i"), Role::Writer, 5_000, 9))
        .expect("ada is an admin");
    let claim_at = |at, device: &str| {
        let signature = sign("i", &testing::STORE, &public(device));
        by("ada")
            .at(at)
            .attempt(|| System::claim(public("i"), public(device), String::new(), signature))
    };
    assert_eq!(claim_at(5_000, "bob"), Err(Error::InviteExpired(5_000)));
    assert_eq!(claim_at(4_999, "bob"), Ok(()));
}

#[test]
fn an_invite_is_refused_when_cancelled_unknown_or_made_by_one_without_rights() {
    found();
    admit(&[("bob", Role::Admin)]);
    assert_eq!(
        claim("ada", "i", "cyd"),
        Err(Error::NoSuchInvite(public("i")))
    );
    invite("bob", "i", Role::Admin, 9).expect("bob is an admin");
    assert_eq!(
        invite("ada", "i", Role::Admin, 9),
        Err(Error::InviteExists(public("i")))
    );
    by("ada")
        .attempt(|| System::set_role(public("bob"), Role::Writer))
        .expect("ada outranks bob");
    assert_eq!(
        claim("ada", "i", "cyd"),
        Err(Error::InviterLostRights(public("bob")))
    );
    invite("ada", "j", Role::Admin, 9).expect("ada is an admin");
    by("ada")
        .attempt(|| System::cancel_invite(public("j")))
        .expect("it exists");
    assert_eq!(claim("ada", "j", "cyd"), Err(Error::InviteCancelled));
    assert_eq!(invite("ada", "k", Role::Admin, 0), Err(Error::NoUses));
}

#[test]
fn a_signature_counts_for_its_store_invite_and_device_alone() {
    found();
    invite("ada", "i", Role::Writer, 9).expect("ada is an admin");
    let with = |signature: Vec<u8>| {
        by("ada").attempt(|| System::claim(public("i"), public("bob"), String::new(), signature))
    };
    for wrong in [
        sign("i", &[1; 32], &public("bob")),
        sign("i", &testing::STORE, &public("eve")),
        sign("j", &testing::STORE, &public("bob")),
        vec![0; 64],
        vec![0xff; 64],
        Vec::new(),
        vec![0; 65],
    ] {
        assert_eq!(with(wrong), Err(Error::BadSignature));
    }
    assert_eq!(with(sign("i", &testing::STORE, &public("bob"))), Ok(()));
}

#[test]
fn weak_and_ambiguous_keys_are_never_admitted() {
    found();
    invite("ada", "i", Role::Writer, 9).expect("ada is an admin");
    let of_hex = |text: &str| -> Vec<u8> {
        (0..32)
            .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).expect("digits"))
            .collect()
    };
    // The eight points of small order, and encodings of some of them above the modulus.
    let mut bad: Vec<Vec<u8>> = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ]
    .into_iter()
    .map(of_hex)
    .collect();
    // An honest key plus a point of order 8: of mixed order, so neither weak nor torsion free.
    let torsion: [u8; 32] = bad[4].clone().try_into().expect("32 bytes");
    let torsion = VerifyingKey::from_bytes(&torsion)
        .expect("a point")
        .to_edwards();
    let mixed = secret("mallory").verifying_key().to_edwards() + torsion;
    bad.push(mixed.compress().to_bytes().to_vec());
    bad.push(vec![0xff; 32]);
    bad.push(vec![1; 31]);
    bad.push(Vec::new());
    for key in bad {
        let refused = Err(Error::BadKey(key.clone()));
        let claimed = || System::claim(public("i"), key.clone(), String::new(), vec![0; 64]);
        assert_eq!(by("ada").attempt(claimed), refused);
        let invited = || System::invite(key.clone(), Role::Reader, LONG_AFTER, 1);
        assert_eq!(by("ada").attempt(invited), refused);
    }
}

#[test]
fn an_invite_never_admits_a_key_twice() {
    found();
    admit(&[("bob", Role::Writer)]);
    invite("ada", "i", Role::Admin, 9).expect("ada is an admin");
    assert_eq!(
        claim("ada", "i", "bob"),
        Err(Error::AlreadyAdmitted(public("bob")))
    );
    by("bob").attempt(System::resign).expect("anyone may leave");
    assert_eq!(
        claim("ada", "i", "bob"),
        Err(Error::AlreadyAdmitted(public("bob")))
    );
    assert_eq!(
        claim("ada", "i", "ada"),
        Err(Error::AlreadyAdmitted(public("ada")))
    );
    assert!(!may("bob", Lane::App, "put"));
}

#[test]
fn revocations_and_roles_work_downwards_in_rank_alone() {
    found();
    admit(&[("bob", Role::Admin), ("cyd", Role::Admin)]);
    let above = |name: &str| Err(Error::NotOutranked(public(name)));
    for (author, target) in [
        ("cyd", "bob"),
        ("cyd", "ada"),
        ("bob", "ada"),
        ("bob", "bob"),
    ] {
        assert_eq!(revoke(author, target, vec![]), above(target));
        assert_eq!(
            by(author).attempt(|| System::set_role(public(target), Role::Reader)),
            above(target)
        );
        let rename = || System::set_member_name(public(target), "x".into());
        assert_eq!(
            by(author).attempt(rename),
            if author == target {
                Ok(())
            } else {
                above(target)
            }
        );
    }
    assert_eq!(
        by("bob").attempt(|| System::set_role(public("cyd"), Role::Writer)),
        Ok(())
    );
    assert_eq!(member("cyd").role, Role::Writer);
    assert_eq!(revoke("bob", "cyd", vec![]), Ok(()));
    assert_eq!(member("cyd").status, Status::Revoked);
    let nobody = Err(Error::NoSuchMember(public("zed")));
    assert_eq!(revoke("bob", "zed", vec![]), nobody);
}

#[test]
fn a_revocation_is_listed_with_what_it_keeps_for_good() {
    found();
    admit(&[("bob", Role::Admin), ("cyd", Role::Writer)]);
    let (kept, salt) = (
        vec![vec![1; 32], vec![2; 32]],
        testing::query(System::in_effect).topic_salt,
    );
    let call = by("bob");
    let first = call.id();
    call.attempt(|| System::revoke(public("cyd"), Some(Kept::Ids(kept.clone()))))
        .expect("bob outranks cyd");
    assert_ne!(testing::query(System::in_effect).topic_salt, salt);
    assert!(!may("cyd", Lane::App, "put"));

    let readmit = |author: &str, role| by(author).attempt(|| System::readmit(public("cyd"), role));
    readmit("bob", Role::Reader).expect("bob outranks cyd");
    assert_eq!(
        readmit("bob", Role::Writer),
        Err(Error::NotPossible(Status::Active))
    );
    let cyd = member("cyd");
    assert_eq!(
        (rank("cyd"), cyd.role, cyd.status),
        (2, Role::Reader, Status::Active)
    );

    let call = by("ada");
    let second = call.id();
    call.attempt(|| System::revoke(public("cyd"), None))
        .expect("ada outranks cyd");
    revoke("ada", "cyd", vec![]).expect("each one counts");
    let cuts = testing::query(|| System::cuts(public("cyd")));
    assert_eq!(cuts.len(), 3);
    let told: Vec<_> = cuts.iter().map(|cut| cut.kept.clone()).collect();
    let ids = |ids: &[Vec<u8>]| format!("{:?}", Kept::Ids(ids.to_vec()));
    assert_eq!(
        (&cuts[0].revocation, &cuts[1].revocation),
        (&first, &second)
    );
    let told: Vec<_> = told.iter().map(|kept| format!("{kept:?}")).collect();
    assert_eq!(told, [ids(&kept), format!("{:?}", Kept::Seen), ids(&[])]);
    assert!(testing::query(|| System::cuts(public("ada"))).is_empty());
    assert!(testing::query(|| System::cuts(vec![])).is_empty());
}

#[test]
fn a_revocation_with_bad_ids_is_refused() {
    found();
    admit(&[("bob", Role::Admin)]);
    let revoke = |kept| revoke("ada", "bob", kept);
    assert_eq!(revoke(vec![vec![0; 31]]), Err(Error::BadHash(31)));
    assert_eq!(
        revoke(vec![vec![0; 32]; 4_097]),
        Err(Error::TooManyKept(4_097))
    );
    assert_eq!(revoke(vec![vec![0; 32]; 4_096]), Ok(()));
}

#[test]
fn one_lower_in_rank_cannot_undo_a_revocation() {
    found();
    admit(&[("bob", Role::Writer), ("cyd", Role::Admin)]);
    revoke("ada", "bob", vec![]).expect("ada outranks bob");
    let undone = by("cyd").attempt(|| System::readmit(public("bob"), Role::Writer));
    assert_eq!(undone, Err(Error::NotOutranked(public("bob"))));
}

#[test]
fn a_resignation_ends_rights_and_cuts_nothing() {
    found();
    admit(&[("bob", Role::Admin)]);
    by("bob").attempt(System::resign).expect("anyone may leave");
    assert_eq!(member("bob").status, Status::Resigned);
    assert!(!may("bob", Lane::System, "claim") && !may("bob", Lane::App, "put"));
    assert!(testing::query(|| System::cuts(public("bob"))).is_empty());
    // A later call of the same transaction was authorized before the resignation.
    let refused = Err(Error::NotPossible(Status::Resigned));
    assert_eq!(by("bob").attempt(|| System::rename("x".into())), refused);
    assert_eq!(testing::query(|| System::role_of(public("bob"))), None);
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
    assert!(testing::query(System::checkpoint).is_none());
}

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
fn a_lower_role_keeps_what_was_seen_and_admits_again() {
    found();
    admit(&[("bob", Role::Admin)]);
    let call = by("ada");
    let id = call.id();
    call.attempt(|| System::set_role(public("bob"), Role::Writer))
        .expect("ada outranks bob");
    let cuts = testing::query(|| System::cuts(public("bob")));
    assert_eq!((cuts.len(), &cuts[0].revocation), (1, &id));
    assert!(matches!(cuts[0].kept, Kept::Seen));
    assert_eq!(
        testing::query(|| System::admitted(id.clone())),
        [public("bob")]
    );
    assert_eq!(
        (member("bob").role, member("bob").status),
        (Role::Writer, Status::Active)
    );
    // A higher role takes nothing away.
    let call = by("ada");
    let id = call.id();
    call.attempt(|| System::set_role(public("bob"), Role::Admin))
        .expect("ada outranks bob");
    assert_eq!(testing::query(|| System::cuts(public("bob"))).len(), 1);
    assert_eq!(
        testing::query(|| System::admitted(id.clone())),
        [public("bob")]
    );
    // Whether a role is lower at the call's place does not matter: an accomplice could have lowered it before.
    for _ in 0..2 {
        by("ada")
            .attempt(|| System::set_role(public("bob"), Role::Writer))
            .expect("ada outranks bob");
    }
    assert_eq!(testing::query(|| System::cuts(public("bob"))).len(), 3);
}

#[test]
fn a_lower_role_cuts_whatever_the_status_and_a_higher_one_is_refused() {
    found();
    admit(&[("bob", Role::Writer)]);
    by("bob").attempt(System::resign).expect("anyone may leave");
    let call = by("ada");
    let id = call.id();
    call.attempt(|| System::set_role(public("bob"), Role::Reader))
        .expect("the cut stands");
    assert_eq!(testing::query(|| System::cuts(public("bob"))).len(), 1);
    // The entry admits it as well: in another order it may be a member here.
    assert_eq!(
        testing::query(|| System::admitted(id.clone())),
        [public("bob")]
    );
    assert_eq!(
        (member("bob").role, member("bob").status),
        (Role::Reader, Status::Resigned)
    );
    let refused = by("ada").attempt(|| System::set_role(public("bob"), Role::Admin));
    assert_eq!(refused, Err(Error::NotPossible(Status::Resigned)));
}

#[test]
fn a_cancelled_invite_revokes_whoever_claimed_it_unseen_and_ranks_lower() {
    found();
    admit(&[("bob", Role::Admin)]);
    invite("ada", "i", Role::Writer, 9).expect("ada is an admin");
    let claimed = |device: &str| {
        let signature = sign("i", &testing::STORE, &public(device));
        let call = by("ada");
        let id = call.id();
        call.attempt(|| System::claim(public("i"), public(device), String::new(), signature))
            .expect("the invite is open");
        id
    };
    let seen = claimed("cyd");
    claimed("dan");
    let salt = testing::query(System::in_effect).topic_salt;
    by("bob")
        .sees(&[seen])
        .attempt(|| System::cancel_invite(public("i")))
        .expect("bob is an admin");
    let status = |name: &str| member(name).status;
    assert_eq!(
        (status("cyd"), status("dan")),
        (Status::Active, Status::Revoked)
    );
    let cuts = testing::query(|| System::cuts(public("dan")));
    assert!(matches!(cuts[0].kept, Kept::Seen));
    assert_ne!(testing::query(System::in_effect).topic_salt, salt);

    // Who ranks above the canceller stays: as any revocation it works downwards alone.
    found();
    invite("ada", "i", Role::Writer, 9).expect("ada is an admin");
    let signature = sign("i", &testing::STORE, &public("early"));
    by("ada")
        .at(10)
        .attempt(|| System::claim(public("i"), public("early"), String::new(), signature))
        .expect("the invite is open");
    admit(&[("bob", Role::Admin)]);
    by("bob")
        .attempt(|| System::cancel_invite(public("i")))
        .expect("bob is an admin");
    assert_eq!(status("early"), Status::Active);
}

#[test]
fn a_claim_that_two_carry_admits_once_and_either_may_have_been_seen() {
    found();
    admit(&[("bob", Role::Writer)]);
    invite("ada", "i", Role::Writer, 1).expect("ada is an admin");
    let signature = sign("i", &testing::STORE, &public("cyd"));
    let carry = |call: testing::Call| {
        let id = call.id();
        let signature = signature.clone();
        call.attempt(|| System::claim(public("i"), public("cyd"), "c".into(), signature))
            .expect("the invite is for cyd");
        id
    };
    // Bob copies the claim into an entry with an earlier date.
    let copied = carry(by("bob").at(10));
    let honest = carry(by("ada").at(20));
    assert_eq!(
        testing::query(|| System::invite_of(public("i"))).map(|invite| invite.used),
        Some(1)
    );
    for call in [&copied, &honest] {
        assert_eq!(
            testing::query(|| System::admitted(call.clone())),
            [public("cyd")]
        );
    }
    by("ada")
        .sees(&[honest])
        .attempt(|| System::cancel_invite(public("i")))
        .expect("ada is an admin");
    assert_eq!(member("cyd").status, Status::Active);
    assert!(testing::query(|| System::cuts(public("cyd"))).is_empty());
    // Who is no member any more is not admitted by the claim once more.
    invite("ada", "j", Role::Writer, 2).expect("ada is an admin");
    claim("ada", "j", "dan").expect("the invite is fresh");
    revoke("ada", "dan", vec![]).expect("ada outranks dan");
    assert_eq!(
        claim("ada", "j", "dan"),
        Err(Error::AlreadyAdmitted(public("dan")))
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
