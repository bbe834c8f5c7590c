//! Jobs of every kind, to the unit.

use chrono::{Duration as Span, Utc};
use im_dispatcher::{domain::Command, simulator::Fault};
use lapin::BasicProperties;
use serde_json::json;

use super::{LONG, counts, delivered_once, group_settled, send, settled};
use crate::support::{Worker, World};

#[tokio::test]
async fn sends_and_batches_reach_each_recipient_once_and_every_key_is_on_record() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let events = world.broker.tap_events("#").await;
    for n in 0..60 {
        let lane = ["high", "normal", "bulk"][n % 3];
        let mut job = send(&format!("single-{n}"), &format!("user{n}"));
        job["group"] = json!("singles");
        if n % 2 == 0 {
            job["from"] = json!("robot");
        }
        world.broker.publish(lane, &job).await;
    }
    let to: Vec<String> = (0..1_200)
        .map(|n| {
            if n % 100 == 7 {
                format!("unknown{n}")
            } else {
                format!("member{n}")
            }
        })
        .collect();
    let batch = json!({"type": "batch_send", "id": "batch", "from": "robot", "to": to, "message": {"text": "to many"}});
    world.broker.publish("bulk", &batch).await;

    let status = settled(&world, "batch").await;
    assert_eq!(status["recipients"], counts(1_200, &[("sent", 1_188), ("failed", 12)]));
    assert_eq!(status["state"], "mixed");
    let singles = group_settled(&world, "singles", 60).await;
    assert_eq!(singles["recipients"], counts(60, &[("sent", 60)]));
    assert_eq!(delivered_once(&world), 60 + 1_188);

    // What the records say is what the service gave.
    for n in [0, 1] {
        let status = world.status_json(&format!("single-{n}")).await.unwrap();
        let message = &world.simulator.messages_to(&format!("user{n}"))[0];
        assert_eq!(status["messages"][0]["msg_key"], message.key.as_str());
        assert_eq!(message.sender, if n == 0 { "robot" } else { "administrator" });
    }
    // One event per call: 60 singles and 3 batch calls.
    let told = events
        .wait_for(63, LONG, "the events", |event| event["type"] == "im.message.sent")
        .await;
    let batch_events: Vec<_> = told
        .iter()
        .filter(|event| event["data"]["type"] == "batch_send")
        .collect();
    let reached: usize = batch_events
        .iter()
        .map(|event| event["data"]["sent"].as_array().unwrap().len())
        .sum();
    assert_eq!(reached, 1_188);
    assert!(
        world.broker.drain_dead().await.is_empty(),
        "unknown recipients are no dead letters"
    );
}

#[tokio::test]
async fn a_scheduled_send_waits_and_an_expired_one_is_never_sent() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let at = Utc::now() + Span::seconds(4);
    let mut later = send("later", "alice");
    later["send_at"] = json!(at.to_rfc3339());
    world.broker.publish("normal", &later).await;
    let mut over = send("over", "bob");
    over["expires_at"] = json!((Utc::now() - Span::seconds(1)).to_rfc3339());
    world.broker.publish("normal", &over).await;

    assert_eq!(
        settled(&world, "over").await["recipients"],
        counts(1, &[("expired", 1)])
    );
    let status = settled(&world, "later").await;
    assert_eq!(status["state"], "sent");
    let sent_at = status["messages"][0]["sent_at"]
        .as_str()
        .unwrap()
        .parse::<chrono::DateTime<Utc>>()
        .unwrap();
    assert!(sent_at >= at, "sent {sent_at}, due {at}");
    assert_eq!(delivered_once(&world), 1);
}

