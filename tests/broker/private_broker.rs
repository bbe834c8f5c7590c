//! The heavier tests, with a RabbitMQ that is killed, and one whose memory alarm is set. Skipped where RabbitMQ isn't
//! installed on the machine itself.

use std::time::Duration;

use im_dispatcher::{
    broker::{Confirmed, Disposition, PublishError},
    domain::Lane,
};

use crate::{
    fixture::{Fixture, SOON, next, on_a_thread, publication, text, until},
    private_broker_process::PrivateBroker,
};

async fn private() -> Option<PrivateBroker> {
    tokio::task::spawn_blocking(PrivateBroker::start).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_killed_and_restarted_keeps_what_it_confirmed_and_all_goes_on() {
    let Some(private) = private().await else { return };
    let fixture = Fixture::at(private.url()).await;
    let mut running = fixture.start(fixture.options()).await;
    let (stats, mut high) = (running.broker.stats(), running.deliveries.take(Lane::High));
    running.jobs(Lane::Bulk, 100).await;
    running.job(Lane::High, "held").await;
    let held = next(&mut high).await;
    // RabbitMQ 3.10 writes a new quorum queue's name to disk seconds later; killed before that, it brings the queue back
    // empty and without a leader. Nothing of that is ours to mend.
    private.ctl(&["eval", "dets:sync(ra_directory_reverse)."]);
    let private = on_a_thread(private, PrivateBroker::kill).await;
    // By name: two of the reasons may be queues that aren't consumed any more, while the connection for publishing is still
    // thought to be there.
    until("both connections are missed", || {
        let reasons = running.broker.readiness().reasons;
        ["connection to consume", "connection to publish"]
            .iter()
            .all(|side| reasons.iter().any(|reason| reason.contains(side)))
    })
    .await;
    let error = running
        .broker
        .publisher()
        .publish(publication("", "q", "x"))
        .await
        .unwrap_err();
    assert!(matches!(error, PublishError::Away(_)), "{error}");
    let private = on_a_thread(private, PrivateBroker::restart).await;
    running.broker.wait_until_ready(Duration::from_mins(1)).await.unwrap();
    held.settle(Disposition::Ack);
    assert_eq!(stats.stale_acks.get(), 1);
    let again = next(&mut high).await;
    assert_eq!((text(&again).as_str(), again.redelivered), ("held", true));
    again.settle(Disposition::Ack);
    let mut bulk = running.deliveries.take(Lane::Bulk);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 100 {
        let delivery = next(&mut bulk).await;
        seen.insert(text(&delivery));
        delivery.settle(Disposition::Ack);
    }
    running.broker.close().await;
    drop(private);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_memory_alarm_publishes_fail_soon_while_deliveries_and_acks_go_on() {
    let Some(private) = private().await else { return };
    let fixture = Fixture::at(private.url()).await;
    let mut running = fixture.start(fixture.options()).await;
    let (stats, publisher) = (running.broker.stats(), running.broker.publisher());
    running.jobs(Lane::High, 60).await;
    private.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    // The broker says `blocked` at the first publish under the alarm.
    let queue = fixture.queue("normal");
    let mut blocked = None;
    for _ in 0..20 {
        match publisher.publish(publication("", &queue, "x")).await {
            Err(error) => {
                blocked = Some(error);
                if running
                    .broker
                    .readiness()
                    .notes
                    .iter()
                    .any(|note| note.contains("takes no publishes"))
                {
                    break;
                }
            }
            Ok(confirmed) => assert_eq!(confirmed, Confirmed::Routed),
        }
    }
    assert!(blocked.is_some(), "no publish failed");
    let start = tokio::time::Instant::now();
    let error = publisher.event("send.sent", "e", "{}".into(), None).await.unwrap_err();
    assert!(matches!(error, PublishError::Blocked(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "the outbox waits for this");
    let mut high = running.deliveries.take(Lane::High);
    for _ in 0..60 {
        next(&mut high).await.settle(Disposition::Ack);
    }
    until("acks go on", || stats.acked.get() == 60).await;
    private.ctl(&["set_vm_memory_high_watermark", "0.8"]);
    let deadline = tokio::time::Instant::now() + SOON;
    while publisher.event("send.sent", "e", "{}".into(), None).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "publishing doesn't go on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stats.reconnects.get(), 0, "an alarm is no reason to reconnect");
    running.broker.close().await;
}
