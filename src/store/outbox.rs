//! The outbox: events and dead letters of work that the table owns, written with their effect and published afterwards.

use sqlx::{Postgres, Transaction};

use super::{Store, StoreError, claims::parse_id};
use crate::domain::JobId;

/// An event that waits for its publication.
#[derive(Debug, Clone)]
pub struct OutboxEvent {
    /// The job that it is about.
    pub job: JobId,
    /// Its stable id.
    pub event_id: String,
    /// The job's type and the outcome, with a dot between.
    pub routing_key: String,
    /// The event as JSON.
    pub body: Vec<u8>,
    /// The queue of the producer that wants a copy.
    pub reply_to: Option<String>,
    /// That producer's correlation id.
    pub correlation_id: Option<String>,
}

/// A dead letter that waits for its publication; its body and properties are the job's.
#[derive(Debug, Clone)]
pub struct OutboxLetter {
    /// The job.
    pub job: JobId,
    /// The word.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// Calls so far.
    pub attempts: u32,
    /// The generation that failed.
    pub generation: i32,
}

/// A row to publish.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Its number, by which it is deleted.
    pub id: i64,
    /// What it is.
    pub item: OutboxItem,
}

/// What a row of the outbox holds.
#[derive(Debug, Clone)]
pub enum OutboxItem {
    /// An event.
    Event(OutboxEvent),
    /// A dead letter with what the producer published.
    Letter {
        /// The letter.
        letter: OutboxLetter,
        /// The job's body.
        body: Vec<u8>,
        /// The job's AMQP properties, as the broker layer wrote them.
        properties: Vec<u8>,
        /// The queue that the job came from.
        queue: String,
    },
}

impl Store {
    /// Writes an event in the transaction of its effect.
    pub(super) async fn put_event(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        event: &OutboxEvent,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO outbox (kind, job_id, event_id, routing_key, body, reply_to, correlation_id)
             VALUES (0, $1, $2, $3, $4, $5, $6)",
            event.job.as_str(),
            event.event_id,
            event.routing_key,
            event.body,
            event.reply_to,
            event.correlation_id,
        )
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::query("put an event into the outbox", error))?;
        Ok(())
    }

    /// Writes an event by itself: one of a delivery's job whose publication took too long.
    pub async fn add_event(&self, event: &OutboxEvent) -> Result<(), StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin an event", error))?;
        self.put_event(&mut tx, event).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit an event", error))
    }

    /// Writes a dead letter in the transaction of its effect.
    pub(super) async fn put_letter(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        letter: &OutboxLetter,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO outbox (kind, job_id, event_id, routing_key, body, error_code, error_message, attempts, generation)
             VALUES (1, $1, '', '', '', $2, $3, $4, $5)",
            letter.job.as_str(),
            letter.code,
            letter.message,
            letter.attempts as i32,
            letter.generation,
        )
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::query("put a dead letter into the outbox", error))?;
        Ok(())
    }

    /// Takes rows to publish, for 30 s: another worker takes them again after that.
    pub async fn take_outbox(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        let rows = sqlx::query!(
            r#"
            WITH due AS (
                SELECT id FROM outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
            ), taken AS (
                UPDATE outbox o SET due_at = now() + interval '30 seconds' FROM due WHERE o.id = due.id RETURNING o.*
            )
            SELECT t.id AS "id!", t.kind AS "kind!", t.job_id AS "job_id!", t.event_id AS "event_id!",
                   t.routing_key AS "routing_key!", t.body AS "body!", t.reply_to, t.correlation_id, t.error_code,
                   t.error_message, t.attempts AS "attempts!", t.generation AS "generation!",
                   CASE WHEN t.kind = 1 THEN j.body END AS job_body,
                   CASE WHEN t.kind = 1 THEN j.properties END AS job_properties,
                   CASE WHEN t.kind = 1 THEN j.queue END AS job_queue
            FROM taken t LEFT JOIN jobs j ON j.id = t.job_id
            ORDER BY t.id
            "#,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("take rows of the outbox", error))?;
        rows.into_iter()
            .map(|row| {
                let job = parse_id(&row.job_id)?;
                let item = if row.kind == 0 {
                    OutboxItem::Event(OutboxEvent {
                        job,
                        event_id: row.event_id,
                        routing_key: row.routing_key,
                        body: row.body,
                        reply_to: row.reply_to,
                        correlation_id: row.correlation_id,
                    })
                } else {
                    OutboxItem::Letter {
                        letter: OutboxLetter {
                            job,
                            code: row.error_code.unwrap_or_default(),
                            message: row.error_message.unwrap_or_default(),
                            attempts: row.attempts.max(0) as u32,
                            generation: row.generation,
                        },
                        body: row.job_body.unwrap_or_default(),
                        properties: row.job_properties.unwrap_or_default(),
                        queue: row.job_queue.unwrap_or_default(),
                    }
                };
                Ok(OutboxRow { id: row.id, item })
            })
            .collect()
    }

    /// Deletes rows whose publication the broker has confirmed.
    pub async fn drop_outbox(&self, ids: &[i64]) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM outbox WHERE id = ANY ($1)", ids)
            .execute(&self.pool)
            .await
            .map_err(|error| StoreError::query("delete published rows of the outbox", error))?;
        Ok(())
    }
}
