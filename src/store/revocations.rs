//! Revocations: the tombstone first, committed; then its fan-out over the target's messages; then a call for each.
//!
//! The fan-out is an UPDATE in id order, 1,000 at a time: one by SELECT would miss a message whose outcome commits
//! meanwhile. Claims and outcomes test tombstones in their own statements, which covers what the fan-out passed by.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use super::{Store, StoreError, claims::parse_id, outbox::OutboxEvent, work::WorkUnit};
use crate::domain::{AccountId, AppName, JobId, Lane, job::RevokeTarget};

/// Messages marked in one step of a fan-out.
const STEP: i32 = 1_000;

/// A tombstone to write.
#[derive(Debug, Clone)]
pub struct NewRevocation<'a> {
    /// The revoke job.
    pub id: &'a JobId,
    /// Its digest.
    pub digest: [u8; 32],
    /// Its app.
    pub app: &'a AppName,
    /// Its group, a label only.
    pub group: Option<&'a str>,
    /// The lane that it came by.
    pub lane: Lane,
    /// What it revokes.
    pub target: &'a RevokeTarget,
    /// Where its events go beside the exchange.
    pub reply_to: Option<&'a str>,
    /// The producer's correlation id.
    pub correlation_id: Option<&'a str>,
}

/// What became of a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationAdded {
    /// On record now, its fan-out queued.
    Added,
    /// It had been there.
    Repeated,
    /// The id belongs to another job.
    Conflict,
}

/// Members of one job that a fan-out cancelled.
#[derive(Debug, Clone)]
pub struct CancelledByFanOut {
    /// The job.
    pub job: JobId,
    /// The number of its type.
    pub job_type: i16,
    /// Its app.
    pub app: String,
    /// Its group.
    pub group: Option<String>,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
}

