//! A further generation: the failed recipients of a job are tried again, under new pairs.

use super::{Store, StoreError, outcomes::Parcel};
use crate::domain::{Command, JobId, job::MAX_CALL_RECIPIENTS};

/// Which failed recipients are tried again.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetryFilter<'a> {
    /// Only while the job is in this generation: a replay acts once.
    pub generation: Option<i32>,
    /// Only those that failed with this word.
    pub code: Option<&'a str>,
}

impl Store {
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
            WHERE id = $1 AND state <> 0 AND ($2::int4 IS NULL OR generation = $2)
              AND (total > 0 OR error_code IS NOT NULL)
            RETURNING generation, created_at, type, lane, app, group_name, total, body IS NULL AS "without_body!"
            "#,
            id.as_str(),
            filter.generation,
            parcel.map(|parcel| parcel.body.as_slice()),
            parcel.map(|parcel| parcel.properties.as_slice()),
            parcel.map(|parcel| parcel.queue.as_str()),
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
                SET state = 0, generation = $3, seq = NULL, random = NULL, first_call_at = NULL, call_id = NULL,
                    token = NULL, error_code = NULL, error_message = NULL
                WHERE job_id = $1 AND created_at = $2 AND state = 4 AND ($4::text IS NULL OR error_code = $4)
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
