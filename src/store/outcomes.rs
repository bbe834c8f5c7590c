//! Outcomes of single calls: what an attempt taught us, written before the event and the acknowledgement.
//!
//! The common one, "sent", is written for many calls in one statement. Every other is a transaction of its own: it may
//! hand the job to the table, write its event into the outbox, or note the attempt.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{
    Store, StoreError,
    claims::parse_id,
    outbox::{OutboxEvent, OutboxLetter},
    sent::LateKey,
};
use crate::domain::{AppName, Command, GroupName, JobId, Lane, MessageState};

/// What became of an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// Written now, or by an earlier try whose answer was lost.
    Applied {
        /// A revocation covers the message: it is being revoked.
        revocation: Option<JobId>,
    },
    /// The claim had been replaced. The message's state is another's to tell; a MsgKey has been kept all the same.
    Superseded {
        /// The state that the message has.
        state: MessageState,
    },
}

/// The delivery's side of a job, kept when the job is handed to the table.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// What the producer published.
    pub body: Vec<u8>,
    /// Its AMQP properties, as the broker layer wrote them.
    pub properties: Vec<u8>,
    /// The queue that it came from.
    pub queue: String,
}

/// Who holds the job whose call ended.
#[derive(Debug, Clone)]
pub enum Holder {
    /// A delivery. The parcel is needed only where the outcome hands the job to the table.
    Delivery(Parcel),
    /// A row of `work`, under this lease.
    Work {
        /// The lease.
        lease: Uuid,
    },
}

/// What a call taught us, other than a plain success of a delivery's job.
#[derive(Debug, Clone)]
pub enum SingleOutcome {
    /// The service has it.
    Sent {
        /// Its key.
        msg_key: String,
        /// Its time, Unix seconds.
        msg_time: Option<i64>,
    },
    /// Surely not sent, and no try by itself will help.
    Failed,
    /// Its time was over before it was sent.
    Expired,
    /// A revocation came first.
    Cancelled {
        /// The revoke job.
        revocation: JobId,
    },
    /// Nobody can tell.
    Unknown,
    /// Surely not sent; tried again after the delay. An outcome without a note never reached the service, and its
    /// claim doesn't count as an attempt.
    Retry {
        /// How long from now.
        after: Duration,
        /// Whether it counts against the attempts.
        counts: bool,
    },
    /// May have been sent: reconciliation looks after the delay.
    Doubt {
        /// When the first look is worth it.
        after: Duration,
    },
}

impl SingleOutcome {
    const fn state(&self) -> MessageState {
        match self {
            Self::Sent { .. } => MessageState::Sent,
            Self::Failed => MessageState::Failed,
            Self::Expired => MessageState::Expired,
            Self::Cancelled { .. } => MessageState::Cancelled,
            Self::Unknown => MessageState::Unknown,
            Self::Retry { .. } => MessageState::Pending,
            Self::Doubt { .. } => MessageState::Doubt,
        }
    }
}

/// One attempt as `attempts` keeps it.
#[derive(Debug, Clone)]
pub struct AttemptNote {
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The command.
    pub command: Command,
    /// The word of what happened.
    pub code: String,
    /// The label of its class.
    pub class: &'static str,
    /// The service's or the network's text.
    pub message: String,
    /// The URL's `random`, by which the service's support finds the call.
    pub url_random: Option<u32>,
}

/// An outcome with everything that is written in its transaction.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The job.
    pub id: JobId,
    /// The partition key of its message.
    pub created_at: DateTime<Utc>,
    /// Its app.
    pub app: AppName,
    /// Its group.
    pub group: Option<GroupName>,
    /// Its lane.
    pub lane: Lane,
    /// The command that carries it out.
    pub command: Command,
    /// The claim; `None` where nothing was claimed and the message is still pending.
    pub token: Option<Uuid>,
    /// Who holds it.
    pub holder: Holder,
    /// What happened.
    pub outcome: SingleOutcome,
    /// The error, kept with the message.
    pub error: Option<(String, String)>,
    /// The attempt.
    pub note: Option<AttemptNote>,
    /// Published from the outbox, for a job that the table owns.
    pub event: Option<OutboxEvent>,
    /// Published from the outbox, for a job that the table owns.
    pub letter: Option<OutboxLetter>,
}

impl Store {
    /// Records one outcome with everything that belongs to it, in one transaction.
    ///
    /// Safe to repeat after a lost COMMIT answer: the second time the message is in the outcome's state under the
    /// same token already, and the rows of `work` and `outbox` are written once.
    pub async fn settle(&self, high: bool, settlement: &Settlement) -> Result<Recorded, StoreError> {
        let pool = self.hot(high);
        let mut tx = pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin an outcome", error))?;
        let recorded = self.settle_in(&mut tx, settlement).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit an outcome", error))?;
        if let (Recorded::Superseded { .. }, SingleOutcome::Sent { msg_key, msg_time }, Some(token)) =
            (&recorded, &settlement.outcome, settlement.token)
        {
            return self
                .keep_late_key(&LateKey {
                    id: &settlement.id,
                    created_at: settlement.created_at,
                    app: &settlement.app,
                    group: settlement.group.as_ref(),
                    token,
                    msg_key,
                    msg_time: *msg_time,
                })
                .await;
        }
        Ok(recorded)
    }

