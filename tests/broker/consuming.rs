//! What is delivered, what is acknowledged, and what is not.

use im_dispatcher::{broker::Disposition, domain::Lane};
use rand::seq::SliceRandom;

use crate::fixture::{Fixture, next, silence, text, until};

#[tokio::test]
async fn settled_in_any_order_everything_is_acknowledged_with_fewer_acks_than_messages() {
    let fixture = Fixture::new().await;
    let mut options = fixture.options();
    options.prefetch[Lane::Bulk.index()] = 1000;
    let mut running = fixture.start(options).await;
    running.jobs(Lane::Bulk, 600).await;
    let mut bulk = running.deliveries.take(Lane::Bulk);
    let mut held = Vec::new();
    while held.len() < 600 {
        held.push(next(&mut bulk).await);
    }
    held.shuffle(&mut rand::rng());
    let stats = running.broker.stats();
    for delivery in held {
        delivery.settle(Disposition::Ack);
    }
    until("all acknowledged", || stats.acked.get() == 600).await;
    assert!(stats.ack_frames.get() < 600, "{} acks", stats.ack_frames.get());
    running.broker.close().await;
    fixture.until_waiting(&fixture.queue("bulk"), 0).await;
    fixture.remove().await;
}

#[tokio::test]
async fn behind_a_slow_job_the_others_are_acknowledged_all_the_same() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    running.jobs(Lane::Normal, 20).await;
    let mut normal = running.deliveries.take(Lane::Normal);
    let slow = next(&mut normal).await;
    for _ in 1..20 {
        next(&mut normal).await.settle(Disposition::Ack);
    }
    let stats = running.broker.stats();
    until("19 acknowledged", || stats.acked.get() == 19).await;
    slow.settle(Disposition::Ack);
    running.broker.close().await;
    assert_eq!(stats.acked.get(), 20, "close sends the acks that wait");
    fixture.until_waiting(&fixture.queue("normal"), 0).await;
    fixture.remove().await;
}

#[tokio::test]
async fn what_is_left_or_forgotten_goes_back_when_the_channel_closes_and_nothing_else() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    for body in ["left", "forgotten", "done"] {
        running.job(Lane::High, body).await;
    }
    let mut high = running.deliveries.take(Lane::High);
    let stats = running.broker.stats();
    next(&mut high).await.settle(Disposition::Leave);
    drop(next(&mut high).await);
    next(&mut high).await.settle(Disposition::Ack);
    until("the third is acknowledged", || stats.acked.get() == 1).await;
    assert_eq!(stats.dropped_undecided.get(), 1);
    running.broker.close().await;
    fixture.until_waiting(&fixture.queue("high"), 2).await;
    let mut again = fixture.start(fixture.options()).await;
    let mut high = again.deliveries.take(Lane::High);
    for _ in 0..2 {
        let delivery = next(&mut high).await;
        assert!(delivery.redelivered);
        assert!(["left", "forgotten"].contains(&text(&delivery).as_str()));
        assert_eq!(
            delivery.properties.header("x-delivery-count"),
            None,
            "not the producer's"
        );
        assert!(delivery.delivery_count.is_some());
        delivery.settle(Disposition::Ack);
    }
    again.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_requeued_delivery_comes_again() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    running.job(Lane::High, "job").await;
    let mut high = running.deliveries.take(Lane::High);
    next(&mut high).await.settle(Disposition::Requeue);
    let delivery = next(&mut high).await;
    assert!(delivery.redelivered);
    assert_eq!(delivery.delivery_count, Some(1));
    delivery.settle(Disposition::Ack);
    running.broker.close().await;
    fixture.until_waiting(&fixture.queue("high"), 0).await;
    fixture.remove().await;
}

