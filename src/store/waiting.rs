//! What waits in the table, by when it is due; and what is in doubt.
//!
//! `work` may hold millions of rows, so nothing here reads all of them: every count is a range of `work_due` and stops at
//! [`MOST_COUNTED`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Store, StoreError};
use crate::domain::{AppName, Command, Lane, pause::Pauses};

/// Where counts stop.
const MOST_COUNTED: i64 = 10_000;

/// Rows of one command, app and lane that are due within a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCount {
    /// The command of the next step.
    pub command: Option<Command>,
    /// The app.
    pub app: String,
    /// The lane.
    pub lane: Lane,
    /// The span's number: its place in the spans that were asked about, 0 for what is due already.
    pub span: usize,
    /// Rows that nobody has in hand, 10,000 at most.
    pub rows: i64,
    /// When the first of them is due.
    pub first: Option<DateTime<Utc>>,
}

/// The oldest row of one command, app and lane that is due and that nobody has in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestDue {
    /// The command of the next step.
    pub command: Option<Command>,
    /// The app.
    pub app: String,
    /// The lane.
    pub lane: Lane,
    /// How long it has been due.
    pub age: Duration,
}

impl OldestDue {
    /// Whether it waits since its lane or its app is paused. What a paused group holds isn't among the oldest.
    pub fn is_stopped_by(&self, pauses: &Pauses) -> bool {
        match (self.command, AppName::parse(&self.app)) {
            (Some(command), Ok(app)) => pauses.stops(command, self.lane, &app, None),
            _ => false,
        }
    }
}

/// A row of work that waits for its time.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingRow {
    /// The job.
    pub job: String,
    /// Its part.
    pub part: i32,
    /// The command of the next step.
    pub command: &'static str,
    /// The app.
    pub app: String,
    /// The lane.
    pub lane: &'static str,
    /// The group.
    pub group: Option<String>,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// Attempts that counted.
    pub attempts: i32,
}

/// A call whose outcome isn't known yet.
#[derive(Debug, Clone, Serialize)]
pub struct DoubtRow {
    /// The job.
    pub job: String,
    /// Its part.
    pub part: i32,
    /// The app.
    pub app: String,
    /// The lane.
    pub lane: &'static str,
    /// The group.
    pub group: Option<String>,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
    /// The next look at the history.
    pub next_look: DateTime<Utc>,
    /// Looks that haven't seen the message.
    pub looks: i32,
    /// What the call ended with.
    pub code: Option<String>,
}

fn command_name(number: i16) -> &'static str {
    Command::from_index(number).map_or("other", Command::as_str)
}

impl Store {
    /// Counts what waits, in spans that end so many seconds from now; the first span is what is due already, the last
    /// everything later.
    pub async fn due_counts(&self, spans: &[i32]) -> Result<Vec<DueCount>, StoreError> {
        let rows = sqlx::query!(
            r#"
            WITH RECURSIVE keys AS (
                (SELECT command, app, lane FROM work ORDER BY command, app, lane LIMIT 1)
                UNION ALL
                SELECT n.command, n.app, n.lane FROM keys k CROSS JOIN LATERAL (
                    SELECT command, app, lane FROM work WHERE (command, app, lane) > (k.command, k.app, k.lane)
                    ORDER BY command, app, lane LIMIT 1) n
            ), ends AS (
                SELECT 0 AS span, now() AS until
                UNION ALL SELECT ordinality::int, now() + seconds * interval '1 second'
                          FROM unnest($1::int4[]) WITH ORDINALITY AS s(seconds, ordinality)
                UNION ALL SELECT cardinality($1::int4[]) + 1, 'infinity'::timestamptz
            ), spans AS (
                SELECT span, coalesce(lag(until) OVER (ORDER BY span), '-infinity') AS after, until FROM ends
            )
            SELECT k.command AS "command!", k.app AS "app!", k.lane AS "lane!", s.span AS "span!", c.rows AS "rows!", c.first
            FROM keys k CROSS JOIN spans s CROSS JOIN LATERAL (
                SELECT count(*) AS rows, min(due_at) AS first FROM (
                    SELECT due_at FROM work w
                    WHERE w.command = k.command AND w.app = k.app AND w.lane = k.lane
                      AND w.due_at > s.after AND w.due_at <= s.until AND w.lease IS NULL AND NOT w.parked
                    ORDER BY due_at LIMIT $2) x) c
            WHERE c.rows > 0
            "#,
            spans,
            MOST_COUNTED,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("count what is due when", error))?;
        let counts = rows.into_iter().map(|row| DueCount {
            command: Command::from_index(row.command),
            app: row.app,
            lane: Lane::from_index(row.lane),
            span: row.span.max(0) as usize,
            rows: row.rows,
            first: row.first,
        });
        Ok(counts.collect())
    }

