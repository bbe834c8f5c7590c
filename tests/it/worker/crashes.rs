//! Death at every step: each row of the crash table, by fault points and by SIGKILL under load.

use std::time::Duration;

use serde_json::json;

use super::{LONG, counts, delivered_once, group_settled, send, settled};
use crate::support::{Worker, World, eventually};

/// A careless service whose history lists at once.
async fn careless_service() -> World {
    let mut world = World::careless().await;
    // What a busy machine comes too late to repeat needn't wait for three minutes.
    world.set("IM_DISPATCHER__RECONCILE__LISTED_AFTER", "20s");
    world
}

/// Lets a worker die at a fault point while it carries a send out, then lets another go on.
async fn dies_at(point: &str) {
    let world = careless_service().await;
    let mut first = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", &format!("{point}=abort"))]);
    first.until_ready().await;
    let events = world.broker.tap_events("send.sent").await;
    world.broker.publish("normal", &send("job", "alice")).await;
    first.process.exit(LONG).await;
    let _second = Worker::start(&world).await;
    assert_eq!(
        settled(&world, "job").await["recipients"],
        counts(1, &[("sent", 1)]),
        "{point}"
    );
    let message = &world.simulator.messages_to("alice")[0];
    let status = world.status_json("job").await.unwrap();
    assert_eq!(status["messages"][0]["msg_key"], message.key.as_str(), "{point}");
    assert_eq!(delivered_once(&world), 1, "{point}");
    let told = events
        .wait_for(1, LONG, "the events", |event| event["subject"] == "job")
        .await;
    assert!(
        told.iter().all(|event| event["id"] == told[0]["id"]),
        "{point}: a repeated event has the same id"
    );
    eventually(LONG, "the queue is empty", || async {
        (world.broker.depth("jobs.normal").await == Some(0)).then_some(())
    })
    .await;
    assert!(world.broker.drain_dead().await.is_empty(), "{point}");
}

macro_rules! deaths {
    ($($name:ident: $point:literal,)+) => {
        $(
            #[cfg(feature = "fault-points")]
            #[tokio::test]
            async fn $name() {
                dies_at($point).await;
            }
        )+
    };
}

