//! Claims of shared calls: sends of several jobs that become one batch call.
//!
//! The statement that claims the members fixes the group: it writes the call's row, with its pair and its members' jobs,
//! and each member's message names it. From then on every member is a single message like any other: its outcome, its
//! revocation and its reconciliation are its own.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    CallPair, ClaimVerdict, NewClaim, Store, StoreError,
    claims::{Columns, message_state, parse_id},
    work::WorkUnit,
};
use crate::domain::{AccountId, AppName, Command, GroupName, MessageState};

/// The `part` of a shared call: it is no part of any job.
pub(super) const SHARED_PART: i32 = -1;

/// A batch call that several jobs share.
#[derive(Debug, Clone)]
pub struct SharedCall {
    /// Names its row.
    pub call_id: Uuid,
    /// Names the claim of every member.
    pub token: Uuid,
    /// The app.
    pub app: AppName,
    /// The account that the API will use as the sender.
    pub from: AccountId,
    /// Its pair, shared with no other call.
    pub pair: CallPair,
    /// The version of the encoder that will write the body.
    pub encoder: i16,
}

/// A member of a shared call whose job the table owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueMember {
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The generation.
    pub generation: i32,
}

impl Store {
    /// Claims jobs of deliveries for one shared call, in one statement that also writes the call's row. The verdicts come
    /// in the order of the claims; `None`: another transaction is committing this id, so it is to be claimed alone.
    ///
    /// Ids and recipients must be distinct, and every claim's token and pair the call's.
    ///
    /// # Errors
    /// [`StoreError::Query`], as of [`Store::claim_new`]: the same call may be tried again.
    pub async fn claim_group(
        &self,
        high: bool,
        call: &SharedCall,
        claims: &[NewClaim],
    ) -> Result<Vec<Option<ClaimVerdict>>, StoreError> {
        let mut order: Vec<&NewClaim> = claims.iter().collect();
        order.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let column = Columns::of(&order);
        let rows = sqlx::query!(
            r#"
            WITH job AS (
                INSERT INTO jobs (id, digest, type, app, group_name, lane, owner, state, total, send_at, expires_at, on_unknown,
                                  online_only)
                SELECT id, digest, type, app, group_name, lane, 0, 1, 1, send_at, expires_at, on_unknown, online_only
                FROM unnest($1::text[], $2::bytea[], $3::int2[], $4::text[], $5::text[], $6::int2[], $9::timestamptz[],
                            $10::timestamptz[], $11::int2[], $13::bool[])
                    AS i(id, digest, type, app, group_name, lane, send_at, expires_at, on_unknown, online_only)
                ON CONFLICT (id) DO NOTHING
                RETURNING id, created_at, group_name, width_bucket(id COLLATE "C", $1) AS at
            ), message AS (
                INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state, attempts, token, call_id, seq,
                                      random, encoder, first_call_at, last_call_at, call_by, revoke_id)
                SELECT n.created_at, n.id, 0, ($7::text[])[at], n.to_account,
                       CASE WHEN n.revocation IS NOT NULL THEN 5 WHEN n.expired THEN 6 ELSE 1 END,
                       CASE WHEN c.called THEN 1 ELSE 0 END, $14, CASE WHEN c.called THEN $15::uuid END, $16, $17, $18,
                       CASE WHEN c.called THEN n.now END, CASE WHEN c.called THEN n.now END,
                       CASE WHEN c.called THEN n.now + interval '3 seconds' END, n.revocation
                FROM (
                    SELECT job.*, ($8::text[])[at] AS to_account, ($12::bool[])[at] AS expired, clock_timestamp() AS now, (
                        SELECT t.id FROM revocations t
                        WHERE t.target_job = job.id AND (t.to_accounts IS NULL OR ($8::text[])[at] = ANY (t.to_accounts))
                        UNION ALL
                        SELECT g.id FROM revocations g
                        WHERE g.target_group = job.group_name AND g.lifted_at IS NULL AND g.expires_at > now()
                        LIMIT 1
                    ) AS revocation
                    FROM job OFFSET 0
                ) n
                CROSS JOIN LATERAL (SELECT n.revocation IS NULL AND NOT n.expired AS called) c
                RETURNING job_id, created_at, state, revoke_id
            ), call AS (
                INSERT INTO calls (call_id, created_at, job_id, part, generation, app, command, sender, seq, random, encoder,
                                   members, jobs, first_call_at, last_call_at, call_by, token)
                SELECT $15, clock_timestamp(), min(job_id), $19, 0, $20, $21, $22, $16, $17, $18, '{}',
                       array_agg(job_id ORDER BY job_id COLLATE "C"), clock_timestamp(), clock_timestamp(),
                       clock_timestamp() + interval '3 seconds', $14
                FROM message WHERE state = 1 HAVING count(*) > 0
            )
            SELECT job_id AS "job_id!", created_at AS "created_at!", state AS "state!", revoke_id FROM message
            "#,
            &column.ids as &[&str],
            &column.digests as &[&[u8]],
            &column.types,
            &column.apps as &[&str],
            &column.groups as &[Option<&str>],
            &column.lanes,
            &column.from as &[&str],
            &column.to as &[&str],
            &column.send_at as &[Option<DateTime<Utc>>],
            &column.expires_at as &[Option<DateTime<Utc>>],
            &column.on_unknown,
            &column.expired,
            &column.online_only,
            call.token,
            call.call_id,
            i64::from(call.pair.seq),
            i64::from(call.pair.random),
            call.encoder,
            SHARED_PART,
            call.app.as_str(),
            Command::BatchSendMsg.index() as i16,
            call.from.as_str(),
        )
        .fetch_all(self.hot(high))
        .await
        .map_err(|error| StoreError::query("claim jobs for a shared call", error))?;

