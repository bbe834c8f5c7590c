//! The IM API away or ill, under load: calls stop after a few failures, jobs wait in the table, and go on by themselves.

use std::time::{Duration, Instant};

use im_dispatcher::{
    domain::Command,
    simulator::{FaultRule, SimulatorOptions},
};
use serde_json::json;

use super::{LONG, counts, delivered_once, group_settled, send};
use crate::support::{Relay, Worker, World, eventually};

/// Failures in a row that close a gate.
const TRIP: u64 = 10;
/// Calls that may be under way when it closes: `max_in_flight` below, and those of `high`.
const UNDER_WAY: u64 = 8 + 16;
const OPEN: &str = "im_dispatcher_circuit_open{app=\"default\"}";

async fn publish(world: &World, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        world.broker.publish(["high", "normal", "bulk"][n % 3], &job).await;
    }
}

/// A load during which the service goes away in some way, and comes back. Returns the world, and the probes that there
/// can have been at most: each comes a second or more after the one before.
async fn outage(
    service: SimulatorOptions,
    begin: impl FnOnce(&World, &Relay),
    end: impl FnOnce(&World, &Relay),
) -> (World, u64) {
    let mut world = World::with(service).await;
    let base_url = world.simulator.base_url();
    let relay = Relay::in_front_of(&base_url).await;
    world
        .set("IM_BASE_URL", relay.route(&base_url))
        .set("IM_DISPATCHER_MAX_IN_FLIGHT", "8")
        .set("IM_DISPATCHER__IM__TOTAL_TIMEOUT", "1s")
        .set("IM_DISPATCHER__RECONCILE__SETTLE", "500ms")
        // It lists at once: what a busy machine comes too late to repeat needn't wait for three minutes.
        .set("IM_DISPATCHER__RECONCILE__LISTED_AFTER", "20s");
    let mut worker = Worker::start(&world).await;
    assert_ne!(worker.metric(OPEN).await, Some(1.0));
    publish(&world, 0..60).await;
    eventually(LONG, "it is under way", || async {
        (world.simulator.delivered_total() > 10).then_some(())
    })
    .await;
    let since = Instant::now();
    begin(&world, &relay);
    publish(&world, 60..200).await;
    let body = worker.until_unready("doesn't answer", LONG).await;
    assert!(body["reasons"].to_string().contains("app default is paused"), "{body}");
    eventually(LONG, "the metric says so", || async {
        (worker.metric(OPEN).await == Some(1.0)).then_some(())
    })
    .await;
    eventually(LONG, "every job is parked in the table", || async {
        let waiting = ["high", "normal", "bulk"].map(|lane| format!("jobs.{lane}"));
        for queue in &waiting {
            if world.broker.depth(queue).await != Some(0) {
                return None;
            }
        }
        Some(())
    })
    .await;
    // A probe or two.
    tokio::time::sleep(Duration::from_secs(3)).await;
    end(&world, &relay);
    let probes = since.elapsed().as_secs() + 2;
    worker.until_ready().await;
    let status = group_settled(&world, "load", 200).await;
    assert_eq!(status["recipients"], counts(200, &[("sent", 200)]));
    assert_eq!(delivered_once(&world), 200);
    assert!(world.broker.drain_dead().await.is_empty());
    eventually(LONG, "the metric says that it is over", || async {
        (worker.metric(OPEN).await == Some(0.0)).then_some(())
    })
    .await;
    assert!(worker.stop().await.success());
    (world, probes)
}

/// Attempts beyond the one that each message needed.
async fn attempts_beyond(world: &World) -> u64 {
    let pool = world.database.pool().await;
    let beyond: i64 = sqlx::query_scalar("SELECT sum(attempts - 1)::int8 FROM messages")
        .fetch_one(&pool)
        .await
        .unwrap();
    u64::try_from(beyond).unwrap()
}

#[tokio::test]
async fn a_service_that_refuses_connections_costs_a_few_attempts_and_no_job() {
    let service = SimulatorOptions {
        dedup: Duration::ZERO,
        ..SimulatorOptions::default()
    };
    let (world, _) = outage(service, |_, relay| relay.refuse(), |_, relay| relay.restore()).await;
    let beyond = attempts_beyond(&world).await;
    assert!(beyond <= TRIP + UNDER_WAY, "{beyond} attempts were burnt");
}

#[tokio::test]
async fn a_service_whose_sends_fail_while_its_history_answers_costs_a_few_attempts_and_no_job() {
    let service = SimulatorOptions {
        dedup: Duration::ZERO,
        ..SimulatorOptions::default()
    };
    let ill: FaultRule = "sendmsg:http:503=1".parse().unwrap();
    let (world, probes) = outage(
        service,
        |world, _| world.simulator.add_fault(ill),
        |world, _| world.simulator.clear_faults(),
    )
    .await;
    let sends = world.simulator.arrivals(Command::SendMsg);
    let failed = sends.iter().filter(|call| call.fault.is_some()).count() as u64;
    assert!(failed >= TRIP, "the gate was closed by {failed} failures");
    assert!(
        failed <= TRIP + UNDER_WAY + probes,
        "{failed} calls failed, of them at most {probes} probes"
    );
    let beyond = attempts_beyond(&world).await;
    assert!(beyond <= failed, "{beyond} attempts were burnt by {failed} failures");
}

#[tokio::test]
async fn a_service_that_does_not_answer_costs_a_few_attempts_and_no_job() {
    // It drops repeats as the real one does: what the network held back arrives when it carries again.
    let service = SimulatorOptions::default();
    let (world, probes) = outage(service, |_, relay| relay.stall(), |_, relay| relay.restore()).await;
    let beyond = attempts_beyond(&world).await;
    assert!(beyond <= TRIP + UNDER_WAY + probes, "{beyond} attempts were burnt");
}
