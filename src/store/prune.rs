//! Retention: old records go, those that are still needed stay.
//!
//! Messages and attempts go by whole weeks, so that nothing has to be vacuumed, and only where nothing of that week is
//! open. Everything else goes in slices of 5,000, each a transaction of its own. A job's id goes last, since a repeat is
//! recognised by it.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use super::{
    Store, StoreError,
    slices::{SLICE, slices},
    status::unsigned,
};

/// Tries to get a week's lock, each half a second long: shorter than the second after which Postgres looks for deadlocks, so
/// that it is never a worker that has to give way.
const LOCK_TRIES: u32 = 20;

/// How long what is kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Messages, attempts, and what was published.
    pub messages: Duration,
    /// Job ids; at least as long as messages.
    pub ids: Duration,
    /// The audit log.
    pub audit: Duration,
    /// Counts against caps.
    pub cap_uses: Duration,
}

/// A week of messages and attempts, by its Monday in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OldWeek {
    /// Its first day.
    pub monday: NaiveDate,
    /// Something of it is still open: it stays whole.
    pub open: bool,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Messages, with their attempts and keys.
    pub messages: u64,
    /// Jobs whose content went.
    pub contents: u64,
    /// Job ids.
    pub ids: u64,
    /// Revocations.
    pub revocations: u64,
    /// Entries of the audit log.
    pub audit: u64,
    /// Counts against caps.
    pub cap_uses: u64,
}

impl OldWeek {
    fn begin(self) -> DateTime<Utc> {
        self.monday.and_time(chrono::NaiveTime::MIN).and_utc()
    }

    fn end(self) -> DateTime<Utc> {
        self.begin() + chrono::TimeDelta::days(7)
    }
}

