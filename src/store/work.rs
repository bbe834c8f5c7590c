//! Work that the table owns: taken when due, under a lease, by whichever worker has room.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError, claims::parse_id};
use crate::domain::{AppName, Command, GroupName, JobId, Lane};

/// What a row of `work` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkKind {
    /// Deliver a single or a part of 500 recipients; reconcile where the command is the history's.
    Deliver,
    /// Revoke one message.
    Revoke,
    /// Spread a revocation over its target's messages.
    FanOut,
    /// End a long job.
    Close,
    /// An operation without recipients: `mark_read`, `unread`, `history`.
    Operation,
    /// Revoke a message that no record of ours owns.
    RevokeRaw,
}

impl WorkKind {
    /// The database's number.
    pub const fn number(self) -> i16 {
        self as i16
    }

    const fn from_number(number: i16) -> Option<Self> {
        Some(match number {
            0 => Self::Deliver,
            1 => Self::Revoke,
            2 => Self::FanOut,
            3 => Self::Close,
            4 => Self::Operation,
            5 => Self::RevokeRaw,
            _ => return None,
        })
    }
}

/// How many rows of one kind of budget a worker has room for.
#[derive(Debug, Clone)]
pub struct Room {
    /// The command whose budget the rows wait for.
    pub command: Command,
    /// The app.
    pub app: AppName,
    /// The lane.
    pub lane: Lane,
    /// Rows at most.
    pub rows: u32,
}

/// A row that was taken.
#[derive(Debug, Clone)]
pub struct WorkUnit {
    /// What it asks for.
    pub kind: WorkKind,
    /// The job; for a revocation's fan-out the revoke job.
    pub job: JobId,
    /// The part, or the message's index.
    pub part: i32,
    /// The partition key of the job's messages.
    pub created_at: DateTime<Utc>,
    /// The lane.
    pub lane: Lane,
    /// The app.
    pub app: AppName,
    /// The command of the next step.
    pub command: Command,
    /// The group.
    pub group: Option<GroupName>,
    /// Attempts that counted.
    pub attempts: u32,
    /// How often its owner died with it in its hands.
    pub takeovers: u32,
    /// Names this taking: only its holder may end or postpone the row.
    pub lease: Uuid,
    /// Looks at the history without a sight of the message.
    pub looks: u32,
    /// The job's retry generation that the row belongs to.
    pub generation: i32,
}

