//! Cut, frozen, deleted: consuming and publishing go on, and an old delivery's ack does nothing.

use std::time::Duration;

use im_dispatcher::{
    broker::{Broker, BrokerOptions, Confirmed, Disposition},
    domain::Lane,
};
use lapin::options::QueueDeleteOptions;
use secrecy::ExposeSecret;
use tokio::io::AsyncReadExt;

use crate::fixture::{Fixture, SOON, next, publication, text, until};

#[tokio::test]
async fn after_a_cut_the_delivery_comes_again_and_the_old_ones_ack_does_nothing() {
    let fixture = Fixture::new().await;
    let (relay, options) = fixture.through_relay().await;
    let mut running = fixture.start(options).await;
    let (stats, mut high) = (running.broker.stats(), running.deliveries.take(Lane::High));
    running.job(Lane::High, "job").await;
    let old = next(&mut high).await;
    assert!(!old.redelivered && old.is_current());
    relay.cut();
    let new = next(&mut high).await;
    assert!(new.redelivered && new.is_current());
    assert!(!old.is_current());
    old.settle(Disposition::Ack);
    assert_eq!(stats.stale_acks.get(), 1);
    running.broker.wait_until_ready(SOON).await.unwrap();
    // The new one is still open: it goes back, and is there a third time.
    new.settle(Disposition::Requeue);
    let third = next(&mut high).await;
    assert_eq!(text(&third), "job");
    third.settle(Disposition::Ack);
    running.job(Lane::High, "after").await;
    next(&mut high).await.settle(Disposition::Ack);
    running.broker.close().await;
    assert!(stats.reconnects.get() >= 2, "both connections were cut");
    assert_eq!(stats.acked.get(), 2);
    fixture.until_waiting(&fixture.queue("high"), 0).await;
    fixture.remove().await;
}

