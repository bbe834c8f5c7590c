//! Claims of single calls whose job the table owns: a scheduled send, a retry, a message that reconciliation found
//! missing.

use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{
    Store, StoreError,
    caps::CapRule,
    claims::message_state,
    outbox::OutboxEvent,
    part_outcomes::{PartNext, advance},
    parts::{CallPair, Member, RepeatRule},
    work::WorkUnit,
};
use crate::domain::{GroupName, JobId, MessageState};

/// What claiming a single gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SingleClaim {
    /// Ours: call now.
    Call {
        /// The sender on record.
        from: String,
        /// The recipient.
        to: String,
        /// The pair on record, or a new one.
        pair: CallPair,
        /// The number of this attempt, from 1.
        attempt: u32,
        /// The generation.
        generation: i32,
    },
    /// A tombstone covered it: cancelled, its event in the outbox, the row ended.
    Cancelled,
    /// A cap held it back: suppressed, its event in the outbox, the row ended.
    Suppressed,
    /// An earlier call's outcome isn't known: reconcile first.
    Doubtful,
    /// It has ended.
    Final(FinalSingle),
    /// The row isn't this lease's any more.
    Lost,
}

/// A single that has ended already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalSingle {
    /// How.
    pub state: MessageState,
    /// The sender.
    pub from: String,
    /// The recipient.
    pub to: String,
    /// The key.
    pub msg_key: Option<String>,
    /// The service's time.
    pub msg_time: Option<i64>,
    /// Calls made.
    pub attempts: u32,
    /// The generation.
    pub generation: i32,
    /// The error.
    pub error: Option<(String, String)>,
    /// The revocation.
    pub revocation: Option<String>,
}

