//! The metric families. Names follow Prometheus: a prefix, a unit, `_total` for counters; labels are closed sets.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::domain::{Command, ErrorClass, Lane, event::Outcome, job::JobType};

use super::{
    broker_metrics::BrokerMetrics,
    budget_metrics::{BudgetMetrics, BudgetReading},
    labels::{Fixed, Open},
};

/// Prefix of every name.
const PREFIX: &str = "im_dispatcher";
/// Error codes and dead-letter words that get a series of their own. Apps may answer 10,000 codes of their own
/// (im-api: 120001 to 130000), which no Prometheus should keep.
const OPEN_LABELS: usize = 200;

/// Seconds, for waits and calls: from a call on loopback to a frozen one.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Seconds from publish to record: a backlog waits for minutes and hours.
const LONG_SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0,
];

/// Members of a shared call: from two to the 500 that one call takes.
const MEMBERS: [f64; 8] = [2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// How a call ended, as the label `class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Carried out.
    Ok,
    /// An error of that class.
    Error(ErrorClass),
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// Every member.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labels!(
    /// What happens now and then and deserves a count, as the label `operation`.
    Operation {
        /// A statement was repeated after a deadlock, a time-out or a lost connection.
        StatementRetry = "statement_retry",
        /// A call's answer was lost: the message is in doubt.
        Doubt = "doubt",
        /// Reconciliation found the message in the history.
        ReconcileFound = "reconcile_found",
        /// Reconciliation found that the message isn't there.
        ReconcileAbsent = "reconcile_absent",
        /// Reconciliation can't tell.
        ReconcileUnknown = "reconcile_unknown",
        /// A slot came too late to be used, and was forfeited.
        SlotForfeited = "slot_forfeited",
        /// A claim was made too long ago to call: the job was given back.
        ClaimTooLate = "claim_too_late",
        /// An answer came after its claim had been replaced: its MsgKey is kept as a further one.
        LateKey = "late_key",
        /// A job's code panicked.
        Panic = "panic",
    }
);