impl Store {
    /// The weeks that ended longer ago than messages are kept, oldest first.
    pub async fn old_weeks(&self, retention: Retention) -> Result<Vec<OldWeek>, StoreError> {
        let mondays = sqlx::query_scalar!(
            r#"
            SELECT DISTINCT to_date(right(c.relname, 8), 'YYYYMMDD') AS "monday!"
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent IN ('messages'::regclass, 'attempts'::regclass) AND c.relname ~ '_[0-9]{8}$'
              AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 7)::timestamp AT TIME ZONE 'UTC'
                  <= now() - make_interval(secs => $1)
            ORDER BY 1
            "#,
            retention.messages.as_secs_f64(),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("list the weeks on record", error))?;
        let mut weeks = Vec::with_capacity(mondays.len());
        for monday in mondays {
            let mut week = OldWeek { monday, open: false };
            let mut tx = self
                .pool
                .begin()
                .await
                .map_err(|error| StoreError::query("begin to look at a week", error))?;
            week.open = is_open(&mut tx, week).await?;
            weeks.push(week);
        }
        Ok(weeks)
    }

    /// Counts what [`Store::drop_week`] for each of these weeks and [`Store::prune_rest`] would remove.
    pub async fn prunable(&self, retention: Retention, weeks: &[OldWeek]) -> Result<Pruned, StoreError> {
        let begins: Vec<DateTime<Utc>> = weeks
            .iter()
            .filter(|week| !week.open)
            .map(|week| week.begin())
            .collect();
        let counts = sqlx::query!(
            r#"
            WITH week AS (
                SELECT begins, begins + interval '7 days' AS ends FROM unnest($1::timestamptz[]) AS begins
            ), gone AS (
                SELECT j.* FROM jobs j
                WHERE j.created_at < now() - make_interval(secs => $2) AND j.state <> 0
                  AND NOT EXISTS (SELECT FROM messages m
                                  WHERE m.job_id = j.id AND m.created_at = j.created_at
                                    AND NOT EXISTS (SELECT FROM week WHERE m.created_at >= begins AND m.created_at < ends))
                  AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = j.id)
                  AND NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = j.id)
            )
            SELECT (SELECT count(*) FROM week JOIN messages ON created_at >= begins AND created_at < ends) AS "messages!",
                   (SELECT count(*) FROM gone
                    WHERE body IS NOT NULL OR properties IS NOT NULL OR error_message IS NOT NULL) AS "contents!",
                   (SELECT count(*) FROM gone g
                    WHERE g.created_at < now() - make_interval(secs => $3)
                      AND NOT EXISTS (SELECT FROM revocations r
                                      WHERE r.id = g.id AND (NOT r.fanned_out OR r.raw_state = 1 OR r.expires_at > now()))
                   ) AS "ids!",
                   (SELECT count(*) FROM revocations r
                    WHERE r.created_at < now() - make_interval(secs => $3) AND r.fanned_out AND r.raw_state <> 1
                      AND (r.expires_at IS NULL OR r.expires_at <= now())
                      AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = r.id)) AS "revocations!",
                   (SELECT count(*) FROM audit WHERE at < now() - make_interval(secs => $4)) AS "audit!",
                   (SELECT count(*) FROM cap_uses WHERE at < now() - make_interval(secs => $5)) AS "caps!"
            "#,
            &begins,
            retention.messages.as_secs_f64(),
            retention.ids.as_secs_f64(),
            retention.audit.as_secs_f64(),
            retention.cap_uses.as_secs_f64(),
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("count old records", error))?;
        Ok(Pruned {
            messages: unsigned(counts.messages),
            contents: unsigned(counts.contents),
            ids: unsigned(counts.ids),
            revocations: unsigned(counts.revocations),
            audit: unsigned(counts.audit),
            cap_uses: unsigned(counts.caps),
        })
    }

    /// Drops a week's messages and attempts, unless something of it has become open. Answers how many messages went.
    ///
    /// The week's table is locked against writers before it is looked at; its parent, which everybody uses, for as long as
    /// the drop takes, and never waited for longer than half a second at a time.
    pub async fn drop_week(&self, week: OldWeek) -> Result<Option<u64>, StoreError> {
        let mut tries = 0;
        loop {
            match self.try_drop_week(week).await {
                Err(error) if error.is_retryable_now() && tries < LOCK_TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                done => return done,
            }
        }
    }

    async fn try_drop_week(&self, week: OldWeek) -> Result<Option<u64>, StoreError> {
        let failed = |error| StoreError::query("drop a week of messages", error);
        let mut tx = self.pool.begin().await.map_err(failed)?;
        sqlx::query!("SET LOCAL lock_timeout = '500ms'")
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        let tables: Vec<String> = sqlx::query_scalar!(
            r#"SELECT c.oid::regclass::text AS "name!" FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent IN ('messages'::regclass, 'attempts'::regclass) AND c.relname LIKE '%\_' || $1
               ORDER BY i.inhparent::regclass::text DESC"#,
            week.monday.format("%Y%m%d").to_string(),
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        if tables.is_empty() {
            return Ok(Some(0));
        }
        // Postgres gives the names, quoted where they must be.
        let all = tables.join(", ");
        sqlx::query(AssertSqlSafe(format!("LOCK TABLE {all} IN SHARE MODE")))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        if is_open(&mut tx, week).await? {
            return Ok(None);
        }
        let messages = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM messages WHERE created_at >= $1 AND created_at < $2"#,
            week.begin(),
            week.end(),
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
        sqlx::query(AssertSqlSafe(format!("DROP TABLE {all}")))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(Some(unsigned(messages)))
    }

    /// Removes everything else that is old, after the weeks: contents, calls and keys of messages that are gone, ids,
    /// revocations, the audit log, counts of caps.
    pub async fn prune_rest(&self, retention: Retention) -> Result<Pruned, StoreError> {
        let contents = self.prune_contents(retention.messages).await?;
        self.prune_calls(retention.messages).await?;
        self.prune_keys(retention.messages).await?;
        Ok(Pruned {
            messages: 0,
            contents,
            revocations: self.prune_revocations(retention.ids).await?,
            ids: self.prune_ids(retention.ids).await?,
            audit: self.prune_audit(retention.audit).await?,
            cap_uses: self.prune_cap_uses_before(retention.cap_uses).await?,
        })
    }

    async fn prune_contents(&self, kept: Duration) -> Result<u64, StoreError> {
        slices("remove old contents", || async {
            sqlx::query!(
                "UPDATE jobs SET body = NULL, properties = NULL, error_message = NULL WHERE id IN (
                     SELECT j.id FROM jobs j
                     WHERE j.created_at < now() - make_interval(secs => $1) AND j.state <> 0
                       AND (j.body IS NOT NULL OR j.properties IS NOT NULL OR j.error_message IS NOT NULL)
                       AND NOT EXISTS (SELECT FROM messages m WHERE m.job_id = j.id AND m.created_at = j.created_at)
                       AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = j.id)
                       AND NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = j.id)
                     ORDER BY j.created_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                kept.as_secs_f64(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }

    async fn prune_calls(&self, kept: Duration) -> Result<u64, StoreError> {
        slices("remove old calls", || async {
            sqlx::query!(
                "DELETE FROM calls WHERE call_id IN (
                     SELECT c.call_id FROM calls c
                     WHERE c.last_call_at < now() - make_interval(secs => $1)
                       AND NOT EXISTS (SELECT FROM messages m
                                       WHERE m.job_id = ANY (CASE WHEN c.jobs IS NULL THEN ARRAY[c.job_id] ELSE c.jobs END))
                     LIMIT $2)",
                kept.as_secs_f64(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }

    async fn prune_keys(&self, kept: Duration) -> Result<u64, StoreError> {
        slices("remove old keys", || async {
            sqlx::query!(
                "DELETE FROM message_keys WHERE (job_id, idx, msg_key) IN (
                     SELECT k.job_id, k.idx, k.msg_key FROM message_keys k
                     WHERE k.at < now() - make_interval(secs => $1)
                       AND NOT EXISTS (SELECT FROM messages m WHERE m.job_id = k.job_id AND m.idx = k.idx)
                     LIMIT $2)",
                kept.as_secs_f64(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }

    async fn prune_revocations(&self, kept: Duration) -> Result<u64, StoreError> {
        slices("remove old revocations", || async {
            sqlx::query!(
                "DELETE FROM revocations WHERE id IN (
                     SELECT r.id FROM revocations r
                     WHERE r.created_at < now() - make_interval(secs => $1) AND r.fanned_out AND r.raw_state <> 1
                       AND (r.expires_at IS NULL OR r.expires_at <= now())
                       AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = r.id)
                     LIMIT $2)",
                kept.as_secs_f64(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }

    async fn prune_ids(&self, kept: Duration) -> Result<u64, StoreError> {
        slices("remove old ids", || async {
            sqlx::query!(
                "DELETE FROM jobs WHERE id IN (
                     SELECT j.id FROM jobs j
                     WHERE j.created_at < now() - make_interval(secs => $1) AND j.state <> 0
                       AND NOT EXISTS (SELECT FROM messages m WHERE m.job_id = j.id AND m.created_at = j.created_at)
                       AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = j.id)
                       AND NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = j.id)
                       AND NOT EXISTS (SELECT FROM revocations r WHERE r.id = j.id)
                     ORDER BY j.created_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                kept.as_secs_f64(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }

    async fn prune_audit(&self, kept: Duration) -> Result<u64, StoreError> {
        slices("remove old entries of the audit log", || async {
            sqlx::query!(
                "DELETE FROM audit WHERE id IN (
                     SELECT id FROM audit WHERE at < now() - make_interval(secs => $1) ORDER BY id LIMIT $2)",
                kept.as_secs_f64(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }
}

/// Whether something of a week still has to be done, revoked, or published.
async fn is_open(tx: &mut Transaction<'static, Postgres>, week: OldWeek) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"
        SELECT (EXISTS (SELECT FROM messages WHERE created_at >= $1 AND created_at < $2
                        AND (state IN (0, 1, 2) OR revoke_state = 1))
                OR EXISTS (SELECT FROM work WHERE created_at >= $1 AND created_at < $2)
                OR EXISTS (SELECT FROM jobs WHERE created_at >= $1 AND created_at < $2
                           AND (state = 0 OR (type = 1 AND state <> 2)))
                OR EXISTS (SELECT FROM outbox o JOIN jobs j ON j.id = o.job_id
                           WHERE j.created_at >= $1 AND j.created_at < $2)) AS "open!"
        "#,
        week.begin(),
        week.end(),
    )
    .fetch_one(&mut **tx)
    .await
    .map_err(|error| StoreError::query("look whether a week is over", error))
}
