//! A worker that stops for minutes right in its write, behind its last check, and comes back: one message, its key on
//! record. What protects then is the service, by what we give it: a signature that has expired, or a repeat that it drops.

use std::time::{Duration, Instant};

use im_dispatcher::{domain::Command, simulator::SimulatorOptions};

use super::{LONG, counts, delivered_once, send, settled};
use crate::support::{Worker, World, eventually};

/// The service refuses an expired UserSig with this code.
const EXPIRED: i32 = 70_001;

/// Freezes a worker in its write for at least `pause`, and until another has carried the job out. `wait` is a bound for
/// the latter. Returns how often the late write was refused, and how often dropped as a repeat.
async fn frozen_in_its_write(world: &World, pause: Duration, wait: Duration) -> (u64, u64) {
    let mut first = Worker::spawn(world, &[("IM_DISPATCHER_FAULT", "im.write=freeze")]);
    first.until_ready().await;
    let job = send("job", "alice");
    world.broker.publish("normal", &job).await;
    eventually(LONG, "it is frozen in its write", || async {
        first.process.is_stopped().then_some(())
    })
    .await;
    let since = Instant::now();
    assert_eq!(world.simulator.delivered_total(), 0);
    let _second = Worker::start(world).await;
    // The broker misses the frozen worker's heartbeats some time and delivers to the second; a repeat of the producer's
    // is sooner.
    world.broker.publish("normal", &job).await;
    let status = eventually(wait, "the second has sent it", || async {
        let status = world.status_json("job").await?;
        (status["state"] == "sent").then_some(status)
    })
    .await;
    assert_eq!(status["recipients"], counts(1, &[("sent", 1)]));
    tokio::time::sleep(pause.saturating_sub(since.elapsed())).await;
    first.process.thaw();
    let late = eventually(LONG, "the late write is at the service", || async {
        let report = world.simulator.report();
        let refused = report.refused.get(&EXPIRED).copied().unwrap_or(0);
        (refused + report.deduplicated > 0).then_some((refused, report.deduplicated))
    })
    .await;
    first.until_ready().await;
    world.broker.publish("normal", &send("after", "bob")).await;
    settled(world, "after").await;
    assert!(first.stop().await.success());
    assert_eq!(delivered_once(world), 2);
    let status = world.status_json("job").await.unwrap();
    let message = &world.simulator.messages_to("alice")[0];
    assert_eq!(status["messages"][0]["msg_key"], message.key.as_str());
    let sends = world.simulator.arrivals(Command::SendMsg);
    assert!(sends.iter().all(|call| call.first_recipient.is_some()));
    late
}

/// A world whose times are a thirtieth: a UserSig of 4 s stands for one of 2 minutes, so that a second there is half a
/// minute here. The claim's window of 3 s stays.
async fn thirtieth(dedup: Duration, usersig: &str) -> World {
    let mut world = World::with(SimulatorOptions {
        dedup,
        ..SimulatorOptions::default()
    })
    .await;
    world
        .set("IM_DISPATCHER__IM__TOTAL_TIMEOUT", "1s")
        .set("IM_DISPATCHER__RECONCILE__SETTLE", "500ms")
        .set("IM_DISPATCHER__IM__USERSIG_LIFETIME", usersig);
    world
}

#[tokio::test]
async fn a_write_that_is_a_minute_late_is_dropped_as_a_repeat_or_refused() {
    // The signature outlives the freeze here, as it does a minute: that the service knows the repeat is what counts.
    let world = thirtieth(Duration::from_secs(30), "30s").await;
    frozen_in_its_write(&world, Duration::ZERO, LONG).await;
}

#[tokio::test]
async fn a_write_that_is_three_minutes_late_is_refused_although_the_service_has_forgotten_its_repeat() {
    let world = thirtieth(Duration::ZERO, "4s").await;
    let (refused, dropped) = frozen_in_its_write(&world, Duration::from_secs(6), LONG).await;
    assert_eq!((refused, dropped), (1, 0));
}

#[tokio::test]
async fn a_write_that_is_ten_minutes_late_is_refused_although_the_service_has_forgotten_its_repeat() {
    let world = thirtieth(Duration::ZERO, "4s").await;
    let (refused, dropped) = frozen_in_its_write(&world, Duration::from_secs(20), LONG).await;
    assert_eq!((refused, dropped), (1, 0));
}

/// With the real times, and a service that behaves as documented:
/// `cargo test --all-features --test it -- --ignored --nocapture minutes_in_real_time`
#[tokio::test]
#[ignore = "takes eleven minutes"]
async fn one_three_and_ten_minutes_in_real_time_make_one_message_each() {
    let frozen = async |minutes: u64| {
        let world = World::new().await;
        let late = frozen_in_its_write(&world, Duration::from_mins(minutes), 5 * LONG).await;
        (minutes, late)
    };
    for (minutes, (refused, dropped)) in futures::future::join_all([1, 3, 10].map(frozen)).await {
        eprintln!(
            "frozen for {minutes} min: one message; the late write was refused {refused}, dropped {dropped} times"
        );
        assert_eq!((refused, dropped), (1, 0), "a signature lives for half a minute");
    }
}
