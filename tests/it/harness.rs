//! The ground that the other tests stand on: a link that is cut is cut, a frozen process is frozen, nothing is left.

use std::{path::Path, time::Duration};

use lapin::{
    BasicProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use sqlx::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Process, Relay, Services, TestDatabase, World, eventually, free_port};

/// A bound for what takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn each_world_has_a_database_of_its_own_and_leaves_none_behind() {
    let services = Services::from_env();
    let database = TestDatabase::create(&services).await;
    let other = TestDatabase::create(&services).await;
    assert_ne!(database.url(), other.url());
    let pool = database.pool().await;
    sqlx::query("CREATE TABLE here (id int)").execute(&pool).await.unwrap();
    assert!(
        sqlx::query("SELECT * FROM here")
            .fetch_all(&other.pool().await)
            .await
            .is_err()
    );
    let url = database.url().to_owned();
    // Also with a session still open.
    drop(database);
    let error = sqlx::PgConnection::connect(&url)
        .await
        .expect_err("the database is gone");
    assert_eq!(
        error
            .into_database_error()
            .and_then(|error| error.code().map(Into::into)),
        Some("3D000".to_owned())
    );
}

#[tokio::test]
async fn the_broker_client_sees_letters_events_and_depths_and_takes_its_namespace_along() {
    let mut world = World::new().await;
    let extra = format!("{}.extra", world.namespace);
    world.broker.delete_also(&extra);
    let (namespace, broker) = (world.namespace.clone(), &world.broker);
    assert_eq!(broker.depth("jobs.dead").await, None);
    let channel = broker.channel().await;
    let (jobs, events, dead) = (
        format!("{namespace}.jobs"),
        format!("{namespace}.events"),
        format!("{namespace}.jobs.dead"),
    );
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    for (exchange, kind) in [(&jobs, ExchangeKind::Direct), (&events, ExchangeKind::Topic)] {
        let declare = channel.exchange_declare(exchange.as_str().into(), kind, durable, FieldTable::default());
        declare.await.unwrap();
    }
    for queue in [&dead, &extra] {
        let queue = queue.as_str().into();
        let declare = channel.queue_declare(queue, QueueDeclareOptions::durable(), FieldTable::default());
        declare.await.unwrap();
    }
    for exchange in [&jobs, &events] {
        let key = if exchange == &jobs { "high" } else { "#" };
        let (dead, exchange) = (dead.as_str().into(), exchange.as_str().into());
        let bind = channel.queue_bind(
            dead,
            exchange,
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.unwrap();
    }

    let mut headers = FieldTable::default();
    headers.insert("x-im-error-code".into(), AMQPValue::LongString("invalid-json".into()));
    broker
        .publish_with("high", b"{", BasicProperties::default().with_headers(headers))
        .await;
    broker.publish("high", &json!({"id": 1})).await;
    eventually(SOON, "both are in the queue", || async {
        (broker.depth("jobs.dead").await == Some(2)).then_some(())
    })
    .await;
    let first = broker.take("jobs.dead").await.expect("a letter");
    assert_eq!(
        (first.body.as_slice(), first.word().as_deref()),
        (&b"{"[..], Some("invalid-json"))
    );
    let rest = broker.dead_letters(1, SOON).await;
    assert_eq!(
        (rest.len(), rest[0].json(), rest[0].word()),
        (1, json!({"id": 1}), None)
    );

    let (all, replies) = (broker.tap_events("send.*").await, broker.tap_replies().await);
    for (exchange, key) in [
        (events.as_str(), "send.sent"),
        (events.as_str(), "import.imported"),
        ("", replies.queue()),
    ] {
        let publish = channel.basic_publish(
            exchange.into(),
            key.into(),
            lapin::options::BasicPublishOptions::default(),
            br#"{"id": 7}"#,
            BasicProperties::default(),
        );
        publish.await.unwrap();
    }
    all.wait_for(1, SOON, "the event", |event| event["id"] == 7).await;
    replies.wait_for(1, SOON, "the reply", |event| event["id"] == 7).await;
    assert_eq!(all.events().len(), 1, "only what matches the pattern");

    drop(world);
    let world = World::new().await;
    for queue in [dead, extra] {
        let channel = world.broker.channel().await;
        let passive = QueueDeclareOptions::durable().passive();
        let declared = channel
            .queue_declare(queue.as_str().into(), passive, FieldTable::default())
            .await;
        assert!(declared.is_err(), "{queue} is gone");
    }
}

#[tokio::test]
async fn a_relay_carries_until_it_is_cut_and_holds_what_comes_while_it_is_stalled() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = echo.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    let relay = Relay::start(target.to_string()).await;
    assert_eq!(
        relay.route("amqp://a:b@host:1/%2f"),
        format!("amqp://a:b@{}/%2f", relay.address())
    );
    assert_eq!(relay.route("http://host"), format!("http://{}", relay.address()));

    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"once").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"once");

    relay.stall();
    stream.write_all(b"held").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut answer)).await;
    assert!(early.is_err(), "a stalled link passes nothing");
    relay.restore();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"held");

    relay.cut();
    assert_eq!(
        stream.read(&mut answer).await.unwrap_or(0),
        0,
        "an open connection ends"
    );
    let mut refused = TcpStream::connect(relay.address()).await.unwrap();
    assert_eq!(refused.read(&mut answer).await.unwrap_or(0), 0, "a new one, too");
    relay.restore();
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    stream.write_all(b"back").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"back");
}

