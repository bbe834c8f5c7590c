//! The same job more than once: by its producer, by two workers, by a broker that delivers again.

use std::time::Duration;

use im_dispatcher::simulator::SimulatorOptions;
use serde_json::json;

use super::{LONG, counts, delivered_once, send, settled};
use crate::support::{Relay, Worker, World, eventually};

#[tokio::test]
async fn a_producer_that_publishes_the_same_id_ten_times_at_once_sends_one_message() {
    let world = World::new().await;
    let _first = Worker::start(&world).await;
    let _second = Worker::start(&world).await;
    let job = send("ten", "alice");
    futures::future::join_all((0..10).map(|_| world.broker.publish("normal", &job))).await;
    assert_eq!(settled(&world, "ten").await["recipients"], counts(1, &[("sent", 1)]));
    eventually(LONG, "every copy is acknowledged", || async {
        (world.broker.depth("jobs.normal").await == Some(0)).then_some(())
    })
    .await;
    // The same content under another spelling is the same job; other content under the id is a conflict.
    world
        .broker
        .publish(
            "bulk",
            &json!({"message": {"body": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "text of ten"}}]},
                                         "to": "alice", "id": "ten", "type": "send"}),
        )
        .await;
    world.broker.publish("bulk", &send("ten", "bob")).await;
    let letters = world.broker.dead_letters(1, LONG).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].word().as_deref(), Some("id-conflict"));
    assert_eq!(delivered_once(&world), 1);
}

#[tokio::test]
async fn a_batch_that_is_published_twice_is_sent_once() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let to: Vec<String> = (0..700).map(|n| format!("u{n}")).collect();
    let job = json!({"type": "batch_send", "id": "twice", "to": to, "message": {"text": "once"}});
    world.broker.publish("bulk", &job).await;
    world.broker.publish("normal", &job).await;
    assert_eq!(
        settled(&world, "twice").await["recipients"],
        counts(700, &[("sent", 700)])
    );
    world.broker.publish("bulk", &job).await;
    eventually(LONG, "the last copy is acknowledged", || async {
        (world.broker.depth("jobs.bulk").await == Some(0)).then_some(())
    })
    .await;
    assert_eq!(delivered_once(&world), 700);
}

#[tokio::test]
async fn two_workers_with_the_same_job_send_one_message_and_both_deliveries_are_acknowledged() {
    let world = World::new().await;
    // Slow enough that both have it in hand at once.
    world.simulator.set_latency(Duration::from_millis(300));
    let workers = [Worker::start(&world).await, Worker::start(&world).await];
    let events = world.broker.tap_events("send.sent").await;
    for n in 0..20 {
        let job = send(&format!("job-{n}"), &format!("user{n}"));
        futures::future::join_all(["high", "normal", "bulk"].map(|lane| world.broker.publish(lane, &job))).await;
    }
    for n in 0..20 {
        let status = settled(&world, &format!("job-{n}")).await;
        let message = &world.simulator.messages_to(&format!("user{n}"))[0];
        assert_eq!(status["messages"][0]["msg_key"], message.key.as_str());
    }
    for lane in ["high", "normal", "bulk"] {
        eventually(LONG, "every copy is acknowledged", || async {
            (world.broker.depth(&format!("jobs.{lane}")).await == Some(0)).then_some(())
        })
        .await;
    }
    for worker in workers {
        assert!(worker.stop().await.success());
    }
    assert_eq!(delivered_once(&world), 20);
    let told = events.wait_for(20, LONG, "the events", |_| true).await;
    let ids: std::collections::HashSet<_> = told.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 20, "an event may come twice, under one id");
    assert!(world.broker.drain_dead().await.is_empty());
}

#[tokio::test]
async fn a_redelivery_while_the_first_run_still_goes_sends_nothing_and_keeps_the_key() {
    for late in ["late:3s", "accept_late:3s"] {
        let mut world = World::with(SimulatorOptions {
            dedup: Duration::ZERO,
            ..SimulatorOptions::default()
        })
        .await;
        let relay = Relay::in_front_of(&world.services.amqp_url).await;
        let direct = world.services.amqp_url.clone();
        world.set("AMQP_URL", relay.route(&direct));
        let first = Worker::start(&world).await;
        world.set("AMQP_URL", direct);
        let rule = format!("sendmsg:{late}=1");
        world.simulator.add_fault(rule.parse().unwrap());
        world.broker.publish("normal", &send("job", "alice")).await;
        let pool = world.database.pool().await;
        eventually(LONG, "its call is under way", || async {
            let claimed: i64 = sqlx::query_scalar("SELECT count(*) FROM messages WHERE state = 1")
                .fetch_one(&pool)
                .await
                .ok()?;
            (claimed == 1).then_some(())
        })
        .await;
        // The broker gives the job to another while the first worker still waits for its answer.
        let second = Worker::start(&world).await;
        relay.cut();
        let status = settled(&world, "job").await;
        relay.restore();
        eventually(LONG, "the redelivery is acknowledged", || async {
            (world.broker.depth("jobs.normal").await == Some(0)).then_some(())
        })
        .await;
        assert!(first.stop().await.success() && second.stop().await.success());
        assert_eq!(status["recipients"], counts(1, &[("sent", 1)]), "{late}");
        assert_eq!(delivered_once(&world), 1, "{late}");
        let message = &world.simulator.messages_to("alice")[0];
        assert_eq!(status["messages"][0]["msg_key"], message.key.as_str(), "{late}");
    }
}
