//! Doubts: calls that may have been carried out, what is known of them, and what reconciliation found.
//!
//! Times are told as ages on the database's clock, so that no worker's clock matters.

use std::time::Duration;

use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{
    Store, StoreError,
    outbox::{OutboxEvent, OutboxLetter},
    outcomes::AttemptNote,
    part_outcomes::{MemberFailure, PartNext, advance, keep_job_error, want_members_revoked},
    parts::{CallPair, Member, range},
    revoked::FurtherKeys,
    work::WorkUnit,
};
use crate::domain::Command;

/// A call in doubt.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// The account that the service has as the sender.
    pub sender: String,
    /// The pair by which the message is recognised.
    pub pair: CallPair,
    /// The members whose outcome isn't known, each perhaps with the revocation that waits for it.
    pub members: Vec<DoubtfulMember>,
    /// How many members the call had.
    pub called: usize,
    /// The call was shared with other jobs: it can't be repeated for this one, and its pair is taken.
    pub shared: bool,
    /// Since the first call with this pair.
    pub since_first: Duration,
    /// Since the first call with this pair that the service may have accepted.
    pub since_pair: Duration,
    /// Since the last call.
    pub since_last: Duration,
    /// The record of a batch call.
    pub call: Option<Uuid>,
    /// The claim whose outcome isn't known.
    pub token: Option<Uuid>,
    /// Calls made.
    pub attempts: u32,
    /// The generation of the pair.
    pub generation: i32,
    /// The encoder's version of the body.
    pub encoder: i16,
    /// Looks at the history that didn't see it.
    pub looks: u32,
}

/// A member of a call in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoubtfulMember {
    /// Index and recipient.
    pub member: Member,
    /// The revocation that covers it.
    pub revocation: Option<String>,
}

/// A message that the history showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The member's index.
    pub idx: i32,
    /// The key.
    pub msg_key: String,
    /// The service's time.
    pub msg_time: Option<i64>,
}

/// What reconciliation decided.
#[derive(Debug, Clone)]
pub struct DoubtVerdict {
    /// Members that the service has.
    pub found: Vec<Found>,
    /// Members that end otherwise: unknown, failed, cancelled, expired.
    pub ended: Vec<MemberFailure>,
    /// The revocation of cancelled ones.
    pub cancelled_by: Option<String>,
    /// Members to be sent (again).
    pub resend: Vec<i32>,
    /// Every call before is known not to have been accepted: the service's memory for repeats begins with the next.
    pub resend_is_first: bool,
    /// What follows.
    pub next: DoubtNext,
    /// A failure of the job as a whole.
    pub job_error: Option<(String, String)>,
    /// What was seen, for `explain`.
    pub note: Option<AttemptNote>,
    /// Events.
    pub events: Vec<OutboxEvent>,
    /// The dead letter of a single that ended badly.
    pub letter: Option<OutboxLetter>,
}

/// What follows for the row of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtNext {
    /// Nothing is open any more.
    End,
    /// Deliver what is pending.
    Deliver {
        /// The command that delivers.
        command: Command,
        /// How long from now.
        after: Duration,
    },
    /// Look again.
    Look {
        /// How long from now.
        after: Duration,
        /// Whether this look, on both sides and to the end, saw nothing.
        absent: bool,
    },
}

impl Store {
    /// The call in doubt of a row of work; `None` where nothing is in doubt any more.
    pub async fn doubt(&self, unit: &WorkUnit, batch: bool) -> Result<Option<Doubt>, StoreError> {
        if batch {
            self.part_doubt(unit).await
        } else {
            self.single_doubt(unit).await
        }
    }

    async fn single_doubt(&self, unit: &WorkUnit) -> Result<Option<Doubt>, StoreError> {
        let row = sqlx::query!(
            r#"
            SELECT from_account, to_account, coalesce(seq, 0) AS "seq!", coalesce(random, 0) AS "random!", token, attempts,
                   generation, coalesce(encoder, 0::int2) AS "encoder!", revoke_id,
                   coalesce(extract(epoch FROM clock_timestamp() - first_call_at), 0)::float8 AS "since_first!",
                   coalesce(extract(epoch FROM clock_timestamp()
                                                   - least(coalesce(pair_since, first_call_at), last_call_at)), 0)::float8
                       AS "since_pair!",
                   coalesce(extract(epoch FROM clock_timestamp() - last_call_at), 0)::float8 AS "since_last!",
                   EXISTS (SELECT FROM calls c WHERE c.call_id = m.call_id AND c.token = m.token) AS "shared!"
            FROM messages m WHERE job_id = $1 AND created_at = $2 AND idx = 0 AND state IN (1, 2)
            "#,
            unit.job.as_str(),
            unit.created_at,
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| StoreError::query("read a doubtful message", error))?;
        Ok(row.map(|row| Doubt {
            sender: row.from_account,
            pair: CallPair {
                seq: row.seq as u32,
                random: row.random as u32,
            },
            members: vec![DoubtfulMember {
                member: Member {
                    idx: 0,
                    to: row.to_account,
                },
                revocation: row.revoke_id,
            }],
            called: 1,
            shared: row.shared,
            since_first: seconds(row.since_first),
            since_pair: seconds(row.since_pair),
            since_last: seconds(row.since_last),
            call: None,
            token: row.token,
            attempts: row.attempts.max(0) as u32,
            generation: row.generation,
            encoder: row.encoder,
            looks: unit.looks,
        }))
    }

