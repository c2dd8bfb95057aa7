//! Joins that fail: what the joiner is told helps.

use std::path::Path;
use std::time::Duration;

use lattice_daemon::api;
use lattice_testing::advice;
use tokio_stream::StreamExt as _;
use tonic::Status;

use crate::support::{Client, Daemon, exit_class, home, until_free};

/// A join as a client asks for it that agrees to these components.
fn request(token: &str, app: &[u8], governance: &[u8]) -> api::JoinRequest {
    api::JoinRequest {
        token: token.into(),
        name: String::new(),
        app_hash: app.to_vec(),
        governance_hash: governance.to_vec(),
        member_name: String::new(),
    }
}

async fn inspected(client: &mut Client, token: &str) -> (Vec<u8>, Vec<u8>) {
    let request = api::InspectTokenRequest {
        token: token.into(),
    };
    let shown = client.stores.inspect_token(request).await.unwrap();
    let shown = shown.into_inner();
    (shown.app.unwrap().hash, shown.governance.unwrap().hash)
}

/// The error that a join ends with.
async fn fails(client: &mut Client, request: api::JoinRequest) -> Status {
    let mut steps = match client.stores.join(request).await {
        Ok(steps) => steps.into_inner(),
        Err(status) => return status,
    };
    loop {
        let step = tokio::time::timeout(Duration::from_secs(20), steps.next()).await;
        match step.expect("it stands").expect("an end") {
            Ok(step) => assert_ne!(step.phase(), api::JoinPhase::Ready),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_agreed_to_nothing_or_to_something_else_joins_as_it_says() {
    let (home_a, home_b) = (home(), home());
    let a = Daemon::start(home_a.path()).await;
    let b = Daemon::start(home_b.path()).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    on_a.create("clicks", "counter").await;
    let token = on_a.invite("clicks", 1, 0).await;

    let own = on_a.join(&token).await.unwrap_err();
    let (class, said) = exit_class(&own);
    assert_eq!(class, api::ExitClass::Failed, "{said}");
    advice(&said, "give it to the node that is to join");

    let status = fails(&mut on_b, request(&token, &[], &[])).await;
    let (class, said) = exit_class(&status);
    assert_eq!(class, api::ExitClass::Usage, "{said}");
    advice(&said, "look at the token first");
    let (app, governance) = inspected(&mut on_b, &token).await;

    let other = request(&token, &[7; 32], &governance);
    let (class, said) = exit_class(&fails(&mut on_b, other).await);
    assert_eq!(class, api::ExitClass::Failed, "{said}");
    assert!(said.contains(&hex::encode(&app)), "{said}");
    advice(&said, "join again, and look at what the token leads to");
    assert!(on_b.store_names().await.is_empty());
    on_b.join(&token).await.unwrap();
    on_b.call_ok("clicks", "add", &["1"]).await;
    drop((on_a, on_b));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_the_end_of_the_node_cuts_off_goes_on_at_its_next_start_as_it_says() {
    let (home_a, home_b) = (home(), home());
    let a = Daemon::start(home_a.path()).await;
    let b = Daemon::start(home_b.path()).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    on_a.create("clicks", "counter").await;
    on_a.call_ok("clicks", "add", &["7"]).await;
    let token = on_a.invite("clicks", 1, 0).await;
    let (app, governance) = inspected(&mut on_b, &token).await;
    let address = a.address();
    drop(on_a);
    a.stop().await;
    let joins = on_b.stores.join(request(&token, &app, &governance)).await;
    let mut steps = joins.unwrap().into_inner();
    steps.next().await.unwrap().unwrap();
    b.stop().await;
    let status = loop {
        match steps.next().await.expect("an end") {
            Ok(step) => assert_ne!(step.phase(), api::JoinPhase::Ready),
            Err(status) => break status,
        }
    };
    let (class, said) = exit_class(&status);
    assert_eq!(class, api::ExitClass::Unreachable, "{said}");
    advice(&said, "the join goes on at its next start");
    drop((steps, on_b));
    until_free(home_a.path()).await;
    until_free(home_b.path()).await;
    let a = Daemon::start_at(home_a.path(), address).await;
    let b = Daemon::start(home_b.path()).await;
    let mut on_b = b.client().await;
    let mut value = String::new();
    for _ in 0..800 {
        value = on_b
            .try_query("clicks", "value", &[])
            .await
            .unwrap_or_default();
        if value == "7" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(value, "7");
    drop(on_b);
    a.stop().await;
    b.stop().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_came_with_its_directory_is_joined_as_it_says() {
    let (home_a, home_b) = (home(), home());
    let a = Daemon::start(home_a.path()).await;
    let mut on_a = a.client().await;
    on_a.create("clicks", "counter").await;
    on_a.call_ok("clicks", "add", &["7"]).await;
    drop(on_a);
    a.stop().await;
    Daemon::start(home_b.path()).await.stop().await;
    copy(&home_a.path().join("stores"), &home_b.path().join("stores"));
    until_free(home_a.path()).await;
    until_free(home_b.path()).await;
    let a = Daemon::start(home_a.path()).await;
    let mut on_a = a.client().await;
    let b = Daemon::start(home_b.path()).await;
    let mut on_b = b.client().await;
    let name = on_b.store_names().await.remove(0);
    let status = on_b.try_call(&name, "add", &["1"]).await.unwrap_err();
    let (class, said) = exit_class(&status);
    assert_eq!(class, api::ExitClass::Unauthorized, "{said}");
    advice(&said, "join the store with an invite of an admin");

    // An invite that does not admit leaves all as it was.
    let spent = on_a.invite("clicks", 1, 30).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    on_b.join(&spent).await.unwrap_err();
    assert_eq!(on_b.query(&name, "value", &[]).await, "7");

    let token = on_a.invite("clicks", 1, 0).await;
    let joined = on_b.join(&token).await.unwrap();
    assert_eq!((joined.name, joined.role), (name.clone(), "writer".into()));
    on_b.call_ok(&name, "add", &["1"]).await;
    on_a.until("clicks", "value", &[], "8").await;
    on_a.call_ok("clicks", "add", &["1"]).await;
    on_b.until(&name, "value", &[], "9").await;
    // A member has nothing to join any more.
    on_b.join(&on_a.invite("clicks", 1, 0).await).await.unwrap();

    let device = on_b.node_id().await;
    on_a.revoke("clicks", &device).await;
    let token = on_a.invite("clicks", 1, 0).await;
    let mut revoked = None;
    for _ in 0..400 {
        revoked = on_b.join(&token).await.err();
        if revoked.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let (class, said) = exit_class(&revoked.unwrap());
    assert_eq!(class, api::ExitClass::Unauthorized, "{said}");
    assert!(said.contains("lattice store readmit"), "{said}");
    assert_eq!(on_b.query(&name, "value", &[]).await, "9");
    drop((on_a, on_b));
    a.stop().await;
    b.stop().await;
}
