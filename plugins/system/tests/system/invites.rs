//! Invites, and the claims that they admit.

use super::*;

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