    async fn settle_in(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        settlement: &Settlement,
    ) -> Result<Recorded, StoreError> {
        let state = settlement.outcome.state();
        let (msg_key, msg_time) = match &settlement.outcome {
            SingleOutcome::Sent { msg_key, msg_time } => (Some(msg_key.as_str()), *msg_time),
            _ => (None, None),
        };
        let cancelled_by = match &settlement.outcome {
            SingleOutcome::Cancelled { revocation } => Some(revocation.as_str()),
            _ => None,
        };
        let (error_code, error_message) = match &settlement.error {
            Some((code, message)) => (Some(code.as_str()), Some(message.as_str())),
            None => (None, None),
        };
        // A claim whose call was never written is no attempt.
        let uncount = settlement.note.is_none() && matches!(settlement.outcome, SingleOutcome::Retry { .. });
        let row = sqlx::query!(
            r#"
            UPDATE messages
            SET state = $5::int2, msg_key = coalesce($6, msg_key), msg_time = coalesce($7, msg_time),
                sent_at = CASE WHEN $5::int2 = 3 THEN clock_timestamp() ELSE sent_at END,
                error_code = $8, error_message = $9,
                revoke_id = coalesce(revoke_id, $10),
                -- Surely not carried out, and no call before that may have been: the pair is as unused as ever.
                pair_since = CASE WHEN $5::int2 = 0 AND coalesce(pair_since, first_call_at) > last_call_at - interval '1 second'
                                  THEN 'infinity' ELSE pair_since END,
                attempts = attempts - CASE WHEN $11 AND token IS NOT NULL AND attempts > 0 THEN 1 ELSE 0 END
            WHERE job_id = $1 AND created_at = $2 AND idx = 0
              AND (($3::uuid IS NOT NULL AND token = $3 AND state IN (1, 2)) OR ($3::uuid IS NULL AND state = $4))
            RETURNING revoke_id, to_account
            "#,
            settlement.id.as_str(),
            settlement.created_at,
            settlement.token,
            MessageState::Pending.number(),
            state.number(),
            msg_key,
            msg_time,
            error_code,
            error_message,
            cancelled_by,
            uncount,
        )
        .fetch_optional(&mut **tx)
        .await
        .map_err(|error| StoreError::query("record an outcome", error))?;
        let Some(row) = row else {
            return self.already_settled(tx, settlement, state).await;
        };

        let mut revocation = row.revoke_id;
        if state == MessageState::Sent {
            if revocation.is_none() {
                // After the update: a tombstone that commits later finds the row by its fan-out.
                revocation = self
                    .covering_tombstone(tx, &settlement.id, settlement.group.as_ref(), &row.to_account)
                    .await?;
            }
            if let Some(revocation) = &revocation {
                self.want_revoked(tx, settlement, revocation).await?;
            }
        }
        self.note_attempt(tx, &settlement.id, settlement.created_at, 0, settlement.note.as_ref())
            .await?;
        self.move_work(tx, settlement).await?;
        if let Some(event) = &settlement.event {
            self.put_event(tx, event).await?;
        }
        if let Some(letter) = &settlement.letter {
            self.put_letter(tx, letter).await?;
        }
        Ok(Recorded::Applied {
            revocation: revocation.as_deref().map(parse_id).transpose()?,
        })
    }

    async fn already_settled(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        settlement: &Settlement,
        state: MessageState,
    ) -> Result<Recorded, StoreError> {
        let row = sqlx::query!(
            "SELECT state, token, revoke_id FROM messages WHERE job_id = $1 AND created_at = $2 AND idx = 0",
            settlement.id.as_str(),
            settlement.created_at,
        )
        .fetch_optional(&mut **tx)
        .await
        .map_err(|error| StoreError::query("read a message that another claim holds", error))?;
        let Some(row) = row else {
            return Ok(Recorded::Superseded {
                state: MessageState::Pending,
            });
        };
        let now = super::claims::message_state(row.state, &settlement.id)?;
        let same = now == state || (state == MessageState::Sent && now == MessageState::Revoked);
        if same && (settlement.token.is_none() || row.token == settlement.token) {
            return Ok(Recorded::Applied {
                revocation: row.revoke_id.as_deref().map(parse_id).transpose()?,
            });
        }
        Ok(Recorded::Superseded { state: now })
    }

