//! Messages that a fan-out marked: what their calls need, and how they ended.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{Store, StoreError, claims::parse_id, outbox::OutboxEvent, work::WorkUnit};
use crate::domain::{AccountId, JobId};

/// A message to revoke.
#[derive(Debug, Clone)]
pub struct RevocableMessage {
    /// Its row of work.
    pub unit: WorkUnit,
    /// The sender that the service has.
    pub from: AccountId,
    /// The recipient.
    pub to: AccountId,
    /// Every key of it: more than one means that it was sent twice.
    pub keys: Vec<String>,
    /// The revocation.
    pub revocation: JobId,
    /// The number of the sending job's type.
    pub job_type: i16,
    /// The sending job's group.
    pub group: Option<String>,
    /// Where the revoke job's events go beside the exchange.
    pub reply_to: Option<String>,
    /// The producer's correlation id.
    pub correlation_id: Option<String>,
}

/// How the revocation of a message ended.
#[derive(Debug, Clone)]
pub struct RevokeOutcome {
    /// Its row of work.
    pub unit: WorkUnit,
    /// The failure; `None`: revoked, now or before.
    pub error: Option<String>,
    /// The event.
    pub event: OutboxEvent,
}

/// A message of no record of ours, to revoke by its key.
#[derive(Debug, Clone)]
pub struct RawMessage {
    /// The sender.
    pub from: AccountId,
    /// The recipient.
    pub to: AccountId,
    /// The key.
    pub msg_key: String,
    /// Where the revoke job's events go beside the exchange.
    pub reply_to: Option<String>,
    /// The producer's correlation id.
    pub correlation_id: Option<String>,
}
impl Store {
    /// What the rows of work of kind `Revoke` are about, in one statement; rows whose message needs no call any more
    /// are ended here.
    pub async fn revocable(&self, units: &[WorkUnit]) -> Result<Vec<RevocableMessage>, StoreError> {
        let jobs: Vec<&str> = units.iter().map(|unit| unit.job.as_str()).collect();
        let indexes: Vec<i32> = units.iter().map(|unit| unit.part).collect();
        let created: Vec<DateTime<Utc>> = units.iter().map(|unit| unit.created_at).collect();
        let rows = sqlx::query!(
            r#"
            SELECT m.job_id, m.idx, m.from_account, m.to_account, m.msg_key AS "msg_key!", m.revoke_id AS "revoke_id!",
                   j.type AS job_type, j.group_name, r.reply_to AS "reply_to?", r.correlation_id AS "correlation_id?",
                   array(SELECT k.msg_key FROM message_keys k
                         WHERE k.job_id = m.job_id AND k.idx = m.idx AND k.revoked_at IS NULL) AS "others!"
            FROM unnest($1::text[], $2::int4[], $3::timestamptz[]) AS i(job_id, idx, created_at)
            JOIN messages m ON m.job_id = i.job_id AND m.created_at = i.created_at AND m.idx = i.idx
            JOIN jobs j ON j.id = m.job_id
            LEFT JOIN revocations r ON r.id = m.revoke_id
            WHERE m.state = 3 AND m.revoke_id IS NOT NULL AND m.msg_key IS NOT NULL
            "#,
            &jobs as &[&str],
            &indexes,
            &created,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read messages to revoke", error))?;
        let mut by_message: HashMap<(String, i32), &WorkUnit> = units
            .iter()
            .map(|unit| ((unit.job.to_string(), unit.part), unit))
            .collect();
        let mut messages = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(unit) = by_message.remove(&(row.job_id.clone(), row.idx)) else {
                continue;
            };
            let account = |column: &'static str, value: &str| {
                AccountId::parse(value).map_err(|error| StoreError::Inconsistent {
                    table: "messages",
                    column,
                    job: row.job_id.clone(),
                    value: error.to_string(),
                })
            };
            let mut keys = vec![row.msg_key];
            keys.extend(row.others);
            messages.push(RevocableMessage {
                unit: unit.clone(),
                from: account("from_account", &row.from_account)?,
                to: account("to_account", &row.to_account)?,
                keys,
                revocation: parse_id(&row.revoke_id)?,
                job_type: row.job_type,
                group: row.group_name,
                reply_to: row.reply_to,
                correlation_id: row.correlation_id,
            });
        }
        for unit in by_message.into_values() {
            self.end_work(unit).await?;
        }
        Ok(messages)
    }

    /// Records many revocations in one statement, with their events.
    pub async fn record_revoked(&self, outcomes: &[RevokeOutcome]) -> Result<(), StoreError> {
        let mut sorted: Vec<&RevokeOutcome> = outcomes.iter().collect();
        sorted.sort_unstable_by(|a, b| (a.unit.job.as_str(), a.unit.part).cmp(&(b.unit.job.as_str(), b.unit.part)));
        let jobs: Vec<&str> = sorted.iter().map(|o| o.unit.job.as_str()).collect();
        let indexes: Vec<i32> = sorted.iter().map(|o| o.unit.part).collect();
        let created: Vec<DateTime<Utc>> = sorted.iter().map(|o| o.unit.created_at).collect();
        let leases: Vec<uuid::Uuid> = sorted.iter().map(|o| o.unit.lease).collect();
        let errors: Vec<Option<&str>> = sorted.iter().map(|o| o.error.as_deref()).collect();
        let event_ids: Vec<&str> = sorted.iter().map(|o| o.event.event_id.as_str()).collect();
        let keys: Vec<&str> = sorted.iter().map(|o| o.event.routing_key.as_str()).collect();
        let bodies: Vec<&[u8]> = sorted.iter().map(|o| o.event.body.as_slice()).collect();
        let reply_to: Vec<Option<&str>> = sorted.iter().map(|o| o.event.reply_to.as_deref()).collect();
        let correlation: Vec<Option<&str>> = sorted.iter().map(|o| o.event.correlation_id.as_deref()).collect();
        sqlx::query!(
            r#"
            WITH input AS (
                SELECT * FROM unnest($1::text[], $2::int4[], $3::timestamptz[], $4::uuid[], $5::text[], $6::text[],
                                     $7::text[], $8::bytea[], $9::text[], $10::text[])
                    AS i(job_id, idx, created_at, lease, error, event_id, routing_key, body, reply_to, correlation_id)
            ), ended AS (
                DELETE FROM work w USING input i
                WHERE w.job_id = i.job_id AND w.kind = 1 AND w.part = i.idx AND w.lease = i.lease
            ), keys AS (
                UPDATE message_keys k SET revoked_at = clock_timestamp() FROM input i
                WHERE k.job_id = i.job_id AND k.idx = i.idx AND i.error IS NULL
            ), done AS (
                UPDATE messages m
                SET state = CASE WHEN i.error IS NULL THEN 7 ELSE m.state END,
                    revoke_state = CASE WHEN i.error IS NULL THEN 2 ELSE 3 END,
                    revoke_error = i.error,
                    revoked_at = CASE WHEN i.error IS NULL THEN clock_timestamp() END
                FROM input i
                WHERE m.job_id = i.job_id AND m.created_at = i.created_at AND m.idx = i.idx AND m.state = 3
                RETURNING m.job_id, m.idx
            )
            INSERT INTO outbox (kind, job_id, event_id, routing_key, body, reply_to, correlation_id)
            SELECT 0, i.job_id, i.event_id, i.routing_key, i.body, i.reply_to, i.correlation_id
            FROM input i JOIN done d ON d.job_id = i.job_id AND d.idx = i.idx
            "#,
            &jobs as &[&str],
            &indexes,
            &created,
            &leases,
            &errors as &[Option<&str>],
            &event_ids as &[&str],
            &keys as &[&str],
            &bodies as &[&[u8]],
            &reply_to as &[Option<&str>],
            &correlation as &[Option<&str>],
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("record revoked messages", error))?;
        Ok(())
    }

    /// The message that a raw revocation names.
    pub async fn raw_message(&self, unit: &WorkUnit) -> Result<Option<RawMessage>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT from_account AS "from!", to_account AS "to!", msg_key AS "msg_key!", reply_to, correlation_id
               FROM revocations WHERE id = $1 AND msg_key IS NOT NULL"#,
            unit.job.as_str(),
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| StoreError::query("read a raw revocation", error))?;
        row.map(|row| {
            let account = |column: &'static str, value: &str| {
                AccountId::parse(value).map_err(|error| StoreError::Inconsistent {
                    table: "revocations",
                    column,
                    job: unit.job.to_string(),
                    value: error.to_string(),
                })
            };
            Ok(RawMessage {
                from: account("from_account", &row.from)?,
                to: account("to_account", &row.to)?,
                msg_key: row.msg_key,
                reply_to: row.reply_to,
                correlation_id: row.correlation_id,
            })
        })
        .transpose()
    }

    /// Ends a raw revocation with its event. A record of ours that has come to own the key meanwhile says revoked too.
    pub async fn record_raw_revoked(
        &self,
        unit: &WorkUnit,
        message: &RawMessage,
        error: Option<&str>,
        event: &OutboxEvent,
    ) -> Result<(), StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin a raw revocation", error))?;
        sqlx::query!(
            "UPDATE revocations SET raw_state = CASE WHEN $2::text IS NULL THEN 2 ELSE 3 END, raw_error = $2 WHERE id = $1",
            unit.job.as_str(),
            error,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("record a raw revocation", error))?;
        if error.is_none() {
            sqlx::query!(
                "UPDATE messages SET state = 7, revoke_state = 2, revoke_id = coalesce(revoke_id, $4),
                                     revoked_at = clock_timestamp()
                 WHERE to_account = $1 AND from_account = $2 AND msg_key = $3 AND state = 3",
                message.to.as_str(),
                message.from.as_str(),
                message.msg_key,
                unit.job.as_str(),
            )
            .execute(&mut *tx)
            .await
            .map_err(|error| StoreError::query("mark a revoked message", error))?;
        }
        sqlx::query!(
            "DELETE FROM work WHERE job_id = $1 AND kind = 5 AND lease = $2",
            unit.job.as_str(),
            unit.lease
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("end a row of work", error))?;
        self.put_event(&mut tx, event).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a raw revocation", error))
    }
}
