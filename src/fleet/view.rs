//! The fleet as it is now: the reports added up, kept in memory, so that any number of dashboards costs one question a second.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Depths, LaneReading, MeterReading, Rates, Report, beat::EVERY, rates::Ring};
use crate::{
    broker::Broker,
    store::{Store, WorkerRow},
};

/// Without a beat for so long a worker counts as gone: three beats and some patience.
const GONE_AFTER: chrono::TimeDelta = chrono::TimeDelta::seconds(4);
/// A second is shown once every worker has surely reported a later one.
const COMPLETE_AFTER: i64 = 3;
/// How often workers are read while nobody looks.
const IDLE_EVERY: Duration = Duration::from_secs(5);
/// How often depths are read while somebody looks.
const DEPTHS_EVERY: Duration = Duration::from_secs(2);
/// Who looked last so long ago looks no more.
const LOOKS_FOR: Duration = Duration::from_secs(15);
/// Recent errors are those of the last five minutes, to ten seconds.
const RECENT: usize = 30;
const RECENT_STEP: Duration = Duration::from_secs(10);

/// What is known of the fleet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    known: Mutex<Known>,
    depths: Mutex<Depths>,
    looked_at: Mutex<Option<Instant>>,
    looked: Notify,
}

#[derive(Debug, Default)]
struct Known {
    workers: Vec<(WorkerRow, Arc<Report>)>,
    ring: Ring,
    errors: BTreeMap<(String, String), u64>,
    /// The totals of errors as they were, every ten seconds, the oldest first.
    errors_before: VecDeque<BTreeMap<(String, String), u64>>,
    errors_noted: Option<Instant>,
    /// The first look: who started before it had a past.
    since: Option<DateTime<Utc>>,
    /// When the database answered last, by this process's clock.
    read_at: Option<Instant>,
    /// The database's clock then.
    now: Option<DateTime<Utc>>,
}

/// Whether a worker is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// It takes jobs.
    Ready,
    /// It is there and can take none.
    NotReady,
    /// It finishes what it has.
    Draining,
    /// It hasn't been heard of for seconds.
    Gone,
}

/// A worker.
#[derive(Debug, Clone, Serialize)]
pub struct FleetWorker {
    /// Of the process.
    pub id: Uuid,
    /// Its host.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Where its HTTP server listens.
    pub http: Option<String>,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When it was heard of last.
    pub seen_at: DateTime<Utc>,
    /// Whether it is there.
    pub state: WorkerState,
    /// Why it can't take jobs.
    pub reasons: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// HTTP calls in flight.
    pub calls_in_flight: u64,
}

/// The budget of one app and command, of all workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FleetBudget {
    /// Sums: used, waiting, throttled; the oldest wait; the limit in force where it is lowest.
    #[serde(flatten)]
    pub meter: MeterReading,
    /// Workers that use it.
    pub workers: usize,
}

/// Errors of one code and command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorTotal {
    /// The command.
    pub command: String,
    /// The word.
    pub code: String,
    /// Since the workers that are known started.
    pub count: u64,
    /// In the last five minutes.
    pub recent: u64,
}

/// Everything that changes from second to second.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// The workers.
    pub workers: Vec<FleetWorker>,
    /// The budgets.
    pub budgets: Vec<FleetBudget>,
    /// The most frequent errors first.
    pub errors: Vec<ErrorTotal>,
    /// By lane: when the job that was handed over last was published. What is still in the queue is younger.
    pub heads: BTreeMap<String, DateTime<Utc>>,
    /// What waits.
    pub depths: Depths,
    /// How old the workers' reports are; `None`: none was read yet.
    pub age_seconds: Option<f64>,
}

impl View {
    /// Begins to look. `broker` is asked for the queues' depths.
    pub fn start(store: Store, broker: Option<Broker>, stop: CancellationToken) -> Self {
        let view = Self::unstarted();
        let inner = Arc::clone(&view.0);
        tokio::spawn(sample(Arc::clone(&inner), store.clone(), stop.clone()));
        tokio::spawn(measure(inner, store, broker, stop));
        view
    }

