//! The budget, as the service counts.

use im_dispatcher::simulator::{Limits, SAMPLE_SDK_APP_ID, SimulatorOptions};
use serde_json::json;

use super::{delivered_once, group_settled, send};
use crate::support::{Worker, World};

#[tokio::test]
async fn the_limit_of_a_second_is_never_exceeded_while_three_lanes_have_work() {
    // The service itself has no limit: only our own care counts.
    let mut world = World::with(SimulatorOptions {
        limits: Limits::none(),
        ..SimulatorOptions::default()
    })
    .await;
    world.set("IM_RATE_LIMIT", "40");
    // Published before anyone consumes, so that there is a backlog from the first moment.
    assert!(world.cli(&["migrate"]).await.status.success());
    assert!(
        world.cli(&["check"]).await.status.success(),
        "check declares the topology"
    );
    for n in 0..160 {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        world.broker.publish(["high", "normal", "bulk"][n % 3], &job).await;
    }
    let _worker = Worker::start(&world).await;
    group_settled(&world, "load", 160).await;
    assert_eq!(delivered_once(&world), 160);
    let report = world.simulator.report();
    let calls = &report.apps[&SAMPLE_SDK_APP_ID.0]["sendmsg"];
    println!("{:?}", calls.busiest);
    // Without a budget all 160 would come at once. That it is exact is held in virtual time; here calls drift on their way
    // as the machine's load will have it.
    assert!(calls.busiest.calls_980ms <= 60, "{:?}", calls.busiest);
}