/// Every metric of the process. Cheap to share behind an `Arc`; counting is one atomic addition, observing takes a
/// lock for some nanoseconds.
pub struct Metrics {
    registry: Registry,
    pub(super) attempts: Fixed,
    pub(super) messages: Fixed,
    pub(super) deliveries: Fixed,
    broker: BrokerMetrics,
    operations: Fixed,
    throttled: Fixed,
    pub(super) error_codes: Open,
    dead_letters: Open,
    budget_wait: Vec<Histogram>,
    call_seconds: Vec<Histogram>,
    publish_to_record: Vec<Histogram>,
    shared_calls: Histogram,
    in_flight: Gauge,
    budget: BudgetMetrics,
    queue_depth: Family<[(&'static str, String); 1], Gauge>,
    work: Family<[(&'static str, String); 1], Gauge>,
    outbox: Gauge,
    doubts: Gauge,
    past_due_seconds: Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>>,
    queue_wait_seconds: Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>>,
    lane_paused: Family<[(&'static str, String); 1], Gauge>,
    app_paused: Family<[(&'static str, String); 1], Gauge>,
    circuit_open: Family<[(&'static str, String); 1], Gauge>,
    ready: Gauge,
    dependency_ready: Family<[(&'static str, String); 1], Gauge>,
    events: Counter,
    /// By lane: when the job that came last was published, in milliseconds since 1970; 0: not known.
    pub(super) head_published_at: [AtomicI64; 3],
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A call in flight; dropping it ends the call.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every family; closed ones start at 0, so that a rate is right from the first scrape.
    #[expect(
        clippy::too_many_lines,
        reason = "a list: each family once, with its name and its help"
    )]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let r = &mut registry;
        let [info] = ["build_info"].map(|_| [("version", env!("CARGO_PKG_VERSION").to_owned())]);
        let build = Family::<[(&'static str, String); 1], Gauge>::default();
        r.register("build_info", "The version of this process", build.clone());
        build.get_or_create_owned(&info).set(1);
        Self {
            attempts: Fixed::register(
                r,
                "attempts",
                "Calls of the IM API by command and class of their result",
                Command::ALL.iter().flat_map(|command| {
                    verdicts().map(|verdict| [("command", command.as_str()), ("class", verdict_label(verdict))])
                }),
            ),
            messages: Fixed::register(
                r,
                "messages",
                "Recipients' messages that reached an end state, by job type and outcome",
                JobType::ALL.iter().flat_map(|kind| {
                    Outcome::ALL
                        .iter()
                        .map(|outcome| [("type", kind.as_str()), ("outcome", outcome.as_str())])
                }),
            ),
            deliveries: Fixed::register(
                r,
                "deliveries",
                "Jobs that RabbitMQ handed over, by lane and whether it flagged them as redelivered",
                Lane::ALL.iter().flat_map(|lane| {
                    ["false", "true"].map(|redelivered| [("lane", lane.as_str()), ("redelivered", redelivered)])
                }),
            ),
            broker: BrokerMetrics::register(r),
            operations: Fixed::register(
                r,
                "operations",
                "Events inside the dispatcher that deserve a count",
                Operation::ALL
                    .iter()
                    .map(|operation| [("operation", operation.as_str())]),
            ),
            throttled: Fixed::register(
                r,
                "throttled",
                "Throttling answers of the IM API, by command",
                Command::ALL.iter().map(|command| [("command", command.as_str())]),
            ),
            error_codes: Open::register(
                r,
                "error_codes",
                "Errors by command and code; codes beyond the first 200 are `other`",
                ["command", "code"],
                OPEN_LABELS,
            ),
            dead_letters: Open::register(
                r,
                "dead_letters",
                "Dead letters by lane and error word",
                ["lane", "word"],
                OPEN_LABELS,
            ),
            budget_wait: by_lane(r, "budget_wait", "From asking for a slot to its time", &SECONDS),
            call_seconds: histograms(
                r,
                "call",
                "Calls of the IM API from the first byte to the last",
                &SECONDS,
                "command",
                Command::ALL.iter().map(|command| command.as_str()),
            ),
            publish_to_record: by_lane(
                r,
                "publish_to_record",
                "From a job's publish to the record of its success, where nothing asked to wait",
                &LONG_SECONDS,
            ),
            shared_calls: {
                let histogram = Histogram::new(MEMBERS);
                r.register(
                    "shared_call_members",
                    "Sends that shared one batch call (coalesce), for each such call",
                    histogram.clone(),
                );
                histogram
            },
            in_flight: gauge(r, "calls_in_flight", "HTTP calls in flight"),
            budget: BudgetMetrics::register(r),
            queue_depth: labelled_gauge(r, "queue_depth", "Messages that are ready in a queue"),
            work: labelled_gauge(r, "work_rows", "What the table owns and has still to do, by kind"),
            outbox: gauge(r, "outbox_rows", "Events and dead letters that wait to be published"),
            doubts: gauge(r, "doubts", "Messages in doubt, which reconciliation looks after"),
            past_due_seconds: seconds_by_lane(
                r,
                "past_due",
                "Age of the oldest due work of the table that nothing but room holds up; 0: none",
            ),
            queue_wait_seconds: seconds_by_lane(
                r,
                "queue_wait",
                "Age of the job that came last from a lane's queues while more wait there; 0: none, or not known",
            ),
            lane_paused: labelled_gauge(r, "lane_paused", "1 while an operator has paused a lane"),
            app_paused: labelled_gauge(
                r,
                "app_paused",
                "1 while an app is paused, by an operator or by refused credentials",
            ),
            circuit_open: labelled_gauge(
                r,
                "circuit_open",
                "1 while an app's calls wait for a probe: its service is away or ill, or refuses its credentials",
            ),
            ready: gauge(r, "ready", "1 while /readyz says so"),
            dependency_ready: labelled_gauge(
                r,
                "dependency_ready",
                "1 while a service that the worker needs is there",
            ),
            events: {
                let counter = Counter::default();
                r.register("events", "Outcome events that RabbitMQ confirmed", counter.clone());
                counter
            },
            head_published_at: Default::default(),
            registry,
        }
    }

    /// Counts a call by its result.
    pub fn attempt(&self, command: Command, verdict: Verdict) {
        let class = match verdict {
            Verdict::Ok => 0,
            Verdict::Error(class) => 1 + ErrorClass::ALL.iter().position(|c| *c == class).unwrap_or(0),
        };
        self.attempts
            .add(command.index() * (1 + ErrorClass::ALL.len()) + class, 1);
        if verdict == Verdict::Error(ErrorClass::Throttled) {
            self.throttled.add(command.index(), 1);
        }
    }

    /// Counts an error by its stable word, `im-60007` or `timeout`.
    pub fn error_code(&self, command: Command, word: &str) {
        self.error_codes.inc(command.as_str(), word);
    }

    /// Counts messages that reached an end state; for jobs without recipients the job itself.
    pub fn outcome(&self, kind: JobType, outcome: Outcome, count: u64) {
        let kind = JobType::ALL.iter().position(|k| *k == kind).unwrap_or(0);
        self.messages.add(kind * Outcome::ALL.len() + outcome as usize, count);
    }

    /// Counts a delivery.
    pub fn delivery(&self, lane: Lane, redelivered: bool) {
        self.deliveries.add(lane.index() * 2 + usize::from(redelivered), 1);
    }

    /// Notes when a delivery was published, in seconds since 1970, where its producer said so.
    pub fn published(&self, lane: Lane, seconds: Option<u64>) {
        // Some producers put milliseconds there: that would be long after the year 3000.
        if let Some(seconds) = seconds.filter(|seconds| *seconds < 32_503_680_000) {
            let millis = i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
            self.head_published_at[lane.index()].fetch_max(millis, Ordering::Relaxed);
        }
    }

    /// Shows what the broker layer has counted since the start, each counter by its name.
    pub fn set_broker(&self, counted: &[(&'static str, u64)]) {
        self.broker.set(counted);
    }

    /// Counts something that happens now and then.
    pub fn operation(&self, operation: Operation) {
        self.operations.add(operation as usize, 1);
    }

    /// Counts a dead letter by its word.
    pub fn dead_letter(&self, lane: Lane, word: &str) {
        self.dead_letters.inc(lane.as_str(), word);
    }

    /// Counts events that were confirmed.
    pub fn events_published(&self, count: u64) {
        self.events.inc_by(count);
    }

    /// Observes how long a job waited for its slot.
    pub fn budget_wait(&self, lane: Lane, waited: Duration) {
        self.budget_wait[lane.index()].observe(waited.as_secs_f64());
    }

    /// Observes a call.
    pub fn call(&self, command: Command, took: Duration) {
        self.call_seconds[command.index()].observe(took.as_secs_f64());
    }

    /// Observes a job from its publish to its record.
    pub fn publish_to_record(&self, lane: Lane, took: Duration) {
        self.publish_to_record[lane.index()].observe(took.as_secs_f64());
    }

    /// Observes a call that so many sends shared.
    pub fn shared_call(&self, members: usize) {
        self.shared_calls.observe(members as f64);
    }

    /// Counts a call as in flight until the guard is dropped.
    pub fn begin_call(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// HTTP calls in flight now.
    pub fn calls_in_flight(&self) -> u64 {
        self.in_flight.get().max(0) as u64
    }

    /// Shows what the budget's meters read.
    pub fn set_budget(&self, readings: &[BudgetReading]) {
        self.budget.set(readings);
    }

    /// Sets how many messages are ready in a queue. Queues are those of the topology, so few.
    pub fn set_queue_depth(&self, queue: &str, count: u64) {
        self.queue_depth
            .get_or_create_owned(&[("queue", queue.to_owned())])
            .set(count as i64);
    }

    /// Sets how many rows of a kind `work` has.
    pub fn set_work(&self, kind: &'static str, count: u64) {
        self.work
            .get_or_create_owned(&[("kind", kind.to_owned())])
            .set(count as i64);
    }

    /// Sets the size of the outbox.
    pub fn set_outbox(&self, count: u64) {
        self.outbox.set(count as i64);
    }

    /// Sets how many messages are in doubt.
    pub fn set_doubts(&self, count: u64) {
        self.doubts.set(count as i64);
    }

    /// Sets the age of a lane's oldest due work.
    pub fn set_past_due(&self, lane: Lane, age: Duration) {
        self.past_due_seconds
            .get_or_create_owned(&[("lane", lane.as_str())])
            .set(age.as_secs_f64());
    }

    /// Sets how many jobs of a lane are ready in its queues, from which the age of the oldest follows: it was published at
    /// about the time of the one that came last.
    pub fn set_lane_ready(&self, lane: Lane, ready: u64, now: DateTime<Utc>) {
        let published = self.head_published_at[lane.index()].load(Ordering::Relaxed);
        let millis = match (ready, published) {
            (0, _) | (_, 0) => 0,
            _ => now.timestamp_millis().saturating_sub(published).max(0),
        };
        self.queue_wait_seconds
            .get_or_create_owned(&[("lane", lane.as_str())])
            .set(millis as f64 / 1_000.0);
    }

    /// Sets whether an operator has paused a lane.
    pub fn set_lane_paused(&self, lane: Lane, paused: bool) {
        self.lane_paused
            .get_or_create_owned(&[("lane", lane.to_string())])
            .set(i64::from(paused));
    }

    /// Sets whether an app is paused.
    pub fn set_app_paused(&self, app: &str, paused: bool) {
        self.app_paused
            .get_or_create_owned(&[("app", app.to_owned())])
            .set(i64::from(paused));
    }

    /// Sets whether an app's calls wait for a probe.
    pub fn set_circuit_open(&self, app: &str, open: bool) {
        self.circuit_open
            .get_or_create_owned(&[("app", app.to_owned())])
            .set(i64::from(open));
    }

    /// Sets whether the worker is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Sets whether a service that the worker needs is there.
    pub fn set_dependency_ready(&self, dependency: &'static str, ready: bool) {
        self.dependency_ready
            .get_or_create_owned(&[("dependency", dependency.to_owned())])
            .set(i64::from(ready));
    }

    /// The `OpenMetrics` text of every family.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

pub(super) fn verdicts() -> impl Iterator<Item = Verdict> {
    std::iter::once(Verdict::Ok).chain(ErrorClass::ALL.into_iter().map(Verdict::Error))
}

pub(super) const fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Error(class) => class.as_str(),
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn labelled_gauge(registry: &mut Registry, name: &str, help: &str) -> Family<[(&'static str, String); 1], Gauge> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

/// A gauge in seconds for each lane, at 0.
fn seconds_by_lane(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>> {
    let family = Family::<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>>::default();
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    for lane in Lane::ALL {
        drop(family.get_or_create_owned(&[("lane", lane.as_str())]));
    }
    family
}

fn by_lane(registry: &mut Registry, name: &str, help: &str, buckets: &'static [f64]) -> Vec<Histogram> {
    histograms(
        registry,
        name,
        help,
        buckets,
        "lane",
        Lane::ALL.iter().map(|lane| lane.as_str()),
    )
}

/// A family of histograms in seconds with one closed label.
fn histograms(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: &'static [f64],
    label: &'static str,
    values: impl Iterator<Item = &'static str>,
) -> Vec<Histogram> {
    let make = move || Histogram::new(buckets.iter().copied());
    let family = Family::<[(&'static str, &'static str); 1], Histogram, _>::new_with_constructor(make);
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    values
        .map(|value| family.get_or_create_owned(&[(label, value)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_counted_under_its_command_and_class() {
        let metrics = Metrics::new();
        metrics.attempt(Command::SendMsg, Verdict::Ok);
        metrics.attempt(Command::GetUnreadNum, Verdict::Error(ErrorClass::AlreadyDone));
        metrics.attempt(Command::MsgWithdraw, Verdict::Error(ErrorClass::Throttled));
        let text = metrics.encode().unwrap();
        for line in [
            "im_dispatcher_attempts_total{command=\"sendmsg\",class=\"ok\"} 1",
            "im_dispatcher_attempts_total{command=\"get_c2c_unread_msg_num\",class=\"already_done\"} 1",
            "im_dispatcher_attempts_total{command=\"admin_msgwithdraw\",class=\"throttled\"} 1",
            "im_dispatcher_throttled_total{command=\"admin_msgwithdraw\"} 1",
            "im_dispatcher_attempts_total{command=\"importmsg\",class=\"ok\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn each_outcome_lands_in_its_own_series() {
        let metrics = Metrics::new();
        let mut expected = 0;
        for kind in JobType::ALL {
            for outcome in Outcome::ALL {
                expected += 1;
                metrics.outcome(kind, outcome, expected);
            }
        }
        let text = metrics.encode().unwrap();
        let mut count = 0;
        for kind in JobType::ALL {
            for outcome in Outcome::ALL {
                count += 1;
                let line = format!(
                    "im_dispatcher_messages_total{{type=\"{}\",outcome=\"{}\"}} {count}\n",
                    kind.as_str(),
                    outcome.as_str()
                );
                assert!(text.contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn codes_beyond_the_limit_share_one_series() {
        let metrics = Metrics::new();
        for code in 0..10_000 {
            metrics.error_code(Command::SendMsg, &format!("im-{code}"));
        }
        let text = metrics.encode().unwrap();
        assert_eq!(
            text.matches("im_dispatcher_error_codes_total{").count(),
            OPEN_LABELS + 1
        );
        assert!(text.contains("code=\"other\"} 9800"));
    }

    #[test]
    fn a_call_is_in_flight_until_its_guard_is_dropped() {
        let metrics = Metrics::new();
        let calls: Vec<_> = (0..3).map(|_| metrics.begin_call()).collect();
        assert_eq!(metrics.calls_in_flight(), 3);
        drop(calls);
        assert_eq!(metrics.calls_in_flight(), 0);
    }

    #[test]
    fn a_queue_waits_as_long_as_the_job_that_came_last_while_more_wait() {
        let metrics = Metrics::new();
        let now = DateTime::from_timestamp(1_030, 0).unwrap();
        let shown = |lane| format!("im_dispatcher_queue_wait_seconds{{lane=\"{lane}\"}} ");
        metrics.published(Lane::Bulk, Some(1_000));
        metrics.set_lane_ready(Lane::Bulk, 7, now);
        metrics.set_lane_ready(Lane::Normal, 7, now);
        let text = metrics.encode().unwrap();
        assert!(text.contains(&(shown("bulk") + "30.0")), "{text}");
        assert!(
            text.contains(&(shown("normal") + "0.0")),
            "nothing has come yet: {text}"
        );
        metrics.set_lane_ready(Lane::Bulk, 0, now);
        assert!(metrics.encode().unwrap().contains(&(shown("bulk") + "0.0")));
    }

    #[test]
    fn what_the_broker_layer_counted_is_shown_under_its_own_names() {
        let metrics = Metrics::new();
        metrics.set_broker(&[("acked", 5), ("reconnects", 2), ("unroutable", 1), ("ack_frames", 9)]);
        let text = metrics.encode().unwrap();
        for line in [
            "im_dispatcher_deliveries_settled_total{settlement=\"acked\"} 5",
            "im_dispatcher_broker_recoveries_total{what=\"connection\"} 2",
            "im_dispatcher_publishes_total{result=\"unroutable\"} 1",
            "im_dispatcher_publishes_total{result=\"confirmed\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn durations_are_histograms_in_seconds() {
        let metrics = Metrics::new();
        metrics.budget_wait(Lane::High, Duration::from_millis(3));
        metrics.call(Command::SendMsg, Duration::from_millis(30));
        metrics.publish_to_record(Lane::Bulk, Duration::from_secs(40));
        let text = metrics.encode().unwrap();
        for name in [
            "budget_wait_seconds",
            "call_seconds",
            "publish_to_record_seconds",
            "past_due_seconds",
        ] {
            assert!(text.contains(&format!("# TYPE im_dispatcher_{name}")), "{name}");
        }
        assert!(text.contains("im_dispatcher_past_due_seconds{lane=\"bulk\"} 0.0"));
        assert!(text.contains("im_dispatcher_publish_to_record_seconds_bucket{le=\"60.0\",lane=\"bulk\"} 1"));
    }
}