#[tokio::test]
async fn no_more_than_the_prefetch_is_held_and_each_lane_has_its_own() {
    let fixture = Fixture::new().await;
    let mut options = fixture.options();
    options.prefetch = [2, 5, 50];
    let mut running = fixture.start(options).await;
    running.jobs(Lane::Normal, 20).await;
    let mut normal = running.deliveries.take(Lane::Normal);
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut normal).await);
    }
    silence(&mut normal).await;
    // A full lane is no obstacle for another.
    running.job(Lane::High, "urgent").await;
    next(&mut running.deliveries.take(Lane::High))
        .await
        .settle(Disposition::Ack);
    for delivery in held.drain(..2) {
        delivery.settle(Disposition::Ack);
    }
    for _ in 0..2 {
        held.push(next(&mut normal).await);
    }
    silence(&mut normal).await;
    for delivery in held {
        delivery.settle(Disposition::Leave);
    }
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn after_an_unclean_exit_a_lane_starts_with_one_and_doubles() {
    let fixture = Fixture::new().await;
    let mut options = fixture.options();
    options.slow_start = true;
    options.prefetch = [8, 8, 8];
    let mut running = fixture.start(options).await;
    running.jobs(Lane::High, 40).await;
    let mut high = running.deliveries.take(Lane::High);
    for window in [1, 2, 4, 8] {
        let mut held = Vec::new();
        for _ in 0..window {
            held.push(next(&mut high).await);
        }
        // Later windows may overlap for a moment: the consumer is exchanged while the last acks of the smaller one are
        // on their way.
        if window == 1 {
            silence(&mut high).await;
        }
        for delivery in held {
            delivery.settle(Disposition::Ack);
        }
    }
    running.broker.close().await;
    let stats = running.broker.stats();
    assert_eq!(stats.consumer_restarts.get(), 0);
    // 15 were settled; the next eight lay ready at the end and went back.
    fixture.until_waiting(&fixture.queue("high"), 25).await;
    fixture.remove().await;
}

#[tokio::test]
async fn paused_nothing_new_comes_and_what_is_held_can_be_settled() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    let (stats, mut high) = (running.broker.stats(), running.deliveries.take(Lane::High));
    running.job(Lane::High, "before").await;
    let held = next(&mut high).await;
    running.broker.pause_consuming(true);
    let paused = "RabbitMQ: consuming is paused".to_owned();
    until("every consumer is cancelled", || {
        running.broker.readiness().notes.contains(&paused)
    })
    .await;
    running.job(Lane::High, "during").await;
    silence(&mut high).await;
    assert!(running.broker.readiness().ready, "{:?}", running.broker.readiness());
    assert!(held.is_current());
    held.settle(Disposition::Ack);
    until("the held one is acknowledged", || stats.acked.get() == 1).await;
    running.broker.pause_consuming(false);
    let delivery = next(&mut high).await;
    assert_eq!((text(&delivery).as_str(), delivery.redelivered), ("during", false));
    delivery.settle(Disposition::Ack);
    running.broker.close().await;
    fixture.until_waiting(&fixture.queue("high"), 0).await;
    fixture.remove().await;
}

#[tokio::test]
async fn after_consuming_has_stopped_what_was_received_is_still_acknowledged() {
    let fixture = Fixture::new().await;
    let mut options = fixture.options();
    options.prefetch = [4, 4, 4];
    let mut running = fixture.start(options).await;
    running.jobs(Lane::High, 10).await;
    let mut high = running.deliveries.take(Lane::High);
    let held = next(&mut high).await;
    running.broker.stop_consuming().await;
    running.job(Lane::Normal, "late").await;
    silence(&mut running.deliveries.take(Lane::Normal)).await;
    assert!(!running.broker.readiness().ready);
    held.settle(Disposition::Ack);
    running.broker.close().await;
    assert_eq!(running.broker.stats().acked.get(), 1);
    assert_eq!(running.broker.stats().dropped_undecided.get(), 0);
    fixture.until_waiting(&fixture.queue("high"), 9).await;
    fixture.remove().await;
}
