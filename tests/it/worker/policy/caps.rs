//! Caps, as the service counts: never more than allowed, whoever races, dies or is answered with an error.

use im_dispatcher::{domain::Command, simulator::Fault};
use serde_json::{Value, json};

use super::super::{LONG, counts, delivered_once, group_settled, send, settled};
use crate::support::{Worker, World};

/// A send of a group with a cap of a day within the prefix `promo-`.
fn capped(id: &str, to: &str, most: u32) -> Value {
    let mut job = send(id, to);
    job["group"] = json!("promo-spring");
    job["cap"] = json!({"max": most, "period": "24h", "group_prefix": "promo-"});
    job
}

fn outcome(total: u64, sent: u64, suppressed: u64) -> Value {
    let mut counts = counts(total, &[("sent", sent)]);
    if suppressed > 0 {
        counts["suppressed"] = json!(suppressed);
    }
    counts
}

async fn json_of(world: &World, arguments: &[&str]) -> Value {
    let output = world.cli(arguments).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn two_workers_send_exactly_as_many_as_the_cap_allows_and_suppress_the_rest() {
    let world = World::new().await;
    let workers = [Worker::start(&world).await, Worker::start(&world).await];
    let events = world.broker.tap_events("#").await;
    for n in 0..60 {
        let lane = ["high", "normal", "bulk"][n % 3];
        world
            .broker
            .publish(lane, &capped(&format!("job-{n}"), "alice", 7))
            .await;
    }
    let status = group_settled(&world, "promo-spring", 60).await;
    assert_eq!(status["recipients"], outcome(60, 7, 53));
    assert_eq!(delivered_once(&world), 7);
    let told = events
        .wait_for(53, LONG, "the events", |event| event["type"] == "im.message.suppressed")
        .await;
    assert_eq!(told[0]["data"]["to"], "alice");
    assert_eq!(told[0]["data"]["error"]["code"], "capped");
    let sentence = "at most 7 in 1d within the group prefix promo-";
    assert_eq!(told[0]["data"]["error"]["message"], sentence);
    let id = told[0]["subject"].as_str().unwrap();
    let status = world.status_json(id).await.unwrap();
    assert_eq!(status["state"], "suppressed");
    assert_eq!(status["recipients"], outcome(1, 0, 1));
    assert_eq!(
        status["messages"][0]["error"],
        json!({"code": "capped", "message": sentence})
    );
    let explained = json_of(&world, &["explain", id, "--json"]).await;
    assert_eq!(explained["state"], "suppressed");
    let timeline = explained["timeline"].as_array().unwrap();
    let end = timeline.iter().find(|entry| entry["event"] == "outcome").unwrap();
    assert_eq!(end["code"], "capped");
    assert!(end["advice"].is_string());
    let table = world.cli(&["status", "--group", "promo-spring"]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains("suppressed"));
    let proof = world.cli(&["verify", "--group", "promo-spring", "--json"]).await;
    let report: Value = serde_json::from_slice(&proof.stdout).unwrap();
    assert!(proof.status.success(), "{report:#}");
    assert_eq!((&report["sent"], &report["suppressed"]), (&json!(7), &json!(53)));
    assert!(
        world.broker.drain_dead().await.is_empty(),
        "a suppressed message is no dead letter"
    );
    let mut counted = 0.0;
    for worker in &workers {
        let series = "im_dispatcher_messages_total{type=\"send\",outcome=\"suppressed\"}";
        counted += worker.metric(series).await.unwrap_or(0.0);
    }
    assert!((counted - 53.0).abs() < 0.5, "{counted} in the metrics");
}

#[tokio::test]
async fn of_a_batch_those_over_the_cap_are_suppressed_and_the_rest_are_sent() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let events = world.broker.tap_events("batch_send.suppressed").await;
    let batch = |id: &str, to: Vec<String>| {
        json!({"type": "batch_send", "id": id, "group": "promo-spring", "to": to, "message": {"text": id},
               "cap": {"max": 1, "period": "7d", "group_prefix": "promo-"}})
    };
    let members = |from: usize, to: usize| (from..to).map(|n| format!("member{n}")).collect::<Vec<_>>();
    world.broker.publish("bulk", &batch("first", members(0, 700))).await;
    assert_eq!(settled(&world, "first").await["recipients"], outcome(700, 700, 0));
    world
        .broker
        .publish("bulk", &batch("second", members(600, 1_300)))
        .await;
    let status = settled(&world, "second").await;
    assert_eq!(status["recipients"], outcome(700, 600, 100));
    assert_eq!(delivered_once(&world), 1_300);
    world.broker.publish("bulk", &batch("third", members(0, 600))).await;
    assert_eq!(settled(&world, "third").await["state"], "suppressed");
    assert_eq!(delivered_once(&world), 1_300);
    let told = events.wait_for(3, LONG, "the events", |_| true).await;
    let failed: Vec<&Value> = told
        .iter()
        .filter(|event| event["subject"] == "second")
        .flat_map(|event| event["data"]["failed"].as_array().unwrap())
        .collect();
    assert_eq!(failed.len(), 100);
    assert!(failed.iter().all(|failure| failure["code"] == "capped"));
    assert!(world.broker.drain_dead().await.is_empty());
}

