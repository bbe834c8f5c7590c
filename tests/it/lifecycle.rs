//! A worker from its start to its end, with a service away in between.

use std::time::Duration;

use im_dispatcher::simulator::{SAMPLE_SDK_APP_ID, SAMPLE_SECRET};
use serde_json::json;

use crate::{
    support::{Relay, Worker, World, eventually},
    worker::{send, settled},
};

/// A bound for what takes a second.
const SOON: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_job_is_sent_recorded_and_told_of_and_a_worker_that_is_asked_to_end_exits_with_0() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    let events = world.broker.tap_events("send.*").await;
    let job = json!({"type": "send", "id": "one", "from": "shop", "to": "alice", "message": {"text": "hello"}});
    world.broker.publish("high", &job).await;

    let status = eventually(SOON, "the record says sent", || async {
        world
            .status_json("one")
            .await
            .filter(|status| status["state"] == "sent")
    })
    .await;
    let accepted = world.simulator.messages_to("alice");
    assert_eq!(accepted.len(), 1);
    assert_eq!(
        (accepted[0].sender.as_str(), accepted[0].text.as_str()),
        ("shop", "hello")
    );
    assert_eq!(status["messages"][0]["msg_key"], accepted[0].key.as_str());
    let event = &events
        .wait_for(1, SOON, "its event", |event| event["subject"] == "one")
        .await[0];
    assert_eq!(
        (&event["type"], &event["data"]["msg_key"]),
        (&json!("im.message.sent"), &json!(accepted[0].key))
    );
    assert_eq!(worker.metric("im_dispatcher_ready").await, Some(1.0));

    assert_eq!(worker.stop().await.code(), Some(0));
    eventually(SOON, "the queue is empty", || async {
        (world.broker.depth("jobs.high").await == Some(0)).then_some(())
    })
    .await;
    assert_eq!(world.status_json("another").await, None);
}

#[tokio::test]
async fn a_command_before_the_first_worker_says_what_is_missing_and_with_wait_waits_for_it() {
    let world = World::new().await;
    let output = world.cli(&["status", "early"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`im-dispatcher migrate`"), "{said}");

    let job = r#"{"type": "send", "id": "early", "to": "alice", "message": {"text": "hello"}}"#;
    let published = world
        .cli_with_input(&["submit", "--lane", "high", "-"], job.as_bytes())
        .await;
    assert_eq!(published.status.code(), Some(0));
    let (waited, _worker) = tokio::join!(
        world.cli(&["status", "early", "--wait", "--json"]),
        Worker::start(&world)
    );
    assert_eq!(
        waited.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&waited.stderr)
    );
    let status: serde_json::Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!(status["state"], "sent");
}

#[tokio::test]
async fn a_worker_whose_broker_is_cut_off_says_so_and_goes_on_by_itself_when_it_is_back() {
    let mut world = World::new().await;
    let relay = Relay::in_front_of(&world.services.amqp_url).await;
    let url = relay.route(&world.services.amqp_url);
    world.set("AMQP_URL", url);
    let mut worker = Worker::start(&world).await;

    relay.cut();
    worker.until_unready("RabbitMQ", SOON).await;
    assert!(worker.process.is_running());
    let job = json!({"type": "send", "id": "meanwhile", "to": "bob", "message": {"text": "hello"}});
    world.broker.publish("normal", &job).await;
    relay.restore();
    worker.until_ready().await;
    eventually(SOON, "what came meanwhile is sent", || async {
        (world.simulator.messages_to("bob").len() == 1).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await.code(), Some(0));
}

/// Secrets change while jobs come: the files first, then SIGHUP, and no new start.
#[tokio::test]
async fn a_worker_takes_a_new_key_and_a_new_token_on_sighup() {
    let mut world = World::new().await;
    let file = |name: &str| world.directory().join(name).display().to_string();
    let (key_file, token_file) = (file("key"), file("token"));
    std::fs::write(&key_file, SAMPLE_SECRET).unwrap();
    std::fs::write(&token_file, "the-first-token\n").unwrap();
    world
        .unset("IM_SECRET_KEY")
        .set("IM_SECRET_KEY_FILE", key_file.clone())
        .set("IM_DISPATCHER_ADMIN_TOKEN_FILE", token_file.clone());
    let worker = Worker::start(&world).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = async |token: &str| {
        let request = client.get(worker.url("/api/overview")).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(
        (asked("the-first-token").await, asked("the-second-token").await),
        (200, 401)
    );
    world.broker.publish("normal", &send("before", "alice")).await;
    settled(&world, "before").await;

    let key = "0".repeat(64);
    std::fs::write(&key_file, &key).unwrap();
    std::fs::write(&token_file, "the-second-token\n").unwrap();
    world.simulator.add_app(SAMPLE_SDK_APP_ID, "administrator", key.into());
    worker.process.hang_up();
    eventually(SOON, "the second token opens it", || async {
        (asked("the-second-token").await == 200).then_some(())
    })
    .await;
    assert_eq!(asked("the-first-token").await, 401);
    world.broker.publish("normal", &send("after", "bob")).await;
    assert_eq!(settled(&world, "after").await["state"], "sent");
    assert_eq!(world.simulator.messages_to("bob").len(), 1);
    // Neither is in what it logged, nor is what signed a call.
    let log = worker.process.log();
    for secret in [SAMPLE_SECRET, "the-first-token", "the-second-token", "0000000000000000"] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
