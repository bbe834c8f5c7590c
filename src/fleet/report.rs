//! What a worker says of itself.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    budget::{Budget, KeySnapshot},
    domain::{Lane, SdkAppId},
    telemetry::Metrics,
};

/// A worker's report. A field that a worker of another version doesn't send is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// It can take jobs.
    pub ready: bool,
    /// It was told to stop.
    pub draining: bool,
    /// Why it can't take jobs.
    pub reasons: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// HTTP calls in flight.
    pub calls_in_flight: u64,
    /// Recipients' messages since its start, by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Calls of the IM API since its start, by class of the answer; `ok` is one.
    pub calls: BTreeMap<String, u64>,
    /// Errors since its start.
    pub errors: Vec<ErrorCount>,
    /// The budget's meters.
    pub budgets: Vec<MeterReading>,
    /// The lanes.
    pub lanes: Vec<LaneReading>,
}

/// How often a code was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// The command.
    pub command: String,
    /// The word, `im-60007` or `timeout`.
    pub code: String,
    /// How often.
    pub count: u64,
}

/// The budget of one app and command, as one worker sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeterReading {
    /// The app's name in the settings; several apps may share an SDKAppID.
    pub app: String,
    /// The `SDKAppID`.
    pub sdk_app_id: u64,
    /// The IM REST host.
    pub host: String,
    /// The command.
    pub command: String,
    /// Calls a second as configured; 0: no limit.
    pub limit: u32,
    /// Calls a second in force.
    pub effective: u32,
    /// Recipients a minute as configured; 0: no limit.
    pub recipients_limit: u32,
    /// Recipients a minute in force.
    pub recipients_effective: u32,
    /// This worker's calls of the last second.
    pub used: u64,
    /// This worker's calls of the last minute.
    pub used_minute: u64,
    /// This worker's recipients of the last minute.
    pub recipients_used: u64,
    /// Its jobs that wait for a slot: high, normal, bulk.
    pub waiting: [usize; 3],
    /// How long the oldest of them has waited, in seconds.
    pub oldest_wait: Option<f64>,
    /// The same by lane: high, normal, bulk.
    pub oldest_waits: [Option<f64>; 3],
    /// A throttled answer stops the key for so many seconds more.
    pub paused_for: Option<f64>,
    /// Throttled answers since its start.
    pub throttled: u64,
}

/// A lane, as one worker sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneReading {
    /// Its name.
    pub lane: String,
    /// Jobs that RabbitMQ handed over since its start.
    pub deliveries: u64,
    /// When the job that came last was published, where its producer said so: what is still in the queue is younger.
    pub head_published_at: Option<DateTime<Utc>>,
}

impl Report {
    /// The counters and meters of a process. Who is ready is not told here.
    pub fn of(metrics: &Metrics, budget: Option<&Budget>, app_of: impl Fn(SdkAppId) -> String) -> Self {
        let reading = metrics.reading();
        let budgets = budget.map(Budget::snapshot).unwrap_or_default();
        Self {
            calls_in_flight: metrics.calls_in_flight(),
            outcomes: reading.outcomes,
            calls: reading.calls,
            errors: reading
                .errors
                .into_iter()
                .map(|((command, code), count)| ErrorCount { command, code, count })
                .collect(),
            budgets: budgets.iter().map(|key| meter(key, &app_of)).collect(),
            lanes: Lane::ALL
                .into_iter()
                .map(|lane| LaneReading {
                    lane: lane.as_str().to_owned(),
                    deliveries: reading.deliveries[lane.index()],
                    head_published_at: reading.head_published_at[lane.index()],
                })
                .collect(),
            ..Self::default()
        }
    }
}

fn meter(snapshot: &KeySnapshot, app_of: &impl Fn(SdkAppId) -> String) -> MeterReading {
    let now = tokio::time::Instant::now();
    let oldest_waits = snapshot.oldest_wait.map(|wait| wait.map(|wait| wait.as_secs_f64()));
    MeterReading {
        app: app_of(snapshot.key.sdk_app_id),
        sdk_app_id: snapshot.key.sdk_app_id.0,
        host: snapshot.key.host.to_string(),
        command: snapshot.key.command.as_str().to_owned(),
        limit: snapshot.limits.calls_per_second,
        effective: snapshot.effective.calls_per_second,
        recipients_limit: snapshot.limits.recipients_per_minute,
        recipients_effective: snapshot.effective.recipients_per_minute,
        used: snapshot.calls_last_second,
        used_minute: snapshot.calls_last_minute,
        recipients_used: snapshot.recipients_last_minute,
        waiting: snapshot.waiting,
        oldest_wait: oldest_waits.into_iter().flatten().reduce(f64::max),
        oldest_waits,
        paused_for: snapshot
            .paused_until
            .map(|until| until.saturating_duration_since(now).as_secs_f64()),
        throttled: snapshot.throttled,
    }
}