#[tokio::test]
async fn batches_to_the_same_recipients_at_the_same_time_share_the_cap_exactly() {
    let world = World::new().await;
    let _workers = [Worker::start(&world).await, Worker::start(&world).await];
    let mut to: Vec<String> = (0..600).map(|n| format!("member{n}")).collect();
    for n in 0..5 {
        // In another order each: who waits for whom must not depend on it.
        to.rotate_left(97);
        let batch = json!({"type": "batch_send", "id": format!("batch-{n}"), "group": "promo-spring", "to": to,
                           "message": {"text": format!("text {n}")},
                           "cap": {"max": 2, "period": "7d", "group_prefix": "promo-"}});
        world.broker.publish(["normal", "bulk"][n % 2], &batch).await;
    }
    let status = group_settled(&world, "promo-spring", 5).await;
    assert_eq!(status["recipients"], outcome(3_000, 1_200, 1_800));
    assert_eq!(delivered_once(&world), 1_200);
    for n in 0..600 {
        assert_eq!(world.simulator.messages_to(&format!("member{n}")).len(), 2);
    }
}

#[tokio::test]
async fn a_capped_job_that_may_be_merged_is_capped_all_the_same() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    for n in 0..40 {
        let mut job = capped(&format!("job-{n}"), &format!("user{}", n % 10), 3);
        job["coalesce"] = json!(true);
        job["message"]["text"] = json!("one text for all");
        world.broker.publish("bulk", &job).await;
    }
    let status = group_settled(&world, "promo-spring", 40).await;
    assert_eq!(status["recipients"], outcome(40, 30, 10));
    for n in 0..10 {
        assert_eq!(world.simulator.messages_to(&format!("user{n}")).len(), 3);
    }
}

#[tokio::test]
async fn a_failure_gives_its_count_back_and_a_retry_counts_once() {
    let mut world = World::new().await;
    world.set("IM_DISPATCHER__RETRY__INITIAL", "100ms");
    let _worker = Worker::start(&world).await;
    // 90001: refused for good.
    world.simulator.inject(Command::SendMsg, Fault::Code(90_001), 1);
    world.broker.publish("normal", &capped("refused", "alice", 2)).await;
    assert_eq!(settled(&world, "refused").await["state"], "failed");
    // 80003: surely not delivered, tried again.
    world.simulator.inject(Command::SendMsg, Fault::Code(80_003), 2);
    for (id, state) in [("first", "sent"), ("second", "sent"), ("third", "suppressed")] {
        world.broker.publish("normal", &capped(id, "alice", 2)).await;
        assert_eq!(settled(&world, id).await["state"], state, "{id}");
    }
    // A failure that is tried again by hand finds that its place is taken.
    let retry = world.cli(&["retry", "--job", "refused", "--yes"]).await;
    assert!(retry.status.success(), "{}", String::from_utf8_lossy(&retry.stderr));
    assert_eq!(settled(&world, "refused").await["state"], "suppressed");
    assert_eq!(delivered_once(&world), 2);
    // What the cap of another prefix, or another recipient, counts is not this.
    world.broker.publish("normal", &capped("other", "bob", 2)).await;
    assert_eq!(settled(&world, "other").await["state"], "sent");
    let mut lanes = send("lanes", "alice");
    lanes["cap"] = json!({"max": 1, "period": "24h"});
    world.broker.publish("normal", &lanes).await;
    assert_eq!(settled(&world, "lanes").await["state"], "sent");
}

#[tokio::test]
async fn a_lanes_cap_holds_for_jobs_that_say_nothing_and_a_period_that_is_over_frees_its_places() {
    let mut world = World::new().await;
    world
        .set("IM_DISPATCHER__LANES__BULK__CAP__MAX", "1")
        .set("IM_DISPATCHER__LANES__BULK__CAP__PERIOD", "1d");
    let _worker = Worker::start(&world).await;
    world.broker.publish("bulk", &send("first", "alice")).await;
    assert_eq!(settled(&world, "first").await["state"], "sent");
    world.broker.publish("bulk", &send("second", "alice")).await;
    assert_eq!(settled(&world, "second").await["state"], "suppressed");
    world.broker.publish("normal", &send("normal", "alice")).await;
    assert_eq!(settled(&world, "normal").await["state"], "sent", "another lane");
    // The same job again is the same job, whatever the cap says by now.
    world.broker.publish("bulk", &send("first", "alice")).await;
    let pool = world.database.pool().await;
    sqlx::query("UPDATE cap_uses SET at = at - interval '1 day'")
        .execute(&pool)
        .await
        .unwrap();
    world.broker.publish("bulk", &send("third", "alice")).await;
    assert_eq!(settled(&world, "third").await["state"], "sent");
    assert_eq!(delivered_once(&world), 3);
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_worker_that_dies_around_a_capped_call_neither_counts_twice_nor_loses_the_message() {
    for point in ["due.call.before", "due.call.after", "due.outcome.before"] {
        let world = World::careless().await;
        let mut first = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", &format!("{point}=abort"))]);
        first.until_ready().await;
        world.broker.publish("normal", &capped("first", "alice", 2)).await;
        first.process.exit(LONG).await;
        // Its lease would last a minute; the test doesn't wait for that.
        let pool = world.database.pool().await;
        sqlx::query("UPDATE work SET due_at = now()")
            .execute(&pool)
            .await
            .unwrap();
        let _second = Worker::start(&world).await;
        // While the first is in doubt its place is taken, so there is one more.
        world.broker.publish("normal", &capped("second", "alice", 2)).await;
        assert_eq!(settled(&world, "second").await["state"], "sent", "{point}");
        world.broker.publish("normal", &capped("third", "alice", 2)).await;
        assert_eq!(settled(&world, "third").await["state"], "suppressed", "{point}");
        assert_eq!(settled(&world, "first").await["state"], "sent", "{point}");
        assert_eq!(delivered_once(&world), 2, "{point}");
    }
}
