//! Three workers under load, each replaced in turn: nothing lost, nothing doubled, and no pause worth the name.

use im_dispatcher::domain::Command;
use serde_json::json;

use super::{LONG, counts, delivered_once, group_settled, send};
use crate::support::{Worker, World, eventually};

/// Replaces each of three workers once while `jobs` jobs wait at 50 calls a second; the longest gap between two arrivals
/// at the service, in milliseconds.
async fn rolled(jobs: usize) -> u64 {
    let mut world = World::new().await;
    world.set("IM_RATE_LIMIT", "50");
    let mut workers = vec![
        Worker::start(&world).await,
        Worker::start(&world).await,
        Worker::start(&world).await,
    ];
    for n in 0..jobs {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        world.broker.publish(["high", "normal", "bulk"][n % 3], &job).await;
    }
    eventually(LONG, "it is under way", || async {
        (world.simulator.delivered_total() > 20).then_some(())
    })
    .await;
    for _ in 0..workers.len() {
        assert!(workers.remove(0).stop().await.success());
        workers.push(Worker::start(&world).await);
    }
    let status = group_settled(&world, "load", jobs as u64).await;
    assert_eq!(status["recipients"], counts(jobs as u64, &[("sent", jobs as u64)]));
    assert_eq!(delivered_once(&world), jobs as u64);
    assert!(world.broker.drain_dead().await.is_empty());
    // Nothing was in doubt: an orderly end brings each call to its outcome.
    assert!(world.simulator.arrivals(Command::GetRoamMsg).is_empty());
    let arrivals = world.simulator.arrivals(Command::SendMsg);
    let gaps = arrivals.windows(2).map(|pair| (pair[1].at - pair[0].at) / 1_000);
    gaps.max().unwrap()
}

#[tokio::test]
async fn a_rolling_restart_of_three_workers_under_load_loses_and_doubles_nothing() {
    let gap = rolled(400).await;
    eprintln!("the longest gap between two arrivals: {gap} ms");
}

/// On a quiet machine:
/// `cargo test --release --all-features --test it -- --ignored --nocapture in_a_rolling_restart`
#[tokio::test]
#[ignore = "measures time, so it needs a quiet machine"]
async fn in_a_rolling_restart_no_gap_is_longer_than_a_second_while_jobs_wait() {
    let gap = rolled(1_500).await;
    eprintln!("the longest gap between two arrivals: {gap} ms");
    assert!(gap <= 1_000, "{gap} ms");
}
