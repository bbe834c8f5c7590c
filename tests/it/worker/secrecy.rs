//! No secret, `UserSig` or message text in a worker's output, at the finest level of every dependency.

use im_dispatcher::{domain::Command, simulator::Fault};
use secrecy::SecretString;
use serde_json::json;

use super::{LONG, delivered_once, send, settled};
use crate::support::{Worker, World};

/// Strings that stand nowhere else.
const SECRET: &str = "marked5bd2850secret7c805251";
const TEXT: &str = "marked-text-of-a-message";
const PASSWORD: &str = "marked-password";

#[tokio::test]
async fn a_worker_at_trace_level_prints_no_secret_no_signature_and_no_text() {
    let mut world = World::new().await;
    world.simulator.add_app(
        im_dispatcher::simulator::SAMPLE_SDK_APP_ID,
        "administrator",
        SecretString::from(SECRET),
    );
    world
        .set("IM_SECRET_KEY", SECRET)
        .set(
            "RUST_LOG",
            "trace,lapin=trace,hyper=trace,sqlx=trace,reqwest=trace,h2=trace,rustls=trace",
        )
        .set("IM_DISPATCHER_ADMIN_TOKEN", PASSWORD);
    let worker = Worker::start(&world).await;
    let replies = world.broker.tap_replies().await;
    let mut marked = send("ok", "alice");
    marked["message"] = json!({"text": TEXT, "custom_data": TEXT, "offline_push": {"Title": TEXT, "Desc": TEXT}});
    world.broker.publish("normal", &marked).await;
    // Ways that log more: a refusal, a lost answer, bad jobs, a dead letter, a statement that fails.
    for (id, fault) in [
        ("refused", Fault::Code(90_001)),
        ("lost", Fault::CutAfter),
        ("gateway", Fault::Http(502)),
    ] {
        world.simulator.inject(Command::SendMsg, fault, 1);
        let mut job = send(id, id);
        job["message"]["text"] = json!(format!("{TEXT} {id}"));
        let properties = lapin::BasicProperties::default().with_reply_to(replies.queue().into());
        world
            .broker
            .publish_with("normal", job.to_string().as_bytes(), properties)
            .await;
        settled(&world, id).await;
    }
    let batch = json!({"type": "batch_send", "id": "batch", "to": ["a", "b", "unknown1"], "message": {"text": TEXT}});
    world.broker.publish("bulk", &batch).await;
    for bad in [
        json!({"type": "send", "id": "bad", "to": 7, "message": {"text": TEXT}}),
        json!({"type": "send", "id": "bad", "to": "a", "message": {"text": [TEXT]}}),
        json!({"type": "send", "id": "bad", "to": "a", "message": {"body": [{"MsgType": TEXT}]}}),
    ] {
        world.broker.publish("normal", &bad).await;
    }
    settled(&world, "batch").await;
    settled(&world, "ok").await;
    let letters = world.broker.dead_letters(4, LONG).await;
    for letter in &letters {
        assert!(
            !letter.header("x-im-error").unwrap().contains(TEXT),
            "a letter's sentence quotes the text"
        );
    }
    // Traced indeed: the finest level of our own is there.
    let log = worker.process.log();
    assert!(
        log.contains("DEBUG") || log.contains("TRACE"),
        "nothing fine was logged"
    );
    assert!(worker.stop().await.success());
    for (mark, what) in [
        (SECRET, "the secret"),
        (TEXT, "a message's text"),
        (PASSWORD, "the token"),
        ("usersig=", "a UserSig"),
    ] {
        assert!(!log.contains(mark), "{what} is in the log");
    }
    delivered_once(&world);
}
