//! Parts: up to 500 recipients of a batch job, claimed for one call.

use std::time::Duration;

use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{Store, StoreError, caps::CapRule, claims::parse_id, outbox::OutboxEvent, work::WorkUnit};
use crate::domain::{Command, GroupName, JobId, job::MAX_CALL_RECIPIENTS};

/// The pair that identifies a call's messages at the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallPair {
    /// MsgSeq.
    pub seq: u32,
    /// MsgRandom.
    pub random: u32,
}

/// A member of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its index in the job.
    pub idx: i32,
    /// The recipient.
    pub to: String,
}

/// A claimed batch call.
#[derive(Debug, Clone)]
pub struct PartCall {
    /// Its record.
    pub call_id: Uuid,
    /// The generation of its pair.
    pub generation: i32,
    /// The pair: of an earlier, surely refused or surely lost call of the same members, or a new one.
    pub pair: CallPair,
    /// The members, in the order of the call.
    pub members: Vec<Member>,
}

/// Who is about to call.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Names the claim for ever.
    pub token: Uuid,
    /// The account that the API will use as the sender.
    pub sender: &'a str,
    /// The version of the encoder that will write the body.
    pub encoder: i16,
}

/// When a call that may have been accepted, and that the history didn't show, may be repeated.
#[derive(Debug, Clone, Copy)]
pub struct RepeatRule {
    /// Byte for byte, for that long since the first such call: the service drops a double.
    pub dropped_for: Duration,
    /// And after that long since the last: the history has listed what was accepted.
    pub listed_after: Duration,
}

impl RepeatRule {
    /// At any time: of a command whose repeat changes nothing.
    pub const ANY_TIME: Self = Self {
        dropped_for: Duration::ZERO,
        listed_after: Duration::ZERO,
    };
}

/// Members that a tombstone covered when their part was claimed.
#[derive(Debug, Clone)]
pub struct CancelledMembers {
    /// The revoke job.
    pub revocation: JobId,
    /// The recipients.
    pub to: Vec<String>,
}

/// What claiming a part gave.
#[derive(Debug, Clone)]
pub struct PartClaim {
    /// The call to make; `None`: nothing is pending any more.
    pub call: Option<PartCall>,
    /// Members that a tombstone covered: cancelled in the same transaction, their events in the outbox.
    pub cancelled: usize,
    /// Members that a cap held back: suppressed in the same transaction, their events in the outbox.
    pub suppressed: usize,
    /// Members that are claimed by an earlier call whose outcome isn't known: the part must be reconciled first.
    pub doubtful: bool,
    /// The row of work isn't this lease's any more: somebody else goes on.
    pub lost: bool,
}

/// Index range of a part.
pub(super) const fn range(part: i32) -> (i32, i32) {
    let size = MAX_CALL_RECIPIENTS as i32;
    (part * size, part * size + size - 1)
}

impl Store {
    /// Claims what is pending of a part for one call, in one transaction: fence by lease, safety of a repeat, tombstones,
    /// caps, members, pair.
    ///
    /// `derive` makes the pair of a generation, `cancelled` the event of members that a tombstone covers. The call's
    /// record is written with the claim, before any call.
    pub async fn claim_part(
        &self,
        unit: &WorkUnit,
        caller: Caller<'_>,
        repeats: RepeatRule,
        caps: CapRule<'_>,
        derive: impl Fn(i32) -> CallPair,
        cancelled: impl Fn(&CancelledMembers) -> OutboxEvent,
    ) -> Result<PartClaim, StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the claim of a part", error))?;
        let mut claim = PartClaim {
            call: None,
            cancelled: 0,
            suppressed: 0,
            doubtful: false,
            lost: false,
        };
        let held = sqlx::query_scalar!(
            "SELECT generation FROM work WHERE job_id = $1 AND kind = 0 AND part = $2 AND lease = $3 FOR UPDATE",
            unit.job.as_str(),
            unit.part,
            unit.lease,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("fence the claim of a part", error))?;
        if held.is_none() {
            claim.lost = true;
            return Ok(claim);
        }
        let (first, last) = range(unit.part);
        let seen = look(&mut tx, unit, caller.encoder, repeats).await?;
        if seen.doubtful {
            claim.doubtful = true;
            return Ok(claim);
        }
        if seen.too_late && doubt_again(&mut tx, unit, caller.encoder, repeats).await? {
            tx.commit()
                .await
                .map_err(|error| StoreError::query("commit a doubt", error))?;
            claim.doubtful = true;
            return Ok(claim);
        }
        if seen.covered {
            for members in cancel_pending(&mut tx, unit, first, last).await? {
                self.put_event(&mut tx, &cancelled(&members)).await?;
                claim.cancelled += members.to.len();
            }
        }
        if !caps.scopes.is_empty() {
            let pending = pending_members(&mut tx, unit, first, last).await?;
            claim.suppressed = self.reserve_or_suppress(&mut tx, unit, &pending, caps).await?;
        }
        // With the call's name at once: a second update of each row would be as dear as this one.
        let call_id = Uuid::new_v4();
        let mut members: Vec<Member> = sqlx::query!(
            r#"
            UPDATE messages
            SET state = 1, token = $5, call_id = $6, attempts = attempts + 1, first_call_at = coalesce(first_call_at, clock_timestamp()),
                last_call_at = clock_timestamp(), call_by = clock_timestamp() + interval '3 seconds'
            WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4 AND state = 0
            RETURNING idx, to_account
            "#,
            unit.job.as_str(),
            unit.created_at,
            first,
            last,
            caller.token,
            call_id,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(|error| StoreError::query("claim the members of a part", error))?
        .into_iter()
        .map(|row| Member { idx: row.idx, to: row.to_account })
        .collect();
        members.sort_unstable_by_key(|member| member.idx);
        if !members.is_empty() {
            let new = NewCall {
                call_id,
                caller,
                members,
                previous: seen.previous,
            };
            claim.call = Some(record_call(&mut tx, unit, new, derive).await?);
        }
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the claim of a part", error))?;
        Ok(claim)
    }
}

