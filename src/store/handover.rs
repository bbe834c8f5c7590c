//! Handing a job to the table: it then no longer depends on its delivery, which can be acknowledged.
//!
//! Everything here may be repeated: a redelivery after a crash half-way goes on where the first try stopped.

use chrono::{DateTime, Utc};

use super::{Store, StoreError, outcomes::Parcel};
use crate::domain::{AccountId, AppName, Command, GroupName, JobId, Lane, Owner, job::MAX_CALL_RECIPIENTS};

/// Recipients written in one statement while a long job is handed over.
const SLICE: usize = 5_000;

/// A job on its way to the table.
#[derive(Debug, Clone)]
pub struct Handover<'a> {
    /// The job.
    pub id: &'a JobId,
    /// Its digest.
    pub digest: [u8; 32],
    /// The number of its type.
    pub job_type: i16,
    /// Its app.
    pub app: &'a AppName,
    /// Its group.
    pub group: Option<&'a GroupName>,
    /// The lane that it came from.
    pub lane: Lane,
    /// The account that the API will use as the sender; empty for a job without recipients.
    pub from: &'a str,
    /// Its recipients, none for an operation.
    pub to: &'a [AccountId],
    /// Not before.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after.
    pub expires_at: Option<DateTime<Utc>>,
    /// The number of `on_unknown`.
    pub on_unknown: i16,
    /// For those online only: in no history.
    pub online_only: bool,
    /// The command that its first step needs.
    pub command: Command,
    /// What the producer published.
    pub parcel: &'a Parcel,
    /// Not to be tried before that many seconds have passed, beside `send_at`.
    pub delay: std::time::Duration,
    /// The send window that the delay is for.
    pub opens_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
impl<'a> Handover<'a> {
    /// A batch of no group in the bulk lane, due at once, for tests of the store.
    pub(super) const fn of_batch(id: &'a JobId, app: &'a AppName, to: &'a [AccountId], parcel: &'a Parcel) -> Self {
        Self {
            id,
            digest: [0; 32],
            job_type: 1,
            app,
            group: None,
            lane: Lane::Bulk,
            from: "administrator",
            to,
            send_at: None,
            expires_at: None,
            on_unknown: 0,
            online_only: false,
            command: Command::BatchSendMsg,
            parcel,
            delay: std::time::Duration::ZERO,
            opens_at: None,
        }
    }
}

/// A second delivery of a job whose first is being carried out.
#[derive(Debug, Clone, Copy)]
pub struct SecondDelivery<'a> {
    /// The job.
    pub id: &'a JobId,
    /// The partition key of its message.
    pub created_at: DateTime<Utc>,
    /// The lane that it came from.
    pub lane: Lane,
    /// Its app.
    pub app: &'a AppName,
    /// Its group.
    pub group: Option<&'a GroupName>,
    /// What the producer published.
    pub parcel: &'a Parcel,
}

/// What became of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedOver {
    /// The table owns it now, or has owned it already: acknowledge the delivery.
    Done,
    /// It ended already, owned by an earlier delivery.
    Finished,
    /// The id belongs to another content.
    Conflict,
    /// A delivery of it is being carried out elsewhere, or was when its worker died.
    Live,
}