    fn unstarted() -> Self {
        Self(Arc::new(Inner {
            known: Mutex::default(),
            depths: Mutex::default(),
            looked_at: Mutex::default(),
            looked: Notify::new(),
        }))
    }

    /// The fleet now, from memory.
    pub fn overview(&self) -> Overview {
        self.0.look();
        let depths = self.0.depths.lock().clone();
        self.0.known.lock().overview(depths)
    }

    /// What was done in each second behind `after`.
    pub fn rates(&self, after: i64) -> Rates {
        self.0.look();
        self.0.known.lock().rates(after)
    }

    /// What waits is asked for anew: something was just changed.
    pub fn refresh(&self) {
        self.0.looked.notify_waiters();
    }
}

impl Inner {
    fn look(&self) {
        let before = self.looked_at.lock().replace(Instant::now());
        if before.is_none_or(|before| before.elapsed() > LOOKS_FOR) {
            self.looked.notify_waiters();
        }
    }

    fn is_watched(&self) -> bool {
        self.looked_at.lock().is_some_and(|at| at.elapsed() < LOOKS_FOR)
    }
}

async fn sample(inner: Arc<Inner>, store: Store, stop: CancellationToken) {
    loop {
        match store.workers().await {
            Ok(rows) => inner.known.lock().learn(rows),
            Err(error) => tracing::debug!(%error, "the workers could not be read"),
        }
        let pause = if inner.is_watched() { EVERY } else { IDLE_EVERY };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = inner.looked.notified() => {}
        }
    }
}

async fn measure(inner: Arc<Inner>, store: Store, broker: Option<Broker>, stop: CancellationToken) {
    loop {
        let looked = inner.looked.notified();
        if inner.is_watched() {
            let depths = Depths::read(&store, broker.as_ref()).await;
            *inner.depths.lock() = depths;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(DEPTHS_EVERY) => {}
                () = looked => {}
            }
        } else {
            tokio::select! {
                () = stop.cancelled() => return,
                () = looked => {}
            }
        }
    }
}

impl Known {
    fn learn(&mut self, rows: Vec<WorkerRow>) {
        let before: HashMap<Uuid, (WorkerRow, Arc<Report>)> = std::mem::take(&mut self.workers)
            .into_iter()
            .map(|(row, report)| (row.identity.id, (row, report)))
            .collect();
        self.read_at = Some(Instant::now());
        self.now = rows.first().map(|row| row.now).or(Some(Utc::now()));
        let since = *self.since.get_or_insert_with(|| self.now.unwrap_or_default());
        for row in rows {
            let known = before.get(&row.identity.id);
            if let Some((_, report)) = known.filter(|(known, _)| known.seen_at == row.seen_at) {
                self.workers.push((row, Arc::clone(report)));
                continue;
            }
            let report = Arc::new(serde_json::from_str::<Report>(&row.report).unwrap_or_default());
            match known {
                Some((earlier, old)) => self.count(&report, old, earlier.seen_at, row.seen_at),
                None if row.started_at >= since => {
                    self.count(&report, &Report::default(), row.started_at, row.seen_at);
                }
                // What it did before anybody looked is no rate, and not recent.
                None => self.count_past(&report),
            }
            self.workers.push((row, report));
        }
        if let Some(now) = self.now {
            self.ring.reach(now.timestamp());
        }
        if self.errors_noted.is_none_or(|at| at.elapsed() >= RECENT_STEP) {
            self.errors_noted = Some(Instant::now());
            self.errors_before.push_back(self.errors.clone());
            while self.errors_before.len() > RECENT {
                self.errors_before.pop_front();
            }
        }
    }

    fn count(&mut self, new: &Report, old: &Report, from: DateTime<Utc>, until: DateTime<Utc>) {
        let (from, until) = (from.timestamp_micros(), until.timestamp_micros());
        for (prefix, new, old) in [("", &new.outcomes, &old.outcomes), ("calls.", &new.calls, &old.calls)] {
            for (name, count) in new {
                let grown = count.saturating_sub(old.get(name).copied().unwrap_or(0));
                self.ring.add(&format!("{prefix}{name}"), from, until, grown);
            }
        }
        for error in &new.errors {
            let same = |other: &&super::ErrorCount| other.code == error.code && other.command == error.command;
            let before = old.errors.iter().find(same).map_or(0, |error| error.count);
            let key = (error.command.clone(), error.code.clone());
            *self.errors.entry(key).or_default() += error.count.saturating_sub(before);
        }
    }