impl Store {
    /// Writes a tombstone and queues its fan-out, in one transaction. From its commit on, nothing that it covers is
    /// sent by a claim that begins later.
    pub async fn add_revocation(&self, revocation: &NewRevocation<'_>) -> Result<RevocationAdded, StoreError> {
        let mut tx = self
            .high
            .begin()
            .await
            .map_err(|error| StoreError::query("begin a revocation", error))?;
        let inserted = sqlx::query!(
            "INSERT INTO jobs (id, digest, type, app, group_name, lane, owner, state, total)
             VALUES ($1, $2, 2, $3, $4, $5, 1, 1, 0) ON CONFLICT (id) DO NOTHING RETURNING created_at",
            revocation.id.as_str(),
            revocation.digest.as_slice(),
            revocation.app.as_str(),
            revocation.group,
            revocation.lane.index() as i16,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("record a revoke job", error))?;
        let Some(inserted) = inserted else {
            drop(tx);
            let same = sqlx::query_scalar!(
                r#"SELECT digest = $2 AS "same!" FROM jobs WHERE id = $1"#,
                revocation.id.as_str(),
                revocation.digest.as_slice(),
            )
            .fetch_optional(&self.high)
            .await
            .map_err(|error| StoreError::query("read a job that is on record", error))?;
            return Ok(if same == Some(false) {
                RevocationAdded::Conflict
            } else {
                RevocationAdded::Repeated
            });
        };
        let row = TombstoneColumns::of(revocation.target);
        sqlx::query!(
            "INSERT INTO revocations (id, created_at, app, lane, target_job, to_accounts, target_group, from_account,
                                      to_account, msg_key, expires_at, reply_to, correlation_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
                     CASE WHEN $7::text IS NULL THEN NULL ELSE now() + interval '7 days' END, $11, $12)",
            revocation.id.as_str(),
            inserted.created_at,
            revocation.app.as_str(),
            revocation.lane.index() as i16,
            row.job,
            row.to_accounts.as_deref() as Option<&[&str]>,
            row.group,
            row.from,
            row.to,
            row.msg_key,
            revocation.reply_to,
            revocation.correlation_id,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("write a tombstone", error))?;
        sqlx::query!(
            "INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
             VALUES (2, $1, 0, $2, $3, $4, 4, now()) ON CONFLICT DO NOTHING",
            revocation.id.as_str(),
            inserted.created_at,
            revocation.lane.index() as i16,
            revocation.app.as_str(),
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("queue a fan-out", error))?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a revocation", error))?;
        Ok(RevocationAdded::Added)
    }

    /// One step of a fan-out: marks up to about 1,000 messages, cancels those that are still pending, queues a call for
    /// those that are sent, and moves the cursor, in one transaction. True: the end was reached.
    pub async fn fan_out(
        &self,
        unit: &WorkUnit,
        cancelled_event: impl Fn(&CancelledByFanOut) -> OutboxEvent,
    ) -> Result<bool, StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin a fan-out", error))?;
        let row = sqlx::query!(
            r#"
            SELECT r.target_job, r.to_accounts, r.target_group, r.from_account, r.to_account, r.msg_key, r.cursor_job,
                   r.cursor_idx, r.fanned_out, r.app
            FROM work w JOIN revocations r ON r.id = w.job_id
            WHERE w.job_id = $1 AND w.kind = 2 AND w.part = 0 AND w.lease = $2
            FOR UPDATE OF w, r
            "#,
            unit.job.as_str(),
            unit.lease,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("read a fan-out", error))?;
        let Some(row) = row else { return Ok(true) };
        let mut end = true;
        if let (Some(from), Some(to), Some(msg_key)) = (&row.from_account, &row.to_account, &row.msg_key) {
            self.fan_out_raw(&mut tx, unit, from, to, msg_key).await?;
        } else if !row.fanned_out {
            let slice = next_slice(
                &mut tx,
                row.target_job.as_deref(),
                row.target_group.as_deref(),
                &row.cursor_job,
                row.cursor_idx,
            )
            .await?;
            if let Some(cursor) = slice.cursor.clone() {
                let cancelled = mark(&mut tx, unit, &slice, row.to_accounts.as_deref()).await?;
                for members in &cancelled {
                    self.put_event(&mut tx, &cancelled_event(members)).await?;
                }
                sqlx::query!(
                    "UPDATE revocations SET cursor_job = $2, cursor_idx = $3 WHERE id = $1",
                    unit.job.as_str(),
                    cursor.0,
                    cursor.1,
                )
                .execute(&mut *tx)
                .await
                .map_err(|error| StoreError::query("move a fan-out's cursor", error))?;
                end = false;
            }
        }
        if end {
            sqlx::query!(
                "UPDATE revocations SET fanned_out = true WHERE id = $1",
                unit.job.as_str()
            )
            .execute(&mut *tx)
            .await
            .map_err(|error| StoreError::query("end a fan-out", error))?;
            sqlx::query!(
                "DELETE FROM work WHERE job_id = $1 AND kind = 2 AND lease = $2",
                unit.job.as_str(),
                unit.lease
            )
            .execute(&mut *tx)
            .await
            .map_err(|error| StoreError::query("end a row of work", error))?;
        }
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a fan-out", error))?;
        Ok(end)
    }

    /// A target by its key: the record that owns it is marked like any other; without one the key itself is work.
    async fn fan_out_raw(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        unit: &WorkUnit,
        from: &str,
        to: &str,
        msg_key: &str,
    ) -> Result<(), StoreError> {
        let owned = sqlx::query!(
            r#"
            WITH owner AS (
                UPDATE messages SET revoke_id = coalesce(revoke_id, $1),
                                    revoke_state = CASE WHEN state = 3 THEN 1 ELSE revoke_state END
                WHERE to_account = $2 AND from_account = $3 AND msg_key = $4
                RETURNING job_id, idx, created_at, state
            ), queued AS (
                INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
                SELECT 1, job_id, idx, created_at, 0, $5, 4, now() FROM owner WHERE state = 3
                ON CONFLICT DO NOTHING
            )
            SELECT count(*) AS "owned!" FROM owner
            "#,
            unit.job.as_str(),
            to,
            from,
            msg_key,
            unit.app.as_str(),
        )
        .fetch_one(&mut **tx)
        .await
        .map_err(|error| StoreError::query("look for the owner of a MsgKey", error))?;
        if owned.owned == 0 {
            sqlx::query!(
                "UPDATE revocations SET raw_state = 1 WHERE id = $1 AND raw_state = 0",
                unit.job.as_str()
            )
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("mark a raw revocation", error))?;
            sqlx::query!(
                "INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
                 VALUES (5, $1, 0, $2, $3, $4, 4, now()) ON CONFLICT DO NOTHING",
                unit.job.as_str(),
                unit.created_at,
                unit.lane.index() as i16,
                unit.app.as_str(),
            )
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("queue a raw revocation", error))?;
        }
        Ok(())
    }
}

/// A target as columns.
struct TombstoneColumns<'a> {
    job: Option<&'a str>,
    to_accounts: Option<Vec<&'a str>>,
    group: Option<&'a str>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    msg_key: Option<&'a str>,
}

