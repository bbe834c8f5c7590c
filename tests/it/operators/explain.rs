//! `explain`: why a job is where it is.

use chrono::{Duration as Span, Utc};
use im_dispatcher::{domain::Command, simulator::Fault};
use serde_json::{Value, json};

use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, send, settled},
};

/// The explanation as an object.
async fn explained(world: &World, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["explain", "--json"].iter().chain(arguments).copied().collect();
    let (code, value) = super::json(world, &arguments).await;
    assert_eq!(code, 0);
    value
}

/// The kinds of the timeline's entries.
fn events(explained: &Value) -> Vec<&str> {
    let timeline = explained["timeline"].as_array().unwrap();
    let events = timeline.iter().map(|entry| entry["event"].as_str().unwrap());
    // An event that waits in the outbox for some milliseconds is told, too.
    events.filter(|event| *event != "unpublished").collect()
}

/// The first entry of a kind.
fn entry<'a>(explained: &'a Value, event: &str) -> &'a Value {
    let timeline = explained["timeline"].as_array().unwrap();
    let found = timeline.iter().find(|entry| entry["event"] == event);
    found.unwrap_or_else(|| panic!("no {event} in {explained:#}"))
}

async fn text(world: &World, arguments: &[&str]) -> String {
    let arguments: Vec<&str> = std::iter::once("explain").chain(arguments.iter().copied()).collect();
    let output = world.cli(&arguments).await;
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_single_is_explained_from_its_receipt_to_its_end() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;

    world.broker.publish("high", &send("sent", "alice")).await;
    settled(&world, "sent").await;
    let sent = explained(&world, &["sent"]).await;
    assert_eq!((&sent["state"], &sent["lane"]), (&json!("sent"), &json!("high")));
    assert_eq!(events(&sent), ["received", "claimed", "outcome"]);
    assert_eq!(sent["waiting"], json!([]));
    let key = &world.simulator.messages_to("alice")[0].key;
    assert!(sent["summary"].as_str().unwrap().contains(key.as_str()), "{sent:#}");

    world.broker.publish("normal", &send("failed", "unknown1")).await;
    settled(&world, "failed").await;
    let failed = explained(&world, &["failed"]).await;
    assert_eq!(entry(&failed, "attempt")["code"], entry(&failed, "outcome")["code"]);
    let outcome = entry(&failed, "outcome");
    assert_eq!(outcome["code"], "im-90012");
    assert!(outcome["meaning"].as_str().unwrap().contains("not registered"));
    assert!(outcome["advice"].as_str().unwrap().contains("import the account"));
    let told = text(&world, &["failed"]).await;
    assert!(
        told.contains("im-90012") && told.contains("to do: import the account"),
        "{told}"
    );

    // 80003: surely not delivered, tried again.
    world.simulator.inject(Command::SendMsg, Fault::Code(80_003), 1);
    world.broker.publish("normal", &send("retried", "bob")).await;
    settled(&world, "retried").await;
    let retried = explained(&world, &["retried"]).await;
    assert_eq!(entry(&retried, "attempt")["code"], "im-80003");
    assert_eq!(events(&retried).last(), Some(&"outcome"));
    assert_eq!(retried["state"], "sent");

    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    world.broker.publish("normal", &send("found", "carol")).await;
    settled(&world, "found").await;
    let found = explained(&world, &["found", "--to", "carol"]).await;
    assert_eq!(entry(&found, "attempt")["code"], "connection-lost");
    assert_eq!(entry(&found, "reconciled")["code"], "found");
    assert_eq!(found["state"], "sent");
}

#[tokio::test]
async fn what_nobody_can_tell_says_so() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    let mut job = send("online", "alice");
    job["message"]["life_time"] = json!(0);
    world.broker.publish("normal", &job).await;
    settled(&world, "online").await;
    let unknown = explained(&world, &["online"]).await;
    assert_eq!(unknown["state"], "unknown");
    assert_eq!(entry(&unknown, "reconciled")["code"], "cannot-tell");
    assert!(
        entry(&unknown, "reconciled")["text"]
            .as_str()
            .unwrap()
            .contains("online-only")
    );
    assert_eq!(entry(&unknown, "outcome")["code"], "outcome-unknown");
    assert!(
        entry(&unknown, "received")["text"]
            .as_str()
            .unwrap()
            .contains("life_time 0")
    );
}

