//! Revocations, resignations and lower roles.

use super::*;

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
