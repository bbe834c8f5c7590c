//! Revoking by job, by recipient, by group, by key; before, while and after.

use im_dispatcher::domain::Command;
use serde_json::{Value, json};

use super::{LONG, counts, delivered_once, group_settled, send, settled};
use crate::support::{Worker, World, eventually};

async fn revoke(world: &World, id: &str, target: Value) -> Value {
    world
        .broker
        .publish("high", &json!({"type": "revoke", "id": id, "target": target}))
        .await;
    settled(world, id).await
}

#[tokio::test]
async fn sent_messages_are_revoked_by_job_by_recipient_by_group_and_by_key() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let events = world.broker.tap_events("#").await;
    let to: Vec<String> = (0..600).map(|n| format!("m{n}")).collect();
    world
        .broker
        .publish(
            "bulk",
            &json!({"type": "batch_send", "id": "batch", "group": "campaign", "from": "robot",
                                         "to": to, "message": {"text": "campaign"}}),
        )
        .await;
    world.broker.publish("normal", &send("single", "alice")).await;
    world.broker.publish("normal", &send("other", "bob")).await;
    settled(&world, "batch").await;
    settled(&world, "single").await;
    let other = settled(&world, "other").await;

    let status = revoke(&world, "r1", json!({"job": "single"})).await;
    assert_eq!(status["recipients"], counts(1, &[("revoked", 1)]));
    let status = revoke(&world, "r2", json!({"job": "batch", "to": ["m3", "m599", "nobody"]})).await;
    assert_eq!(status["recipients"], counts(2, &[("revoked", 2)]));
    assert_eq!(
        world.status_json("batch").await.unwrap()["recipients"],
        counts(600, &[("sent", 598), ("revoked", 2)])
    );
    let status = revoke(&world, "r3", json!({"group": "campaign"})).await;
    assert_eq!(status["recipients"], counts(600, &[("revoked", 600)]));
    let key = other["messages"][0]["msg_key"].clone();
    let status = revoke(
        &world,
        "r4",
        json!({"from": "administrator", "to": "bob", "msg_key": key}),
    )
    .await;
    assert_eq!(status["recipients"], counts(1, &[("revoked", 1)]));
    assert_eq!(world.status_json("other").await.unwrap()["state"], "revoked");
    assert_eq!(world.simulator.report().revoked, 602);

    // Revoking twice is success, and makes no further call.
    let calls = world.simulator.arrivals(Command::MsgWithdraw).len();
    let status = revoke(&world, "r5", json!({"job": "single"})).await;
    assert_eq!(status["recipients"], counts(1, &[("revoked", 1)]));
    assert_eq!(world.simulator.arrivals(Command::MsgWithdraw).len(), calls);

    let told = events
        .wait_for(602, LONG, "the events", |event| event["type"] == "im.message.revoked")
        .await;
    let single = told.iter().find(|event| event["subject"] == "single").unwrap();
    assert_eq!(single["data"]["revocation"], "r1");
}

#[tokio::test]
async fn what_is_revoked_before_it_arrives_is_cancelled() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    revoke(&world, "r1", json!({"job": "early"})).await;
    revoke(&world, "r2", json!({"group": "stopped"})).await;
    revoke(&world, "r3", json!({"job": "some", "to": ["b", "d"]})).await;
    world.broker.publish("normal", &send("early", "alice")).await;
    let mut job = send("grouped", "alice");
    job["group"] = json!("stopped");
    world.broker.publish("normal", &job).await;
    let to = ["a", "b", "c", "d"];
    world
        .broker
        .publish(
            "bulk",
            &json!({"type": "batch_send", "id": "some", "to": to, "message": {"text": "x"}}),
        )
        .await;
    world
        .broker
        .publish(
            "bulk",
            &json!({"type": "batch_send", "id": "all", "group": "stopped", "to": to,
                                         "message": {"text": "y"}}),
        )
        .await;
    assert_eq!(
        settled(&world, "early").await["recipients"],
        counts(1, &[("cancelled", 1)])
    );
    assert_eq!(
        settled(&world, "grouped").await["recipients"],
        counts(1, &[("cancelled", 1)])
    );
    assert_eq!(
        settled(&world, "some").await["recipients"],
        counts(4, &[("sent", 2), ("cancelled", 2)])
    );
    assert_eq!(
        settled(&world, "all").await["recipients"],
        counts(4, &[("cancelled", 4)])
    );
    assert_eq!(delivered_once(&world), 2);
}