    /// The tombstone that covers a message, if any: read after its row has been written, in a statement of its own.
    pub(super) async fn covering_tombstone(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        id: &JobId,
        group: Option<&GroupName>,
        to: &str,
    ) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar!(
            r#"
            SELECT t.id AS "id!" FROM revocations t
            WHERE t.target_job = $1 AND (t.to_accounts IS NULL OR $3 = ANY (t.to_accounts))
            UNION ALL
            SELECT g.id FROM revocations g
            WHERE g.target_group = $2 AND g.lifted_at IS NULL AND g.expires_at > now()
            LIMIT 1
            "#,
            id.as_str(),
            group.map(GroupName::as_str),
            to,
        )
        .fetch_optional(&mut **tx)
        .await
        .map_err(|error| StoreError::query("look for a tombstone", error))
    }

    async fn want_revoked(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        settlement: &Settlement,
        revocation: &str,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE messages SET revoke_id = coalesce(revoke_id, $3), revoke_state = 1
             WHERE job_id = $1 AND created_at = $2 AND idx = 0 AND state = 3",
            settlement.id.as_str(),
            settlement.created_at,
            revocation,
        )
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::query("mark a message for revocation", error))?;
        sqlx::query!(
            "INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
             VALUES (1, $1, 0, $2, 0, $3, 4, now()) ON CONFLICT DO NOTHING",
            settlement.id.as_str(),
            settlement.created_at,
            settlement.app.as_str(),
        )
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::query("queue a revocation", error))?;
        Ok(())
    }

    pub(super) async fn note_attempt(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        id: &JobId,
        created_at: DateTime<Utc>,
        idx: i32,
        note: Option<&AttemptNote>,
    ) -> Result<(), StoreError> {
        let Some(note) = note else { return Ok(()) };
        sqlx::query!(
            "INSERT INTO attempts (created_at, job_id, idx, attempt, command, code, class, message, url_random)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            created_at,
            id.as_str(),
            idx,
            note.attempt as i32,
            note.command.index() as i16,
            note.code,
            note.class,
            note.message,
            note.url_random.map(i64::from),
        )
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::query("note an attempt", error))?;
        Ok(())
    }

    /// Ends, postpones or creates the row of `work` that belongs to the outcome.
    async fn move_work(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        settlement: &Settlement,
    ) -> Result<(), StoreError> {
        let (command, after, counts) = match &settlement.outcome {
            SingleOutcome::Retry { after, counts } => (settlement.command, *after, *counts),
            SingleOutcome::Doubt { after } => (Command::GetRoamMsg, *after, true),
            outcome => return self.end_work_of(tx, settlement, outcome).await,
        };
        match &settlement.holder {
            Holder::Work { lease } => {
                sqlx::query!(
                    "UPDATE work SET command = $3, due_at = now() + make_interval(secs => $4), lease = NULL,
                                     attempts = attempts + $5, looks = 0, looked_at = NULL, takeovers = 0
                     WHERE job_id = $1 AND kind = 0 AND part = 0 AND lease = $2",
                    settlement.id.as_str(),
                    lease,
                    command.index() as i16,
                    after.as_secs_f64(),
                    i32::from(counts),
                )
                .execute(&mut **tx)
                .await
                .map_err(|error| StoreError::query("postpone a row of work", error))?;
            }
            Holder::Delivery(parcel) => {
                sqlx::query!(
                    "UPDATE jobs SET owner = 1, body = $2, properties = $3, queue = $4 WHERE id = $1 AND owner = 0",
                    settlement.id.as_str(),
                    parcel.body,
                    parcel.properties,
                    parcel.queue,
                )
                .execute(&mut **tx)
                .await
                .map_err(|error| StoreError::query("hand a job to the table", error))?;
                sqlx::query!(
                    "INSERT INTO work (kind, job_id, part, created_at, lane, app, command, group_name, due_at, attempts)
                     VALUES (0, $1, 0, $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $8)
                     ON CONFLICT DO NOTHING",
                    settlement.id.as_str(),
                    settlement.created_at,
                    settlement.lane.index() as i16,
                    settlement.app.as_str(),
                    command.index() as i16,
                    settlement.group.as_ref().map(GroupName::as_str),
                    after.as_secs_f64(),
                    i32::from(counts),
                )
                .execute(&mut **tx)
                .await
                .map_err(|error| StoreError::query("queue a job in the table", error))?;
            }
        }
        Ok(())
    }

    /// Ends the row of work of an outcome that is an end; what failed keeps what the producer published, so that it can
    /// be tried again later.
    async fn end_work_of(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        settlement: &Settlement,
        outcome: &SingleOutcome,
    ) -> Result<(), StoreError> {
        match &settlement.holder {
            Holder::Work { lease } => {
                sqlx::query!(
                    "DELETE FROM work WHERE job_id = $1 AND kind = 0 AND part = 0 AND lease = $2",
                    settlement.id.as_str(),
                    lease,
                )
                .execute(&mut **tx)
                .await
                .map_err(|error| StoreError::query("end a row of work", error))?;
            }
            Holder::Delivery(parcel) if matches!(outcome, SingleOutcome::Failed | SingleOutcome::Unknown) => {
                sqlx::query!(
                    "UPDATE jobs SET body = $2, properties = $3, queue = $4 WHERE id = $1 AND body IS NULL",
                    settlement.id.as_str(),
                    parcel.body,
                    parcel.properties,
                    parcel.queue,
                )
                .execute(&mut **tx)
                .await
                .map_err(|error| StoreError::query("keep a failed job", error))?;
            }
            Holder::Delivery(_) => {}
        }
        Ok(())
    }
}
