//! Devices join by token: from the inviter or another member, once, and only while the invite lasts.

use lattice_format::{BlobId, ComponentId, DeviceKey, StoreId};
use lattice_kernel::run::engine::Role;
use lattice_net::join::Agreement;
use lattice_net::{
    InviteKey, InviteState, JoinError, JoinPhase, JoinTask, NetHost, PeerAddr, Token,
};
use lattice_testing::{APP, GOVERNANCE};

use crate::host::{Host, Invite, Node, equal, now_ms, until};

pub fn invite(host: &Host, store: StoreId, seed: u8, uses: u32, expires_ms: u64) -> InviteKey {
    let key = InviteKey::from_seed([seed; 32]);
    let row = Invite {
        expires_ms,
        uses,
        used: 0,
        cancelled: false,
    };
    host.invites
        .lock()
        .unwrap()
        .insert((store, key.public()), row);
    key
}

pub fn token(store: StoreId, invite: InviteKey, peers: Vec<PeerAddr>) -> Token {
    Token {
        store,
        invite,
        peers,
        store_name: "notes".into(),
        role: "writer".into(),
        expires_ms: 0,
    }
}

fn task(token: Token) -> JoinTask {
    JoinTask {
        token,
        device_name: "laptop".into(),
        store_name: String::new(),
        agreed: Agreement {
            governance: GOVERNANCE,
            app: Some(APP),
        },
    }
}