#[tokio::test]
async fn scheduled_messages_are_cancelled_at_once_and_tell_it() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let events = world.broker.tap_events("#").await;
    let mut job = send("tomorrow", "alice");
    job["send_at"] = json!((chrono::Utc::now() + chrono::Duration::days(1)).to_rfc3339());
    world.broker.publish("normal", &job).await;
    eventually(LONG, "it is on record", || async {
        world.status_json("tomorrow").await
    })
    .await;
    let status = revoke(&world, "r1", json!({"job": "tomorrow"})).await;
    assert_eq!(status["recipients"], counts(1, &[("cancelled", 1)]));
    let told = events
        .wait_for(1, LONG, "the events", |event| event["type"] == "im.message.cancelled")
        .await;
    assert_eq!(told[0]["subject"], "tomorrow");
    assert_eq!(told[0]["data"]["revocation"], "r1");
    assert_eq!(delivered_once(&world), 0);
}

#[tokio::test]
async fn a_campaign_that_is_revoked_while_it_goes_out_leaves_nothing_behind() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    for part in 0..10 {
        let to: Vec<String> = (0..300).map(|n| format!("p{part}n{n}")).collect();
        world
            .broker
            .publish(
                "bulk",
                &json!({"type": "batch_send", "id": format!("job{part}"), "group": "campaign",
                                             "to": to, "message": {"text": format!("part {part}")}}),
            )
            .await;
    }
    for n in 0..300 {
        let mut job = send(&format!("single{n}"), &format!("s{n}"));
        job["group"] = json!("campaign");
        world.broker.publish("normal", &job).await;
    }
    eventually(LONG, "it is under way", || async {
        (world.simulator.delivered_total() > 300).then_some(())
    })
    .await;
    let output = world.cli(&["revoke", "--group", "campaign"]).await;
    assert!(output.status.success());
    let status = group_settled(&world, "campaign", 310).await;
    let of = |state: &str| status["recipients"][state].as_u64().unwrap();
    eventually(LONG, "every sent message is revoked", || async {
        let status = group_settled(&world, "campaign", 310).await;
        (status["recipients"]["sent"] == 0).then_some(())
    })
    .await;
    assert_eq!(of("total"), 3_300);
    let status = group_settled(&world, "campaign", 310).await;
    let of = |state: &str| status["recipients"][state].as_u64().unwrap();
    assert_eq!(of("revoked") + of("cancelled"), 3_300);
    let report = world.simulator.report();
    assert_eq!(report.revoked, of("revoked"));
    assert_eq!(delivered_once(&world), of("revoked"));
}

/// A worker was frozen with an answer in its hands; another found nothing in a history that lags, sent again, and that was
/// revoked. Then the first wakes.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_second_key_that_a_frozen_worker_brings_after_the_message_was_revoked_is_revoked_too() {
    use std::time::Duration;

    let world = World::careless().await;
    // What the service promises not to do: it lists nothing as long as the test goes.
    world.simulator.set_roam_lag(Duration::from_hours(1));
    let mut first = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", "call.after=freeze")]);
    first.until_ready().await;
    let job = send("twice", "alice");
    world.broker.publish("normal", &job).await;
    eventually(LONG, "it is at the service", || async {
        (world.simulator.delivered_total() == 1).then_some(())
    })
    .await;
    let _second = Worker::start(&world).await;
    // The producer's repeat is what hands it to the table; else the broker does, when it misses the first's heartbeats.
    world.broker.publish("normal", &job).await;
    settled(&world, "twice").await;
    assert_eq!(
        world.simulator.delivered_total(),
        2,
        "the test needs a message that was sent twice"
    );
    let status = revoke(&world, "r", json!({"job": "twice"})).await;
    assert_eq!(status["recipients"], counts(1, &[("revoked", 1)]));
    assert_eq!(world.simulator.report().revoked, 1);
    first.process.thaw();
    eventually(LONG, "the other message is revoked", || async {
        (world.simulator.report().revoked == 2).then_some(())
    })
    .await;
}
