//! What `verify` reads: every record that the IM history can prove or refute, page by page, and what is waiting or stuck.
//!
//! The scope is fixed once, in a temporary table on a connection of its own, in the order of conversations; the records
//! themselves are read anew with each page. So a walk of hours holds no snapshot, needs no memory that grows, and sees
//! each record as it is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row as _, pool::PoolConnection};

use super::{
    Store, StoreError,
    claims::{message_state, parse_id},
    status::unsigned,
};
use crate::domain::{AppName, GroupName, JobId, MessageState, record};

/// Records read in one statement.
const PAGE: i64 = 1_000;

/// Which records.
#[derive(Debug, Clone, Copy)]
pub struct VerifyScope<'a> {
    /// Only jobs of this group.
    pub group: Option<&'a GroupName>,
    /// Only jobs received since.
    pub since: Option<DateTime<Utc>>,
    /// How far back the service keeps its history.
    pub retention: Duration,
}

/// A walk over the records of a scope.
#[derive(Debug)]
pub struct VerifyWalk {
    connection: PoolConnection<Postgres>,
    records: u64,
    beyond_retention: u64,
    at: i64,
}

/// A record as `verify` needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRecord {
    /// The app.
    pub app: AppName,
    /// The job.
    pub job: JobId,
    /// The message's index in it.
    pub idx: i32,
    /// Whether it was imported.
    pub imported: bool,
    /// The sender.
    pub from: String,
    /// The recipient.
    pub to: String,
    /// Its state.
    pub state: MessageState,
    /// The pairs of every call that was made for it and is on record.
    pub pairs: Vec<(u32, u32)>,
    /// The key.
    pub msg_key: Option<String>,
    /// The service's time of the message, Unix seconds.
    pub msg_time: Option<i64>,
    /// Further keys that have not been revoked.
    pub further_keys: Vec<String>,
    /// For those online only: in no history.
    pub online_only: bool,
    /// The first call, Unix seconds.
    pub first_call: i64,
    /// The last call, Unix seconds.
    pub last_call: i64,
    /// Since the last call, on the database's clock.
    pub age: Duration,
}

/// What is pending in a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PendingCounts {
    /// Messages that wait for a call.
    pub pending: u64,
    /// Among them: whose work has been due for more than a second.
    pub past_due: u64,
}

/// Something that nothing will carry out any more: its row of work is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// The job.
    pub job: String,
    /// The recipient; empty for a job without recipients.
    pub to: String,
}

impl Store {
    /// Fixes the records of a scope, for a walk over them.
    pub async fn walk_records(&self, scope: &VerifyScope<'_>) -> Result<VerifyWalk, StoreError> {
        let mut connection = self
            .pool
            .acquire()
            .await
            .map_err(|error| StoreError::query("take a connection for a walk over the records", error))?;
        let fix = |error| StoreError::query("fix the records to verify", error);
        // The table lives as long as the connection, which is closed with the walk rather than given back.
        connection.close_on_drop();
        // Sent, revoked, unknown, calling and in doubt; and what ended otherwise although a call may have reached the
        // service: its failure is no refusal of the service's own.
        let created = sqlx::query(
            "CREATE TEMPORARY TABLE verify_scope AS
             SELECT row_number() OVER (ORDER BY j.app, m.to_account, m.from_account, m.created_at, m.job_id, m.idx) AS n,
                    m.job_id, m.idx, m.created_at
             FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
             WHERE j.type IN (0, 1, 3) AND ($1::text IS NULL OR j.group_name = $1)
               AND ($2::timestamptz IS NULL OR j.created_at >= $2)
               AND (m.state IN (1, 2, 8)
                    OR m.last_call_at >= clock_timestamp() - make_interval(secs => $3)
                       AND (m.state IN (3, 7)
                            OR m.state IN (4, 5, 6, 9) AND m.first_call_at IS NOT NULL
                               AND (m.error_code IS NULL OR m.error_code NOT LIKE 'im-%')))",
        )
        .bind(scope.group.map(GroupName::as_str))
        .bind(scope.since)
        .bind(scope.retention.as_secs_f64())
        .execute(&mut *connection)
        .await
        .map_err(fix)?;
        sqlx::query("CREATE UNIQUE INDEX ON verify_scope (n)")
            .execute(&mut *connection)
            .await
            .map_err(fix)?;
        let beyond = sqlx::query_scalar!(
            r#"
            SELECT count(*) AS "beyond!"
            FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
            WHERE j.type IN (0, 1, 3) AND ($1::text IS NULL OR j.group_name = $1)
              AND ($2::timestamptz IS NULL OR j.created_at >= $2)
              AND m.state = 3 AND m.last_call_at < clock_timestamp() - make_interval(secs => $3)
            "#,
            scope.group.map(GroupName::as_str),
            scope.since,
            scope.retention.as_secs_f64(),
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| StoreError::query("count what the history no longer keeps", error))?;
        Ok(VerifyWalk {
            connection,
            records: created.rows_affected(),
            beyond_retention: unsigned(beyond),
            at: 0,
        })
    }