impl Store {
    /// Claims a single for a call, in one transaction: fence by lease, safety of a repeat, tombstone, caps, claim.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own, from one caller")]
    pub async fn claim_single(
        &self,
        unit: &WorkUnit,
        token: Uuid,
        encoder: i16,
        repeats: RepeatRule,
        caps: CapRule<'_>,
        derive: impl Fn(i32, &str) -> CallPair,
        cancelled: impl Fn(&JobId, &str) -> OutboxEvent,
    ) -> Result<SingleClaim, StoreError> {
        let mut tx = self
            .hot(unit.lane == crate::domain::Lane::High)
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the claim of a single", error))?;
        let row = sqlx::query!(
            r#"
            SELECT m.state, m.from_account, m.to_account, m.seq, m.random, m.encoder, m.call_id, m.attempts, m.generation, m.msg_key,
                   m.msg_time, m.error_code, m.error_message, m.revoke_id,
                   (SELECT t.id FROM revocations t
                    WHERE t.target_job = m.job_id AND (t.to_accounts IS NULL OR m.to_account = ANY (t.to_accounts))
                    UNION ALL
                    SELECT g.id FROM revocations g
                    WHERE g.target_group = $5 AND g.lifted_at IS NULL AND g.expires_at > now()
                    LIMIT 1) AS tombstone,
                   coalesce(coalesce(m.pair_since, m.first_call_at) <> 'infinity'
                            AND m.last_call_at > clock_timestamp() - make_interval(secs => $7)
                            AND (coalesce(m.pair_since, m.first_call_at) <= clock_timestamp() - make_interval(secs => $6)
                                 OR m.encoder <> $8), false) AS "unsafe!"
            FROM work w
            JOIN messages m ON m.job_id = w.job_id AND m.created_at = $3 AND m.idx = 0
            WHERE w.job_id = $1 AND w.kind = 0 AND w.part = 0 AND w.lease = $2 AND $4::int4 = 0
            FOR UPDATE OF w, m
            "#,
            unit.job.as_str(),
            unit.lease,
            unit.created_at,
            unit.part,
            unit.group.as_ref().map(GroupName::as_str),
            repeats.dropped_for.as_secs_f64(),
            repeats.listed_after.as_secs_f64(),
            encoder,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("fence the claim of a single", error))?;
        let Some(row) = row else { return Ok(SingleClaim::Lost) };
        let attempts = row.attempts.max(0) as u32;
        match message_state(row.state, &unit.job)? {
            MessageState::Pending => {}
            MessageState::Calling | MessageState::Doubt => return Ok(SingleClaim::Doubtful),
            state => {
                return Ok(SingleClaim::Final(FinalSingle {
                    state,
                    from: row.from_account,
                    to: row.to_account,
                    msg_key: row.msg_key,
                    msg_time: row.msg_time,
                    attempts,
                    generation: row.generation,
                    error: row.error_code.map(|code| (code, row.error_message.unwrap_or_default())),
                    revocation: row.revoke_id,
                }));
            }
        }
        if row.r#unsafe {
            doubt_again(tx, unit).await?;
            return Ok(SingleClaim::Doubtful);
        }
        if let Some(revocation) = row.revoke_id.or(row.tombstone) {
            let event = cancelled(&super::claims::parse_id(&revocation)?, &row.to_account);
            self.cancel_single(tx, unit, &revocation, &event).await?;
            return Ok(SingleClaim::Cancelled);
        }
        if !caps.scopes.is_empty() {
            let member = Member {
                idx: 0,
                to: row.to_account.clone(),
            };
            if self.reserve_or_suppress(&mut tx, unit, &[member], caps).await? > 0 {
                advance(&mut tx, unit, PartNext::End).await?;
                tx.commit()
                    .await
                    .map_err(|error| StoreError::query("commit a suppression", error))?;
                return Ok(SingleClaim::Suppressed);
            }
        }
        let pair = match (row.seq, row.random) {
            // A shared call's pair stays that call's: it reached others, or would be taken for a repeat of it.
            (Some(seq), Some(random)) if row.encoder == Some(encoder) && row.call_id.is_none() => CallPair {
                seq: seq as u32,
                random: random as u32,
            },
            _ => derive(row.generation, &row.to_account),
        };
        write_claim(&mut tx, unit, token, pair, encoder).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the claim of a single", error))?;
        Ok(SingleClaim::Call {
            from: row.from_account,
            to: row.to_account,
            pair,
            attempt: attempts + 1,
            generation: row.generation,
        })
    }

    async fn cancel_single(
        &self,
        mut tx: Transaction<'static, Postgres>,
        unit: &WorkUnit,
        revocation: &str,
        event: &OutboxEvent,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE messages SET state = 5, revoke_id = $3 WHERE job_id = $1 AND created_at = $2 AND idx = 0",
            unit.job.as_str(),
            unit.created_at,
            revocation,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("cancel a single", error))?;
        self.put_event(&mut tx, event).await?;
        advance(&mut tx, unit, PartNext::End).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a cancellation", error))
    }

    /// Ends the row of a single that ended elsewhere, with its event (whose id is the same as any earlier one's).
    pub async fn end_single(&self, unit: &WorkUnit, event: Option<&OutboxEvent>) -> Result<(), StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the end of a single", error))?;
        if let Some(event) = event {
            self.put_event(&mut tx, event).await?;
        }
        advance(&mut tx, unit, PartNext::End).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the end of a single", error))
    }
}

/// Puts a single back into doubt: it waited for so long that its repeat could be a second message.
async fn doubt_again(mut tx: Transaction<'static, Postgres>, unit: &WorkUnit) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE messages SET state = 2 WHERE job_id = $1 AND created_at = $2 AND idx = 0 AND state = 0",
        unit.job.as_str(),
        unit.created_at,
    )
    .execute(&mut *tx)
    .await
    .map_err(|error| StoreError::query("put a single back into doubt", error))?;
    tx.commit()
        .await
        .map_err(|error| StoreError::query("commit a doubt", error))
}

/// Writes the claim of a single that is pending and held.
async fn write_claim(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    token: Uuid,
    pair: CallPair,
    encoder: i16,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        UPDATE messages
        SET state = 1, token = $3, attempts = attempts + 1, seq = $4, random = $5, encoder = $6,
            first_call_at = coalesce(first_call_at, clock_timestamp()), last_call_at = clock_timestamp(),
            pair_since = least(coalesce(pair_since, first_call_at), clock_timestamp()),
            call_by = clock_timestamp() + interval '3 seconds'
        WHERE job_id = $1 AND created_at = $2 AND idx = 0
        "#,
        unit.job.as_str(),
        unit.created_at,
        token,
        i64::from(pair.seq),
        i64::from(pair.random),
        encoder,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("claim a single", error))?;
    Ok(())
}