    fn count_past(&mut self, report: &Report) {
        for error in &report.errors {
            let key = (error.command.clone(), error.code.clone());
            for totals in self.errors_before.iter_mut().chain([&mut self.errors]) {
                *totals.entry(key.clone()).or_default() += error.count;
            }
        }
        if self.errors_before.is_empty() {
            self.errors_before.push_back(self.errors.clone());
        }
    }

    fn rates(&self, after: i64) -> Rates {
        let now = self.now.unwrap_or_default().timestamp();
        self.ring.between(after, now - COMPLETE_AFTER)
    }

    fn overview(&self, depths: Depths) -> Overview {
        let workers: Vec<FleetWorker> = self.workers.iter().map(|(row, report)| shown(row, report)).collect();
        let alive = || {
            let pairs = self.workers.iter().zip(&workers);
            pairs
                .filter(|(_, shown)| shown.state != WorkerState::Gone)
                .map(|((_, report), _)| report)
        };
        let mut budgets = BTreeMap::<_, FleetBudget>::new();
        for meter in alive().flat_map(|report| &report.budgets) {
            let key = (meter.app.clone(), meter.host.clone(), order(&meter.command));
            add_up(budgets.entry(key).or_default(), meter);
        }
        let mut heads = BTreeMap::<String, DateTime<Utc>>::new();
        for LaneReading {
            lane,
            head_published_at,
            ..
        } in alive().flat_map(|report| &report.lanes)
        {
            if let Some(at) = head_published_at {
                let head = heads.entry(lane.clone()).or_insert(*at);
                *head = (*head).max(*at);
            }
        }
        Overview {
            budgets: budgets.into_values().collect(),
            errors: self.errors(),
            heads,
            depths,
            age_seconds: self.read_at.map(|at| at.elapsed().as_secs_f64()),
            workers,
        }
    }

    fn errors(&self) -> Vec<ErrorTotal> {
        let before = self.errors_before.front();
        let mut errors: Vec<ErrorTotal> = self
            .errors
            .iter()
            .map(|(key, count)| ErrorTotal {
                command: key.0.clone(),
                code: key.1.clone(),
                count: *count,
                recent: count
                    - before
                        .and_then(|before| before.get(key))
                        .copied()
                        .unwrap_or(0)
                        .min(*count),
            })
            .collect();
        errors.sort_by_key(|error| std::cmp::Reverse((error.recent, error.count)));
        errors
    }
}

/// The order of the commands in the domain; a command of a later version comes last.
fn order(command: &str) -> (usize, String) {
    let known = crate::domain::Command::ALL
        .iter()
        .position(|known| known.as_str() == command);
    (known.unwrap_or(usize::MAX), command.to_owned())
}

fn shown(row: &WorkerRow, report: &Report) -> FleetWorker {
    let state = if row.now - row.seen_at > GONE_AFTER {
        WorkerState::Gone
    } else if report.draining {
        WorkerState::Draining
    } else if report.ready {
        WorkerState::Ready
    } else {
        WorkerState::NotReady
    };
    FleetWorker {
        id: row.identity.id,
        host: row.identity.host.clone(),
        pid: row.identity.pid,
        version: row.version.clone(),
        http: row.identity.http.clone(),
        started_at: row.started_at,
        seen_at: row.seen_at,
        state,
        reasons: report.reasons.clone(),
        notes: report.notes.clone(),
        calls_in_flight: report.calls_in_flight,
    }
}

