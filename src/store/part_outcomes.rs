//! The outcome of a part's call, recipient by recipient, with its row of work and its events in one transaction.

use std::time::Duration;

use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{
    Store, StoreError,
    outbox::OutboxEvent,
    outcomes::AttemptNote,
    parts::{Member, range},
    revoked::FurtherKeys,
    work::WorkUnit,
};
use crate::domain::{Command, GroupName, MessageState};

/// What one recipient of a batch call got.
#[derive(Debug, Clone)]
pub struct MemberFailure {
    /// Its index in the job.
    pub idx: i32,
    /// `Failed`, `Unknown` or `Pending` (retried later).
    pub state: MessageState,
    /// The word.
    pub code: String,
    /// The sentence.
    pub message: String,
}

/// The outcome of a part's call.
#[derive(Debug, Clone)]
pub struct PartOutcome {
    /// The members that were reached, with the call's key: all of the claim's but those in `failed`.
    pub sent: Vec<i32>,
    /// The key, where anyone was reached.
    pub msg_key: Option<String>,
    /// The service's time of the message.
    pub msg_time: Option<i64>,
    /// The others.
    pub failed: Vec<MemberFailure>,
    /// What follows for the row of work.
    pub next: PartNext,
    /// A failure of the call as a whole, kept with the job.
    pub job_error: Option<(String, String)>,
    /// The attempt, kept under the part's first member.
    pub note: Option<AttemptNote>,
    /// Events to publish.
    pub events: Vec<OutboxEvent>,
}

/// What follows for a part.
#[derive(Debug, Clone, Copy)]
pub enum PartNext {
    /// Nothing is pending in it.
    End,
    /// Some members are tried again.
    Retry {
        /// How long from now.
        after: Duration,
        /// Whether it counts against the attempts.
        counts: bool,
    },
    /// The call may have been carried out: its members are in doubt.
    Doubt {
        /// When the first look is worth it.
        after: Duration,
    },
}
impl Store {
    /// Records a part's outcome recipient by recipient, with its row of work, its events and, where this was the last
    /// part, the row that closes the job: in one transaction.
    ///
    /// A member whose claim has been replaced keeps its state; the key is kept for it all the same.
    pub async fn settle_part(&self, unit: &WorkUnit, token: Uuid, outcome: &PartOutcome) -> Result<(), StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin a part's outcome", error))?;
        if let Some(msg_key) = &outcome.msg_key {
            self.settle_sent_members(&mut tx, unit, token, outcome, msg_key).await?;
        }
        settle_failed_members(&mut tx, unit, token, &outcome.failed).await?;
        if let PartNext::Doubt { .. } = outcome.next {
            let (first, last) = range(unit.part);
            sqlx::query!(
                "UPDATE messages SET state = 2
                 WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4 AND token = $5 AND state = 1",
                unit.job.as_str(),
                unit.created_at,
                first,
                last,
                token,
            )
            .execute(&mut *tx)
            .await
            .map_err(|error| StoreError::query("put members into doubt", error))?;
        }
        self.note_attempt(
            &mut tx,
            &unit.job,
            unit.created_at,
            range(unit.part).0,
            outcome.note.as_ref(),
        )
        .await?;
        if let Some((code, message)) = &outcome.job_error {
            keep_job_error(&mut tx, unit, code, message).await?;
        }
        for event in &outcome.events {
            self.put_event(&mut tx, event).await?;
        }
        if outcome.msg_key.is_none() && matches!(outcome.next, PartNext::Retry { .. }) {
            free_pair(&mut tx, unit, token).await?;
        }
        advance(&mut tx, unit, outcome.next).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a part's outcome", error))
    }

    async fn settle_sent_members(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        unit: &WorkUnit,
        token: Uuid,
        outcome: &PartOutcome,
        msg_key: &str,
    ) -> Result<(), StoreError> {
        let (first, last) = range(unit.part);
        let (sent, msg_time) = (&outcome.sent[..], outcome.msg_time);
        let failed: Vec<i32> = outcome.failed.iter().map(|failure| failure.idx).collect();
        // The claim's members but those that failed: one pass over a range instead of a search for each index.
        let done = sqlx::query!(
            r#"
            WITH done AS (
                UPDATE messages
                SET state = 3, msg_key = $5, msg_time = $6, sent_at = clock_timestamp(), error_code = NULL, error_message = NULL
                WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $7 AND $8 AND idx <> ALL ($3)
                  AND token = $4 AND state IN (1, 2)
                RETURNING revoke_id IS NOT NULL AS covered
            )
            SELECT count(*) AS "members!", coalesce(bool_or(covered), false) AS "covered!" FROM done
            "#,
            unit.job.as_str(),
            unit.created_at,
            &failed,
            token,
            msg_key,
            msg_time,
            first,
            last,
        )
        .fetch_one(&mut **tx)
        .await
        .map_err(|error| StoreError::query("record sent members", error))?;
        let replaced = (done.members as usize) < sent.len();
        if replaced {
            // Replaced claims: the key is kept where the member's row doesn't hold it.
            let keys = FurtherKeys::of(unit, sent);
            keys.lock(tx).await?;
            sqlx::query!(
                r#"
                INSERT INTO message_keys (job_id, idx, msg_key, msg_time, source)
                SELECT m.job_id, m.idx, $4, $5, 0 FROM messages m
                WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx = ANY ($3) AND m.idx BETWEEN $6 AND $7
                  AND m.msg_key IS DISTINCT FROM $4
                ON CONFLICT DO NOTHING
                "#,
                unit.job.as_str(),
                unit.created_at,
                sent,
                msg_key,
                msg_time,
                first,
                last,
            )
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("keep late MsgKeys", error))?;
            keys.want_revoked(tx).await?;
        }
        // One whose claim was replaced may be covered, too.
        want_members_revoked(tx, unit, sent, replaced || done.covered).await
    }

    /// Ends what is still pending of a part without a call (expired, or failed as poison), with its event, and the part
    /// with it unless members are in doubt. Returns how many were ended.
    pub async fn end_pending(
        &self,
        unit: &WorkUnit,
        state: MessageState,
        error: Option<&(String, String)>,
        event: impl FnOnce(&[Member]) -> OutboxEvent,
    ) -> Result<usize, StoreError> {
        let (first, last) = range(unit.part);
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the end of a part", error))?;
        let rows = sqlx::query!(
            "UPDATE messages SET state = $5, error_code = $6, error_message = $7
             WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4 AND state = 0
             RETURNING idx, to_account",
            unit.job.as_str(),
            unit.created_at,
            first,
            last,
            state.number(),
            error.map(|(code, _)| code.as_str()),
            error.map(|(_, message)| message.as_str()),
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(|error| StoreError::query("end pending members", error))?;
        let members: Vec<Member> = rows
            .into_iter()
            .map(|row| Member {
                idx: row.idx,
                to: row.to_account,
            })
            .collect();
        if !members.is_empty() {
            self.put_event(&mut tx, &event(&members)).await?;
        }
        if let Some((code, message)) = error {
            keep_job_error(&mut tx, unit, code, message).await?;
        }
        let doubtful = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM messages WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4
                              AND state IN (1, 2)) AS "doubtful!""#,
            unit.job.as_str(),
            unit.created_at,
            first,
            last,
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| StoreError::query("look for doubtful members", error))?;
        let next = if doubtful {
            PartNext::Doubt { after: Duration::ZERO }
        } else {
            PartNext::End
        };
        advance(&mut tx, unit, next).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the end of a part", error))?;
        Ok(members.len())
    }
}