impl Store {
    /// Takes what is due, oldest first for each command, app and lane, under a lease of `lease` seconds.
    pub async fn take_work(&self, rooms: &[Room], lease: Duration) -> Result<Vec<WorkUnit>, StoreError> {
        let commands: Vec<i16> = rooms.iter().map(|room| room.command.index() as i16).collect();
        let apps: Vec<&str> = rooms.iter().map(|room| room.app.as_str()).collect();
        let lanes: Vec<i16> = rooms.iter().map(|room| room.lane.index() as i16).collect();
        let limits: Vec<i64> = rooms.iter().map(|room| i64::from(room.rows)).collect();
        let rows = sqlx::query!(
            r#"
            WITH picked AS (
                SELECT due.* FROM unnest($1::int2[], $2::text[], $3::int2[], $4::int8[]) AS want(command, app, lane, room),
                LATERAL (
                    SELECT w.job_id, w.kind, w.part FROM work w
                    WHERE w.command = want.command AND w.app = want.app AND w.lane = want.lane AND w.due_at <= now()
                    ORDER BY w.due_at LIMIT want.room FOR UPDATE SKIP LOCKED
                ) AS due
            )
            UPDATE work w
            SET due_at = now() + make_interval(secs => $5), lease = gen_random_uuid(), parked = false, opens_at = NULL,
                takeovers = w.takeovers + CASE WHEN w.lease IS NULL THEN 0 ELSE 1 END
            FROM picked p
            WHERE w.job_id = p.job_id AND w.kind = p.kind AND w.part = p.part
            RETURNING w.kind, w.job_id, w.part, w.created_at, w.lane, w.app, w.command, w.group_name, w.attempts,
                      w.takeovers, w.lease AS "lease!", w.looks, w.generation
            "#,
            &commands,
            &apps as &[&str],
            &lanes,
            &limits,
            lease.as_secs_f64(),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("take due work", error))?;
        rows.into_iter()
            .map(|row| {
                let job = parse_id(&row.job_id)?;
                let unreadable = |column: &'static str, value: String| StoreError::Inconsistent {
                    table: "work",
                    column,
                    job: row.job_id.clone(),
                    value,
                };
                Ok(WorkUnit {
                    kind: WorkKind::from_number(row.kind).ok_or_else(|| unreadable("kind", row.kind.to_string()))?,
                    command: Command::from_index(row.command)
                        .ok_or_else(|| unreadable("command", row.command.to_string()))?,
                    app: AppName::parse(&row.app).map_err(|error| unreadable("app", error.to_string()))?,
                    group: row
                        .group_name
                        .as_deref()
                        .map(GroupName::parse)
                        .transpose()
                        .map_err(|error| unreadable("group_name", error.to_string()))?,
                    job,
                    part: row.part,
                    created_at: row.created_at,
                    lane: Lane::from_index(row.lane),
                    attempts: row.attempts.max(0) as u32,
                    takeovers: row.takeovers.max(0) as u32,
                    lease: row.lease,
                    looks: row.looks.max(0) as u32,
                    generation: row.generation,
                })
            })
            .collect()
    }

    /// Gives a row back unchanged, due again after the delay. Nothing was tried.
    pub async fn give_back(&self, unit: &WorkUnit, after: Duration) -> Result<(), StoreError> {
        self.postpone(unit, unit.command, after, false).await
    }

    /// Postpones a row, perhaps for another command.
    pub async fn postpone(
        &self,
        unit: &WorkUnit,
        command: Command,
        after: Duration,
        counts: bool,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE work SET command = $5, due_at = now() + make_interval(secs => $6), lease = NULL, takeovers = 0,
                             attempts = attempts + $7
             WHERE job_id = $1 AND kind = $2 AND part = $3 AND lease = $4",
            unit.job.as_str(),
            unit.kind.number(),
            unit.part,
            unit.lease,
            command.index() as i16,
            after.as_secs_f64(),
            i32::from(counts),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("postpone a row of work", error))?;
        Ok(())
    }

    /// Prolongs a lease; false: the row has been taken by another, or is gone.
    pub async fn keep_lease(&self, unit: &WorkUnit, lease: Duration) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE work SET due_at = now() + make_interval(secs => $5)
             WHERE job_id = $1 AND kind = $2 AND part = $3 AND lease = $4",
            unit.job.as_str(),
            unit.kind.number(),
            unit.part,
            unit.lease,
            lease.as_secs_f64(),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("prolong a lease", error))?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends a row of work whose effect is recorded elsewhere.
    pub async fn end_work(&self, unit: &WorkUnit) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM work WHERE job_id = $1 AND kind = $2 AND part = $3 AND lease = $4",
            unit.job.as_str(),
            unit.kind.number(),
            unit.part,
            unit.lease,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("end a row of work", error))?;
        Ok(())
    }

    /// What the producer published of a job that the table owns.
    pub async fn stored_job(&self, id: &JobId) -> Result<Option<StoredJob>, StoreError> {
        let row = sqlx::query!(
            "SELECT body, properties, queue, created_at, type, lane, expires_at, generation, total FROM jobs WHERE id = $1",
            id.as_str(),
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| StoreError::query("read a stored job", error))?;
        Ok(row.map(|row| StoredJob {
            body: row.body.unwrap_or_default(),
            properties: row.properties.unwrap_or_default(),
            queue: row.queue.unwrap_or_default(),
            created_at: row.created_at,
            job_type: row.r#type,
            lane: Lane::from_index(row.lane),
            generation: row.generation,
            total: row.total.max(0) as u32,
        }))
    }

    /// Counts of `work` and of the outbox.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let row = sqlx::query!(
            r#"
            SELECT (SELECT count(*) FROM (SELECT 1 FROM work LIMIT 100001) w) AS "work!",
                   (SELECT count(*) FROM (SELECT 1 FROM work WHERE due_at < now() - interval '1 second' AND lease IS NULL
                                          LIMIT 100001) w) AS "past_due!",
                   (SELECT count(*) FROM (SELECT 1 FROM work WHERE kind = 0 AND command = 3 LIMIT 100001) w) AS "doubts!",
                   (SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 100001) o) AS "outbox!"
            "#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("measure the backlog", error))?;
        Ok(Backlog {
            work: row.work,
            past_due: row.past_due,
            doubts: row.doubts,
            outbox: row.outbox,
        })
    }
}

/// A job as the table keeps it.
#[derive(Debug, Clone)]
pub struct StoredJob {
    /// What the producer published.
    pub body: Vec<u8>,
    /// Its AMQP properties.
    pub properties: Vec<u8>,
    /// The queue that it came from.
    pub queue: String,
    /// The partition key of its messages.
    pub created_at: DateTime<Utc>,
    /// The number of its type.
    pub job_type: i16,
    /// Its lane.
    pub lane: Lane,
    /// Its generation.
    pub generation: i32,
    /// Distinct recipients.
    pub total: u32,
}

/// What waits in the table; each count stops at 100,001.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Rows of work.
    pub work: i64,
    /// Rows that should have been taken a second ago.
    pub past_due: i64,
    /// Calls in doubt.
    pub doubts: i64,
    /// Events and letters to publish.
    pub outbox: i64,
}