impl<'a> TombstoneColumns<'a> {
    fn of(target: &'a RevokeTarget) -> Self {
        let none = Self {
            job: None,
            to_accounts: None,
            group: None,
            from: None,
            to: None,
            msg_key: None,
        };
        match target {
            RevokeTarget::Job { job, to } => Self {
                job: Some(job.as_str()),
                to_accounts: to.as_ref().map(|to| to.iter().map(AccountId::as_str).collect()),
                ..none
            },
            RevokeTarget::Group(group) => Self {
                group: Some(group.as_str()),
                ..none
            },
            RevokeTarget::Message { from, to, msg_key } => Self {
                from: Some(from.as_str()),
                to: Some(to.as_str()),
                msg_key: Some(msg_key.as_str()),
                ..none
            },
        }
    }
}

/// Ranges of messages for one step of a fan-out, and where the cursor stands after it.
#[derive(Debug, Default)]
struct Slice {
    ranges: Vec<Range>,
    /// `None`: nothing is left.
    cursor: Option<(String, i32)>,
}

/// Messages of one job.
#[derive(Debug)]
struct Range {
    job: String,
    created_at: DateTime<Utc>,
    first: i32,
    last: i32,
}

/// A slice as columns, sorted by job: statements find a row's range by binary search.
struct RangeColumns<'a> {
    jobs: Vec<&'a str>,
    created: Vec<DateTime<Utc>>,
    first: Vec<i32>,
    last: Vec<i32>,
}

impl<'a> RangeColumns<'a> {
    fn of(slice: &'a Slice) -> Self {
        let mut ranges: Vec<&Range> = slice.ranges.iter().collect();
        ranges.sort_unstable_by(|a, b| a.job.cmp(&b.job));
        Self {
            jobs: ranges.iter().map(|range| range.job.as_str()).collect(),
            created: ranges.iter().map(|range| range.created_at).collect(),
            first: ranges.iter().map(|range| range.first).collect(),
            last: ranges.iter().map(|range| range.last).collect(),
        }
    }
}