#[tokio::test]
async fn imports_reads_and_questions_are_carried_out_and_answered() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let replies = world.broker.tap_replies().await;
    world
        .broker
        .publish(
            "normal",
            &json!({"type": "import", "id": "import", "from": "carol", "to": "dave",
        "timestamp": Utc::now().timestamp() - 60, "unread": true, "message": {"text": "from before"}}),
        )
        .await;
    assert_eq!(settled(&world, "import").await["recipients"], counts(1, &[("sent", 1)]));

    let ask = |id: &str| {
        BasicProperties::default()
            .with_reply_to(replies.queue().into())
            .with_correlation_id(format!("c-{id}").into())
    };
    let unread = json!({"type": "unread", "id": "unread", "user": "dave", "peers": ["carol"]});
    world
        .broker
        .publish_with("high", unread.to_string().as_bytes(), ask("unread"))
        .await;
    let told = replies
        .wait_for(1, LONG, "the events", |event| event["subject"] == "unread")
        .await;
    assert_eq!(told[0]["type"], "im.reply");
    assert_eq!(
        told[0]["data"]["reply"]["peers"],
        json!([{"peer": "carol", "unread": 1}])
    );

    let read = json!({"type": "mark_read", "id": "read", "user": "dave", "peer": "carol"});
    world.broker.publish("high", &read).await;
    assert_eq!(settled(&world, "read").await["state"], "done");

    let history = json!({"type": "history", "id": "history", "from": "dave", "to": "carol"});
    world
        .broker
        .publish_with("high", history.to_string().as_bytes(), ask("history"))
        .await;
    let told = replies
        .wait_for(1, LONG, "the events", |event| event["subject"] == "history")
        .await;
    assert_eq!(told[0]["data"]["reply"]["messages"].as_array().unwrap().len(), 1);
    assert_eq!(told[0]["data"]["reply"]["complete"], true);
}

#[tokio::test]
async fn throttled_and_transient_answers_are_retried_and_only_the_latter_count() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    world.simulator.inject(Command::SendMsg, Fault::Code(60_007), 3);
    world.broker.publish("normal", &send("throttled", "alice")).await;
    assert_eq!(settled(&world, "throttled").await["messages"][0]["attempts"], 1);
    world.simulator.inject(Command::SendMsg, Fault::Code(80_003), 2);
    world.broker.publish("normal", &send("transient", "bob")).await;
    assert_eq!(settled(&world, "transient").await["messages"][0]["attempts"], 3);
    assert_eq!(delivered_once(&world), 2);
}

#[tokio::test]
async fn of_a_partly_failed_batch_only_what_may_be_retried_is() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    // Half of the recipients meet an internal time-out of the account server, once.
    world
        .simulator
        .set_fault_rate(Command::BatchSendMsg, Fault::Recipient(70_169), 0.5);
    let to: Vec<String> = (0..40)
        .map(|n| format!("r{n}"))
        .chain(["unknown1".to_owned()])
        .collect();
    let batch = json!({"type": "batch_send", "id": "batch", "to": to, "message": {"text": "partly"}});
    world.broker.publish("bulk", &batch).await;
    crate::support::eventually(LONG, "some are sent and some wait", || async {
        let status = world.status_json("batch").await?;
        let sent = status["recipients"]["sent"].as_u64()?;
        (sent > 0 && status["recipients"]["pending"].as_u64()? > 0).then_some(())
    })
    .await;
    world.simulator.clear_faults();
    let status = settled(&world, "batch").await;
    assert_eq!(status["recipients"], counts(41, &[("sent", 40), ("failed", 1)]));
    assert_eq!(delivered_once(&world), 40);
}

#[tokio::test]
async fn a_permanent_answer_is_a_dead_letter_and_its_replay_sends_once() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    world.simulator.inject(Command::SendMsg, Fault::Code(90_001), 1);
    let job = send("refused", "alice");
    world.broker.publish("normal", &job).await;
    let status = settled(&world, "refused").await;
    assert_eq!(status["messages"][0]["error"]["code"], "im-90001");
    crate::support::eventually(LONG, "the letter is there", || async {
        (world.broker.depth("jobs.dead").await == Some(1)).then_some(())
    })
    .await;
    let output = world.cli(&["dead-letters", "replay", "refused"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    crate::support::eventually(LONG, "the replay has sent it", || async {
        let status = world.status_json("refused").await?;
        (status["state"] == "sent").then_some(())
    })
    .await;
    assert_eq!(delivered_once(&world), 1);
    assert_eq!(world.broker.depth("jobs.dead").await, Some(0));
}

#[tokio::test]
async fn refused_credentials_pause_the_app_and_it_goes_on_when_they_work() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    // Every call of the first moments is refused, signed anew or not.
    world
        .simulator
        .set_fault_rate(Command::SendMsg, Fault::Code(70_009), 1.0);
    for n in 0..5 {
        world
            .broker
            .publish("normal", &send(&format!("job-{n}"), &format!("user{n}")))
            .await;
    }
    worker.until_unready("im-70009", LONG).await;
    world.simulator.clear_faults();
    for n in 0..5 {
        let status = settled(&world, &format!("job-{n}")).await;
        assert_eq!(status["state"], "sent", "{status}");
    }
    assert_eq!(delivered_once(&world), 5);
    assert!(world.broker.drain_dead().await.is_empty());
}