    /// Counts the records of a scope by state.
    pub async fn count_records(&self, scope: &VerifyScope<'_>) -> Result<Vec<(MessageState, u64)>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT m.state, count(*) AS "count!"
            FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
            WHERE j.type IN (0, 1, 3) AND ($1::text IS NULL OR j.group_name = $1)
              AND ($2::timestamptz IS NULL OR j.created_at >= $2)
            GROUP BY m.state
            "#,
            scope.group.map(GroupName::as_str),
            scope.since,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("count the records to verify", error))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| Some((MessageState::from_number(row.state)?, unsigned(row.count))))
            .collect())
    }

    /// What waits in a scope.
    pub async fn pending_counts(&self, scope: &VerifyScope<'_>) -> Result<PendingCounts, StoreError> {
        let row = sqlx::query!(
            r#"
            SELECT count(*) AS "pending!", count(*) FILTER (WHERE w.due_at < now() - interval '1 second') AS "past_due!"
            FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
            LEFT JOIN work w ON w.job_id = m.job_id AND w.kind = 0 AND w.part = m.idx / 500
            WHERE m.state = 0 AND j.type IN (0, 1, 3) AND ($1::text IS NULL OR j.group_name = $1)
              AND ($2::timestamptz IS NULL OR j.created_at >= $2)
            "#,
            scope.group.map(GroupName::as_str),
            scope.since,
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("count what is pending", error))?;
        Ok(PendingCounts {
            pending: unsigned(row.pending),
            past_due: unsigned(row.past_due),
        })
    }

    /// Whatever the table owns and has no work for: how many, and the first `most` of them. One statement, so one moment.
    pub async fn stranded(&self, scope: &VerifyScope<'_>, most: u32) -> Result<(u64, Vec<Stranded>), StoreError> {
        let rows = sqlx::query!(
            r#"
            WITH stranded AS (
                SELECT j.id, m.to_account, m.idx
                FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
                WHERE m.state = 0 AND j.owner = 1 AND j.state <> 0 AND j.type IN (0, 1, 3)
                  AND ($1::text IS NULL OR j.group_name = $1) AND ($2::timestamptz IS NULL OR j.created_at >= $2)
                  AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = m.job_id AND w.kind = 0 AND w.part = m.idx / 500)
                UNION ALL
                SELECT j.id, '', 0 FROM jobs j LEFT JOIN revocations r ON r.id = j.id
                WHERE j.owner = 1 AND j.state = 1
                  AND (j.type IN (4, 5, 6) OR j.type = 2 AND NOT coalesce(r.fanned_out, false))
                  AND ($1::text IS NULL OR j.group_name = $1) AND ($2::timestamptz IS NULL OR j.created_at >= $2)
                  AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = j.id AND w.kind IN (2, 4, 5))
            )
            SELECT id AS "id!", to_account AS "to!", count(*) OVER () AS "all!" FROM stranded ORDER BY id, idx LIMIT $3
            "#,
            scope.group.map(GroupName::as_str),
            scope.since,
            i64::from(most.max(1)),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("look for messages without work", error))?;
        let all = rows.first().map_or(0, |row| unsigned(row.all));
        let first = rows.into_iter().map(|row| Stranded {
            job: row.id,
            to: row.to,
        });
        Ok((all, first.collect()))
    }

    /// Of these keys between two accounts, those that are another record's than this one.
    pub async fn keys_of_others(&self, record: &ScopeRecord, keys: &[String]) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar!(
            r#"
            SELECT msg_key AS "msg_key!" FROM messages
            WHERE to_account = $1 AND from_account = $2 AND msg_key = ANY ($3) AND NOT (job_id = $4 AND idx = $5)
            "#,
            record.to,
            record.from,
            keys,
            record.job.as_str(),
            record.idx,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("look for the owners of MsgKeys", error))
    }
}

impl VerifyWalk {
    /// Records of the scope that the history is asked about.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Messages on record as sent that are older than the history.
    pub const fn beyond_retention(&self) -> u64 {
        self.beyond_retention
    }

