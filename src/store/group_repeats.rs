//! A shared call that reached nobody, claimed again as it was: same members, same order, same pair.

use std::time::Duration;

use uuid::Uuid;

use super::{
    CallPair, DueMember, Store, StoreError,
    claims::parse_id,
    work::{WorkKind, WorkUnit},
};
use crate::domain::{AccountId, Command, GroupName, JobId};

/// When a shared call counts as one that reached nobody and may be repeated: every member is in doubt about it, was looked
/// for in vain until there is only the last look left, is not revoked and not over.
#[derive(Debug, Clone, Copy)]
pub struct AbsentCall {
    /// The encoder's version that would write it: another would write other bytes.
    pub encoder: i16,
    /// Since the first call at most.
    pub within: Duration,
    /// A member's last look is due so long after its call.
    pub looked_until: Duration,
}

/// A shared call that is made again.
#[derive(Debug, Clone)]
pub struct RepeatedCall {
    /// Its row.
    pub call_id: Uuid,
    /// The sender.
    pub from: AccountId,
    /// The pair on record.
    pub pair: CallPair,
    /// The members, in the order of the call.
    pub members: Vec<RepeatedMember>,
}

/// A member of such a call.
#[derive(Debug, Clone)]
pub struct RepeatedMember {
    /// Its row of work, under this claim's lease.
    pub unit: WorkUnit,
    /// The recipient.
    pub to: AccountId,
    /// Attempt and generation.
    pub claim: DueMember,
}

impl Store {
    /// How many members the call of a row of work has, if it is one that reached nobody. Only a hint: the claim decides.
    pub async fn absent_members(&self, unit: &WorkUnit, absent: AbsentCall) -> Result<Option<u32>, StoreError> {
        let members = sqlx::query_scalar!(
            r#"
            SELECT cardinality(c.jobs) AS "members!"
            FROM messages m JOIN calls c ON c.call_id = m.call_id AND c.token = m.token
            WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx = 0 AND m.state IN (1, 2) AND c.encoder = $3
              AND c.first_call_at > clock_timestamp() - make_interval(secs => $4)
              AND NOT EXISTS (
                  SELECT FROM unnest(c.jobs) AS member(id)
                  LEFT JOIN work w ON w.job_id = member.id AND w.kind = 0 AND w.part = 0 AND w.command = $6 AND w.lease IS NULL
                                  AND w.looks >= 2 AND w.due_at >= c.last_call_at + make_interval(secs => $5)
                  WHERE w.job_id IS NULL
              )
            "#,
            unit.job.as_str(),
            unit.created_at,
            absent.encoder,
            absent.within.as_secs_f64(),
            absent.looked_until.as_secs_f64(),
            Command::GetRoamMsg.index() as i16,
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| StoreError::query("look whether a shared call reached nobody", error))?;
        Ok(members.map(|members| members.max(0) as u32))
    }