impl Store {
    /// Hands a job that has made no call yet to the table: its row, its recipients in slices, then the flip.
    pub async fn hand_over(&self, job: &Handover<'_>) -> Result<HandedOver, StoreError> {
        let row = sqlx::query!(
            r#"
            INSERT INTO jobs (id, digest, type, app, group_name, lane, owner, state, total, send_at, expires_at,
                              on_unknown, body, properties, queue, online_only)
            VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7, $8, $9, $10, $11, $12, $13, $14)
            ON CONFLICT (id) DO NOTHING
            RETURNING created_at
            "#,
            job.id.as_str(),
            job.digest.as_slice(),
            job.job_type,
            job.app.as_str(),
            job.group.map(GroupName::as_str),
            job.lane.index() as i16,
            job.to.len() as i32,
            job.send_at,
            job.expires_at,
            job.on_unknown,
            job.parcel.body,
            job.parcel.properties,
            job.parcel.queue,
            job.online_only,
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| StoreError::query("record a job", error))?;
        let fresh = row.is_some();
        let created_at = if let Some(row) = row {
            row.created_at
        } else {
            let existing = self.existing(false, &[(job.id, job.digest.as_slice())]).await?;
            let Some((_, existing)) = existing.into_iter().next() else {
                return Err(StoreError::Inconsistent {
                    table: "jobs",
                    column: "id",
                    job: job.id.to_string(),
                    value: "neither inserted nor found".to_owned(),
                });
            };
            let live = existing
                .message
                .as_ref()
                .is_some_and(|message| !message.state.is_final());
            match existing {
                existing if !existing.same => return Ok(HandedOver::Conflict),
                // A hand-over that was cut off half-way goes on.
                existing if existing.loading => existing.created_at,
                existing if existing.owner == Owner::Table => return Ok(HandedOver::Done),
                _ if live => return Ok(HandedOver::Live),
                _ => return Ok(HandedOver::Finished),
            }
        };
        self.write_recipients(job, created_at, fresh).await?;
        self.flip(job, created_at).await?;
        Ok(HandedOver::Done)
    }

    /// `fresh`: nobody is known to have begun with it.
    async fn write_recipients(
        &self,
        job: &Handover<'_>,
        created_at: DateTime<Utc>,
        mut fresh: bool,
    ) -> Result<(), StoreError> {
        for (slice, recipients) in job.to.chunks(SLICE).enumerate() {
            let first = (slice * SLICE) as i32;
            let to: Vec<&str> = recipients.iter().map(AccountId::as_str).collect();
            fresh = fresh && self.write_new(job, created_at, first, &to).await?;
            if !fresh {
                self.write_missing(job, created_at, first, &to).await?;
            }
        }
        Ok(())
    }

    /// Writes recipients of which none is there. False: one is, and none was written.
    ///
    /// Speculative insertion (`ON CONFLICT`) of rows that are surely new costs half as much again: 12 µs a row instead of 8.
    async fn write_new(
        &self,
        job: &Handover<'_>,
        created_at: DateTime<Utc>,
        first: i32,
        to: &[&str],
    ) -> Result<bool, StoreError> {
        let written = sqlx::query!(
            "INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state)
             SELECT $1, $2, ($3::int4 + ordinality - 1)::int4, $4, account, 0
             FROM unnest($5::text[]) WITH ORDINALITY AS t(account, ordinality)",
            created_at,
            job.id.as_str(),
            first,
            job.from,
            to as &[&str],
        )
        .execute(&self.pool)
        .await;
        match written {
            Ok(_) => Ok(true),
            // The answer of an earlier try was lost, or another delivery of the job writes them, too.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            Err(error) => Err(StoreError::query("record recipients", error)),
        }
    }

    async fn write_missing(
        &self,
        job: &Handover<'_>,
        created_at: DateTime<Utc>,
        first: i32,
        to: &[&str],
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state)
             SELECT $1, $2, ($3::int4 + ordinality - 1)::int4, $4, account, 0
             FROM unnest($5::text[]) WITH ORDINALITY AS t(account, ordinality)
             ON CONFLICT DO NOTHING",
            created_at,
            job.id.as_str(),
            first,
            job.from,
            to as &[&str],
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("record recipients", error))?;
        Ok(())
    }

    async fn flip(&self, job: &Handover<'_>, created_at: DateTime<Utc>) -> Result<(), StoreError> {
        let kind = if job.to.is_empty() { 4_i16 } else { 0 };
        let parts = job.to.len().div_ceil(MAX_CALL_RECIPIENTS).max(1) as i32;
        sqlx::query!(
            r#"
            WITH flipped AS (
                UPDATE jobs SET owner = 1, state = 1, open_parts = $2 WHERE id = $1 AND state = 0 RETURNING id
            )
            INSERT INTO work (kind, job_id, part, created_at, lane, app, command, group_name, due_at, opens_at)
            SELECT $3, flipped.id, part, $4, $5, $6, $7, $8,
                   CASE WHEN $11::timestamptz IS NOT NULL AND EXISTS (
                            SELECT FROM revocations t WHERE t.target_job = $1 AND t.to_accounts IS NULL
                            UNION ALL
                            SELECT FROM revocations g
                            WHERE g.target_group = $8 AND g.lifted_at IS NULL AND g.expires_at > now())
                        THEN now()
                        ELSE greatest(coalesce($9, now()), now() + make_interval(secs => $10)) END, $11
            FROM flipped, generate_series(0, $2 - 1) AS part
            ON CONFLICT DO NOTHING
            "#,
            job.id.as_str(),
            parts,
            kind,
            created_at,
            job.lane.index() as i16,
            job.app.as_str(),
            job.command.index() as i16,
            job.group.map(GroupName::as_str),
            job.send_at,
            job.delay.as_secs_f64(),
            job.opens_at,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("flip a job to the table", error))?;
        Ok(())
    }

    /// Hands a second delivery of a job to the table whose first is live elsewhere, or was when its worker died:
    /// reconciliation finds out, `after` from now at the earliest.
    pub async fn hand_over_live(&self, job: &SecondDelivery<'_>, after: std::time::Duration) -> Result<(), StoreError> {
        let &SecondDelivery {
            id,
            created_at,
            lane,
            app,
            group,
            parcel,
        } = job;
        sqlx::query!(
            r#"
            WITH flipped AS (
                UPDATE jobs SET owner = 1, body = $2, properties = $3, queue = $4 WHERE id = $1 AND owner = 0
                RETURNING id
            ), doubt AS (
                UPDATE messages m SET state = 2 FROM flipped
                WHERE m.job_id = flipped.id AND m.created_at = $5 AND m.idx = 0 AND m.state = 1
            )
            INSERT INTO work (kind, job_id, part, created_at, lane, app, command, group_name, due_at)
            SELECT 0, flipped.id, 0, $5, $6, $7, 3, $8, now() + make_interval(secs => $9) FROM flipped
            ON CONFLICT DO NOTHING
            "#,
            id.as_str(),
            parcel.body,
            parcel.properties,
            parcel.queue,
            created_at,
            lane.index() as i16,
            app.as_str(),
            group.map(GroupName::as_str),
            after.as_secs_f64(),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("hand a second delivery to the table", error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;

    /// What a second try finds whose first one committed without an answer.
    #[sqlx::test]
    async fn recipients_that_are_there_already_are_left_and_the_missing_ones_written(pool: PgPool) {
        let store = Store::of_pool(pool.clone());
        let (id, app) = (JobId::parse("job").unwrap(), AppName::default_app());
        let parcel = Parcel {
            body: Vec::new(),
            properties: Vec::new(),
            queue: String::new(),
        };
        let to: Vec<AccountId> = ["a", "b", "c"].map(|name| AccountId::parse(name).unwrap()).to_vec();
        let job = Handover::of_batch(&id, &app, &to, &parcel);
        let at = Utc::now();
        assert!(store.write_new(&job, at, 0, &["a", "b"]).await.unwrap());
        assert!(!store.write_new(&job, at, 1, &["b", "c"]).await.unwrap());
        store.write_recipients(&job, at, true).await.unwrap();
        let written: Vec<(i32, String)> = sqlx::query_as("SELECT idx, to_account FROM messages ORDER BY idx")
            .fetch_all(&pool)
            .await
            .unwrap();
        let expected = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(written, (0..).zip(expected).collect::<Vec<_>>());
    }
}