/// The model components have no bytes, so a joiner of these tests has them from the start.
fn has_components(node: &Node) {
    node.host
        .built_in
        .store(true, std::sync::atomic::Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_knows_only_a_token_becomes_a_member() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    has_components(&b);
    let store = a.found();
    for value in 0..50 {
        a.put(&store, value);
    }
    let key = invite(&a.host, store, 1, 1, now_ms() + 60_000);
    let token = token(store, key, a.net.invitation_peers(&store));
    let text = token.to_text();
    let token = Token::parse(&text).unwrap();
    let inspected = b.net.inspect_token(&token).await.unwrap();
    assert_eq!(inspected.genesis, *a.snapshot(&store).genesis());
    assert_eq!(inspected.from, a.device());
    assert_eq!(inspected.components.len(), 2);
    assert!(b.host.snapshot(&store).is_none(), "looking makes no store");
    task(token).run(&b.net, &*b.host).await.unwrap();
    equal(&[&a, &b], &store).await;
    b.put(&store, 3);
    a.put(&store, 4);
    equal(&[&a, &b], &store).await;
    let phases = b.host.phases.lock().unwrap().clone();
    assert_eq!(phases.first(), Some(&JoinPhase::Connecting));
    assert!(phases.contains(&JoinPhase::Claiming));
    assert_eq!(phases.last(), Some(&JoinPhase::Done));
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invites_that_ended_give_their_reason() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    has_components(&b);
    let store = a.found();
    let peers = vec![a.net.address()];
    let expired = invite(&a.host, store, 1, 1, 1);
    let spent = invite(&a.host, store, 2, 0, u64::MAX);
    let cancelled = invite(&a.host, store, 3, 1, u64::MAX);
    a.host
        .invites
        .lock()
        .unwrap()
        .get_mut(&(store, cancelled.public()))
        .unwrap()
        .cancelled = true;
    let unknown = InviteKey::from_seed([4; 32]);
    for (key, error) in [
        (expired, JoinError::Expired { at_ms: 1 }),
        (spent, JoinError::Spent { uses: 0 }),
        (cancelled, JoinError::Cancelled),
        (unknown, JoinError::UnknownInvite),
    ] {
        let token = token(store, key, peers.clone());
        assert_eq!(b.net.inspect_token(&token).await.unwrap_err(), error);
        assert_eq!(task(token).run(&b.net, &*b.host).await.unwrap_err(), error);
        assert!(
            b.host.snapshot(&store).is_none(),
            "a failed join leaves nothing"
        );
    }
    // A store that is not there is not told from one that this device may not see.
    let elsewhere = token(StoreId([9; 32]), InviteKey::from_seed([4; 32]), peers);
    let error = b.net.inspect_token(&elsewhere).await.unwrap_err();
    assert!(matches!(error, JoinError::NotNow { .. }), "{error}");
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_invite_still_serves_the_device_that_spent_it() {
    let (a, b, c) = (
        Node::start(1).await,
        Node::start(2).await,
        Node::start(3).await,
    );
    has_components(&b);
    has_components(&c);
    let store = a.found();
    let key = invite(&a.host, store, 1, 1, u64::MAX);
    let public = key.public();
    let token = token(store, key, vec![a.net.address()]);
    task(token.clone()).run(&b.net, &*b.host).await.unwrap();
    let state = a.host.invite(store, public).await.unwrap();
    assert_eq!(state, InviteState::Spent { uses: 1 });
    // The same device, after it lost what it had: admitted without another use.
    b.net.close().await;
    let again = Node::start(2).await;
    has_components(&again);
    task(token.clone())
        .run(&again.net, &*again.host)
        .await
        .unwrap();
    equal(&[&a, &again], &store).await;
    assert_eq!(
        task(token).run(&c.net, &*c.host).await.unwrap_err(),
        JoinError::Spent { uses: 1 }
    );
    for node in [&a, &again, &c] {
        node.net.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_reachable_member_serves_a_join() {
    let (a, b, c) = (
        Node::start(1).await,
        Node::start(2).await,
        Node::start(3).await,
    );
    has_components(&c);
    let store = a.found();
    a.admit_as(&store, b.device(), Role::Admin);
    b.adopt_from(&a, &store);
    b.net.add_peer(&a.net.address());
    equal(&[&a, &b], &store).await;
    let key = invite(&b.host, store, 1, 1, u64::MAX);
    // The inviter is gone; the token names another member as well.
    let mut peers = vec![a.net.address(), b.net.address()];
    peers[0].addresses.truncate(1);
    a.net.close().await;
    task(token(store, key, peers))
        .run(&c.net, &*c.host)
        .await
        .unwrap();
    equal(&[&b, &c], &store).await;
    b.net.close().await;
    c.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_waits_for_a_member_and_goes_on_when_one_appears() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    has_components(&b);
    let store = a.found();
    let key = invite(&a.host, store, 1, 1, u64::MAX);
    let dead = PeerAddr {
        device: a.device(),
        addresses: vec!["127.0.0.1:9".parse().unwrap()],
        relay: None,
    };
    let join = task(token(store, key, vec![dead]));
    let bytes = join.to_bytes();
    let (net, host) = (b.net.clone(), b.host.clone());
    let running = tokio::spawn(async move {
        JoinTask::from_bytes(&bytes)
            .unwrap()
            .run(&net, &*host)
            .await
    });
    until("it waits, and says so", || {
        let phases = b.host.phases.lock().unwrap();
        phases
            .iter()
            .any(|p| matches!(p, JoinPhase::Waiting { .. }))
    })
    .await;
    b.net.add_peer(&a.net.address());
    running.await.unwrap().unwrap();
    equal(&[&a, &b], &store).await;
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_nobody_agreed_to_ends_the_join() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let store = a.found();
    let key = invite(&a.host, store, 1, 1, u64::MAX);
    let mut join = task(token(store, key, vec![a.net.address()]));
    join.agreed.app = Some(ComponentId([9; 32]));
    let error = join.run(&b.net, &*b.host).await.unwrap_err();
    assert!(
        matches!(
            error,
            JoinError::NotAgreed {
                which: "component",
                ..
            }
        ),
        "{error}"
    );
    join.agreed.app = None;
    assert!(join.run(&b.net, &*b.host).await.is_err());
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_come_in_the_scope_of_the_token() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    // A store whose components have bytes; the engine of the tests runs them all the same.
    let code = vec![7; 3 * 1024 * 1024 + 5];
    let id = ComponentId(*blake3::hash(&code).as_bytes());
    let store = a.found_with(id);
    a.host.blobs.insert(store, &code).unwrap();
    let other = a
        .host
        .blobs
        .insert(StoreId([1; 32]), b"another store's")
        .unwrap();
    let key = invite(&a.host, store, 1, 1, u64::MAX);
    let token = token(store, key, vec![a.net.address()]);
    let inspected = b.net.inspect_token(&token).await.unwrap();
    assert_eq!(inspected.components[1].bytes, Some(code.len() as u64));
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |done, total| seen.lock().unwrap().push((done, total));
    b.net.fetch_component(&token, id, &progress).await.unwrap();
    assert_eq!(
        b.host.blobs.read(store, BlobId::from(id)).unwrap(),
        Some(code.clone())
    );
    assert_eq!(
        seen.lock().unwrap().last(),
        Some(&(code.len() as u64, code.len() as u64))
    );
    // What the genesis does not name is not given, though it is there.
    let error = b
        .net
        .fetch_component(&token, other.into(), &|_, _| {})
        .await
        .unwrap_err();
    assert!(!error.is_final());
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_governance_that_is_missing_comes_first_and_from_the_inviter() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let [governance, app] = [7, 8].map(|byte| vec![byte; 2 * 1024 * 1024 + 5]);
    let id = |code: &[u8]| ComponentId(*blake3::hash(code).as_bytes());
    let agreed = Agreement {
        governance: id(&governance),
        app: Some(id(&app)),
    };
    let store = a.found_with_code(id(&governance), id(&app));
    for code in [&governance, &app] {
        a.host.blobs.insert(store, code).unwrap();
    }
    let key = invite(&a.host, store, 1, 1, u64::MAX);
    let task = JoinTask {
        agreed,
        ..task(token(store, key, vec![a.net.address()]))
    };
    task.run(&b.net, &*b.host).await.unwrap();
    equal(&[&a, &b], &store).await;
    for code in [governance.clone(), app.clone()] {
        let blob = BlobId::from(id(&code));
        assert_eq!(b.host.blobs.read(store, blob).unwrap(), Some(code));
    }
    // Each is fetched and compiled before the next, and both before anything is claimed.
    let phases = b.host.phases.lock().unwrap().clone();
    let mut order = Vec::new();
    for phase in phases {
        let step = match phase {
            JoinPhase::Fetching { component, .. } => ("fetching", Some(component)),
            JoinPhase::Compiling { component } => ("compiling", Some(component)),
            JoinPhase::Claiming => ("claiming", None),
            _ => continue,
        };
        if order.last() != Some(&step) {
            order.push(step);
        }
    }
    let (first, second) = (Some(id(&governance)), Some(id(&app)));
    assert_eq!(
        order,
        [
            ("fetching", first),
            ("compiling", first),
            ("fetching", second),
            ("compiling", second),
            ("claiming", None)
        ]
    );
    a.net.close().await;
    b.net.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_for_another_device_or_store_is_refused() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let store = a.found();
    let key = invite(&a.host, store, 1, 1, u64::MAX);
    let stranger = InviteKey::from_seed([200; 32]);
    // Proofs are bound to the two devices: one made for another server does not hold here.
    let proof = key.prove(&store, &b.device(), &DeviceKey([1; 32]));
    assert!(!lattice_net::token::proof_holds(
        &store,
        &key.public(),
        &b.device(),
        &a.device(),
        &proof
    ));
    let wrong = token(store, stranger, vec![a.net.address()]);
    assert_eq!(
        b.net.inspect_token(&wrong).await.unwrap_err(),
        JoinError::UnknownInvite
    );
    assert_eq!(a.count(&store), 1);
    a.net.close().await;
    b.net.close().await;
}
