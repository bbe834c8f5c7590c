//! What exists after a start, and what happens where it exists otherwise.

use im_dispatcher::domain::{AppName, Lane};
use lapin::{
    ErrorKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::fixture::{Fixture, next, publication, text};

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn text_value(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// The contract's arguments, written out once more.
fn job_queue_arguments(namespace: &str) -> FieldTable {
    table(&[
        ("x-queue-type", text_value("quorum")),
        ("x-delivery-limit", AMQPValue::LongInt(1_000_000)),
        ("x-dead-letter-exchange", text_value("")),
        (
            "x-dead-letter-routing-key",
            text_value(&format!("{namespace}.jobs.dead")),
        ),
        ("x-dead-letter-strategy", text_value("at-least-once")),
        ("x-overflow", text_value("reject-publish")),
    ])
}

#[tokio::test]
async fn everything_is_declared_with_exactly_the_contracts_arguments() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options()).await;
    assert_eq!(running.broker.readiness().notes, Vec::<String>::new());
    let channel = fixture.channel().await;
    let (durable, namespace) = (QueueDeclareOptions::durable(), &fixture.namespace);
    // The broker accepts a second declaration only if it is equal.
    for lane in ["high", "normal", "bulk"] {
        let arguments = job_queue_arguments(namespace);
        channel
            .queue_declare(fixture.queue(lane).as_str().into(), durable, arguments)
            .await
            .unwrap();
    }
    let dead = table(&[
        ("x-queue-type", text_value("quorum")),
        ("x-delivery-limit", AMQPValue::LongInt(1_000_000)),
    ]);
    channel
        .queue_declare(fixture.queue("dead").as_str().into(), durable, dead)
        .await
        .unwrap();
    let durable_exchange = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let alternate = table(&[("alternate-exchange", text_value(&format!("{namespace}.unrouted")))]);
    for (name, kind, arguments) in [
        ("jobs", lapin::ExchangeKind::Direct, alternate),
        ("events", lapin::ExchangeKind::Topic, FieldTable::default()),
    ] {
        let name = format!("{namespace}.{name}");
        channel
            .exchange_declare(name.as_str().into(), kind, durable_exchange, arguments)
            .await
            .unwrap();
    }
    let other = table(&[("x-queue-type", text_value("quorum"))]);
    let refused = channel
        .queue_declare(fixture.queue("high").as_str().into(), durable, other)
        .await
        .unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::ProtocolError(_)), "{refused}");
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_queue_that_exists_with_other_arguments_is_used_and_the_argument_named() {
    let fixture = Fixture::new().await;
    let channel = fixture.channel().await;
    let other = table(&[("x-queue-type", text_value("quorum"))]);
    let name = fixture.queue("high");
    channel
        .queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), other)
        .await
        .unwrap();
    let mut running = fixture.start(fixture.options()).await;
    let notes = running.broker.readiness().notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains(&name) && notes[0].contains("argument x-"),
        "{notes:?}"
    );
    running.job(Lane::High, "works").await;
    let delivery = next(&mut running.deliveries.take(Lane::High)).await;
    assert_eq!(text(&delivery), "works");
    delivery.settle(im_dispatcher::broker::Disposition::Ack);
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn lane_name_and_queue_name_both_lead_to_the_lanes_queue_also_of_an_app() {
    let fixture = Fixture::new().await;
    let mut options = fixture.options();
    options.app_queues = vec![(Lane::Bulk, AppName::parse("shop").unwrap())];
    let mut running = fixture.start(options).await;
    let exchange = format!("{}.jobs", fixture.namespace);
    let mut bulk = running.deliveries.take(Lane::Bulk);
    let publisher = running.broker.publisher();
    for (exchange, key, queue) in [
        (exchange.as_str(), "bulk".to_owned(), "bulk"),
        (exchange.as_str(), fixture.queue("bulk"), "bulk"),
        ("", fixture.queue("bulk"), "bulk"),
        (exchange.as_str(), "bulk.shop".to_owned(), "bulk.shop"),
        (exchange.as_str(), fixture.queue("bulk.shop"), "bulk.shop"),
    ] {
        publisher.publish(publication(exchange, &key, "job")).await.unwrap();
        let delivery = next(&mut bulk).await;
        assert_eq!(&*delivery.queue, fixture.queue(queue), "{exchange} {key}");
        assert_eq!(delivery.lane, Lane::Bulk);
        delivery.settle(im_dispatcher::broker::Disposition::Ack);
    }
    let depths = running.broker.queue_depths().await.unwrap();
    let names: Vec<_> = depths.iter().map(|depth| depth.queue.as_str()).collect();
    assert_eq!(
        names,
        ["high", "normal", "bulk", "bulk.shop", "dead"].map(|name| fixture.queue(name))
    );
    assert!(
        depths
            .iter()
            .all(|depth| depth.consumers == u32::from(depth.lane.is_some())),
        "{depths:?}"
    );
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_mistyped_lane_lands_in_the_dead_queue_and_says_so() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options()).await;
    let exchange = format!("{}.jobs", fixture.namespace);
    running
        .broker
        .publisher()
        .publish(publication(&exchange, "hihg", r#"{"id":"j"}"#))
        .await
        .unwrap();
    let letters = running.broker.dead_letters().peek(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].code.as_str(), letters[0].job_id.as_deref()),
        ("unrouted", Some("j"))
    );
    assert!(letters[0].sentence.contains("hihg"));
    running.broker.close().await;
    fixture.remove().await;
}
