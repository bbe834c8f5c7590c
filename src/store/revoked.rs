//! Messages that a revocation covers: what their calls need, and how they ended.
//!
//! Of such a message every key on record is revoked, whatever its state: also one that came late, for a message that is
//! revoked, cancelled or failed by then.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use super::{
    Store, StoreError,
    claims::{message_state, parse_id},
    outbox::OutboxEvent,
    work::WorkUnit,
};
use crate::domain::{AccountId, AppName, GroupName, JobId, MessageState};

/// A message to revoke.
#[derive(Debug, Clone)]
pub struct RevocableMessage {
    /// Its row of work.
    pub unit: WorkUnit,
    /// The sender that the service has.
    pub from: AccountId,
    /// The recipient.
    pub to: AccountId,
    /// Its keys that aren't revoked yet: more than one means that it was sent twice.
    pub keys: Vec<String>,
    /// Its state: one that isn't `Sent` has told its end already.
    pub state: MessageState,
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
    /// The keys that were withdrawn, now or before.
    pub withdrawn: Vec<String>,
    /// The keys that the service won't withdraw.
    pub refused: Vec<String>,
    /// The first refusal.
    pub error: Option<String>,
    /// The event: published if the message was `Sent` until now.
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
            SELECT m.job_id, m.idx, m.from_account, m.to_account, m.state, m.msg_key, m.revoke_id AS "revoke_id!",
                   j.type AS job_type, j.group_name, r.reply_to AS "reply_to?", r.correlation_id AS "correlation_id?",
                   f.keys AS "others!"
            FROM unnest($1::text[], $2::int4[], $3::timestamptz[]) AS i(job_id, idx, created_at)
            -- OFFSET 0: by its key first, and never along the index of all that is to be revoked.
            CROSS JOIN LATERAL (
                SELECT * FROM messages x WHERE x.job_id = i.job_id AND x.created_at = i.created_at AND x.idx = i.idx OFFSET 0
            ) m
            JOIN jobs j ON j.id = m.job_id
            LEFT JOIN revocations r ON r.id = m.revoke_id
            CROSS JOIN LATERAL (SELECT array(SELECT k.msg_key FROM message_keys k
                                             WHERE k.job_id = m.job_id AND k.idx = m.idx AND k.revoked_at IS NULL
                                             ORDER BY k.msg_key) AS keys) f
            WHERE m.revoke_id IS NOT NULL AND (m.state = 3 AND m.msg_key IS NOT NULL OR cardinality(f.keys) > 0)
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
            let state = message_state(row.state, &unit.job)?;
            let own = row.msg_key.filter(|_| state == MessageState::Sent);
            let others = row.others.into_iter().filter(|other| own.as_deref() != Some(other));
            let keys = own.clone().into_iter().chain(others).collect();
            messages.push(RevocableMessage {
                unit: unit.clone(),
                from: account("from_account", &row.from_account)?,
                to: account("to_account", &row.to_account)?,
                keys,
                state,
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

    /// Records many revocations in one transaction, with their events. A message is revoked when the key of its record
    /// was withdrawn; one that has got a further key meanwhile is work again.
    pub async fn record_revoked(&self, outcomes: &[RevokeOutcome]) -> Result<(), StoreError> {
        let mut sorted: Vec<&RevokeOutcome> = outcomes.iter().collect();
        sorted.sort_unstable_by(|a, b| (a.unit.job.as_str(), a.unit.part).cmp(&(b.unit.job.as_str(), b.unit.part)));
        let jobs: Vec<&str> = sorted.iter().map(|o| o.unit.job.as_str()).collect();
        let indexes: Vec<i32> = sorted.iter().map(|o| o.unit.part).collect();
        let created: Vec<DateTime<Utc>> = sorted.iter().map(|o| o.unit.created_at).collect();
        let leases: Vec<uuid::Uuid> = sorted.iter().map(|o| o.unit.lease).collect();
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin revocations", error))?;
        // Whoever writes a key locks its message first: what they have committed is seen by the statements that follow.
        let locked = sqlx::query!(
            r#"
            SELECT m.job_id AS "job_id!", m.idx AS "idx!", m.msg_key
            FROM unnest($1::text[], $2::int4[], $3::timestamptz[]) AS i(job_id, idx, created_at)
            CROSS JOIN LATERAL (
                SELECT x.job_id, x.idx, CASE WHEN x.state = 3 THEN x.msg_key END AS msg_key FROM messages x
                WHERE x.job_id = i.job_id AND x.created_at = i.created_at AND x.idx = i.idx FOR UPDATE
            ) m
            "#,
            &jobs as &[&str],
            &indexes,
            &created,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(|error| StoreError::query("lock revoked messages", error))?;
        // A lease names one taking of one row.
        sqlx::query!(
            "DELETE FROM work WHERE job_id = ANY ($1) AND kind = 1 AND part = ANY ($2) AND lease = ANY ($3)",
            &jobs as &[&str],
            &indexes,
            &leases,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("end rows of revocations", error))?;
        let own_keys: HashMap<(&str, i32), &str> = locked
            .iter()
            .filter_map(|row| Some(((row.job_id.as_str(), row.idx), row.msg_key.as_deref()?)))
            .collect();
        mark_revoked(&mut tx, &sorted, &own_keys).await?;
        queue_left_keys(&mut tx, &sorted).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit revocations", error))
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
                r#"
                WITH done AS (
                    UPDATE messages SET state = 7, revoke_state = 2, revoke_id = coalesce(revoke_id, $4),
                                        revoked_at = clock_timestamp()
                    WHERE to_account = $1 AND from_account = $2 AND msg_key = $3 AND state = 3
                    RETURNING job_id, idx, created_at
                )
                INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
                SELECT 1, job_id, idx, created_at, 0, $5, 4, now() FROM done d
                WHERE EXISTS (SELECT FROM message_keys k
                              WHERE k.job_id = d.job_id AND k.idx = d.idx AND k.revoked_at IS NULL)
                ON CONFLICT DO NOTHING
                "#,
                message.to.as_str(),
                message.from.as_str(),
                message.msg_key,
                unit.job.as_str(),
                unit.app.as_str(),
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

/// Messages of one job that have got a further key.
pub(super) struct FurtherKeys<'a> {
    pub(super) job: &'a JobId,
    pub(super) created_at: DateTime<Utc>,
    pub(super) indexes: &'a [i32],
    pub(super) group: Option<&'a GroupName>,
    pub(super) app: &'a AppName,
}

impl<'a> FurtherKeys<'a> {
    /// Those of a row of work.
    pub(super) const fn of(unit: &'a WorkUnit, indexes: &'a [i32]) -> Self {
        Self {
            job: &unit.job,
            created_at: unit.created_at,
            indexes,
            group: unit.group.as_ref(),
            app: &unit.app,
        }
    }

    /// Locks the messages: in the same transaction as their keys, and before these are written.
    pub(super) async fn lock(&self, tx: &mut Transaction<'static, Postgres>) -> Result<(), StoreError> {
        sqlx::query!(
            "SELECT idx FROM messages WHERE job_id = $1 AND created_at = $2 AND idx = ANY ($3)
               AND idx BETWEEN $4 AND $5 ORDER BY idx FOR UPDATE",
            self.job.as_str(),
            self.created_at,
            self.indexes,
            self.indexes.iter().min(),
            self.indexes.iter().max(),
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(|error| StoreError::query("lock messages with further keys", error))?;
        Ok(())
    }

    /// Queues those for revocation that a tombstone covers: no fan-out comes by again, and no outcome of theirs.
    pub(super) async fn want_revoked(&self, tx: &mut Transaction<'static, Postgres>) -> Result<(), StoreError> {
        sqlx::query!(
            r#"
            WITH tombstone AS (
                SELECT t.id, t.to_accounts FROM revocations t WHERE t.target_job = $1
                UNION ALL
                SELECT g.id, NULL FROM revocations g
                WHERE g.target_group = $4 AND g.lifted_at IS NULL AND g.expires_at > now()
            ), wanted AS (
                UPDATE messages m
                SET revoke_id = coalesce(m.revoke_id, (SELECT t.id FROM tombstone t
                                                       WHERE t.to_accounts IS NULL OR m.to_account = ANY (t.to_accounts) LIMIT 1))
                WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx = ANY ($3) AND m.idx BETWEEN $6 AND $7
                  AND EXISTS (SELECT FROM message_keys k
                              WHERE k.job_id = m.job_id AND k.idx = m.idx AND k.revoked_at IS NULL)
                  AND (m.revoke_id IS NOT NULL OR EXISTS (SELECT 1 FROM tombstone t
                                                          WHERE t.to_accounts IS NULL OR m.to_account = ANY (t.to_accounts)))
                RETURNING m.idx
            )
            INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
            SELECT 1, $1, idx, $2, 0, $5, 4, now() FROM wanted
            -- Whoever has it in hand has read the keys already.
            ON CONFLICT (job_id, kind, part) DO UPDATE SET lease = NULL, due_at = now()
            "#,
            self.job.as_str(),
            self.created_at,
            self.indexes,
            self.group.map(GroupName::as_str),
            self.app.as_str(),
            self.indexes.iter().min(),
            self.indexes.iter().max(),
        )
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::query("queue the revocation of further keys", error))?;
        Ok(())
    }
}

/// Writes what became of the keys, and of their messages; whatever is told of a message that was `Sent` until now, which are
/// those with a key of their own in `own_keys`. They are locked.
///
/// Rows are found by their keys alone, each one's input by binary search: see `record_sent`. Joined with its input, the
/// statement compared each of its rows with each of the input, 44 ms for 123.
async fn mark_revoked(
    tx: &mut Transaction<'static, Postgres>,
    sorted: &[&RevokeOutcome],
    own_keys: &HashMap<(&str, i32), &str>,
) -> Result<(), StoreError> {
    let mut withdrawn: Vec<(String, &RevokeOutcome)> = sorted
        .iter()
        .flat_map(|o| o.withdrawn.iter().map(|key| (key_name(&o.unit, key), *o)))
        .collect();
    withdrawn.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut ended: Vec<(String, &RevokeOutcome)> = sorted
        .iter()
        .filter(|o| {
            own_keys
                .get(&(o.unit.job.as_str(), o.unit.part))
                .is_some_and(|own| o.withdrawn.iter().chain(&o.refused).any(|key| key == own))
        })
        .map(|o| (message_name(&o.unit), *o))
        .collect();
    ended.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    if withdrawn.is_empty() && ended.is_empty() {
        return Ok(());
    }
    let (names, ended): (Vec<String>, Vec<&RevokeOutcome>) = ended.into_iter().unzip();
    let (key_names, withdrawn): (Vec<String>, Vec<&RevokeOutcome>) = withdrawn.into_iter().unzip();
    let jobs: Vec<&str> = ended.iter().map(|o| o.unit.job.as_str()).collect();
    let indexes: Vec<i32> = ended.iter().map(|o| o.unit.part).collect();
    let created = || ended.iter().map(|o| o.unit.created_at);
    let errors: Vec<Option<&str>> = ended.iter().map(|o| o.error.as_deref()).collect();
    let event_ids: Vec<&str> = ended.iter().map(|o| o.event.event_id.as_str()).collect();
    let routing: Vec<&str> = ended.iter().map(|o| o.event.routing_key.as_str()).collect();
    let bodies: Vec<&[u8]> = ended.iter().map(|o| o.event.body.as_slice()).collect();
    let reply_to: Vec<Option<&str>> = ended.iter().map(|o| o.event.reply_to.as_deref()).collect();
    let correlation: Vec<Option<&str>> = ended.iter().map(|o| o.event.correlation_id.as_deref()).collect();
    let key_jobs: Vec<&str> = withdrawn.iter().map(|o| o.unit.job.as_str()).collect();
    let key_indexes: Vec<i32> = withdrawn.iter().map(|o| o.unit.part).collect();
    sqlx::query!(
        r#"
        WITH keys AS (
            UPDATE message_keys k SET revoked_at = clock_timestamp()
            WHERE k.job_id = ANY ($12) AND k.idx = ANY ($13)
              AND ($14::text[])[width_bucket((k.idx || '/' || length(k.job_id) || '/' || k.job_id || k.msg_key) COLLATE "C", $14)]
                  = k.idx || '/' || length(k.job_id) || '/' || k.job_id || k.msg_key
        ), done AS (
            UPDATE messages m
            SET (state, revoke_state, revoke_error, revoked_at) = (
                    SELECT CASE WHEN i.error IS NULL THEN 7 ELSE m.state END, CASE WHEN i.error IS NULL THEN 2 ELSE 3 END,
                           i.error, CASE WHEN i.error IS NULL THEN clock_timestamp() END
                    FROM (SELECT ($4::text[])[width_bucket((m.job_id || '/' || m.idx) COLLATE "C", $3)] AS error OFFSET 0) i
                )
            WHERE m.job_id = ANY ($1) AND m.idx = ANY ($2) AND m.created_at BETWEEN $10 AND $11 AND m.state = 3
              AND ($3::text[])[width_bucket((m.job_id || '/' || m.idx) COLLATE "C", $3)] = m.job_id || '/' || m.idx
        )
        INSERT INTO outbox (kind, job_id, event_id, routing_key, body, reply_to, correlation_id)
        SELECT 0, i.* FROM unnest($1, $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[]) AS i
        "#,
        &jobs as &[&str],
        &indexes,
        &names,
        &errors as &[Option<&str>],
        &event_ids as &[&str],
        &routing as &[&str],
        &bodies as &[&[u8]],
        &reply_to as &[Option<&str>],
        &correlation as &[Option<&str>],
        created().min(),
        created().max(),
        &key_jobs as &[&str],
        &key_indexes,
        &key_names,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("record revoked messages", error))?;
    Ok(())
}

/// A message as one text, the same as in the statement.
fn message_name(unit: &WorkUnit) -> String {
    format!("{}/{}", unit.job, unit.part)
}

/// A key of a message as one text, the same as in the statement; no two have the same one, whatever is in a key.
fn key_name(unit: &WorkUnit, key: &str) -> String {
    let job = unit.job.as_str();
    format!("{}/{}/{job}{key}", unit.part, job.chars().count())
}

/// Queues the messages that have a key which neither was withdrawn nor refused: it came after they had been read.
async fn queue_left_keys(tx: &mut Transaction<'static, Postgres>, sorted: &[&RevokeOutcome]) -> Result<(), StoreError> {
    let jobs: Vec<&str> = sorted.iter().map(|o| o.unit.job.as_str()).collect();
    let indexes: Vec<i32> = sorted.iter().map(|o| o.unit.part).collect();
    let created: Vec<DateTime<Utc>> = sorted.iter().map(|o| o.unit.created_at).collect();
    let lanes: Vec<i16> = sorted.iter().map(|o| o.unit.lane.index() as i16).collect();
    let apps: Vec<&str> = sorted.iter().map(|o| o.unit.app.as_str()).collect();
    let refused = Keys::of(sorted, |outcome| &outcome.refused);
    sqlx::query!(
        r#"
        INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
        SELECT 1, i.job_id, i.idx, i.created_at, i.lane, i.app, 4, now()
        FROM unnest($1::text[], $2::int4[], $3::timestamptz[], $4::int2[], $5::text[])
            AS i(job_id, idx, created_at, lane, app)
        CROSS JOIN LATERAL (
            SELECT * FROM messages x WHERE x.job_id = i.job_id AND x.created_at = i.created_at AND x.idx = i.idx OFFSET 0
        ) m
        WHERE m.state = 3 AND m.revoke_state = 1
           OR EXISTS (SELECT FROM message_keys k
                      WHERE k.job_id = m.job_id AND k.idx = m.idx AND k.revoked_at IS NULL
                        AND (k.job_id, k.idx, k.msg_key) NOT IN (
                            SELECT * FROM unnest($6::text[], $7::int4[], $8::text[]) AS r(job_id, idx, msg_key)))
        ON CONFLICT DO NOTHING
        "#,
        &jobs as &[&str],
        &indexes,
        &created,
        &lanes,
        &apps as &[&str],
        &refused.jobs as &[&str],
        &refused.indexes,
        &refused.values as &[&str],
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("queue further keys", error))?;
    Ok(())
}

/// Keys of many messages, as columns.
struct Keys<'a> {
    jobs: Vec<&'a str>,
    indexes: Vec<i32>,
    values: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    fn of(outcomes: &[&'a RevokeOutcome], keys: impl Fn(&'a RevokeOutcome) -> &'a [String]) -> Self {
        let mut columns = Self {
            jobs: Vec::new(),
            indexes: Vec::new(),
            values: Vec::new(),
        };
        for outcome in outcomes {
            for key in keys(outcome) {
                columns.jobs.push(outcome.unit.job.as_str());
                columns.indexes.push(outcome.unit.part);
                columns.values.push(key);
            }
        }
        columns
    }
}
