//! Bodies: a body that does not decode is refused as malformed, alike on every replica.

use lattice_format::body::FINALITY_RULE;
use lattice_format::limits::{
    BODY_BYTES_DEFAULT, BODY_BYTES_MAX, CALLS_MAX, NAME_BYTES_MAX, PARAMS_MAX, TRANSACTIONS_MAX,
};
use lattice_format::{Body, BodyError, Call, Digest, Param, Transaction};
use proptest::prelude::*;

use crate::samples::{body, genesis_body};
use crate::wire::{bytes, number};

fn call(interface: &str, function: &str) -> Call {
    Call {
        interface: interface.into(),
        function: function.into(),
        args: vec![0x80],
    }
}

fn of(transactions: Vec<Transaction>) -> Body {
    Body {
        transactions,
        genesis: None,
        claim: None,
    }
}

fn one(calls: Vec<Call>) -> Transaction {
    Transaction { calls, told: None }
}

/// Decodes what a body encodes to.
fn check(body: Body) -> Result<(), BodyError> {
    Body::decode(&body.encode()).map(|read| assert_eq!(read, body))
}

fn length(what: &'static str, len: usize, min: usize, max: usize) -> Result<(), BodyError> {
    Err(BodyError::Length {
        what,
        len,
        min,
        max,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bodies_read_back(
        transactions in prop::collection::vec(
            (
                prop::collection::vec(
                    ("[a-z:/é]{1,20}", "[a-z-]{1,10}", prop::collection::vec(any::<u8>(), 0..40)),
                    1..4,
                ),
                prop::option::of(any::<[u8; 32]>()),
            ),
            1..6,
        ),
    ) {
        let transactions = transactions
            .into_iter()
            .map(|(calls, told)| Transaction {
                calls: calls
                    .into_iter()
                    .map(|(interface, function, args)| Call { interface, function, args })
                    .collect(),
                told: told.map(Digest),
            })
            .collect();
        prop_assert_eq!(check(of(transactions)), Ok(()));
    }

    #[test]
    fn bytes_of_any_kind_decode_or_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Body::decode(&bytes);
    }

    #[test]
    fn a_damaged_body_decodes_or_is_an_error(at in any::<prop::sample::Index>(), with in 1u8.., genesis: bool) {
        let mut bytes = if genesis { genesis_body() } else { body() }.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let _ = Body::decode(&bytes);
    }
}

/// Holds: invariant 10.
#[test]
fn lists_and_names_have_bounds() {
    assert_eq!(
        Body::decode(&[]),
        Err(BodyError::Length {
            what: "transactions",
            len: 0,
            min: 1,
            max: TRANSACTIONS_MAX
        })
    );
    let many = |n: usize| of(vec![one(vec![call("i", "f")]); n]);
    assert_eq!(check(many(TRANSACTIONS_MAX)), Ok(()));
    assert_eq!(
        check(many(TRANSACTIONS_MAX + 1)),
        length("transactions", TRANSACTIONS_MAX + 1, 0, TRANSACTIONS_MAX)
    );
    let calls = |n: usize| of(vec![one(vec![call("i", "f"); n])]);
    assert_eq!(check(calls(CALLS_MAX)), Ok(()));
    assert_eq!(
        check(calls(CALLS_MAX + 1)),
        length("calls", CALLS_MAX + 1, 1, CALLS_MAX)
    );
    assert_eq!(check(calls(0)), length("calls", 0, 1, CALLS_MAX));
    let (name, long) = ("n".repeat(NAME_BYTES_MAX), "n".repeat(NAME_BYTES_MAX + 1));
    let named =
        |interface: &str, function: &str| check(of(vec![one(vec![call(interface, function)])]));
    assert_eq!(named(&name, &name), Ok(()));
    for bad in ["", &long] {
        assert_eq!(
            named(bad, "f"),
            length("an interface's name", bad.len(), 1, NAME_BYTES_MAX)
        );
        assert_eq!(
            named("i", bad),
            length("a function's name", bad.len(), 1, NAME_BYTES_MAX)
        );
    }
}

#[test]
fn a_genesis_is_whole_and_within_bounds() {
    let with = |change: &dyn Fn(&mut lattice_format::Genesis)| {
        let mut body = genesis_body();
        change(body.genesis.as_mut().unwrap());
        check(body)
    };
    assert_eq!(with(&|_| ()), Ok(()));
    assert_eq!(with(&|g| (g.app, g.parent) = (None, None)), Ok(()));
    assert!(with(&|g| g.order_rule = 2).is_err());
    assert!(with(&|g| g.root_rule = 0).is_err());
    assert_eq!(with(&|g| g.finality_rule = FINALITY_RULE), Ok(()));
    assert!(with(&|g| g.finality_rule = FINALITY_RULE + 1).is_err());
    assert!(with(&|g| g.encryption = 1).is_err());
    // What is said for whoever says nothing stands in its bytes, so that another default changes no store.
    let limits = genesis_body().genesis.unwrap().limits;
    assert_eq!(
        (limits.body_bytes, limits.result_bytes),
        (BODY_BYTES_DEFAULT, BODY_BYTES_DEFAULT)
    );
    assert_eq!(
        with(&|g| g.limits.body_bytes = BODY_BYTES_DEFAULT + 1),
        Ok(())
    );
    assert_eq!(with(&|g| g.limits.body_bytes = BODY_BYTES_MAX), Ok(()));
    assert!(with(&|g| g.limits.body_bytes = BODY_BYTES_MAX + 1).is_err());
    assert!(with(&|g| g.limits.result_bytes = BODY_BYTES_MAX + 1).is_err());
    let param = Param {
        name: "n".into(),
        value: "v".into(),
    };
    assert_eq!(
        with(&|g| g.app_params = vec![param.clone(); PARAMS_MAX]),
        Ok(())
    );
    assert!(with(&|g| g.app_params = vec![param.clone(); PARAMS_MAX + 1]).is_err());
    assert!(with(&|g| g.recovery_keys = vec![crate::samples::device(1); 17]).is_err());
    assert!(with(&|g| g.system.name = "n".repeat(NAME_BYTES_MAX + 1)).is_err());
    // Without its parts it is none.
    let mut empty = Vec::new();
    bytes(2, &[], &mut empty);
    assert!(matches!(Body::decode(&empty), Err(BodyError::Genesis(_))));
}

#[test]
fn digests_and_texts_are_checked() {
    let transaction = |told: &[u8], interface: &[u8]| {
        let mut inner = Vec::new();
        bytes(1, interface, &mut inner);
        bytes(2, b"f", &mut inner);
        let mut outer = Vec::new();
        bytes(1, &inner, &mut outer);
        if !told.is_empty() {
            bytes(2, told, &mut outer);
        }
        let mut out = Vec::new();
        bytes(1, &outer, &mut out);
        out
    };
    assert!(Body::decode(&transaction(&[1; 32], b"i")).is_ok());
    assert_eq!(
        Body::decode(&transaction(&[1; 31], b"i")),
        Err(BodyError::FieldLength {
            field: "told",
            len: 31
        })
    );
    // Texts are UTF-8.
    assert_eq!(
        Body::decode(&transaction(&[], &[0xff])),
        Err(BodyError::Undecodable)
    );
    // A later version may add fields to a body; its hash, not its form, is what is signed.
    let mut newer = transaction(&[], b"i");
    number(99, 1, &mut newer);
    assert!(Body::decode(&newer).is_ok());
}

#[test]
fn a_genesis_with_a_field_of_a_later_version_is_refused() {
    let body = genesis_body().encode();
    assert!(Body::decode(&body).is_ok());
    let (mut genesis, mut newer) = (Vec::new(), Vec::new());
    for (tag, value) in [(14, &[1; 32][..]), (15, &[1][..]), (16, &[0][..])] {
        genesis.clear();
        // The body is the genesis alone, behind its tag and a length of two bytes.
        genesis.extend_from_slice(&body[3..]);
        bytes(tag, value, &mut genesis);
        newer.clear();
        bytes(2, &genesis, &mut newer);
        let error = Body::decode(&newer).unwrap_err();
        assert!(error.to_string().contains("update Lattice"), "{error}");
    }
    // Beside it too: what a genesis does not say it does not mean.
    let mut beside = body;
    bytes(4, &[1], &mut beside);
    assert!(matches!(Body::decode(&beside), Err(BodyError::Genesis(_))));
}
