//! What is no job lands in the dead queue byte for byte, with a word and a sentence; the worker goes on.

use lapin::{BasicProperties, types::AMQPValue};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{LONG, delivered_once, send, settled};
use crate::support::{TestBroker, Worker, World, eventually};

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

/// Three bytes that the way to the broker replaces by such as no UTF-8 holds: lapin itself can't publish them.
const MARK: &str = "\u{1}\u{2}\u{3}";

/// A way to a broker that replaces each [`MARK`]. Ends with the test.
async fn garbling(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let authority = rest.split(['/', '?']).next().unwrap();
    let address = authority.rsplit('@').next().unwrap().to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = address.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let broker = tokio::net::TcpStream::connect(&target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_broker, mut to_broker) = broker.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_broker, &mut to_client).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                    for at in 0..n.saturating_sub(2) {
                        if bytes[at..n].starts_with(MARK.as_bytes()) {
                            bytes[at..at + 3].copy_from_slice(b"\xe9\xff\xfe");
                        }
                    }
                    to_broker.write_all(&bytes[..n]).await.unwrap();
                }
            });
        }
    });
    url.replacen(&address, &format!("127.0.0.1:{port}"), 1)
}

#[tokio::test]
async fn properties_that_are_no_utf8_are_a_dead_letter_and_block_nothing() {
    let world = World::new().await;
    let mut worker = Worker::start(&world).await;
    let garbling = TestBroker::connect(&garbling(&world.services.amqp_url).await, &world.namespace).await;
    let mut headers = lapin::types::FieldTable::default();
    headers.insert(format!("na{MARK}me").into(), AMQPValue::LongInt(1));
    headers.insert("tenant".into(), AMQPValue::LongString(MARK.into()));
    let cases = [
        (
            "message_id",
            BasicProperties::default().with_message_id(format!("id{MARK}").into()),
        ),
        (
            "reply_to",
            BasicProperties::default()
                .with_reply_to(MARK.into())
                .with_message_id("x".into()),
        ),
        ("header", BasicProperties::default().with_headers(headers)),
    ];
    for (n, (_, properties)) in cases.iter().enumerate() {
        let body = send(&format!("bad-{n}"), "alice").to_string();
        for lane in ["high", "normal", "bulk"] {
            garbling.publish_with(lane, body.as_bytes(), properties.clone()).await;
        }
        world.broker.publish("normal", &send(&format!("good-{n}"), "bob")).await;
        assert_eq!(settled(&world, &format!("good-{n}")).await["state"], "sent");
    }
    let letters = world.broker.dead_letters(3 * cases.len(), LONG).await;
    assert_eq!(letters.len(), 3 * cases.len());
    for letter in &letters {
        assert_eq!(letter.word().as_deref(), Some("invalid-job"));
        let sentence = letter.header("x-im-error").unwrap();
        let job = letter.json();
        let n: usize = job["id"].as_str().unwrap()["bad-".len()..].parse().unwrap();
        assert_eq!(job, send(&format!("bad-{n}"), "alice"), "the body is what was sent");
        assert!(sentence.contains(cases[n].0), "{sentence}");
    }
    // A value is any bytes: it is no fault, and given on as it is.
    let tenant = letters
        .iter()
        .find_map(|letter| letter.properties.headers().as_ref()?.inner().get("tenant").cloned());
    assert_eq!(tenant, Some(AMQPValue::LongString(b"\xe9\xff\xfe".to_vec().into())));
    assert!(worker.process.is_running());
    assert_eq!(delivered_once(&world), cases.len() as u64);
}

#[tokio::test]
async fn headers_that_no_frame_of_ours_holds_are_a_dead_letter_and_block_nothing() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let with = |length: usize| {
        let mut headers = lapin::types::FieldTable::default();
        headers.insert("note".into(), AMQPValue::LongString("n".repeat(length).into()));
        BasicProperties::default()
            .with_message_id("of-the-properties".into())
            .with_headers(headers)
    };
    let body = send("long", "alice").to_string();
    world
        .broker
        .publish_with("normal", body.as_bytes(), with(40 << 10))
        .await;
    let letters = world.broker.dead_letters(1, LONG).await;
    assert_eq!(letters[0].word().as_deref(), Some("invalid-job"));
    assert_eq!(letters[0].body, body.as_bytes());

    // The longest that is read, and the next job.
    let body = send("fits", "alice").to_string();
    world
        .broker
        .publish_with("normal", body.as_bytes(), with(32 << 10))
        .await;
    assert_eq!(world.broker.dead_letters(1, LONG).await.len(), 1);
    world
        .broker
        .publish_with("normal", body.as_bytes(), with(31 << 10))
        .await;
    assert_eq!(settled(&world, "fits").await["state"], "sent");
    assert_eq!(delivered_once(&world), 1);
}

#[tokio::test]
async fn a_routing_key_that_is_no_utf8_leads_to_the_dead_queue_and_the_tools_can_read_it() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let garbling = TestBroker::connect(&garbling(&world.services.amqp_url).await, &world.namespace).await;
    let body = send("stray", "alice").to_string();
    garbling
        .publish_with(&format!("b{MARK}"), body.as_bytes(), BasicProperties::default())
        .await;
    let output = eventually(LONG, "it is listed", || async {
        let output = world.cli(&["dead-letters", "list", "--json"]).await;
        String::from_utf8_lossy(&output.stdout)
            .contains("unrouted")
            .then_some(output)
    })
    .await;
    assert!(output.status.success());
}