fn add_up(sum: &mut FleetBudget, one: &MeterReading) {
    let longer = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    let lower = |a: u32, b: u32| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
    sum.workers += 1;
    let meter = &mut sum.meter;
    *meter = MeterReading {
        app: one.app.clone(),
        sdk_app_id: one.sdk_app_id,
        host: one.host.clone(),
        command: one.command.clone(),
        limit: meter.limit.max(one.limit),
        effective: lower(meter.effective, one.effective),
        recipients_limit: meter.recipients_limit.max(one.recipients_limit),
        recipients_effective: lower(meter.recipients_effective, one.recipients_effective),
        used: meter.used + one.used,
        used_minute: meter.used_minute + one.used_minute,
        recipients_used: meter.recipients_used + one.recipients_used,
        waiting: [0, 1, 2].map(|lane| meter.waiting[lane] + one.waiting[lane]),
        oldest_wait: longer(meter.oldest_wait, one.oldest_wait),
        oldest_waits: [0, 1, 2].map(|lane| longer(meter.oldest_waits[lane], one.oldest_waits[lane])),
        paused_for: longer(meter.paused_for, one.paused_for),
        throttled: meter.throttled + one.throttled,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fleet::ErrorCount, store::WorkerIdentity};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn row(id: u128, started: i64, seen: i64, now: i64, sent: u64, throttled: u64) -> WorkerRow {
        let report = Report {
            ready: true,
            outcomes: [("sent".to_owned(), sent)].into(),
            errors: vec![ErrorCount {
                command: "sendmsg".into(),
                code: "im-60007".into(),
                count: throttled,
            }],
            budgets: vec![MeterReading {
                command: "sendmsg".into(),
                limit: 200,
                effective: 200,
                used: 90,
                waiting: [1, 2, 3],
                oldest_wait: Some(id as f64),
                ..MeterReading::default()
            }],
            ..Report::default()
        };
        WorkerRow {
            identity: WorkerIdentity {
                id: Uuid::from_u128(id),
                host: "host".into(),
                pid: 7,
                http: None,
            },
            version: "1".into(),
            started_at: at(started),
            seen_at: at(seen),
            now: at(now),
            report: serde_json::to_string(&report).unwrap(),
        }
    }

    #[test]
    fn reports_add_up_and_who_is_silent_is_gone() {
        let mut known = Known::default();
        known.learn(vec![row(1, 0, 100, 100, 1_000, 5), row(2, 0, 100, 100, 0, 0)]);
        known.learn(vec![row(1, 0, 102, 102, 1_200, 8), row(2, 0, 102, 102, 10, 0)]);
        // A third one has come since; the second is silent from now on.
        known.learn(vec![
            row(1, 0, 107, 107, 1_200, 8),
            row(2, 0, 102, 107, 10, 0),
            row(3, 105, 107, 107, 40, 1),
        ]);
        let rates = known.rates(99);
        assert_eq!(rates.seconds, [100, 101, 102, 103]);
        assert_eq!(rates.series["sent"], [105.0, 105.0, 0.0, 0.0]);
        known.learn(vec![row(1, 0, 112, 112, 1_200, 8), row(3, 105, 112, 112, 40, 1)]);
        assert_eq!(known.rates(103).series["sent"], [0.0, 20.0, 20.0, 0.0, 0.0]);
        known.learn(vec![row(1, 0, 113, 113, 1_200, 8), row(3, 105, 108, 113, 40, 1)]);
        let overview = known.overview(Depths::default());
        assert_eq!(
            overview.workers.iter().map(|worker| worker.state).collect::<Vec<_>>(),
            [WorkerState::Ready, WorkerState::Gone]
        );
        let meter = &overview.budgets[0].meter;
        assert_eq!(
            (overview.budgets[0].workers, meter.used, meter.waiting),
            (1, 90, [1, 2, 3])
        );
        // Five of them were there before anybody looked.
        assert_eq!((overview.errors[0].count, overview.errors[0].recent), (9, 4));
    }

    #[test]
    fn a_limit_in_force_is_that_of_the_worker_where_it_is_lowest() {
        let mut sum = FleetBudget::default();
        for (effective, used) in [(200, 10), (100, 20)] {
            let meter = MeterReading {
                limit: 200,
                effective,
                used,
                paused_for: Some(f64::from(effective)),
                ..MeterReading::default()
            };
            add_up(&mut sum, &meter);
        }
        assert_eq!((sum.workers, sum.meter.effective, sum.meter.used), (2, 100, 30));
        assert_eq!(sum.meter.paused_for, Some(200.0));
    }
}
