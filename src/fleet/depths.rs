//! What waits: in the queues, in the table by when it is due, in the dead queue; and what is paused.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    broker::{Broker, QueueDepth},
    domain::Lane,
    store::{Backlog, DueCount, Store},
};

/// The ends of the spans in which waiting work is counted, in seconds from now: a minute, ten, an hour, six, a day.
pub const DUE_SPANS: [i32; 5] = [60, 600, 3_600, 21_600, 86_400];

/// What waits, as far as it could be read.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Depths {
    /// When it was read.
    pub at: Option<DateTime<Utc>>,
    /// The table's totals.
    pub backlog: Option<BacklogCounts>,
    /// The lanes, the most urgent first.
    pub lanes: Vec<LaneDepth>,
    /// Letters in the dead queue; `None`: RabbitMQ is away.
    pub dead_letters: Option<u32>,
    /// Whether RabbitMQ answered.
    pub broker: bool,
    /// Whether Postgres answered.
    pub database: bool,
    /// What waits for its time, by span.
    pub parked: Vec<SpanDepth>,
    /// Rows that a paused group holds back; counts stop at 10,000.
    pub held_by_pauses: i64,
    /// What an operator paused.
    pub pauses: Vec<PauseShown>,
}

/// The table's totals; counts stop at 100,001.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BacklogCounts {
    /// Rows of work.
    pub work: i64,
    /// Rows that should have been taken a second ago.
    pub past_due: i64,
    /// Calls in doubt.
    pub doubts: i64,
    /// Events and letters to publish.
    pub outbox: i64,
}

/// A lane's depth.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LaneDepth {
    /// Its name.
    pub lane: &'static str,
    /// Jobs in its queues that nobody has in hand; `None`: RabbitMQ is away.
    pub ready: Option<u64>,
    /// Its queues.
    pub queues: Vec<QueueShown>,
    /// Rows of the table that are due and that nobody has in hand.
    pub due: i64,
    /// Since when the oldest of them is due.
    pub oldest_due_at: Option<DateTime<Utc>>,
    /// An operator paused it.
    pub paused: bool,
    /// Until then, or until it is resumed.
    pub paused_until: Option<DateTime<Utc>>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueShown {
    /// Its name.
    pub name: String,
    /// Messages that no consumer holds.
    pub ready: u32,
    /// Consumers, of every worker.
    pub consumers: u32,
}

/// Waiting work of one span of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpanDepth {
    /// The span's end in seconds from now; `None`: later than any.
    pub within_seconds: Option<i32>,
    /// Rows; each command, app and lane counts up to 10,000.
    pub rows: i64,
}

/// Something that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PauseShown {
    /// `lane`, `group` or `app`.
    pub kind: &'static str,
    /// Which.
    pub name: String,
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
}

impl From<Backlog> for BacklogCounts {
    fn from(backlog: Backlog) -> Self {
        Self {
            work: backlog.work,
            past_due: backlog.past_due,
            doubts: backlog.doubts,
            outbox: backlog.outbox,
        }
    }
}

impl Depths {
    /// Asks the broker and the database.
    pub(super) async fn read(store: &Store, broker: Option<&Broker>) -> Self {
        let queues = async {
            match broker {
                Some(broker) => broker.queue_depths().await.ok(),
                None => None,
            }
        };
        let (queues, due, backlog, held, pauses) = tokio::join!(
            queues,
            store.due_counts(&DUE_SPANS),
            store.backlog(),
            store.held_by_pauses(),
            store.pauses()
        );
        let mut shown: Vec<PauseShown> = pauses
            .iter()
            .flat_map(crate::domain::pause::Pauses::iter)
            .map(|(scope, until)| PauseShown {
                kind: scope.kind(),
                name: scope.name().to_owned(),
                until,
            })
            .collect();
        shown.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        let database = due.is_ok() && pauses.is_ok();
        let due = due.unwrap_or_default();
        Self {
            at: Some(Utc::now()),
            backlog: backlog.ok().map(Into::into),
            lanes: Lane::ALL
                .into_iter()
                .map(|lane| lane_depth(lane, queues.as_deref(), &due, &shown))
                .collect(),
            dead_letters: queues.as_ref().and_then(|queues| {
                let dead = queues.iter().find(|queue| queue.lane.is_none());
                dead.map(|queue| queue.messages)
            }),
            broker: queues.is_some(),
            database,
            parked: spans(&due),
            held_by_pauses: held.unwrap_or(0),
            pauses: shown,
        }
    }
}

fn lane_depth(lane: Lane, queues: Option<&[QueueDepth]>, due: &[DueCount], pauses: &[PauseShown]) -> LaneDepth {
    let own = queues.map(|queues| queues.iter().filter(|queue| queue.lane == Some(lane)));
    let overdue = || due.iter().filter(|count| count.lane == lane && count.span == 0);
    let pause = pauses
        .iter()
        .find(|pause| pause.kind == "lane" && pause.name == lane.as_str());
    LaneDepth {
        lane: lane.as_str(),
        ready: own.clone().map(|own| own.map(|queue| u64::from(queue.messages)).sum()),
        queues: own
            .into_iter()
            .flatten()
            .map(|queue| QueueShown {
                name: queue.queue.clone(),
                ready: queue.messages,
                consumers: queue.consumers,
            })
            .collect(),
        due: overdue().map(|count| count.rows).sum(),
        oldest_due_at: overdue().filter_map(|count| count.first).min(),
        paused: pause.is_some(),
        paused_until: pause.and_then(|pause| pause.until),
    }
}

fn spans(due: &[DueCount]) -> Vec<SpanDepth> {
    let mut rows = BTreeMap::<usize, i64>::new();
    for count in due.iter().filter(|count| count.span > 0) {
        *rows.entry(count.span).or_default() += count.rows;
    }
    (1..=DUE_SPANS.len() + 1)
        .map(|span| SpanDepth {
            within_seconds: DUE_SPANS.get(span - 1).copied(),
            rows: rows.get(&span).copied().unwrap_or(0),
        })
        .collect()
}