/// A call that surely wasn't carried out leaves its pair as unused as it was, if no call before that may have been.
async fn free_pair(tx: &mut Transaction<'static, Postgres>, unit: &WorkUnit, token: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE calls SET pair_since = 'infinity'
         WHERE job_id = $1 AND part = $2 AND token = $3
           AND coalesce(pair_since, first_call_at) > last_call_at - interval '1 second'",
        unit.job.as_str(),
        unit.part,
        token,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("free a pair", error))?;
    Ok(())
}

pub(super) async fn keep_job_error(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    code: &str,
    message: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE jobs SET error_code = $2, error_message = $3 WHERE id = $1",
        unit.job.as_str(),
        code,
        message,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("keep a job's error", error))?;
    Ok(())
}

/// Marks sent members for revocation that a tombstone covers: after they have been written, in statements of its own.
/// `covered`: one of them may be marked by a tombstone already. Otherwise, and without a tombstone, no member is looked at.
pub(super) async fn want_members_revoked(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    sent: &[i32],
    covered: bool,
) -> Result<(), StoreError> {
    let (first, last) = range(unit.part);
    sqlx::query!(
        r#"
        WITH tombstone AS (
            SELECT t.id, t.to_accounts FROM revocations t WHERE t.target_job = $1
            UNION ALL
            SELECT g.id, NULL FROM revocations g
            WHERE g.target_group = $4 AND g.lifted_at IS NULL AND g.expires_at > now()
        ), wanted AS (
            UPDATE messages m
            SET revoke_state = 1,
                revoke_id = coalesce(m.revoke_id, (SELECT t.id FROM tombstone t
                                                   WHERE t.to_accounts IS NULL OR m.to_account = ANY (t.to_accounts) LIMIT 1))
            WHERE ($6 OR (SELECT EXISTS (SELECT FROM tombstone)))
              AND m.job_id = $1 AND m.created_at = $2 AND m.idx = ANY ($3) AND m.idx BETWEEN $7 AND $8
              AND m.state = 3 AND m.revoke_state <> 2
              AND (m.revoke_id IS NOT NULL OR EXISTS (SELECT 1 FROM tombstone t
                                                      WHERE t.to_accounts IS NULL OR m.to_account = ANY (t.to_accounts)))
            RETURNING m.idx
        )
        INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
        SELECT 1, $1, idx, $2, 1, $5, 4, now() FROM wanted
        ON CONFLICT DO NOTHING
        "#,
        unit.job.as_str(),
        unit.created_at,
        sent,
        unit.group.as_ref().map(GroupName::as_str),
        unit.app.as_str(),
        covered,
        first,
        last,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("mark members for revocation", error))?;
    Ok(())
}

