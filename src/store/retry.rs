//! A further generation: the failed recipients of a job are tried again, under new pairs.

use super::{Store, StoreError, claims::parse_id, outcomes::Parcel, status::unsigned};
use crate::domain::{Command, GroupName, JobId, job::MAX_CALL_RECIPIENTS};

/// Which failed recipients are tried again.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetryFilter<'a> {
    /// Only while the job is in this generation: a replay acts once.
    pub generation: Option<i32>,
    /// Only those that failed with this word; those that nobody can tell were sent only where it names theirs,
    /// `outcome-unknown`, since that risks a second message.
    pub code: Option<&'a str>,
}

/// A job, and how much of it could be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retryable {
    /// The job.
    pub id: JobId,
    /// Its generation, to be named when it is tried again, so that two retries at a time act once.
    pub generation: i32,
    /// Its failed recipients; 1 for a failed job without recipients.
    pub failed: u64,
    /// What the producer published is on record; without it nothing can be tried again.
    pub has_body: bool,
}

/// Jobs of a group that are counted in one statement.
const PAGE: i64 = 500;

impl Store {
    /// What could be tried again of one job; `None`: it isn't on record.
    pub async fn retryable_job(&self, id: &JobId, code: Option<&str>) -> Result<Option<Retryable>, StoreError> {
        Ok(self.retryable(Some(id.as_str()), None, "", code).await?.pop())
    }

    /// What could be tried again of a group's jobs, a page in the order of their ids, also of those with nothing. Empty
    /// behind the last.
    pub async fn retryable_of_group(
        &self,
        group: &GroupName,
        after: Option<&JobId>,
        code: Option<&str>,
    ) -> Result<Vec<Retryable>, StoreError> {
        let after = after.map_or("", JobId::as_str);
        self.retryable(None, Some(group.as_str()), after, code).await
    }

    async fn retryable(
        &self,
        id: Option<&str>,
        group: Option<&str>,
        after: &str,
        code: Option<&str>,
    ) -> Result<Vec<Retryable>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT j.id AS "id!", j.generation AS "generation!", j.has_body AS "has_body!",
                   CASE WHEN j.state = 0 OR j.type = 2 THEN 0
                        WHEN j.total = 0 THEN (j.error_code IS NOT NULL AND ($4::text IS NULL OR j.error_code = $4))::int4::int8
                        ELSE (SELECT count(*) FROM messages m
                              WHERE m.job_id = j.id AND m.created_at = j.created_at
                                AND (m.state = 4 AND ($4::text IS NULL OR m.error_code = $4)
                                     OR m.state = 8 AND m.error_code = $4)
                                AND NOT EXISTS (SELECT FROM work w
                                                WHERE w.job_id = m.job_id AND w.kind = 0 AND w.part = m.idx / 500))
                   END AS "failed!"
            FROM (
                (SELECT id, generation, body IS NOT NULL AS has_body, state, type, total, error_code, created_at
                 FROM jobs WHERE id = $1)
                UNION ALL
                (SELECT id, generation, body IS NOT NULL, state, type, total, error_code, created_at
                 FROM jobs WHERE group_name = $2 AND id > $3 ORDER BY id LIMIT $5)
            ) j
            ORDER BY j.id
            "#,
            id,
            group,
            after,
            code,
            PAGE,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("count failed recipients", error))?;
        rows.into_iter()
            .map(|row| {
                Ok(Retryable {
                    id: parse_id(&row.id)?,
                    generation: row.generation,
                    failed: unsigned(row.failed),
                    has_body: row.has_body,
                })
            })
            .collect()
    }

    /// Opens a job's next generation for its failed recipients and returns how many there are. Zero: nothing was done.
    ///
    /// `parcel` completes a job whose body isn't on record.
    pub async fn retry_failed(
        &self,
        id: &JobId,
        filter: RetryFilter<'_>,
        parcel: Option<&Parcel>,
    ) -> Result<u64, StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin a further generation", error))?;
        let job = sqlx::query!(
            r#"
            UPDATE jobs SET generation = generation + 1, owner = 1, state = 1, error_code = NULL, error_message = NULL,
                            body = coalesce(body, $3), properties = coalesce(properties, $4), queue = coalesce(queue, $5)
            WHERE id = $1 AND state <> 0 AND type <> 2 AND ($2::int4 IS NULL OR generation = $2)
              AND (total > 0 OR (error_code IS NOT NULL AND ($6::text IS NULL OR error_code = $6)))
            RETURNING generation, created_at, type, lane, app, group_name, total, body IS NULL AS "without_body!"
            "#,
            id.as_str(),
            filter.generation,
            parcel.map(|parcel| parcel.body.as_slice()),
            parcel.map(|parcel| parcel.properties.as_slice()),
            parcel.map(|parcel| parcel.queue.as_str()),
            filter.code,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("open a further generation", error))?;
        let Some(job) = job else { return Ok(0) };
        if job.without_body {
            return Ok(0);
        }
        let command = match job.r#type {
            1 => Command::BatchSendMsg,
            3 => Command::ImportMsg,
            4 => Command::SetMsgRead,
            5 => Command::GetUnreadNum,
            6 => Command::GetRoamMsg,
            _ => Command::SendMsg,
        };
        let (kind, parts, count) = if job.total == 0 {
            (4_i16, vec![0], 1)
        } else {
            let failed = sqlx::query_scalar!(
                r#"
                UPDATE messages
                SET state = 0, generation = $3, seq = NULL, random = NULL, first_call_at = NULL, pair_since = NULL,
                    call_id = NULL, token = NULL, error_code = NULL, error_message = NULL
                WHERE job_id = $1 AND created_at = $2
                  AND (state = 4 AND ($4::text IS NULL OR error_code = $4) OR state = 8 AND error_code = $4)
                  -- A part that still has work would end without those that were reopened behind its call's back.
                  AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = $1 AND w.kind = 0 AND w.part = idx / 500)
                RETURNING idx
                "#,
                id.as_str(),
                job.created_at,
                job.generation,
                filter.code,
            )
            .fetch_all(&mut *tx)
            .await
            .map_err(|error| StoreError::query("reopen failed recipients", error))?;
            let mut parts: Vec<i32> = failed.iter().map(|idx| idx / MAX_CALL_RECIPIENTS as i32).collect();
            parts.sort_unstable();
            parts.dedup();
            (0, parts, failed.len() as u64)
        };
        if count == 0 {
            return Ok(0);
        }
        sqlx::query!(
            r#"
            WITH queued AS (
                INSERT INTO work (kind, job_id, part, created_at, lane, app, command, group_name, due_at, generation)
                SELECT $2, $1, part, $3, $4, $5, $6, $7, now(), $8 FROM unnest($9::int4[]) AS part
                ON CONFLICT DO NOTHING
                RETURNING part
            )
            UPDATE jobs SET open_parts = open_parts + (SELECT count(*) FROM queued)::int4 WHERE id = $1
            "#,
            id.as_str(),
            kind,
            job.created_at,
            job.lane,
            job.app,
            command.index() as i16,
            job.group_name,
            job.generation,
            &parts,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("queue a further generation", error))?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a further generation", error))?;
        Ok(count)
    }
}
