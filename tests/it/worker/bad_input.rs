//! What is no job lands in the dead queue byte for byte, with a word and a sentence; the worker goes on.

use lapin::{BasicProperties, types::AMQPValue};
use serde_json::{Value, json};

use super::{LONG, delivered_once, send, settled};
use crate::support::{Worker, World, eventually};

fn text(n: usize) -> String {
    "x".repeat(n)
}

/// Bodies, each with the word and a part of the sentence that its letter has.
fn bad_bodies() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let job = |fields: Value| {
        let mut job = send("bad", "alice");
        job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        job.to_string().into_bytes()
    };
    let many: Vec<String> = (0..100_001).map(|n| format!("u{n}")).collect();
    let mut huge = send("bad", "alice");
    huge["message"]["text"] = json!(text(16 * 1024 * 1024));
    vec![
        (b"not JSON".to_vec(), "invalid-json", ""),
        (b"\xff\xfe{}".to_vec(), "invalid-json", ""),
        (b"[1, 2]".to_vec(), "invalid-job", "object"),
        (job(json!({"colour": "red"})), "invalid-job", "colour"),
        (job(json!({"to": ""})), "invalid-job", "to"),
        (job(json!({"to": text(33)})), "invalid-job", "to"),
        (job(json!({"id": text(129)})), "invalid-job", "id"),
        (
            job(json!({"message": {"text": text(13 * 1024)}})),
            "invalid-job",
            "message",
        ),
        (
            job(json!({"message": {"text": "a", "life_time": 604_801}})),
            "invalid-job",
            "life_time",
        ),
        (job(json!({"message": {"text": "a", "seq": -1}})), "invalid-job", "seq"),
        (job(json!({"app": "nobody's"})), "unknown-app", "app"),
        (
            job(json!({"type": "batch_send", "to": ["a", ""]})),
            "invalid-job",
            "to[1]",
        ),
        (job(json!({"type": "batch_send", "to": many})), "invalid-job", "to"),
        (job(json!({"type": "unread", "user": "a"})), "invalid-job", ""),
        (huge.to_string().into_bytes(), "invalid-job", "message"),
    ]
}

#[tokio::test]
async fn each_bad_job_is_a_dead_letter_byte_for_byte_with_its_reason() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let cases = bad_bodies();
    for (n, (body, ..)) in cases.iter().enumerate() {
        let mut headers = lapin::types::FieldTable::default();
        headers.insert("x-number".into(), AMQPValue::LongInt(n as i32));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_content_type("application/json".into());
        world.broker.publish_with("normal", body, properties).await;
    }
    let letters = world.broker.dead_letters(cases.len(), LONG).await;
    assert_eq!(letters.len(), cases.len());
    for letter in &letters {
        let headers = letter.properties.headers().as_ref().unwrap();
        let Some(AMQPValue::LongInt(number)) = headers.inner().get("x-number") else {
            panic!("the header is lost")
        };
        let (original, code, part) = &cases[*number as usize];
        assert_eq!(
            &letter.body, original,
            "letter {number} isn't byte for byte what was sent"
        );
        assert_eq!(letter.word().as_deref(), Some(*code), "letter {number}");
        let sentence = letter.header("x-im-error").unwrap();
        assert!(
            sentence.contains(part),
            "letter {number}: {sentence:?} doesn't name {part:?}"
        );
        assert!(!sentence.contains("xxxxxxxxxx"), "letter {number} quotes a value");
        assert_eq!(
            letter.header("x-im-queue"),
            Some(format!("{}.jobs.normal", world.namespace))
        );
        assert_eq!(
            letter
                .properties
                .content_type()
                .as_ref()
                .map(lapin::types::ShortString::as_str),
            Some("application/json")
        );
    }
    // A refused job leaves no record, so its id is free.
    world.broker.publish("normal", &send("bad", "alice")).await;
    assert_eq!(settled(&world, "bad").await["state"], "sent");
}

#[tokio::test]
async fn good_jobs_pass_between_bad_ones() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    for n in 0..50 {
        world
            .broker
            .publish_with(
                "normal",
                format!("{{\"bad\": {n}}}").as_bytes(),
                BasicProperties::default(),
            )
            .await;
        world
            .broker
            .publish("normal", &send(&format!("good-{n}"), &format!("user{n}")))
            .await;
    }
    eventually(LONG, "every good job is at the service", || async {
        (world.simulator.delivered_total() == 50).then_some(())
    })
    .await;
    assert_eq!(world.broker.dead_letters(50, LONG).await.len(), 50);
    assert_eq!(delivered_once(&world), 50);
}

#[tokio::test]
async fn every_example_job_is_accepted() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let replies = world.broker.tap_replies().await;
    let mut ids = Vec::new();
    for entry in std::fs::read_dir("examples/jobs").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let mut job: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let id = job["id"]
            .as_str()
            .map_or_else(|| path.display().to_string(), str::to_owned);
        // The examples' own ids may repeat, and their times lie where they lie.
        let id = format!("{}-{}", ids.len(), id.rsplit('/').next().unwrap());
        job["id"] = json!(id);
        for field in ["send_at", "expires_at", "app"] {
            job.as_object_mut().unwrap().remove(field);
        }
        let properties = BasicProperties::default().with_reply_to(replies.queue().into());
        world
            .broker
            .publish_with("normal", job.to_string().as_bytes(), properties)
            .await;
        ids.push(id);
    }
    assert!(ids.len() >= 25, "only {} examples", ids.len());
    for id in &ids {
        eventually(LONG, &format!("{id} is on record"), || async {
            world.status_json(id).await
        })
        .await;
    }
    let letters = world.broker.drain_dead().await;
    let invalid: Vec<_> = letters
        .iter()
        .filter_map(crate::support::Letter::word)
        .filter(|word| word.starts_with("invalid"))
        .collect();
    assert!(invalid.is_empty(), "{invalid:?}");
}
