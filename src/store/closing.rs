//! The end of a long job, when its last part has ended, and of an operation without recipients.

use super::{
    Store, StoreError,
    outbox::{OutboxEvent, OutboxLetter},
    work::WorkUnit,
};

/// What is known of a job when its last part has ended.
#[derive(Debug, Clone)]
pub struct ClosedJob {
    /// Recipients that the message reached, revoked since or not.
    pub reached: i64,
    /// Recipients that failed.
    pub failed: i64,
    /// The most calls of one recipient.
    pub attempts: u32,
    /// The generation.
    pub generation: i32,
    /// A failure of a call as a whole.
    pub error: Option<(String, String)>,
}

impl Store {
    /// Ends a long job: how many reached anyone, for the dead letter that it may need.
    ///
    /// A job that has got open parts again meanwhile, since a retry came before, isn't at its end: the last of those
    /// queues this anew.
    pub async fn close_job(
        &self,
        unit: &WorkUnit,
        letter: impl FnOnce(&ClosedJob) -> Option<OutboxLetter>,
    ) -> Result<(), StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the end of a job", error))?;
        let job = sqlx::query!(
            "SELECT error_code, error_message, generation, state, open_parts FROM jobs WHERE id = $1 FOR UPDATE",
            unit.job.as_str(),
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("lock a job at its end", error))?;
        if let Some(job) = job
            && job.state == 1
            && job.open_parts <= 0
        {
            // Behind the lock, in a statement of its own: what a retry that held it has reopened is seen.
            let counts = sqlx::query!(
                r#"
                SELECT count(*) FILTER (WHERE m.state IN (3, 7)) AS "reached!",
                       count(*) FILTER (WHERE m.state = 4) AS "failed!",
                       coalesce(max(m.attempts), 0) AS "attempts!"
                FROM messages m WHERE m.job_id = $1 AND m.created_at = $2
                "#,
                unit.job.as_str(),
                unit.created_at,
            )
            .fetch_one(&mut *tx)
            .await
            .map_err(|error| StoreError::query("count a job's outcomes", error))?;
            let closed = ClosedJob {
                reached: counts.reached,
                failed: counts.failed,
                attempts: counts.attempts.max(0) as u32,
                generation: job.generation,
                error: job.error_code.map(|code| (code, job.error_message.unwrap_or_default())),
            };
            if let Some(letter) = letter(&closed) {
                self.put_letter(&mut tx, &letter).await?;
            }
            sqlx::query!("UPDATE jobs SET state = 2 WHERE id = $1", unit.job.as_str())
                .execute(&mut *tx)
                .await
                .map_err(|error| StoreError::query("close a job", error))?;
        }
        sqlx::query!(
            "DELETE FROM work WHERE job_id = $1 AND kind = 3 AND part = $2 AND lease = $3",
            unit.job.as_str(),
            unit.part,
            unit.lease,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("end a row of work", error))?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the end of a job", error))
    }

    /// Ends an operation without recipients, with its event or reply and perhaps its letter.
    pub async fn close_operation(
        &self,
        unit: &WorkUnit,
        error: Option<&(String, String)>,
        events: &[OutboxEvent],
        letter: Option<&OutboxLetter>,
    ) -> Result<(), StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the end of an operation", error))?;
        let held = sqlx::query!(
            "DELETE FROM work WHERE job_id = $1 AND kind = 4 AND part = $2 AND lease = $3",
            unit.job.as_str(),
            unit.part,
            unit.lease,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("end a row of work", error))?;
        if held.rows_affected() == 0 {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE jobs SET state = 2, error_code = $2, error_message = $3 WHERE id = $1",
            unit.job.as_str(),
            error.map(|(code, _)| code.as_str()),
            error.map(|(_, message)| message.as_str()),
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("close an operation", error))?;
        for event in events {
            self.put_event(&mut tx, event).await?;
        }
        if let Some(letter) = letter {
            self.put_letter(&mut tx, letter).await?;
        }
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the end of an operation", error))
    }
}
