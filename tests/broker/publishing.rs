//! Each publish gets its own answer, whatever is published beside it.

use bytes::Bytes;
use im_dispatcher::{
    broker::{Broker, Confirmed, Disposition, Letter, Properties, Publication, PublishError, header},
    domain::Lane,
};
use lapin::{
    options::{BasicGetOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use crate::fixture::{Fixture, next, publication, text};

#[tokio::test]
async fn among_many_at_once_exactly_the_unroutable_ones_are_told() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options().publishing_only()).await;
    let publisher = running.broker.publisher();
    let (here, nowhere) = (fixture.queue("high"), fixture.queue("nowhere"));
    let answers = futures::future::join_all((0..300).map(|i| {
        let key = if i % 3 == 0 { &nowhere } else { &here };
        publisher.publish(publication("", key, &i.to_string()))
    }))
    .await;
    for (i, answer) in answers.into_iter().enumerate() {
        let expected = if i % 3 == 0 {
            Confirmed::Unroutable
        } else {
            Confirmed::Routed
        };
        assert_eq!(answer, Ok(expected), "publish {i}");
    }
    fixture.until_waiting(&here, 200).await;
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn an_event_goes_to_whoever_listens_and_to_the_jobs_reply_queue() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options().publishing_only()).await;
    let channel = fixture.channel().await;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let mut queues = Vec::new();
    for _ in 0..2 {
        queues.push(
            channel
                .queue_declare("".into(), exclusive, FieldTable::default())
                .await
                .unwrap()
                .name()
                .clone(),
        );
    }
    let (listening, replies) = (&queues[0], &queues[1]);
    let events = format!("{}.events", fixture.namespace);
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(
            listening.clone(),
            events.as_str().into(),
            "send.*".into(),
            bind,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let publisher = running.broker.publisher();
    let body = Bytes::from_static(b"{\"specversion\":\"1.0\"}");
    let reply_to = Some((replies.to_string(), Some("c-1".to_owned())));
    publisher
        .event("send.sent", "e-1", body.clone(), reply_to)
        .await
        .unwrap();
    for (queue, correlation_id) in [(listening, None), (replies, Some("c-1"))] {
        let message = channel
            .basic_get(queue.clone(), BasicGetOptions { no_ack: true })
            .await
            .unwrap()
            .unwrap();
        let properties = Properties::from(message.delivery.properties.clone());
        assert_eq!(properties.content_type(), Some("application/cloudevents+json"));
        assert_eq!(properties.message_id(), Some("e-1"));
        assert_eq!(properties.correlation_id(), correlation_id);
        assert_eq!(message.delivery.data, body);
        assert_eq!(*message.delivery.properties.delivery_mode(), Some(2));
    }
    // Nobody listens to this one, and its reply queue is gone: no fault.
    publisher
        .event("revoke.revoked", "e-2", body, Some(("gone".to_owned(), None)))
        .await
        .unwrap();
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_dead_letter_has_the_original_byte_for_byte_and_rests_where_it_is_put() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    let publisher = running.broker.publisher();
    let body = Bytes::from_static(b"\xff\xfenot json");
    // `CC` would send a republished letter back into the lane, `expiration` would let it vanish.
    let mut headers = FieldTable::default();
    let copies = vec![lapin::types::AMQPValue::LongString(fixture.queue("bulk").into())];
    headers.insert("tenant".into(), lapin::types::AMQPValue::ShortUInt(7));
    headers.insert("CC".into(), lapin::types::AMQPValue::FieldArray(copies.into()));
    let raw = lapin::BasicProperties::default()
        .with_headers(headers)
        .with_message_id("job-1".into())
        .with_app_id("shop".into())
        .with_timestamp(1_700_000_000)
        .with_user_id("someone-else".into())
        .with_expiration("50".into());
    let letter = Letter {
        body: body.clone(),
        properties: Properties::from(raw),
        queue: fixture.queue("high"),
        code: "invalid-json".into(),
        sentence: "not JSON".into(),
        attempts: 0,
        generation: 0,
        letter_id: "letter-1".into(),
    };
    publisher.dead_letter(letter).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let letters = running.broker.dead_letters().peek(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(letter.body, body);
    assert_eq!(
        (letter.code.as_str(), letter.letter_id.as_str()),
        ("invalid-json", "letter-1")
    );
    assert_eq!(letter.job_id.as_deref(), Some("job-1"));
    let properties = &letter.properties;
    assert_eq!(
        (properties.app_id(), properties.timestamp()),
        (Some("shop"), Some(1_700_000_000))
    );
    assert_eq!(properties.header("tenant").as_deref(), Some("7"));
    assert_eq!(
        properties.header("x-im-original-user-id").as_deref(),
        Some("someone-else")
    );
    assert_eq!(properties.header("x-im-original-expiration").as_deref(), Some("50"));
    crate::fixture::silence(&mut running.deliveries.take(Lane::Bulk)).await;
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn headers_that_fill_a_frame_do_not_keep_a_letter_from_the_dead_queue() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options().publishing_only()).await;
    let publisher = running.broker.publisher();
    let properties = Properties::new()
        .with_message_id("job-1")
        .with_header("huge", &"x".repeat((32 << 10) - 172));
    let plain = Publication {
        properties: properties.clone(),
        ..publication("", &fixture.queue("high"), "{}")
    };
    let letter = Letter {
        body: Bytes::from_static(b"{}"),
        properties: properties.with_header("more", &"y".repeat(1_000)),
        queue: fixture.queue("high"),
        code: "invalid-job".into(),
        sentence: "why".into(),
        attempts: 1,
        generation: 0,
        letter_id: "letter-1".into(),
    };
    assert_eq!(
        publisher.publish(plain).await,
        Ok(Confirmed::Routed),
        "the largest that fits"
    );
    publisher.dead_letter(letter).await.unwrap();
    let letters = running.broker.dead_letters().peek(10).await.unwrap();
    assert_eq!(letters[0].job_id.as_deref(), Some("job-1"));
    assert_eq!(letters[0].properties.header_u64(header::HEADERS_LEFT_OUT), Some(2));
    assert_eq!(running.broker.stats().reconnects.get(), 0);
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_body_of_megabytes_arrives_whole() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    let body = "é".repeat(3 * 1024 * 1024);
    running.job(Lane::Bulk, &body).await;
    let delivery = next(&mut running.deliveries.take(Lane::Bulk)).await;
    assert!(text(&delivery) == body);
    delivery.settle(Disposition::Ack);
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn without_a_broker_a_publish_fails_in_time_and_is_surely_not_published() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
    drop(listener);
    let mut options = im_dispatcher::broker::BrokerOptions::new(url.into(), "nobody");
    options.event_timeout = std::time::Duration::from_millis(200);
    let (broker, _deliveries) = Broker::start(options).unwrap();
    let error = broker.publisher().publish(publication("", "q", "x")).await.unwrap_err();
    assert!(matches!(error, PublishError::Away(_)), "{error}");
    assert!(!error.maybe_published());
    let readiness = broker.readiness();
    assert!(!readiness.ready);
    assert!(
        readiness.reasons.iter().all(|reason| !reason.contains("guest:")),
        "{readiness:?}"
    );
    broker.close().await;
}

#[tokio::test]
async fn an_exchange_that_was_deleted_is_declared_again_and_publishing_goes_on() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options().publishing_only()).await;
    let channel = fixture.channel().await;
    let exchange = format!("{}.jobs", fixture.namespace);
    channel
        .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    let publisher = running.broker.publisher();
    let error = publisher
        .publish(publication(&exchange, "high", "1"))
        .await
        .unwrap_err();
    assert!(error.maybe_published(), "{error}");
    let mut done = false;
    for _ in 0..100 {
        done = publisher.publish(publication(&exchange, "high", "2")).await == Ok(Confirmed::Routed);
        if done {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(done);
    assert_eq!(
        running.broker.stats().reconnects.get(),
        0,
        "one closed channel is no reason to reconnect"
    );
    running.broker.close().await;
    fixture.remove().await;
}
