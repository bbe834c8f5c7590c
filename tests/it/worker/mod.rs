//! The worker by what it does to jobs, seen from outside: queue in, service and records out.

mod bad_input;
mod breaker;
mod budget;
mod coalescing;
mod crashes;
mod doubts;
mod failover;
mod fleet;
#[cfg(feature = "fault-points")]
mod frozen;
mod outages;
mod pausing;
mod policy;
mod repeats;
mod revoking;
mod rolling;
mod secrecy;
mod sending;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{World, eventually};

/// A bound for what takes seconds on a machine that does much else.
pub(crate) const LONG: Duration = Duration::from_mins(2);

/// A plain send.
pub(crate) fn send(id: &str, to: &str) -> Value {
    json!({"type": "send", "id": id, "to": to, "message": {"text": format!("text of {id}")}})
}

/// Waits until a job has nothing pending, and returns its status object.
pub(crate) async fn settled(world: &World, job: &str) -> Value {
    eventually(LONG, &format!("job {job} has ended"), || async {
        let status = world.status_json(job).await?;
        (status["recipients"]["pending"] == 0 && status["state"] != "pending").then_some(status)
    })
    .await
}

/// Waits until a group has so many jobs and nothing pending, and returns its status object.
pub(crate) async fn group_settled(world: &World, group: &str, jobs: u64) -> Value {
    eventually(LONG, &format!("group {group} has ended"), || async {
        let output = world.cli(&["status", "--group", group, "--json"]).await;
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["jobs"] == jobs && status["recipients"]["pending"] == 0).then_some(status)
    })
    .await
}

/// A recipients object with these counts and zeros elsewhere.
pub(crate) fn counts(total: u64, of: &[(&str, u64)]) -> Value {
    let mut counts = json!({"total": total, "pending": 0, "sent": 0, "failed": 0, "cancelled": 0, "expired": 0,
                            "revoked": 0, "unknown": 0});
    for (state, count) in of {
        counts[*state] = json!(count);
    }
    counts
}

/// How often each recipient got something, as the service counts; panics where a body reached someone twice.
fn delivered_once(world: &World) -> u64 {
    let report = world.simulator.report();
    assert!(report.sent_twice.is_empty(), "sent twice: {:?}", report.sent_twice);
    report.delivered
}
