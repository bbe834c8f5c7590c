//! Counting against caps: who may still get a message, decided and written in the transaction that claims its call.
//!
//! Exact whatever the number of workers: claims of one recipient within one scope come one after the other, by an advisory
//! lock that ends with the transaction, and each counts what the one before it wrote.

use std::{collections::HashMap, time::Duration};

use sqlx::{Postgres, Transaction};

use super::{
    Store, StoreError,
    outbox::OutboxEvent,
    parts::Member,
    slices::{SLICE, slices},
    work::WorkUnit,
};
use crate::domain::policy::{CapScope, MAX_PERIOD};

/// The word of a message that a cap held back.
pub const CAPPED: &str = "capped";

/// The caps of a job, and the event of those whom they hold back.
#[derive(Clone, Copy)]
pub struct CapRule<'a> {
    /// The caps; none: everybody may get it, and nothing is asked.
    pub scopes: &'a [CapScope],
    /// Makes the event of recipients that one cap holds back, all of one call.
    pub event: &'a (dyn Fn(&SuppressedMembers) -> OutboxEvent + Send + Sync),
}

/// Recipients that a cap holds back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuppressedMembers {
    /// Which cap, in a sentence.
    pub why: String,
    /// The recipients.
    pub to: Vec<String>,
}

impl Store {
    /// Reserves a place under every cap for each of these pending members, suppresses those for whom there is none, and
    /// writes their events. Answers how many were suppressed.
    ///
    /// A member that has a place already (of an earlier call that was surely not carried out) keeps it, at the new time.
    pub(super) async fn reserve_or_suppress(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        unit: &WorkUnit,
        members: &[Member],
        rule: CapRule<'_>,
    ) -> Result<usize, StoreError> {
        let over = reserve(tx, unit, members, rule.scopes).await?;
        let mut suppressed = 0;
        for (nth, scope) in rule.scopes.iter().enumerate() {
            let (indexes, to): (Vec<i32>, Vec<String>) = members
                .iter()
                .filter(|member| over.get(&member.idx) == Some(&nth))
                .map(|member| (member.idx, member.to.clone()))
                .unzip();
            if to.is_empty() {
                continue;
            }
            let why = scope.to_string();
            suppress(tx, unit, &indexes, &why).await?;
            suppressed += to.len();
            self.put_event(tx, &(rule.event)(&SuppressedMembers { why, to }))
                .await?;
        }
        Ok(suppressed)
    }

    /// Removes counts that are older than any cap's period, some at a time.
    pub async fn prune_cap_uses(&self) -> Result<u64, StoreError> {
        self.prune_cap_uses_before(MAX_PERIOD + Duration::from_hours(1)).await
    }

    /// Removes counts of claims that were longer ago than this.
    pub async fn prune_cap_uses_before(&self, kept: Duration) -> Result<u64, StoreError> {
        slices("remove old counts of caps", || async {
            sqlx::query!(
                "DELETE FROM cap_uses WHERE (app, scope, account, job_id, idx) IN (
                     SELECT app, scope, account, job_id, idx FROM cap_uses
                     WHERE at < now() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)",
                kept.as_secs_f64(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }
}

/// Reserves; answers the members for whom there is no place, each with the number of the first scope that has none.
async fn reserve(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    members: &[Member],
    scopes: &[CapScope],
) -> Result<HashMap<i32, usize>, StoreError> {
    let indexes: Vec<i32> = members.iter().map(|member| member.idx).collect();
    let accounts: Vec<&str> = members.iter().map(|member| member.to.as_str()).collect();
    let keys: Vec<String> = scopes.iter().map(CapScope::key).collect();
    let most: Vec<i64> = scopes.iter().map(|scope| i64::from(scope.max)).collect();
    let periods: Vec<f64> = scopes.iter().map(|scope| scope.period.span().as_secs_f64()).collect();
    // In a statement of its own: the next one then sees what whoever held the locks before has committed. 64 locks for
    // each scope, so that a batch doesn't fill the server's lock table; one order, so that nobody waits in a circle.
    sqlx::query!(
        r#"
        SELECT pg_advisory_xact_lock(k.scope, k.stripe) AS "lock?: ()" FROM (
            SELECT DISTINCT hashtext('im-dispatcher cap ' || $1 || ' ' || scope) AS scope, hashtext(account) & 63 AS stripe
            FROM unnest($2::text[]) AS scope, unnest($3::text[]) AS account
            ORDER BY 1, 2
        ) k
        "#,
        unit.app.as_str(),
        &keys,
        &accounts as &[&str],
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("wait for a cap's turn", error))?;
    let over = sqlx::query!(
        r#"
        WITH member AS (
            SELECT * FROM unnest($3::int4[], $4::text[]) AS m(idx, account)
        ), cap AS (
            SELECT * FROM unnest($5::text[], $6::int8[], $7::float8[]) WITH ORDINALITY AS c(scope, most, seconds, nth)
        ), over AS (
            SELECT m.idx, c.nth
            FROM member m CROSS JOIN cap c
            WHERE c.most <= (
                SELECT count(*)
                FROM cap_uses u
                LEFT JOIN messages x ON x.job_id = u.job_id AND x.idx = u.idx AND x.created_at = u.created_at
                WHERE u.app = $1 AND u.scope = c.scope AND u.account = m.account
                  AND u.at > statement_timestamp() - make_interval(secs => c.seconds)
                  AND NOT (u.job_id = $2 AND u.idx = m.idx)
                  -- Failed, cancelled, expired, suppressed: never sent.
                  AND (x.state IS NULL OR x.state NOT IN (4, 5, 6, 9)))
        ), reserved AS (
            INSERT INTO cap_uses (app, scope, account, job_id, idx, created_at, at)
            SELECT $1, c.scope, m.account, $2, m.idx, $8, statement_timestamp()
            FROM member m CROSS JOIN (SELECT DISTINCT scope FROM cap) c
            WHERE NOT EXISTS (SELECT FROM over o WHERE o.idx = m.idx)
            ORDER BY c.scope, m.account
            ON CONFLICT (app, scope, account, job_id, idx) DO UPDATE SET at = excluded.at
        )
        SELECT idx AS "idx!", min(nth) AS "nth!" FROM over GROUP BY idx
        "#,
        unit.app.as_str(),
        unit.job.as_str(),
        &indexes,
        &accounts as &[&str],
        &keys,
        &most,
        &periods,
        unit.created_at,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("count against caps", error))?;
    Ok(over
        .into_iter()
        .map(|row| (row.idx, (row.nth - 1).max(0) as usize))
        .collect())
}

async fn suppress(
    tx: &mut Transaction<'static, Postgres>,
    unit: &WorkUnit,
    indexes: &[i32],
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE messages SET state = 9, error_code = $4, error_message = $5
         WHERE job_id = $1 AND created_at = $2 AND idx = ANY ($3)
           AND idx BETWEEN $6 AND $7 AND state = 0",
        unit.job.as_str(),
        unit.created_at,
        indexes,
        CAPPED,
        why,
        indexes.iter().min(),
        indexes.iter().max(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("suppress members", error))?;
    Ok(())
}