    async fn part_doubt(&self, unit: &WorkUnit) -> Result<Option<Doubt>, StoreError> {
        let (first, last) = range(unit.part);
        let members = sqlx::query!(
            "SELECT idx, to_account, token, call_id, revoke_id, attempts FROM messages
             WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4 AND state IN (1, 2) ORDER BY idx",
            unit.job.as_str(),
            unit.created_at,
            first,
            last,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read doubtful members", error))?;
        let Some(call_id) = members.first().and_then(|member| member.call_id) else {
            return Ok(None);
        };
        let call = sqlx::query!(
            r#"
            SELECT sender, seq, random, token, generation, encoder, members,
                   extract(epoch FROM clock_timestamp() - first_call_at)::float8 AS "since_first!",
                   extract(epoch FROM clock_timestamp()
                                      - least(coalesce(pair_since, first_call_at), last_call_at))::float8 AS "since_pair!",
                   extract(epoch FROM clock_timestamp() - last_call_at)::float8 AS "since_last!"
            FROM calls WHERE call_id = $1
            "#,
            call_id,
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("read a doubtful call", error))?;
        Ok(Some(Doubt {
            sender: call.sender,
            pair: CallPair {
                seq: call.seq as u32,
                random: call.random as u32,
            },
            attempts: members.iter().map(|member| member.attempts).max().unwrap_or(0).max(0) as u32,
            members: members
                .into_iter()
                .filter(|member| member.call_id == Some(call_id))
                .map(|row| DoubtfulMember {
                    member: Member {
                        idx: row.idx,
                        to: row.to_account,
                    },
                    revocation: row.revoke_id,
                })
                .collect(),
            called: call.members.len(),
            shared: false,
            since_first: seconds(call.since_first),
            since_pair: seconds(call.since_pair),
            since_last: seconds(call.since_last),
            call: Some(call_id),
            token: Some(call.token),
            generation: call.generation,
            encoder: call.encoder,
            looks: unit.looks,
        }))
    }

    /// Whether another record of ours owns this key between these two accounts.
    pub async fn key_owned_elsewhere(
        &self,
        unit: &WorkUnit,
        idx: i32,
        from: &str,
        to: &str,
        msg_key: &str,
    ) -> Result<bool, StoreError> {
        sqlx::query_scalar!(
            r#"
            SELECT EXISTS (
                SELECT 1 FROM messages
                WHERE to_account = $1 AND from_account = $2 AND msg_key = $3 AND NOT (job_id = $4 AND idx = $5)
            ) AS "owned!"
            "#,
            to,
            from,
            msg_key,
            unit.job.as_str(),
            idx,
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("look for the owner of a MsgKey", error))
    }

    /// Writes a verdict in one transaction. False: the row of work isn't this lease's any more; what was found is kept
    /// even then, since a found message is a fact.
    pub async fn settle_doubt(
        &self,
        unit: &WorkUnit,
        doubt: &Doubt,
        verdict: &DoubtVerdict,
    ) -> Result<bool, StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin a verdict", error))?;
        let held = sqlx::query_scalar!(
            "SELECT part FROM work WHERE job_id = $1 AND kind = 0 AND part = $2 AND lease = $3 FOR UPDATE",
            unit.job.as_str(),
            unit.part,
            unit.lease,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("fence a verdict", error))?
        .is_some();
        keep_found(&mut tx, unit, &verdict.found).await?;
        if held {
            end_members(&mut tx, unit, doubt, verdict).await?;
            release(&mut tx, unit, doubt, verdict).await?;
            if let Some((code, message)) = &verdict.job_error {
                keep_job_error(&mut tx, unit, code, message).await?;
            }
            self.note_attempt(
                &mut tx,
                &unit.job,
                unit.created_at,
                range(unit.part).0,
                verdict.note.as_ref(),
            )
            .await?;
            for event in &verdict.events {
                self.put_event(&mut tx, event).await?;
            }
            if let Some(letter) = &verdict.letter {
                self.put_letter(&mut tx, letter).await?;
            }
            follow(&mut tx, unit, verdict.next).await?;
        }
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a verdict", error))?;
        Ok(held)
    }
}

/// Members that are to be sent again are pending.
async fn release(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    doubt: &Doubt,
    verdict: &DoubtVerdict,
) -> Result<(), StoreError> {
    if verdict.resend.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE messages SET state = 0, pair_since = CASE WHEN $5 THEN 'infinity' ELSE pair_since END
         WHERE job_id = $1 AND created_at = $2 AND idx = ANY ($3) AND idx BETWEEN $6 AND $7 AND state IN (1, 2)
           AND token IS NOT DISTINCT FROM $4",
        unit.job.as_str(),
        unit.created_at,
        &verdict.resend,
        doubt.token,
        verdict.resend_is_first,
        verdict.resend.iter().min(),
        verdict.resend.iter().max(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("release members for a resend", error))?;
    if let Some(call) = doubt.call.filter(|_| verdict.resend_is_first) {
        sqlx::query!("UPDATE calls SET pair_since = 'infinity' WHERE call_id = $1", call)
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("free a pair", error))?;
    }
    Ok(())
}

