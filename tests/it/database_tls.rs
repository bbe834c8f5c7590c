//! TLS to a real Postgres whose certificate is of an authority of one's own. Skipped where Postgres isn't installed on the
//! machine itself.

use std::time::Duration;

use crate::{
    support::{PrivatePostgres, Worker, World, eventually},
    worker::{send, settled},
};

/// A bound for what takes a second or a few.
const SOON: Duration = Duration::from_mins(1);

#[tokio::test]
async fn an_own_authority_of_postgres_is_checked_and_can_be_replaced_while_a_worker_runs() {
    let Some(postgres) = PrivatePostgres::start().await else {
        return;
    };
    let mut world = World::new().await;

    // Nobody knows this authority: no password is sent, and the reason is said.
    world.set("DATABASE_URL", postgres.url("sslmode=verify-full"));
    let refused = world.cli(&["check"]).await;
    let said = String::from_utf8(refused.stdout).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("UnknownIssuer") && said.contains("sslrootcert"), "{said}");

    // A file that isn't there is named, too.
    let trusted = world.directory().join("trusted.pem");
    let url = postgres.url(&format!("sslmode=verify-full&sslrootcert={}", trusted.display()));
    world.set("DATABASE_URL", url);
    let missing = world.cli(&["check"]).await;
    let said = String::from_utf8(missing.stdout).unwrap();
    assert_eq!(missing.status.code(), Some(1), "{said}");
    assert!(said.contains("No such file") && said.contains("trusted.pem"), "{said}");

    std::fs::copy(postgres.ca(), &trusted).unwrap();
    let checked = world.cli(&["migrate"]).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let worker = Worker::start(&world).await;
    world.broker.publish("high", &send("first", "alice")).await;
    settled(&world, "first").await;
    let (with, without) = postgres.sessions().await;
    assert!(with > 0 && without == 0, "{with} sessions with TLS, {without} without");

    // Another authority, which the file doesn't name yet: connections that stand go on, new ones are refused.
    postgres.certify_anew();
    postgres.end_sessions().await;
    worker.until_unready("UnknownIssuer", SOON).await;
    std::fs::copy(postgres.ca(), &trusted).unwrap();
    world.broker.publish("high", &send("second", "bob")).await;
    eventually(SOON, "the new authority is trusted", || async {
        matches!(worker.readiness().await, Some((200, _))).then_some(())
    })
    .await;
    settled(&world, "second").await;
    let (with, without) = postgres.sessions().await;
    assert!(with > 0 && without == 0, "{with} sessions with TLS, {without} without");
}