    /// Claims such a call again, in one transaction: its row, its members' messages and their rows of work, which stay
    /// the history's, for the case that this worker dies. `None`: it isn't one, or not any more.
    #[expect(clippy::too_many_lines, reason = "most of them are the statements")]
    pub async fn claim_repeat(
        &self,
        high: bool,
        unit: &WorkUnit,
        absent: AbsentCall,
        token: Uuid,
        lease: Duration,
    ) -> Result<Option<RepeatedCall>, StoreError> {
        let mut tx = self
            .hot(high)
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the repeat of a shared call", error))?;
        let call = sqlx::query!(
            r#"
            SELECT c.call_id, c.token, c.sender, c.seq, c.random, c.jobs AS "jobs!"
            FROM messages m JOIN calls c ON c.call_id = m.call_id AND c.token = m.token
            WHERE m.job_id = $1 AND m.created_at = $2 AND m.idx = 0 AND c.encoder = $3
              AND c.first_call_at > clock_timestamp() - make_interval(secs => $4)
            FOR UPDATE OF c
            "#,
            unit.job.as_str(),
            unit.created_at,
            absent.encoder,
            absent.within.as_secs_f64(),
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("fence the repeat of a shared call", error))?;
        let Some(call) = call else { return Ok(None) };
        let rows = sqlx::query!(
            r#"
            SELECT m.job_id, m.created_at, m.to_account, m.attempts, m.generation, w.group_name, w.attempts AS tries,
                   w.generation AS work_generation
            FROM unnest($1::text[]) WITH ORDINALITY AS member(id, place)
            JOIN jobs j ON j.id = member.id
            JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at AND m.idx = 0
            JOIN work w ON w.job_id = j.id AND w.kind = 0 AND w.part = 0
            JOIN calls c ON c.call_id = $2
            WHERE m.token = $3 AND m.state IN (1, 2) AND m.revoke_id IS NULL
              AND (j.expires_at IS NULL OR j.expires_at > clock_timestamp())
              AND w.command = $5 AND w.lease IS NULL AND w.looks >= 2
              AND w.due_at >= c.last_call_at + make_interval(secs => $4)
              AND NOT EXISTS (SELECT FROM revocations t
                              WHERE t.target_job = j.id AND (t.to_accounts IS NULL OR m.to_account = ANY (t.to_accounts)))
              AND NOT EXISTS (SELECT FROM revocations g
                              WHERE g.target_group = j.group_name AND g.lifted_at IS NULL AND g.expires_at > now())
            ORDER BY member.place
            FOR UPDATE OF m, w
            "#,
            &call.jobs,
            call.call_id,
            call.token,
            absent.looked_until.as_secs_f64(),
            Command::GetRoamMsg.index() as i16,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(|error| StoreError::query("fence the members of a repeated call", error))?;
        if rows.len() != call.jobs.len() {
            return Ok(None);
        }
        let own_lease = Uuid::new_v4();
        sqlx::query!(
            r#"
            WITH message AS (
                UPDATE messages m
                SET state = 1, token = $2, attempts = attempts + 1, last_call_at = clock_timestamp(),
                    call_by = clock_timestamp() + interval '3 seconds'
                FROM jobs j
                WHERE j.id = ANY ($3) AND m.job_id = j.id AND m.created_at = j.created_at AND m.idx = 0
            ), work AS (
                UPDATE work SET lease = $4, due_at = now() + make_interval(secs => $5), looks = 0, looked_at = NULL
                WHERE job_id = ANY ($3) AND kind = 0 AND part = 0
            )
            UPDATE calls SET last_call_at = clock_timestamp(), call_by = clock_timestamp() + interval '3 seconds', token = $2
            WHERE call_id = $1
            "#,
            call.call_id,
            token,
            &call.jobs,
            own_lease,
            lease.as_secs_f64(),
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("claim a shared call again", error))?;
        let unreadable = |job: &JobId, column: &'static str, value: String| StoreError::Inconsistent {
            table: "messages",
            column,
            job: job.to_string(),
            value,
        };
        let account = |job: &JobId, column: &'static str, name: &str| {
            AccountId::parse(name).map_err(|error| unreadable(job, column, error.to_string()))
        };
        let mut members = Vec::with_capacity(rows.len());
        for row in rows {
            let job = parse_id(&row.job_id)?;
            let group = row.group_name.as_deref().map(GroupName::parse).transpose();
            members.push(RepeatedMember {
                to: account(&job, "to_account", &row.to_account)?,
                claim: DueMember {
                    attempt: row.attempts.max(0) as u32 + 1,
                    generation: row.generation,
                },
                unit: WorkUnit {
                    kind: WorkKind::Deliver,
                    part: 0,
                    created_at: row.created_at,
                    lane: unit.lane,
                    app: unit.app.clone(),
                    command: Command::GetRoamMsg,
                    group: group.map_err(|error| unreadable(&job, "group_name", error.to_string()))?,
                    attempts: row.tries.max(0) as u32,
                    takeovers: 0,
                    lease: own_lease,
                    looks: 0,
                    generation: row.work_generation,
                    job,
                },
            });
        }
        let from = account(&unit.job, "from_account", &call.sender)?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the repeat of a shared call", error))?;
        Ok(Some(RepeatedCall {
            call_id: call.call_id,
            from,
            pair: CallPair {
                seq: call.seq as u32,
                random: call.random as u32,
            },
            members,
        }))
    }
}