/// Small jobs many at a time, a long one in ranges.
async fn next_slice(
    tx: &mut Transaction<'static, Postgres>,
    job: Option<&str>,
    group: Option<&str>,
    cursor_job: &str,
    cursor_idx: i32,
) -> Result<Slice, StoreError> {
    let rows = sqlx::query!(
        r#"
        (SELECT id AS "id!", created_at AS "created_at!", total AS "total!" FROM jobs
         WHERE id = $1 AND total > 0)
        UNION ALL
        (SELECT id, created_at, total FROM jobs
         WHERE group_name = $2 AND id >= $3 AND type IN (0, 1, 3) ORDER BY id LIMIT 1001)
        "#,
        job,
        group,
        cursor_job,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a fan-out's jobs", error))?;
    let mut slice = Slice::default();
    let mut room = STEP;
    for row in rows {
        let first = if row.id == cursor_job { cursor_idx + 1 } else { 0 };
        if first >= row.total {
            continue;
        }
        if room <= 0 {
            break;
        }
        let last = (first + room - 1).min(row.total - 1);
        room -= last - first + 1;
        slice.cursor = Some((row.id.clone(), last));
        slice.ranges.push(Range {
            job: row.id,
            created_at: row.created_at,
            first,
            last,
        });
    }
    Ok(slice)
}

async fn mark(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    slice: &Slice,
    to_accounts: Option<&[String]>,
) -> Result<Vec<CancelledByFanOut>, StoreError> {
    let column = RangeColumns::of(slice);
    // By their keys alone, as in `record_sent`: joined with the ranges, each message was compared with each of them.
    let marked = sqlx::query!(
        r#"
        UPDATE messages m
        SET revoke_id = coalesce(m.revoke_id, $5),
            revoke_state = CASE WHEN m.state = 3 THEN 1 ELSE m.revoke_state END,
            state = CASE WHEN m.state = 0 THEN 5 ELSE m.state END
        WHERE m.job_id = ANY ($1) AND m.created_at BETWEEN $7 AND $8 AND m.idx BETWEEN $9 AND $10
          AND m.created_at = ($2::timestamptz[])[width_bucket(m.job_id COLLATE "C", $1)]
          AND m.idx BETWEEN ($3::int4[])[width_bucket(m.job_id COLLATE "C", $1)]
                        AND ($4::int4[])[width_bucket(m.job_id COLLATE "C", $1)]
          AND m.state IN (0, 1, 2, 3) AND ($6::text[] IS NULL OR m.to_account = ANY ($6))
        RETURNING m.job_id, m.idx, m.created_at, m.state, m.from_account, m.to_account
        "#,
        &column.jobs as &[&str],
        &column.created,
        &column.first,
        &column.last,
        unit.job.as_str(),
        to_accounts,
        column.created.iter().min(),
        column.created.iter().max(),
        column.first.iter().min(),
        column.last.iter().max(),
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("mark messages for revocation", error))?;
    let mut sent = (Vec::new(), Vec::new(), Vec::new());
    let mut cancelled: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for row in marked {
        if row.state == 3 {
            sent.0.push(row.job_id);
            sent.1.push(row.idx);
            sent.2.push(row.created_at);
        } else if row.state == 5 {
            cancelled
                .entry(row.job_id)
                .or_insert_with(|| (row.from_account, Vec::new()))
                .1
                .push(row.to_account);
        }
    }
    // A call for each of a long fan-out waits behind the calls of single revocations.
    let lane = if sent.0.len() > 50 { Lane::Normal } else { Lane::High };
    sqlx::query!(
        r#"
        INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
        SELECT 1, i.job_id, i.idx, i.created_at, $4, j.app, 4, now()
        FROM unnest($1::text[], $2::int4[], $3::timestamptz[]) AS i(job_id, idx, created_at)
        JOIN jobs j ON j.id = i.job_id
        ORDER BY i.job_id, i.idx
        ON CONFLICT DO NOTHING
        "#,
        &sent.0,
        &sent.1,
        &sent.2,
        lane.index() as i16,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("queue revocations", error))?;
    mark_further_keys(tx, unit, &column, to_accounts).await?;
    describe_cancelled(tx, cancelled).await
}

/// Messages with a further key are with their recipient, whatever their state says.
async fn mark_further_keys(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    column: &RangeColumns<'_>,
    to_accounts: Option<&[String]>,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH marked AS (
            UPDATE messages m SET revoke_id = coalesce(m.revoke_id, $5)
            WHERE m.job_id = ANY ($1) AND m.created_at BETWEEN $7 AND $8 AND m.idx BETWEEN $9 AND $10
              AND m.created_at = ($2::timestamptz[])[width_bucket(m.job_id COLLATE "C", $1)]
              AND m.idx BETWEEN ($3::int4[])[width_bucket(m.job_id COLLATE "C", $1)]
                            AND ($4::int4[])[width_bucket(m.job_id COLLATE "C", $1)]
              AND m.state <> 3 AND ($6::text[] IS NULL OR m.to_account = ANY ($6))
              AND EXISTS (SELECT FROM message_keys k
                          WHERE k.job_id = m.job_id AND k.idx = m.idx AND k.revoked_at IS NULL)
            RETURNING m.job_id, m.idx, m.created_at
        )
        INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
        SELECT 1, m.job_id, m.idx, m.created_at, 0, j.app, 4, now() FROM marked m JOIN jobs j ON j.id = m.job_id
        ON CONFLICT DO NOTHING
        "#,
        &column.jobs as &[&str],
        &column.created,
        &column.first,
        &column.last,
        unit.job.as_str(),
        to_accounts,
        column.created.iter().min(),
        column.created.iter().max(),
        column.first.iter().min(),
        column.last.iter().max(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("mark further keys for revocation", error))?;
    Ok(())
}

async fn describe_cancelled(
    tx: &mut Transaction<'static, Postgres>,
    cancelled: BTreeMap<String, (String, Vec<String>)>,
) -> Result<Vec<CancelledByFanOut>, StoreError> {
    if cancelled.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = cancelled.keys().map(String::as_str).collect();
    // Nothing is pending in them any more: their rows end soon instead of at `send_at`.
    sqlx::query!(
        "UPDATE work SET due_at = now() WHERE job_id = ANY ($1) AND kind = 0 AND lease IS NULL AND due_at > now()
           AND command <> 3",
        &ids as &[&str],
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("hasten cancelled work", error))?;
    let jobs = sqlx::query!(
        "SELECT id, type, app, group_name FROM jobs WHERE id = ANY ($1)",
        &ids as &[&str]
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read cancelled jobs", error))?;
    let mut described = Vec::new();
    for row in jobs {
        let Some((from, to)) = cancelled.get(&row.id) else {
            continue;
        };
        for part in to.chunks(crate::domain::job::MAX_CALL_RECIPIENTS) {
            described.push(CancelledByFanOut {
                job: parse_id(&row.id)?,
                job_type: row.r#type,
                app: row.app.clone(),
                group: row.group_name.clone(),
                from: from.clone(),
                to: part.to_vec(),
            });
        }
    }
    Ok(described)
}