async fn settle_failed_members(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    token: Uuid,
    failed: &[MemberFailure],
) -> Result<(), StoreError> {
    if failed.is_empty() {
        return Ok(());
    }
    let mut failed: Vec<&MemberFailure> = failed.iter().collect();
    failed.sort_unstable_by_key(|f| f.idx);
    let indexes: Vec<i32> = failed.iter().map(|f| f.idx).collect();
    let states: Vec<i16> = failed.iter().map(|f| f.state.number()).collect();
    let codes: Vec<&str> = failed.iter().map(|f| f.code.as_str()).collect();
    let messages: Vec<&str> = failed.iter().map(|f| f.message.as_str()).collect();
    sqlx::query!(
        r#"
        UPDATE messages m
        SET state = ($5::int2[])[width_bucket(m.idx, $4)], error_code = ($6::text[])[width_bucket(m.idx, $4)],
            error_message = ($7::text[])[width_bucket(m.idx, $4)]
        WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx = ANY ($4::int4[]) AND m.idx BETWEEN $8 AND $9
          AND m.token = $3 AND m.state IN (1, 2)
        "#,
        unit.job.as_str(),
        unit.created_at,
        token,
        &indexes,
        &states,
        &codes as &[&str],
        &messages as &[&str],
        indexes.first(),
        indexes.last(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("record failed members", error))?;
    Ok(())
}

/// Ends, postpones or turns the part's row of work, and queues the end of the job with its last part. A row with open
/// members never ends: what one step brings to an end may be a part of them only.
pub(super) async fn advance(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    next: PartNext,
) -> Result<(), StoreError> {
    let (command, after, counts) = match next {
        PartNext::Retry { after, counts } => (Command::BatchSendMsg, after, counts),
        PartNext::Doubt { after } => (Command::GetRoamMsg, after, true),
        PartNext::End => {
            if go_on(tx, unit).await? {
                return Ok(());
            }
            sqlx::query!(
                r#"
                WITH ended AS (
                    DELETE FROM work WHERE job_id = $1 AND kind = 0 AND part = $2 AND lease = $3 RETURNING job_id
                ), counted AS (
                    UPDATE jobs j SET open_parts = open_parts - 1 FROM ended WHERE j.id = ended.job_id
                    RETURNING j.id, j.type, j.open_parts, j.created_at, j.lane, j.app
                )
                INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
                SELECT 3, id, 0, created_at, lane, app, 1, now() FROM counted WHERE open_parts <= 0 AND type = 1
                ON CONFLICT DO NOTHING
                "#,
                unit.job.as_str(),
                unit.part,
                unit.lease,
            )
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("end a part", error))?;
            return Ok(());
        }
    };
    sqlx::query!(
        "UPDATE work SET command = $4, due_at = now() + make_interval(secs => $5), lease = NULL, takeovers = 0,
                         attempts = attempts + $6, looks = 0, looked_at = NULL
         WHERE job_id = $1 AND kind = 0 AND part = $2 AND lease = $3",
        unit.job.as_str(),
        unit.part,
        unit.lease,
        command.index() as i16,
        after.as_secs_f64(),
        i32::from(counts),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("postpone a part", error))?;
    Ok(())
}

/// Keeps the row of a part whose members haven't all ended: due at once, to be reconciled where one is in doubt, else to
/// be delivered. False: nothing is open.
async fn go_on(tx: &mut Transaction<'static, Postgres>, unit: &WorkUnit) -> Result<bool, StoreError> {
    let (first, last) = range(unit.part);
    let kept = sqlx::query!(
        r#"
        UPDATE work w
        SET command = CASE WHEN o.doubtful THEN $6::int2 WHEN j.type = 1 THEN $7::int2 WHEN j.type = 3 THEN $8::int2
                           ELSE $9::int2 END,
            due_at = now(), lease = NULL, takeovers = 0, looks = 0, looked_at = NULL
        FROM jobs j, (SELECT bool_or(state IN (1, 2)) AS doubtful FROM messages
                      WHERE job_id = $1 AND created_at = $3 AND idx BETWEEN $4 AND $5 AND state IN (0, 1, 2)
                      HAVING count(*) > 0) o
        WHERE w.job_id = $1 AND w.kind = 0 AND w.part = $2 AND w.lease = $10 AND j.id = w.job_id
        "#,
        unit.job.as_str(),
        unit.part,
        unit.created_at,
        first,
        last,
        Command::GetRoamMsg.index() as i16,
        Command::BatchSendMsg.index() as i16,
        Command::ImportMsg.index() as i16,
        Command::SendMsg.index() as i16,
        unit.lease,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("look for open members", error))?;
    Ok(kept.rows_affected() > 0)
}