#[tokio::test]
async fn a_job_that_waits_says_for_what_and_until_when() {
    let mut world = World::careless().await;
    // Between the first look and the second there is time to ask.
    world.set("IM_DISPATCHER__RECONCILE__SETTLE", "60s");
    let worker = Worker::start(&world).await;
    let at = Utc::now() + Span::hours(1);
    let mut job = send("scheduled", "alice");
    job["send_at"] = json!(at.to_rfc3339());
    world.broker.publish("normal", &job).await;
    eventually(LONG, "it is on record", || async {
        world.status_json("scheduled").await
    })
    .await;
    let scheduled = explained(&world, &["scheduled"]).await;
    assert_eq!(scheduled["state"], "pending");
    assert_eq!(scheduled["waiting"][0]["for"], "send-at");
    let until = scheduled["waiting"][0]["until"].as_str().unwrap();
    let until = until.parse::<chrono::DateTime<Utc>>().unwrap();
    assert!((until - at).abs() < Span::seconds(1), "{until}, not {at}");

    // In doubt: the history doesn't show it for longer than this test takes.
    world.simulator.set_roam_lag(std::time::Duration::from_hours(1));
    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    world.broker.publish("normal", &send("doubt", "bob")).await;
    let doubt = eventually(LONG, "it has been looked for twice", || async {
        world.status_json("doubt").await?;
        let doubt = explained(&world, &["doubt"]).await;
        (doubt["waiting"][0]["looks"].as_u64() >= Some(1)).then_some(doubt)
    })
    .await;
    assert_eq!(doubt["waiting"][0]["for"], "history");
    assert!(doubt["summary"].as_str().unwrap().contains("IM history"), "{doubt:#}");

    // Without a worker nothing takes what is due.
    worker.stop().await;
    let pool = world.database.pool().await;
    sqlx::query("UPDATE work SET due_at = now() - interval '1 minute', lease = NULL WHERE job_id = 'scheduled'")
        .execute(&pool)
        .await
        .unwrap();
    let due = explained(&world, &["scheduled"]).await;
    assert_eq!(due["waiting"][0]["for"], "slot");
    assert!(
        due["summary"].as_str().unwrap().contains("has been due since"),
        "{due:#}"
    );
    sqlx::query("DELETE FROM work WHERE job_id = 'scheduled'")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    assert_eq!(explained(&world, &["scheduled"]).await["waiting"][0]["for"], "nothing");
}

#[tokio::test]
async fn revocations_are_explained_from_both_ends() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let revoke = |id: &str, job: &str| json!({"type": "revoke", "id": id, "target": {"job": job}});
    world.broker.publish("normal", &send("sent", "alice")).await;
    settled(&world, "sent").await;
    world.broker.publish("high", &revoke("r1", "sent")).await;
    settled(&world, "r1").await;
    let revoked = explained(&world, &["sent"]).await;
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(
        events(&revoked),
        ["received", "claimed", "outcome", "revocation", "revoked"]
    );
    assert!(entry(&revoked, "revoked")["text"].as_str().unwrap().contains("r1"));
    let own = explained(&world, &["r1"]).await;
    assert!(
        entry(&own, "revocation")["text"].as_str().unwrap().contains("job sent"),
        "{own:#}"
    );
    assert_eq!(
        (&own["recipients"]["revoked"], &own["state"]),
        (&json!(1), &json!("revoked"))
    );

    // Before the job that it names is on record.
    world.broker.publish("high", &revoke("r2", "later")).await;
    eventually(LONG, "the tombstone is on record", || async {
        world.status_json("r2").await
    })
    .await;
    let output = world.cli(&["explain", "later", "--json"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let hint = String::from_utf8(output.stderr).unwrap();
    assert!(
        hint.contains("no job later is on record") && hint.contains("job r2 names it"),
        "{hint}"
    );
    world.broker.publish("normal", &send("later", "alice")).await;
    settled(&world, "later").await;
    let cancelled = explained(&world, &["later"]).await;
    assert_eq!(cancelled["state"], "cancelled");
    assert!(entry(&cancelled, "outcome")["text"].as_str().unwrap().contains("r2"));
    assert!(!events(&cancelled).contains(&"claimed"));
}

#[tokio::test]
async fn a_batch_is_explained_as_a_whole_and_recipient_by_recipient() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let mut to: Vec<String> = (0..700).map(|n| format!("m{n}")).collect();
    to[7] = "unknown7".to_owned();
    to[600] = "unknown600".to_owned();
    let job = json!({"type": "batch_send", "id": "batch", "to": to, "message": {"text": "to many"}});
    world.broker.publish("bulk", &job).await;
    settled(&world, "batch").await;
    let batch = explained(&world, &["batch"]).await;
    assert_eq!((&batch["state"], &batch["to"]), (&json!("mixed"), &json!(null)));
    assert_eq!(batch["recipients"]["sent"], 698);
    assert_eq!(events(&batch).iter().filter(|event| **event == "called").count(), 2);
    let failures = batch["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2);
    assert_eq!(failures[0]["to"], "unknown7");
    let told = text(&world, &["batch"]).await;
    assert!(
        told.contains("2 recipients failed, the first 2") && told.contains("unknown600"),
        "{told}"
    );

    let one = explained(&world, &["batch", "--to", "unknown600"]).await;
    assert_eq!((&one["state"], &one["to"]), (&json!("failed"), &json!("unknown600")));
    assert_eq!(events(&one).iter().filter(|event| **event == "called").count(), 1);
    assert!(
        entry(&one, "outcome")["advice"]
            .as_str()
            .unwrap()
            .contains("import the account")
    );
    let output = world.cli(&["explain", "batch", "--to", "stranger"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}