/// A part's call before this one.
struct PreviousCall {
    call_id: Uuid,
    generation: i32,
    pair: CallPair,
    encoder: i16,
    members: Vec<i32>,
}

/// What there is to know of a part before its members are claimed.
struct Seen {
    /// A call whose outcome isn't known has some of its members.
    doubtful: bool,
    /// The last call's pair may be too old to be used again; whether it would be depends on the members.
    too_late: bool,
    /// There is a tombstone that may cover members.
    covered: bool,
    previous: Option<PreviousCall>,
}

/// Looks at a part in one statement: nearly always that is all there is to see.
async fn look(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    encoder: i16,
    repeats: RepeatRule,
) -> Result<Seen, StoreError> {
    let (first, last) = range(unit.part);
    let row = sqlx::query!(
        r#"
        SELECT EXISTS (SELECT 1 FROM messages WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4
                       AND state IN (1, 2)) AS "doubtful!",
               EXISTS (SELECT 1 FROM revocations t WHERE t.target_job = $1
                       UNION ALL
                       SELECT 1 FROM revocations g
                       WHERE g.target_group = $6 AND g.lifted_at IS NULL AND g.expires_at > now()) AS "covered!",
               coalesce(p.since <> 'infinity' AND p.last_call_at > clock_timestamp() - make_interval(secs => $8)
                        AND (p.since <= clock_timestamp() - make_interval(secs => $7) OR p.encoder <> $9),
                        false) AS "too_late!",
               p.call_id AS "call_id?", p.generation AS "generation?", p.seq AS "seq?", p.random AS "random?",
               p.encoder AS "encoder?", p.members AS "members?"
        FROM (SELECT) AS always
        LEFT JOIN LATERAL (
            SELECT c.*, coalesce(c.pair_since, c.first_call_at) AS since FROM calls c
            WHERE c.job_id = $1 AND c.part = $5 ORDER BY c.generation DESC LIMIT 1
        ) p ON true
        "#,
        unit.job.as_str(),
        unit.created_at,
        first,
        last,
        unit.part,
        unit.group.as_ref().map(GroupName::as_str),
        repeats.dropped_for.as_secs_f64(),
        repeats.listed_after.as_secs_f64(),
        encoder,
    )
    .fetch_one(&mut **tx)
    .await
    .map_err(|error| StoreError::query("look at a part", error))?;
    let previous = match (
        row.call_id,
        row.generation,
        row.seq,
        row.random,
        row.encoder,
        row.members,
    ) {
        (Some(call_id), Some(generation), Some(seq), Some(random), Some(encoder), Some(members)) => {
            Some(PreviousCall {
                call_id,
                generation,
                pair: CallPair {
                    seq: seq as u32,
                    random: random as u32,
                },
                encoder,
                members,
            })
        }
        _ => None,
    };
    Ok(Seen {
        doubtful: row.doubtful,
        too_late: row.too_late,
        covered: row.covered,
        previous,
    })
}

/// Puts the members of a call back into doubt that waited for so long that its repeat could be a second message to each.
/// True: it did.
async fn doubt_again(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    encoder: i16,
    repeats: RepeatRule,
) -> Result<bool, StoreError> {
    let (first, last) = range(unit.part);
    let members = sqlx::query!(
        r#"
        WITH previous AS (
            SELECT call_id, token, members, encoder, last_call_at, coalesce(pair_since, first_call_at) AS since FROM calls
            WHERE job_id = $1 AND part = $5 ORDER BY generation DESC LIMIT 1
        )
        UPDATE messages m SET state = 2
        FROM previous p
        WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx BETWEEN $3 AND $4 AND m.state = 0
          AND m.call_id = p.call_id AND m.token = p.token
          AND p.since <> 'infinity' AND p.last_call_at > clock_timestamp() - make_interval(secs => $7)
          AND (p.since <= clock_timestamp() - make_interval(secs => $6) OR p.encoder <> $8)
          AND p.members = ARRAY(SELECT idx FROM messages
                                WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4 AND state = 0
                                ORDER BY idx)
        "#,
        unit.job.as_str(),
        unit.created_at,
        first,
        last,
        unit.part,
        repeats.dropped_for.as_secs_f64(),
        repeats.listed_after.as_secs_f64(),
        encoder,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("put a part back into doubt", error))?;
    Ok(members.rows_affected() > 0)
}

