//! What operators ask and do: why is it there, is everything sent once, try it again.

mod acts;
mod erase;
mod explain;
mod http_api;
mod metrics;
mod retry;
mod top;
mod traces;
mod verify;

use serde_json::Value;

use crate::support::World;

/// Runs a command that prints one object: exit code and object.
async fn json(world: &World, arguments: &[&str]) -> (i32, Value) {
    let output = world.cli(arguments).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stderr}"));
    (output.status.code().unwrap_or(-1), value)
}