#[tokio::test]
async fn a_process_can_be_frozen_thawed_asked_to_end_and_killed() {
    let directory = tempfile::tempdir().unwrap();
    let script = "trap 'echo asked; exit 3' TERM; echo $WORD; while :; do sleep 0.05; done";
    let start = || {
        Process::spawn(
            "sh",
            Path::new("/bin/sh"),
            &["-c", script],
            [("WORD", "hello")],
            directory.path(),
        )
    };
    let mut process = start();
    eventually(SOON, "it has begun", || async {
        process.log().contains("hello").then_some(())
    })
    .await;

    process.freeze();
    let state = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        text.rsplit_once(')').unwrap().1.trim_start().chars().next()
    };
    let pid = process.pid();
    eventually(SOON, "it is stopped", || async {
        (state(pid) == Some('T')).then_some(())
    })
    .await;
    process.terminate();
    assert!(process.is_running(), "a frozen process doesn't hear");
    process.thaw();
    assert_eq!(process.exit(SOON).await.code(), Some(3));
    assert_eq!(process.log(), "hello\nasked\n");

    let mut process = start();
    process.kill();
    assert!(!process.is_running());
}

#[tokio::test]
#[should_panic(expected = "the moon is blue")]
async fn waiting_in_vain_says_what_for() {
    eventually(Duration::from_millis(30), "the moon is blue", || async { None::<()> }).await;
}

#[tokio::test]
async fn a_process_sees_the_environment_of_its_world_and_no_other() {
    let mut world = World::new().await;
    world.set("IM_RATE_LIMIT", "7");
    let process = Process::spawn(
        "env",
        Path::new("/usr/bin/env"),
        &[],
        world.environment(),
        world.directory(),
    );
    let expected = format!("IM_DISPATCHER_NAMESPACE={}", world.namespace);
    eventually(SOON, "env has printed", || async {
        process.log().contains(&expected).then_some(())
    })
    .await;
    let log = process.log();
    assert!(
        log.contains("IM_RATE_LIMIT=7") && log.contains(&format!("DATABASE_URL={}", world.database.url())),
        "{log}"
    );
    assert!(
        log.contains(&format!("AMQP_URL={}", world.services.amqp_url)) && !log.contains("CARGO_MANIFEST_DIR"),
        "{log}"
    );
}

#[tokio::test]
async fn each_world_has_an_im_service_of_its_own() {
    let (world, other) = (World::new().await, World::new().await);
    let url = format!("{}/v4/openim/sendmsg", world.simulator.base_url());
    let answer = reqwest::Client::new().post(url).body("{}").send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(answer["ActionStatus"], "FAIL", "a call without a UserSig: {answer}");
    assert_eq!(
        (
            world.simulator.report().refused.len(),
            other.simulator.report().refused.len()
        ),
        (1, 0)
    );
}

#[tokio::test]
async fn no_port_is_handed_out_twice() {
    let ports: std::collections::HashSet<u16> = (0..100).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 100);
    assert!(ports.iter().all(|port| *port < 32_768));
}

#[tokio::test]
async fn the_services_script_knows_the_services_of_this_run() {
    assert!(Services::script(&["status"]));
    // What is given by its URL is never stopped: this has to fail, unless the services are this run's own.
    if !Services::are_private() {
        assert!(!Services::script(&["restart-broker"]) && !Services::script(&["restart-postgres"]));
    }
}
