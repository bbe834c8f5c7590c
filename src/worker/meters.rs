//! What this worker's budget used and who waits, as metrics.

use super::context::Context;
use crate::{
    budget::{KeySnapshot, Limits},
    telemetry::BudgetReading,
};

/// Takes the readings, and shows them.
pub(super) fn show(ctx: &Context) {
    let readings: Vec<BudgetReading> = ctx.budget.snapshot().iter().map(reading).collect();
    ctx.metrics.set_budget(&readings);
}

fn reading(snapshot: &KeySnapshot) -> BudgetReading {
    let rates = |limits: Limits| [limits.calls_per_second, limits.recipients_per_minute];
    BudgetReading {
        sdk_app_id: snapshot.key.sdk_app_id.0,
        command: snapshot.key.command,
        limit: rates(snapshot.limits),
        in_force: rates(snapshot.effective),
        used: [
            snapshot.calls_last_second,
            snapshot.calls_last_minute,
            snapshot.recipients_last_minute,
        ],
        waiting: snapshot.waiting,
        oldest: snapshot.oldest_wait.map(|wait| wait.map(|wait| wait.as_secs_f64())),
        throttled: snapshot.effective != snapshot.limits || snapshot.paused_until.is_some(),
    }
}
