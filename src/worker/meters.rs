//! What this worker's budget used and who waits, as metrics.

use std::time::Duration;

use chrono::Utc;

use super::{cache::LoadedJob, context::Context};
use crate::{
    broker::Properties,
    budget::{KeySnapshot, Limits},
    domain::{Lane, job::Job},
    store::WorkUnit,
    telemetry::BudgetReading,
};

/// Takes the readings, and shows them.
pub(super) fn show(ctx: &Context) {
    let readings: Vec<BudgetReading> = ctx.budget.snapshot().iter().map(reading).collect();
    ctx.metrics.set_budget(&readings);
}

/// Shows what waits in the queues and in the table, and since when.
pub(super) async fn show_waiting(ctx: &Context) {
    let pauses = ctx.pauses.borrow().clone();
    for lane in Lane::ALL {
        ctx.metrics.set_lane_paused(lane, pauses.lane(lane));
    }
    match ctx.store.oldest_due().await {
        // What a pause holds up isn't late.
        Ok(oldest) => {
            for lane in Lane::ALL {
                let of_lane = oldest.iter().filter(|due| due.lane == lane);
                let runs = of_lane.filter(|due| !due.is_stopped_by(&pauses));
                let age = runs.map(|due| due.age).max().unwrap_or(Duration::ZERO);
                ctx.metrics.set_past_due(lane, age);
            }
        }
        Err(error) => tracing::debug!(%error, "the age of what is due could not be read"),
    }
    let Ok(depths) = ctx.broker.queue_depths().await else {
        return;
    };
    for lane in Lane::ALL {
        let of_lane = depths.iter().filter(|depth| depth.lane == Some(lane));
        let ready = of_lane.map(|depth| u64::from(depth.messages)).sum();
        ctx.metrics.set_lane_ready(lane, ready, Utc::now());
    }
    for depth in depths {
        ctx.metrics.set_queue_depth(&depth.queue, u64::from(depth.messages));
    }
}

/// The header in which RabbitMQ's own interceptor, and some producers, say when a message was published.
const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";

impl Context {
    /// Observes how long a job took from its publish to its record, which has just been written; `known_for` is for how long
    /// this worker, or the table, has had it. A job that was to wait, by `send_at` or a send window, isn't observed.
    pub(super) fn published_to_recorded(&self, lane: Lane, job: &Job, properties: &Properties, known_for: Duration) {
        let waits = job.send_window.is_some() || self.policies.load()[lane.index()].send_window.is_some();
        if job.send_at.is_none() && !waits {
            let (millis, seconds) = (properties.header_u64(TIMESTAMP_IN_MS), properties.timestamp());
            let now = Utc::now().timestamp_millis().max(0) as u64;
            let took = since_publish(now, millis, seconds, known_for);
            self.metrics.publish_to_record(lane, took);
        }
    }

    /// The same for a row of the table. What an operator tries again isn't observed: it was published long ago.
    pub(super) fn published_to_recorded_by_table(&self, unit: &WorkUnit, loaded: &LoadedJob) {
        if unit.generation == 0 {
            let known_for = (Utc::now() - unit.created_at).to_std().unwrap_or_default();
            self.published_to_recorded(unit.lane, &loaded.job, &loaded.properties, known_for);
        }
    }
}

/// How long ago a message was published, at least as long as it is known. AMQP's `timestamp` has whole seconds: what it
/// leaves open isn't added, since it would hide every quick job behind up to a second. So the result may be up to a second
/// too short, never too long.
fn since_publish(now: u64, millis: Option<u64>, seconds: Option<u64>, known_for: Duration) -> Duration {
    let published = millis.or_else(|| seconds.map(|seconds| seconds.saturating_add(1).saturating_mul(1_000)));
    let ago = published.map_or(0, |published| now.saturating_sub(published));
    // A year and more is no wait but a producer's zero.
    let ago = if ago < 365 * 86_400_000 { ago } else { 0 };
    Duration::from_millis(ago).max(known_for)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_a_publish_is_never_told_too_long() {
        let known = Duration::from_millis(40);
        let took = |millis, seconds| since_publish(100_900, millis, seconds, known).as_millis();
        assert_eq!(took(Some(100_250), Some(90)), 650);
        assert_eq!(took(None, Some(90)), 9_900);
        // Published in the second that isn't over: the delivery says more.
        assert_eq!(took(None, Some(100)), 40);
        assert_eq!(took(None, None), 40);
        assert_eq!(took(Some(200_000), None), 40, "a producer's clock may be ahead");
        assert_eq!(since_publish(1_800_000_000_000, None, Some(0), known), known);
    }
}