deaths! {
    a_worker_that_dies_before_its_claim_leaves_nothing_behind: "claim.before",
    a_worker_that_dies_between_claim_and_call_has_sent_nothing: "claim.after",
    a_worker_that_dies_right_before_its_call_has_sent_nothing: "call.before",
    a_worker_that_dies_before_it_reads_the_answer_has_sent: "call.after",
    a_worker_that_dies_before_its_outcome_has_sent: "outcome.before",
    a_worker_that_dies_after_its_outcome_tells_it_all_the_same: "outcome.after",
    a_worker_that_dies_before_its_event_tells_it_all_the_same: "event.before",
    a_worker_that_dies_before_its_ack_tells_it_twice_under_one_id: "event.after",
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_part_whose_worker_dies_around_its_call_is_sent_once() {
    for point in [
        "part.call.before",
        "part.call.after",
        "part.outcome.before",
        "part.outcome.after",
    ] {
        let world = careless_service().await;
        let mut first = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", &format!("{point}=abort"))]);
        first.until_ready().await;
        let to: Vec<String> = (0..20).map(|n| format!("u{n}")).collect();
        world
            .broker
            .publish(
                "bulk",
                &json!({"type": "batch_send", "id": "batch", "to": to, "message": {"text": point}}),
            )
            .await;
        first.process.exit(LONG).await;
        // Its lease would last a minute; the test doesn't wait for that.
        let pool = world.database.pool().await;
        sqlx::query("UPDATE work SET due_at = now()")
            .execute(&pool)
            .await
            .unwrap();
        let _second = Worker::start(&world).await;
        assert_eq!(
            settled(&world, "batch").await["recipients"],
            counts(20, &[("sent", 20)]),
            "{point}"
        );
        assert_eq!(delivered_once(&world), 20, "{point}");
    }
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_worker_that_was_frozen_right_before_its_write_sends_nothing_when_it_comes_back() {
    let world = careless_service().await;
    let mut first = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", "call.before=freeze")]);
    first.until_ready().await;
    world.broker.publish("normal", &send("job", "alice")).await;
    let pool = world.database.pool().await;
    eventually(LONG, "it is claimed", || async {
        let claimed: i64 = sqlx::query_scalar("SELECT count(*) FROM messages WHERE state = 1")
            .fetch_one(&pool)
            .await
            .ok()?;
        (claimed == 1).then_some(())
    })
    .await;
    let _second = Worker::start(&world).await;
    // The broker misses the frozen worker's heartbeats and delivers to the second.
    assert_eq!(settled(&world, "job").await["recipients"], counts(1, &[("sent", 1)]));
    first.process.thaw();
    first.until_ready().await;
    world.broker.publish("normal", &send("after", "bob")).await;
    settled(&world, "after").await;
    // An orderly end: what it had begun before it froze has come to its end, whatever that was.
    assert!(first.stop().await.success());
    assert_eq!(delivered_once(&world), 2);
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn after_an_unclean_exit_a_worker_takes_one_job_at_a_time_first() {
    let world = careless_service().await;
    // Declares the queues, and ends in good order.
    assert!(Worker::start(&world).await.stop().await.success());
    let frozen_with_backlog = async |jobs: std::ops::Range<usize>| {
        for n in jobs {
            world
                .broker
                .publish("normal", &send(&format!("job-{n}"), "alice"))
                .await;
        }
        let worker = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", "claim.before=freeze")]);
        eventually(LONG, "it is frozen", || async {
            worker.process.is_stopped().then_some(())
        })
        .await;
        worker
    };
    let mut first = frozen_with_backlog(0..20).await;
    eventually(LONG, "all are in the hands of the first", || async {
        (world.broker.depth("jobs.normal").await == Some(0)).then_some(())
    })
    .await;
    first.process.kill();
    eventually(LONG, "all are back", || async {
        (world.broker.depth("jobs.normal").await == Some(20)).then_some(())
    })
    .await;
    let mut second = frozen_with_backlog(20..21).await;
    // Not the broker's to change while it is frozen: what has been asked for has been asked for.
    assert_eq!(
        world.broker.depth("jobs.normal").await,
        Some(20),
        "one of 21 is in its hands"
    );
    second.process.thaw();
    second.until_ready().await;
    for n in 0..21 {
        settled(&world, &format!("job-{n}")).await;
    }
    assert!(second.stop().await.success());
    let mut third = frozen_with_backlog(21..31).await;
    eventually(LONG, "after an orderly end all are taken at once", || async {
        (world.broker.depth("jobs.normal").await == Some(0)).then_some(())
    })
    .await;
    third.process.thaw();
    third.until_ready().await;
    settled(&world, "job-30").await;
}

#[tokio::test]
async fn workers_that_are_killed_again_and_again_lose_and_double_nothing() {
    let world = careless_service().await;
    let mut workers = [Worker::start(&world).await, Worker::start(&world).await];
    let events = world.broker.tap_events("#").await;
    for n in 0..400 {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        world.broker.publish(["high", "normal", "bulk"][n % 3], &job).await;
        if n % 100 == 50 {
            let worker = &mut workers[(n / 100) % 2];
            worker.process.kill();
            *worker = Worker::start(&world).await;
        }
    }
    let status = group_settled(&world, "load", 400).await;
    assert_eq!(status["recipients"], counts(400, &[("sent", 400)]));
    assert_eq!(delivered_once(&world), 400);
    let told = events
        .wait_for(400, LONG, "the events", |event| event["type"] == "im.message.sent")
        .await;
    let ids: std::collections::HashSet<_> = told.iter().map(|event| event["id"].to_string()).collect();
    eventually(LONG, "each job has told its outcome", || async {
        let ids: std::collections::HashSet<_> = events
            .events()
            .iter()
            .map(|event| event["subject"].to_string())
            .collect();
        (ids.len() == 400).then_some(())
    })
    .await;
    assert!(ids.len() <= 400);
    assert!(world.broker.drain_dead().await.is_empty());
}

#[tokio::test]
async fn sigterm_finishes_what_was_begun_and_another_worker_takes_the_rest() {
    let world = careless_service().await;
    world.simulator.set_latency(Duration::from_millis(300));
    let first = Worker::start(&world).await;
    for n in 0..150 {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        world.broker.publish("normal", &job).await;
    }
    eventually(LONG, "it is under way", || async {
        (world.simulator.delivered_total() > 20).then_some(())
    })
    .await;
    assert!(first.stop().await.success());
    // Nothing is in doubt after an orderly end.
    let pool = world.database.pool().await;
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM messages WHERE state IN (1, 2)")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(open, 0);
    let _second = Worker::start(&world).await;
    assert_eq!(
        group_settled(&world, "load", 150).await["recipients"],
        counts(150, &[("sent", 150)])
    );
    assert_eq!(delivered_once(&world), 150);
}

#[tokio::test]
async fn a_job_in_whose_hands_twenty_workers_died_is_a_dead_letter() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let mut job = send("poison", "alice");
    job["send_at"] = json!((chrono::Utc::now() + chrono::Duration::hours(1)).to_rfc3339());
    world.broker.publish("normal", &job).await;
    eventually(LONG, "it is on record", || async { world.status_json("poison").await }).await;
    // As twenty workers would have left it, each killed with it in hand.
    let pool = world.database.pool().await;
    sqlx::query("UPDATE work SET takeovers = 19, lease = gen_random_uuid(), due_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    let status = settled(&world, "poison").await;
    assert_eq!(status["messages"][0]["error"]["code"], "poison");
    let letters = world.broker.dead_letters(1, LONG).await;
    assert_eq!(letters[0].word().as_deref(), Some("poison"));
    assert_eq!(letters[0].json(), job);
    assert_eq!(delivered_once(&world), 0);
}