    /// Since when the oldest due row of each command, app and lane waits: one look into the index for each.
    pub async fn oldest_due(&self) -> Result<Vec<OldestDue>, StoreError> {
        let rows = sqlx::query!(
            r#"
            WITH RECURSIVE keys AS (
                (SELECT command, app, lane FROM work ORDER BY command, app, lane LIMIT 1)
                UNION ALL
                SELECT n.command, n.app, n.lane FROM keys k CROSS JOIN LATERAL (
                    SELECT command, app, lane FROM work WHERE (command, app, lane) > (k.command, k.app, k.lane)
                    ORDER BY command, app, lane LIMIT 1) n
            )
            SELECT k.command AS "command!", k.app AS "app!", k.lane AS "lane!",
                   (extract(epoch FROM clock_timestamp() - w.due_at) * 1000)::bigint AS "age!"
            FROM keys k CROSS JOIN LATERAL (
                SELECT due_at FROM work w
                WHERE w.command = k.command AND w.app = k.app AND w.lane = k.lane
                  AND w.due_at <= now() AND w.lease IS NULL AND NOT w.parked
                ORDER BY due_at LIMIT 1) w
            "#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read since when work is due", error))?;
        let oldest = rows.into_iter().map(|row| OldestDue {
            command: Command::from_index(row.command),
            app: row.app,
            lane: Lane::from_index(row.lane),
            age: Duration::from_millis(row.age.max(0) as u64),
        });
        Ok(oldest.collect())
    }

    /// Rows that a paused group holds back, 10,000 at most.
    pub async fn held_by_pauses(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (SELECT FROM work WHERE parked LIMIT $1) p"#,
            MOST_COUNTED
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("count what a pause holds", error))
    }

    /// What waits for its time, what is due first first.
    pub async fn parked(&self, limit: u32) -> Result<Vec<WaitingRow>, StoreError> {
        let rows = sqlx::query!(
            r#"
            WITH RECURSIVE keys AS (
                (SELECT command, app, lane FROM work ORDER BY command, app, lane LIMIT 1)
                UNION ALL
                SELECT n.command, n.app, n.lane FROM keys k CROSS JOIN LATERAL (
                    SELECT command, app, lane FROM work WHERE (command, app, lane) > (k.command, k.app, k.lane)
                    ORDER BY command, app, lane LIMIT 1) n
            )
            SELECT w.job_id, w.part, w.command, w.app, w.lane, w.group_name, w.due_at, w.attempts
            FROM keys k CROSS JOIN LATERAL (
                SELECT * FROM work w
                WHERE w.command = k.command AND w.app = k.app AND w.lane = k.lane
                  AND w.due_at > now() AND w.lease IS NULL AND NOT w.parked
                ORDER BY due_at LIMIT $1) w
            ORDER BY w.due_at, w.job_id LIMIT $1
            "#,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read what waits for its time", error))?;
        let parked = rows.into_iter().map(|row| WaitingRow {
            job: row.job_id,
            part: row.part,
            command: command_name(row.command),
            app: row.app,
            lane: Lane::from_index(row.lane).as_str(),
            group: row.group_name,
            due_at: row.due_at,
            attempts: row.attempts,
        });
        Ok(parked.collect())
    }

    /// What is in doubt, the oldest first.
    pub async fn doubtful(&self, limit: u32) -> Result<Vec<DoubtRow>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT w.job_id, w.part, w.app, w.lane, w.group_name, w.doubt_since, w.due_at, w.looks, a.code AS "code?"
            FROM (SELECT * FROM work WHERE command = $2 AND kind = 0 ORDER BY doubt_since LIMIT $1) w
            LEFT JOIN LATERAL (SELECT code FROM attempts WHERE job_id = w.job_id AND created_at = w.created_at
                               AND class <> 'reconciled' ORDER BY at DESC LIMIT 1) a ON true
            ORDER BY w.doubt_since, w.job_id
            "#,
            i64::from(limit),
            Command::GetRoamMsg.index() as i16,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read what is in doubt", error))?;
        let doubts = rows.into_iter().map(|row| DoubtRow {
            job: row.job_id,
            part: row.part,
            app: row.app,
            lane: Lane::from_index(row.lane).as_str(),
            group: row.group_name,
            since: row.doubt_since,
            next_look: row.due_at,
            looks: row.looks,
            code: row.code,
        });
        Ok(doubts.collect())
    }
}