fn seconds(age: f64) -> Duration {
    Duration::try_from_secs_f64(age.max(0.0)).unwrap_or_default()
}

async fn keep_found(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    found: &[Found],
) -> Result<(), StoreError> {
    if found.is_empty() {
        return Ok(());
    }
    let indexes: Vec<i32> = found.iter().map(|f| f.idx).collect();
    let keys: Vec<&str> = found.iter().map(|f| f.msg_key.as_str()).collect();
    let times: Vec<Option<i64>> = found.iter().map(|f| f.msg_time).collect();
    let further = FurtherKeys::of(unit, &indexes);
    further.lock(tx).await?;
    sqlx::query!(
        r#"
        UPDATE messages m
        SET state = 3, msg_key = f.msg_key, msg_time = f.msg_time, error_code = NULL, error_message = NULL,
            sent_at = coalesce(to_timestamp(f.msg_time), clock_timestamp())
        FROM unnest($3::int4[], $4::text[], $5::int8[]) AS f(idx, msg_key, msg_time)
        WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx = f.idx AND m.state IN (1, 2)
        "#,
        unit.job.as_str(),
        unit.created_at,
        &indexes,
        &keys as &[&str],
        &times as &[Option<i64>],
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("record found messages", error))?;
    sqlx::query!(
        r#"
        INSERT INTO message_keys (job_id, idx, msg_key, msg_time, source)
        SELECT m.job_id, m.idx, f.msg_key, f.msg_time, 1
        FROM unnest($3::int4[], $4::text[], $5::int8[]) AS f(idx, msg_key, msg_time)
        JOIN messages m ON m.job_id = $1 AND m.created_at = $2 AND m.idx = f.idx
        WHERE m.msg_key IS DISTINCT FROM f.msg_key
        ON CONFLICT DO NOTHING
        "#,
        unit.job.as_str(),
        unit.created_at,
        &indexes,
        &keys as &[&str],
        &times as &[Option<i64>],
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("keep found MsgKeys", error))?;
    want_members_revoked(tx, unit, &indexes, true).await?;
    further.want_revoked(tx).await
}

async fn end_members(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    doubt: &Doubt,
    verdict: &DoubtVerdict,
) -> Result<(), StoreError> {
    if verdict.ended.is_empty() {
        return Ok(());
    }
    let indexes: Vec<i32> = verdict.ended.iter().map(|m| m.idx).collect();
    let states: Vec<i16> = verdict.ended.iter().map(|m| m.state.number()).collect();
    let codes: Vec<&str> = verdict.ended.iter().map(|m| m.code.as_str()).collect();
    let messages: Vec<&str> = verdict.ended.iter().map(|m| m.message.as_str()).collect();
    sqlx::query!(
        r#"
        UPDATE messages m
        SET state = f.state, error_code = nullif(f.code, ''), error_message = nullif(f.message, ''),
            revoke_id = CASE WHEN f.state = 5 THEN coalesce(m.revoke_id, $8) ELSE m.revoke_id END
        FROM unnest($3::int4[], $4::int2[], $5::text[], $6::text[]) AS f(idx, state, code, message)
        WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx = f.idx AND m.state IN (1, 2)
          AND m.token IS NOT DISTINCT FROM $7
        "#,
        unit.job.as_str(),
        unit.created_at,
        &indexes,
        &states,
        &codes as &[&str],
        &messages as &[&str],
        doubt.token,
        verdict.cancelled_by,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("end doubtful members", error))?;
    Ok(())
}

async fn follow(tx: &mut Transaction<'static, Postgres>, unit: &WorkUnit, next: DoubtNext) -> Result<(), StoreError> {
    let (command, after, absent, looking) = match next {
        DoubtNext::End => return advance(tx, unit, PartNext::End).await,
        DoubtNext::Deliver { command, after } => (command, after, false, false),
        DoubtNext::Look { after, absent } => (Command::GetRoamMsg, after, absent, true),
    };
    sqlx::query!(
        "UPDATE work SET command = $4, due_at = now() + make_interval(secs => $5), lease = NULL, takeovers = 0,
                         looks = CASE WHEN $7 THEN looks + CASE WHEN $6 THEN 1 ELSE 0 END ELSE 0 END,
                         looked_at = CASE WHEN $6 THEN clock_timestamp() ELSE looked_at END
         WHERE job_id = $1 AND kind = 0 AND part = $2 AND lease = $3",
        unit.job.as_str(),
        unit.part,
        unit.lease,
        command.index() as i16,
        after.as_secs_f64(),
        absent,
        looking,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("postpone a doubt", error))?;
    Ok(())
}
