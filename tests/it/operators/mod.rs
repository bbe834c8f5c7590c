//! What operators ask and do: why is it there, is everything sent once, try it again.

mod explain;
mod http_api;
mod retry;
mod top;
mod verify;

use std::time::Duration;

use im_dispatcher::simulator::SimulatorOptions;
use serde_json::Value;

use crate::support::World;

/// A service that drops no repeats, and short times of our own.
async fn careless_service() -> World {
    let mut world = World::with(SimulatorOptions {
        dedup: Duration::ZERO,
        ..SimulatorOptions::default()
    })
    .await;
    world
        .set("IM_DISPATCHER__IM__TOTAL_TIMEOUT", "1s")
        .set("IM_DISPATCHER__RECONCILE__SETTLE", "500ms");
    world
}

/// Runs a command that prints one object: exit code and object.
async fn json(world: &World, arguments: &[&str]) -> (i32, Value) {
    let output = world.cli(arguments).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stderr}"));
    (output.status.code().unwrap_or(-1), value)
}