/// Members that wait for a call, held until the claim's end.
async fn pending_members(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    first: i32,
    last: i32,
) -> Result<Vec<Member>, StoreError> {
    let rows = sqlx::query!(
        "SELECT idx, to_account FROM messages
         WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4 AND state = 0 ORDER BY idx FOR UPDATE",
        unit.job.as_str(),
        unit.created_at,
        first,
        last,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read the pending members of a part", error))?;
    let member = |idx, to| Member { idx, to };
    Ok(rows.into_iter().map(|row| member(row.idx, row.to_account)).collect())
}

/// Cancels pending members that a tombstone covers.
async fn cancel_pending(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    first: i32,
    last: i32,
) -> Result<Vec<CancelledMembers>, StoreError> {
    let tombstones = sqlx::query!(
        r#"
        SELECT t.id AS "id!", t.to_accounts FROM revocations t WHERE t.target_job = $1
        UNION ALL
        SELECT g.id, NULL FROM revocations g
        WHERE g.target_group = $2 AND g.lifted_at IS NULL AND g.expires_at > now()
        "#,
        unit.job.as_str(),
        unit.group.as_ref().map(GroupName::as_str),
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("look for tombstones", error))?;
    let mut cancelled = Vec::new();
    for tombstone in tombstones {
        let rows = sqlx::query_scalar!(
            r#"
            UPDATE messages SET state = 5, revoke_id = coalesce(revoke_id, $5)
            WHERE job_id = $1 AND created_at = $2 AND idx BETWEEN $3 AND $4 AND state = 0
              AND ($6::text[] IS NULL OR to_account = ANY ($6))
            RETURNING to_account
            "#,
            unit.job.as_str(),
            unit.created_at,
            first,
            last,
            tombstone.id,
            tombstone.to_accounts.as_deref(),
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(|error| StoreError::query("cancel members", error))?;
        if !rows.is_empty() {
            cancelled.push(CancelledMembers {
                revocation: parse_id(&tombstone.id)?,
                to: rows,
            });
        }
    }
    Ok(cancelled)
}

/// A call about to be recorded.
struct NewCall<'a> {
    /// The name that its members have already.
    call_id: Uuid,
    caller: Caller<'a>,
    members: Vec<Member>,
    previous: Option<PreviousCall>,
}

/// Writes the record of a call whose members have its name already: the same members as a refused or lost call keep its
/// pair, and get its name back, any others get a new one.
async fn record_call(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    new: NewCall<'_>,
    derive: impl Fn(i32) -> CallPair,
) -> Result<PartCall, StoreError> {
    let NewCall {
        call_id,
        caller: Caller { token, sender, encoder },
        members,
        previous,
    } = new;
    let indexes: Vec<i32> = members.iter().map(|member| member.idx).collect();
    match previous {
        Some(previous) if previous.members == indexes && previous.encoder == encoder => {
            sqlx::query!(
                "UPDATE calls SET last_call_at = clock_timestamp(), call_by = clock_timestamp() + interval '3 seconds',
                                  pair_since = least(coalesce(pair_since, first_call_at), clock_timestamp()), token = $2
                 WHERE call_id = $1",
                previous.call_id,
                token,
            )
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("repeat a call's record", error))?;
            sqlx::query!(
                "UPDATE messages SET call_id = $4 WHERE job_id = $1 AND created_at = $2 AND idx = ANY ($3)
                   AND idx BETWEEN $5 AND $6",
                unit.job.as_str(),
                unit.created_at,
                &indexes,
                previous.call_id,
                indexes.first(),
                indexes.last(),
            )
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("name the members' call", error))?;
            Ok(PartCall {
                call_id: previous.call_id,
                generation: previous.generation,
                pair: previous.pair,
                members,
            })
        }
        previous => {
            let generation = previous.map_or(0, |previous| previous.generation + 1);
            let pair = derive(generation);
            sqlx::query!(
                "INSERT INTO calls (call_id, created_at, job_id, part, generation, app, command, sender, seq, random,
                                    encoder, members, first_call_at, last_call_at, call_by, token)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, clock_timestamp(), clock_timestamp(),
                         clock_timestamp() + interval '3 seconds', $13)",
                call_id,
                unit.created_at,
                unit.job.as_str(),
                unit.part,
                generation,
                unit.app.as_str(),
                Command::BatchSendMsg.index() as i16,
                sender,
                i64::from(pair.seq),
                i64::from(pair.random),
                encoder,
                &indexes,
                token,
            )
            .execute(&mut **tx)
            .await
            .map_err(|error| StoreError::query("record a call", error))?;
            Ok(PartCall {
                call_id,
                generation,
                pair,
                members,
            })
        }
    }
}
