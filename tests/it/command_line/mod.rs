//! The command line without a worker: usage, configuration, publishing, dead letters, and what must never be printed.

mod dead_letters;
mod im_commands;
mod secrecy;
mod settings;
mod submit;
mod submit_csv;

use std::{process::Output, time::Duration};

use crate::support::{World, eventually};

/// Runs a command and hands back exit code, stdout and stderr.
async fn run(world: &World, arguments: &[&str]) -> (i32, String, String) {
    told(world.cli(arguments).await)
}

/// The same with something to read.
async fn run_with(world: &World, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    told(world.cli_with_input(arguments, input).await)
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Writes a file into the world's folder and hands back its path.
fn file(world: &World, name: &str, content: &[u8]) -> String {
    let path = world.directory().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Waits until a queue has so many messages ready. A quorum queue counts a message a moment after it has confirmed it.
async fn depth_becomes(world: &World, queue: &str, count: u32) {
    let what = format!("{count} messages in {queue}");
    eventually(Duration::from_secs(20), &what, || async {
        (world.broker.depth(queue).await == Some(count)).then_some(())
    })
    .await;
}

/// A world without an app, as a machine that only publishes or looks.
async fn world_without_app() -> World {
    let mut world = World::new().await;
    for name in ["IM_SDK_APP_ID", "IM_SECRET_KEY", "IM_BASE_URL"] {
        world.set(name, "");
    }
    world
}
