//! Several workers with one budget, as the service counts.

use im_dispatcher::{
    domain::Command,
    simulator::{Limits, SAMPLE_SDK_APP_ID, SimulatorOptions},
};
use serde_json::json;

use super::{LONG, counts, delivered_once, group_settled, send};
use crate::support::{Worker, World, eventually};

/// Publishes so many jobs before anyone consumes: there is a backlog from the first moment.
async fn backlog(world: &World, jobs: usize) {
    for lane in 0..3 {
        let numbers = (0..jobs).filter(|n| n % 3 == lane);
        let lines = numbers.map(|n| {
            let mut job = send(&format!("job-{n}"), &format!("user{n}"));
            job["group"] = json!("load");
            format!("{job}\n")
        });
        let lines: String = lines.collect();
        let arguments = ["submit", "--lane", ["high", "normal", "bulk"][lane], "-"];
        let output = world.cli_with_input(&arguments, lines.as_bytes()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn three_workers_share_one_limit() {
    let mut world = World::with(SimulatorOptions {
        limits: Limits::none(),
        ..SimulatorOptions::default()
    })
    .await;
    world.set("IM_RATE_LIMIT", "50");
    backlog(&world, 400).await;
    let workers = futures::future::join_all((0..3).map(|_| Worker::start(&world))).await;
    let status = group_settled(&world, "load", 400).await;
    assert_eq!(status["recipients"], counts(400, &[("sent", 400)]));
    assert_eq!(delivered_once(&world), 400);
    let report = world.simulator.report();
    let calls = &report.apps[&SAMPLE_SDK_APP_ID.0]["sendmsg"];
    println!("{:?}", calls.busiest);
    // Three budgets would make 150. That one is exact is held in virtual time and by the row's own tests; here calls
    // drift on their way as the machine's load will have it.
    assert!(calls.busiest.calls_second <= 75, "{:?}", calls.busiest);
    drop(workers);
}

#[tokio::test]
async fn a_worker_that_is_killed_takes_nothing_of_the_budget_with_it() {
    let mut world = World::with(SimulatorOptions {
        limits: Limits::none(),
        ..SimulatorOptions::default()
    })
    .await;
    world.set("IM_RATE_LIMIT", "40");
    backlog(&world, 200).await;
    let mut first = Worker::start(&world).await;
    let second = Worker::start(&world).await;
    eventually(LONG, "a few calls were made", || async {
        (world.simulator.report().calls >= 20).then_some(())
    })
    .await;
    first.process.kill();
    group_settled(&world, "load", 200).await;
    assert_eq!(delivered_once(&world), 200);
    let report = world.simulator.report();
    let calls = &report.apps[&SAMPLE_SDK_APP_ID.0]["sendmsg"];
    // Two budgets would make 80; as the service counts, and calls drift on their way.
    assert!(calls.busiest.calls_980ms <= 60, "{:?}", calls.busiest);
    drop(second);
}

#[tokio::test]
async fn a_hangup_takes_the_limits_of_the_file_and_a_wrong_file_changes_nothing() {
    let world = World::with(SimulatorOptions {
        limits: Limits::none(),
        ..SimulatorOptions::default()
    })
    .await;
    let file = world.directory().join("im-dispatcher.toml");
    let limit = |calls: &str| std::fs::write(&file, format!("[apps.default.limits]\nsendmsg = {calls}\n")).unwrap();
    limit("1");
    backlog(&world, 150).await;
    let worker = Worker::start(&world).await;
    eventually(LONG, "the first call was made", || async {
        (world.simulator.report().calls >= 1).then_some(())
    })
    .await;
    limit("\"many\"");
    worker.process.hang_up();
    eventually(LONG, "the worker says what is wrong", || async {
        worker
            .process
            .log()
            .contains("limits, send windows, caps and secrets stay")
            .then_some(())
    })
    .await;
    // 150 jobs at one a second would take longer than any of this waits.
    limit("0");
    worker.process.hang_up();
    group_settled(&world, "load", 150).await;
    assert_eq!(delivered_once(&world), 150);
    let report = world.simulator.report();
    assert!(report.apps[&SAMPLE_SDK_APP_ID.0][Command::SendMsg.as_str()].calls >= 150);
}