#[tokio::test]
async fn cut_again_and_again_under_load_nothing_is_lost_and_nothing_stays_unacknowledged() {
    let fixture = Fixture::new().await;
    let (relay, options) = fixture.through_relay().await;
    let mut running = fixture.start(options).await;
    let mut bulk = running.deliveries.take(Lane::Bulk);
    let publisher = running.broker.publisher();
    let producer = {
        let queue = fixture.queue("bulk");
        tokio::spawn(async move {
            for i in 0..400 {
                // Whatever the answer leaves open is published again: at least once.
                while publisher.publish(publication("", &queue, &i.to_string())).await != Ok(Confirmed::Routed) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        })
    };
    let mut seen = std::collections::BTreeSet::new();
    let mut cuts = 0;
    while seen.len() < 400 {
        let delivery = next(&mut bulk).await;
        seen.insert(text(&delivery));
        delivery.settle(Disposition::Ack);
        // The last cut is followed by the publishes of a fifth: by then the broker has missed the old connection.
        if cuts < 4 && seen.len() / 80 > cuts {
            cuts += 1;
            relay.cut();
        }
    }
    producer.await.unwrap();
    // Late repeats of what was acknowledged on a channel that went: what goes back keeps its place in the queue, so
    // they come before this.
    running.job(Lane::Bulk, "the last").await;
    loop {
        let delivery = next(&mut bulk).await;
        let text = text(&delivery);
        delivery.settle(Disposition::Ack);
        if text == "the last" {
            break;
        }
        assert!(seen.contains(&text));
    }
    running.broker.close().await;
    fixture.until_waiting(&fixture.queue("bulk"), 0).await;
    fixture.remove().await;
}

/// lapin never answers an ack whose frame was queued just as its connection went; such an ack once kept the consuming
/// side from coming back. The acks go on while the connection is cut, so that some cut falls between the two.
#[tokio::test]
async fn an_ack_that_is_never_answered_does_not_keep_the_consumers_from_coming_back() {
    const CUTS: usize = 60;
    let fixture = Fixture::new().await;
    let (relay, mut options) = fixture.through_relay().await;
    options.max_backoff = Duration::from_millis(20);
    let mut running = fixture.start(options).await;
    let mut bulk = running.deliveries.take(Lane::Bulk);
    running.jobs(Lane::Bulk, 100 * CUTS).await;
    for cut in 0..CUTS {
        let mut left = 10 + cut % 7;
        while left > 0 {
            let delivery = next(&mut bulk).await;
            // What waited in the stream when its channel went is not for this round.
            left -= usize::from(delivery.is_current());
            delivery.settle(Disposition::Ack);
        }
        relay.cut();
    }
    next(&mut bulk).await;
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_consumed_again() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    let (stats, mut high) = (running.broker.stats(), running.deliveries.take(Lane::High));
    let channel = fixture.channel().await;
    channel
        .queue_delete(fixture.queue("high").as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    until("the consumer's end is noticed", || stats.consumer_restarts.get() > 0).await;
    running.broker.wait_until_ready(SOON).await.unwrap();
    running.job(Lane::High, "after").await;
    let delivery = next(&mut high).await;
    assert_eq!(text(&delivery), "after");
    delivery.settle(Disposition::Ack);
    assert_eq!(stats.reconnects.get(), 0, "the connection was not to blame");
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_connection_that_looks_alive_and_moves_nothing_is_given_up() {
    let fixture = Fixture::new().await;
    let (relay, mut options) = fixture.through_relay().await;
    options.probe_interval = Duration::from_millis(100);
    options.stall_timeout = Duration::from_millis(700);
    options.attempt_timeout = Duration::from_secs(2);
    let mut running = fixture.start(options).await;
    let (stats, mut high) = (running.broker.stats(), running.deliveries.take(Lane::High));
    relay.freeze(true);
    until("both connections are given up", || stats.watchdog_resets.get() >= 2).await;
    assert!(!running.broker.readiness().ready);
    relay.freeze(false);
    running.broker.wait_until_ready(SOON).await.unwrap();
    running.job(Lane::High, "after").await;
    next(&mut high).await.settle(Disposition::Ack);
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_broker_that_is_away_at_the_start_is_tried_until_it_is_there() {
    let fixture = Fixture::new().await;
    let (relay, options) = fixture.through_relay().await;
    relay.refuse(true);
    let (broker, mut deliveries) = Broker::start(options).unwrap();
    until("a reason", || {
        broker
            .readiness()
            .reasons
            .iter()
            .any(|reason| reason.contains("connect to"))
    })
    .await;
    relay.refuse(false);
    broker.wait_until_ready(SOON).await.unwrap();
    broker
        .publisher()
        .job(Lane::High, None, "id", "x".into(), &[])
        .await
        .unwrap();
    next(&mut deliveries.take(Lane::High)).await.settle(Disposition::Ack);
    broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn of_several_urls_the_next_is_taken_wherever_one_is_out_of_reach() {
    let fixture = Fixture::new().await;
    let (first, at_first) = fixture.through_relay().await;
    let (second, at_second) = fixture.through_relay().await;
    let urls = format!("{},{}", at_first.url.expose_secret(), at_second.url.expose_secret());
    first.refuse(true);
    let mut running = fixture.start(fixture.options_at(&urls)).await;
    let mut high = running.deliveries.take(Lane::High);
    running.job(Lane::High, "one").await;
    next(&mut high).await.settle(Disposition::Ack);
    // The other way round: what ran at the second goes on at the first.
    first.refuse(false);
    second.refuse(true);
    second.cut();
    until("both connections are missed", || {
        running.broker.stats().reconnects.get() >= 2 && running.broker.readiness().ready
    })
    .await;
    running.job(Lane::High, "two").await;
    // The ack of the first may have been cut off.
    while text(&next(&mut high).await) != "two" {}
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn urls_of_different_users_or_virtual_hosts_are_refused() {
    for urls in [
        "amqp://a:p@h1/%2f,amqp://b:p@h2/%2f",
        "amqp://a:p@h1/%2f,amqp://a:p@h2/other",
    ] {
        let refused = Broker::start(BrokerOptions::new(urls.to_owned().into(), "nobody"));
        let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("the same user and virtual host"), "{error}");
    }
}

/// lapin's I/O thread would wait for the handshake for ever, and each attempt leave one behind.
#[tokio::test]
async fn an_attempt_that_gets_no_answer_ends_with_its_socket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
    let mut options = BrokerOptions::new(url.into(), "nobody").publishing_only();
    options.attempt_timeout = Duration::from_millis(200);
    options.max_backoff = Duration::from_millis(50);
    let (broker, _deliveries) = Broker::start(options).unwrap();
    for _ in 0..4 {
        let (mut socket, _) = tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let mut handshake = Vec::new();
        let ended = tokio::time::timeout(SOON, socket.read_to_end(&mut handshake)).await;
        ended.expect("the socket stays open").ok();
        assert!(handshake.starts_with(b"AMQP"));
    }
    broker.close().await;
}

#[tokio::test]
async fn closing_while_the_broker_is_away_ends_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
    let (broker, _deliveries) = Broker::start(BrokerOptions::new(url.into(), "nobody")).unwrap();
    let (_socket, _) = listener.accept().await.unwrap();
    // Far below the deadline of an attempt, which is 10 s.
    tokio::time::timeout(Duration::from_secs(5), broker.close())
        .await
        .expect("close waits for an attempt");
}