    /// The next records, in the order of conversations; empty behind the last.
    pub async fn next_page(&mut self) -> Result<Vec<ScopeRecord>, StoreError> {
        // OFFSET 0 lets each row be fetched by its key. A plain join goes by the job alone once that is joined first, and
        // reads a whole batch for each of its members.
        let rows = sqlx::query(
            "SELECT s.n, j.app, j.id, j.type, j.online_only, m.idx, m.from_account, m.to_account, m.state, m.msg_key, m.msg_time,
                    m.seq, m.random,
                    coalesce(extract(epoch FROM m.first_call_at), extract(epoch FROM m.last_call_at), 0)::int8 AS first_call,
                    coalesce(extract(epoch FROM m.last_call_at), 0)::int8 AS last_call,
                    greatest(coalesce(extract(epoch FROM clock_timestamp() - m.last_call_at), 0), 0)::float8 AS age,
                    array(SELECT c.seq FROM calls c WHERE c.job_id = m.job_id AND c.part = m.idx / 500
                          AND m.idx = ANY (c.members) OR c.call_id = m.call_id ORDER BY c.call_id) AS seqs,
                    array(SELECT c.random FROM calls c WHERE c.job_id = m.job_id AND c.part = m.idx / 500
                          AND m.idx = ANY (c.members) OR c.call_id = m.call_id ORDER BY c.call_id) AS randoms,
                    array(SELECT k.msg_key FROM message_keys k
                          WHERE k.job_id = m.job_id AND k.idx = m.idx AND k.revoked_at IS NULL) AS further_keys
             FROM verify_scope s
             CROSS JOIN LATERAL (SELECT * FROM messages
                                 WHERE job_id = s.job_id AND idx = s.idx AND created_at = s.created_at OFFSET 0) m
             CROSS JOIN LATERAL (SELECT * FROM jobs WHERE id = s.job_id OFFSET 0) j
             WHERE s.n > $1 AND s.n <= $2 ORDER BY s.n",
        )
        .bind(self.at)
        .bind(self.at + PAGE)
        .fetch_all(&mut *self.connection)
        .await
        .map_err(|error| StoreError::query("read records to verify", error))?;
        self.at += PAGE;
        let page = rows
            .iter()
            .map(scope_record)
            .collect::<Result<Result<Vec<_>, StoreError>, sqlx::Error>>()
            .map_err(|error| StoreError::query("read a record to verify", error))??;
        if page.is_empty() && u64::try_from(self.at).unwrap_or(u64::MAX) < self.records {
            // Everything of this page has been erased meanwhile.
            return Box::pin(self.next_page()).await;
        }
        Ok(page)
    }
}

type Read<T> = Result<Result<T, StoreError>, sqlx::Error>;

fn scope_record(row: &sqlx::postgres::PgRow) -> Read<ScopeRecord> {
    let id: String = row.try_get("id")?;
    let state: i16 = row.try_get("state")?;
    let app: String = row.try_get("app")?;
    let number: i16 = row.try_get("type")?;
    let pair = |seq: i64, random: i64| (seq as u32, random as u32);
    let seqs: Vec<i64> = row.try_get("seqs")?;
    let randoms: Vec<i64> = row.try_get("randoms")?;
    let mut pairs: Vec<(u32, u32)> = seqs
        .into_iter()
        .zip(randoms)
        .map(|(seq, random)| pair(seq, random))
        .collect();
    let own: (Option<i64>, Option<i64>) = (row.try_get("seq")?, row.try_get("random")?);
    if let (Some(seq), Some(random)) = own {
        pairs.push(pair(seq, random));
    }
    let age: f64 = row.try_get("age")?;
    let (idx, from, to) = (
        row.try_get("idx")?,
        row.try_get("from_account")?,
        row.try_get("to_account")?,
    );
    let (msg_key, msg_time) = (row.try_get("msg_key")?, row.try_get("msg_time")?);
    let (first_call, last_call) = (row.try_get("first_call")?, row.try_get("last_call")?);
    let (further_keys, online_only) = (row.try_get("further_keys")?, row.try_get("online_only")?);
    Ok((|| {
        let job = parse_id(&id)?;
        Ok(ScopeRecord {
            app: AppName::parse(&app).map_err(|error| StoreError::Inconsistent {
                table: "jobs",
                column: "app",
                job: id.clone(),
                value: error.to_string(),
            })?,
            state: message_state(state, &job)?,
            imported: record::type_name(number) == "import",
            job,
            idx,
            from,
            to,
            pairs,
            msg_key,
            msg_time,
            further_keys,
            online_only,
            first_call,
            last_call,
            age: Duration::try_from_secs_f64(age).unwrap_or_default(),
        })
    })())
}