        let mut inserted: HashMap<String, ClaimVerdict> = HashMap::with_capacity(rows.len());
        for row in rows {
            let verdict = ClaimVerdict::of_inserted(row.created_at, row.state, row.revoke_id.as_deref())?;
            inserted.insert(row.job_id, verdict);
        }
        let mut found = HashMap::with_capacity(claims.len());
        self.complete(high, &order, inserted, &mut found).await?;
        Ok(claims.iter().map(|claim| found.remove(&claim.id)).collect())
    }

    /// Claims due singles for one shared call, in one transaction: fence by lease, tombstones, claim, the call's row. The
    /// answers come in the order of the units; `None`: this one can't be claimed so (ended, in doubt, revoked, or not this
    /// lease's any more), and its claim alone says why.
    pub async fn claim_due_group(
        &self,
        high: bool,
        call: &SharedCall,
        units: &[WorkUnit],
    ) -> Result<Vec<Option<DueMember>>, StoreError> {
        // Locked in the order in which they are given.
        let mut order: Vec<&WorkUnit> = units.iter().collect();
        order.sort_unstable_by(|a, b| a.job.cmp(&b.job));
        let jobs: Vec<&str> = order.iter().map(|unit| unit.job.as_str()).collect();
        let leases: Vec<Uuid> = order.iter().map(|unit| unit.lease).collect();
        let created: Vec<DateTime<Utc>> = order.iter().map(|unit| unit.created_at).collect();
        let groups: Vec<Option<&str>> = order
            .iter()
            .map(|unit| unit.group.as_ref().map(GroupName::as_str))
            .collect();
        let mut tx = self
            .hot(high)
            .begin()
            .await
            .map_err(|error| StoreError::query("begin the claim of a shared call", error))?;
        let rows = sqlx::query!(
            r#"
            SELECT l.job_id AS "job_id!", l.created_at AS "created_at!", l.state AS "state!", l.attempts AS "attempts!",
                   l.generation AS "generation!", l.token,
                   l.revoke_id IS NOT NULL OR EXISTS (
                       SELECT FROM revocations t
                       WHERE t.target_job = l.job_id AND (t.to_accounts IS NULL OR l.to_account = ANY (t.to_accounts))
                   ) OR EXISTS (
                       SELECT FROM revocations g
                       WHERE g.target_group = i.group_name AND g.lifted_at IS NULL AND g.expires_at > now()
                   ) AS "revoked!"
            FROM unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::text[]) AS i(id, lease, created_at, group_name)
            CROSS JOIN LATERAL (
                SELECT m.* FROM work w JOIN messages m ON m.job_id = i.id AND m.created_at = i.created_at AND m.idx = 0
                WHERE w.job_id = i.id AND w.kind = 0 AND w.part = 0 AND w.lease = i.lease
                FOR UPDATE OF w, m
            ) l
            "#,
            &jobs as &[&str],
            &leases,
            &created,
            &groups as &[Option<&str>],
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(|error| StoreError::query("fence the claim of a shared call", error))?;
        let mut members = HashMap::with_capacity(rows.len());
        let (mut ids, mut times) = (Vec::new(), Vec::new());
        for row in rows {
            let job = parse_id(&row.job_id)?;
            let state = message_state(row.state, &job)?;
            let attempts = row.attempts.max(0) as u32;
            // An earlier try of this statement may have committed, and only its answer been lost.
            let own = state == MessageState::Calling && row.token == Some(call.token);
            if own || (state == MessageState::Pending && !row.revoked) {
                let attempt = if own { attempts } else { attempts + 1 };
                let generation = row.generation;
                members.insert(job, DueMember { attempt, generation });
                if !own {
                    ids.push(row.job_id);
                    times.push(row.created_at);
                }
            }
        }
        if !ids.is_empty() {
            sqlx::query!(
                r#"
                WITH claimed AS (
                    UPDATE messages m
                    SET state = 1, token = $3, attempts = attempts + 1, call_id = $4, seq = $5, random = $6, encoder = $7,
                        first_call_at = coalesce(first_call_at, clock_timestamp()), last_call_at = clock_timestamp(),
                        call_by = clock_timestamp() + interval '3 seconds'
                    -- They are locked. By their keys, never joined: see `record_sent`.
                    WHERE m.job_id = ANY ($1::text[]) AND m.created_at BETWEEN $2 AND $12 AND m.idx = 0
                    RETURNING m.job_id
                )
                INSERT INTO calls (call_id, created_at, job_id, part, generation, app, command, sender, seq, random, encoder,
                                   members, jobs, first_call_at, last_call_at, call_by, token)
                SELECT $4, clock_timestamp(), min(job_id), $8, 0, $9, $10, $11, $5, $6, $7, '{}',
                       array_agg(job_id ORDER BY job_id COLLATE "C"), clock_timestamp(), clock_timestamp(),
                       clock_timestamp() + interval '3 seconds', $3
                FROM claimed
                "#,
                &ids,
                times.iter().min(),
                call.token,
                call.call_id,
                i64::from(call.pair.seq),
                i64::from(call.pair.random),
                call.encoder,
                SHARED_PART,
                call.app.as_str(),
                Command::BatchSendMsg.index() as i16,
                call.from.as_str(),
                times.iter().max(),
            )
            .execute(&mut *tx)
            .await
            .map_err(|error| StoreError::query("claim due jobs for a shared call", error))?;
        }
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit the claim of a shared call", error))?;
        Ok(units.iter().map(|unit| members.remove(&unit.job)).collect())
    }
}
