//! Erasing one account's data: what has ended is removed, what hasn't is left and named.
//!
//! A job's row stays without its content: its id and digest are what a repeat, a redelivery or a replayed letter is
//! recognised by, so none of them sends again. One job is erased in one transaction that holds its row's lock, so a retry
//! comes before it or after it, and the statements that delete say once more what they may delete.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use super::{Store, StoreError, claims::parse_id, status::unsigned};
use crate::domain::{
    AccountId, AppName, JobId,
    erasure::{json_mentions, without_recipient},
};

/// Jobs that are looked at in one statement.
const PAGE: i64 = 2_000;

/// Whose data, and how long it must have been at rest.
#[derive(Debug, Clone, Copy)]
pub struct EraseScope<'a> {
    /// The account, as a recipient or as a sender.
    pub account: &'a AccountId,
    /// Only of this app; `None`: of every app.
    pub app: Option<&'a AppName>,
    /// What ended later than so long ago is left: its event may still be on its way, and an answer may come late.
    pub settled_for: Duration,
}

/// Why something of the account is left for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillLive {
    /// Its job's recipients are still being written.
    Loading,
    /// A call is under way, or its answer was lost: only the history can tell.
    Doubt,
    /// It waits to be sent.
    Pending,
    /// It waits to be revoked.
    Revoking,
    /// Its job has still work to do.
    Work,
    /// Its event or dead letter isn't published yet.
    Event,
    /// It ended a moment ago.
    Recent,
    /// It is a revocation that waits for a job which isn't on record yet.
    Tombstone,
}

impl StillLive {
    /// A word for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Doubt => "in-doubt",
            Self::Pending => "pending",
            Self::Revoking => "revoking",
            Self::Work => "working",
            Self::Event => "event",
            Self::Recent => "recent",
            Self::Tombstone => "revocation",
        }
    }

    /// Why, and what to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Loading => "its recipients are still being written; a worker goes on with it",
            Self::Doubt => {
                "a call is under way or its answer was lost; a worker asks the history, `explain` tells when"
            }
            Self::Pending => "it waits to be sent; `revoke --job` with `--to` cancels it",
            Self::Revoking => "it waits to be revoked; a worker does it",
            Self::Work => "its job has still work to do; `explain` tells what",
            Self::Event => {
                "its event or dead letter waits for its publication; a worker does it once RabbitMQ is there"
            }
            Self::Recent => "it ended a moment ago; --settled-for says how long that is",
            Self::Tombstone => "it cancels a job that has not come yet; `prune` removes it by age",
        }
    }
}

/// A job that the account has a part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOfAccount {
    /// The job.
    pub id: JobId,
    /// Its messages from or to the account.
    pub messages: u64,
    /// Those of them that the account sent.
    pub as_sender: u64,
    /// Its id or its group holds the account's name, and both are kept.
    pub named: bool,
    /// Why nothing of it can be erased now.
    pub live: Option<StillLive>,
}

/// A page of the jobs.
#[derive(Debug, Clone, Default)]
pub struct JobsOfAccount {
    /// Those that the account has a part in.
    pub jobs: Vec<JobOfAccount>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<JobId>,
}

/// What became of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobErased {
    /// So many of its messages are gone, and so is its content where nobody else needs it.
    Done {
        /// Messages.
        messages: u64,
        /// Those of them that the account sent.
        as_sender: u64,
    },
    /// Nothing was changed.
    Live(StillLive),
    /// The account has no part in it any more.
    Nothing,
}

/// A job as far as erasing needs it.
struct Facts {
    id: String,
    job_type: i16,
    created_at: DateTime<Utc>,
    messages: i64,
    sent_as: i64,
    named: bool,
    body: Option<Vec<u8>>,
    live: Option<StillLive>,
}

impl Facts {
    /// Whether the account has a part in it: of a job without recipients only what was published tells.
    fn concerns(&self, account: &AccountId) -> bool {
        self.messages > 0 || self.body.as_deref().is_some_and(|body| json_mentions(body, account))
    }
}

impl Store {
    /// Looks through a page of the jobs, in the order of their ids, for those that the account has a part in.
    pub async fn jobs_of_account(
        &self,
        scope: EraseScope<'_>,
        after: Option<&JobId>,
    ) -> Result<JobsOfAccount, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM jobs WHERE id > $1 AND ($2::text IS NULL OR app = $2) ORDER BY id LIMIT $3",
            after.map_or("", JobId::as_str),
            scope.app.map(AppName::as_str),
            PAGE,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read a page of jobs", error))?;
        let next = match ids.last() {
            Some(last) if ids.len() as i64 == PAGE => Some(parse_id(last)?),
            _ => None,
        };
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin to look for an account", error))?;
        let jobs = facts(&mut tx, scope, &ids)
            .await?
            .into_iter()
            .filter(|facts| facts.concerns(scope.account))
            .map(|facts| {
                Ok(JobOfAccount {
                    id: parse_id(&facts.id)?,
                    messages: unsigned(facts.messages),
                    as_sender: unsigned(facts.sent_as),
                    named: facts.named,
                    live: facts.live,
                })
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(JobsOfAccount { jobs, next })
    }

    /// Erases the account's part of one job, unless something of it is still live.
    pub async fn erase_job(&self, scope: EraseScope<'_>, id: &JobId) -> Result<JobErased, StoreError> {
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin to erase", error))?;
        // A retry waits for this lock, or this waits for the retry's.
        let known = sqlx::query_scalar!("SELECT id FROM jobs WHERE id = $1 FOR UPDATE", id.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(|error| StoreError::query("lock a job to erase", error))?;
        let facts = facts(&mut tx, scope, known.as_slice())
            .await?
            .pop()
            .filter(|facts| facts.concerns(scope.account));
        let Some(facts) = facts else {
            return Ok(JobErased::Nothing);
        };
        if let Some(live) = facts.live {
            return Ok(JobErased::Live(live));
        }
        if !delete_messages(&mut tx, scope, &facts).await? {
            // A revocation came between the look and the deletion: its call needs what is here.
            return Ok(JobErased::Live(StillLive::Revoking));
        }
        clear_texts(&mut tx, scope, &facts).await?;
        clear_job(&mut tx, scope, &facts).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit an erasure", error))?;
        Ok(JobErased::Done {
            messages: unsigned(facts.messages),
            as_sender: unsigned(facts.sent_as),
        })
    }
}

async fn facts(
    tx: &mut Transaction<'static, Postgres>,
    scope: EraseScope<'_>,
    ids: &[String],
) -> Result<Vec<Facts>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT j.id AS "id!", j.type AS "type!", j.state AS "state!", j.created_at AS "created_at!",
               (strpos(j.id, $2) > 0 OR coalesce(strpos(j.group_name, $2), 0) > 0) AS "named!",
               CASE WHEN j.type >= 4 THEN j.body END AS body,
               m.messages AS "messages!", m.sent_as AS "sent_as!", m.pending AS "pending!", m.doubt AS "doubt!",
               m.revoking AS "revoking!",
               EXISTS (SELECT FROM work w WHERE w.job_id = j.id) AS "work!",
               EXISTS (SELECT FROM outbox o WHERE o.job_id = j.id) AS "event!",
               (greatest(j.created_at, m.last) > clock_timestamp() - make_interval(secs => $3)) AS "recent!"
        FROM jobs j
        CROSS JOIN LATERAL (
            SELECT count(*) AS messages, count(*) FILTER (WHERE from_account = $2) AS sent_as,
                   coalesce(bool_or(state = 0), false) AS pending, coalesce(bool_or(state IN (1, 2)), false) AS doubt,
                   coalesce(bool_or(revoke_state = 1), false) AS revoking,
                   max(greatest(last_call_at, sent_at, revoked_at)) AS last
            FROM messages x
            WHERE x.job_id = j.id AND x.created_at = j.created_at AND (x.to_account = $2 OR x.from_account = $2)
        ) m
        WHERE j.id = ANY ($1) AND (m.messages > 0 OR (j.type >= 4 AND j.body IS NOT NULL))
        ORDER BY j.id
        "#,
        ids,
        scope.account.as_str(),
        scope.settled_for.as_secs_f64(),
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("look for an account", error))?;
    let facts = rows.into_iter().map(|row| {
        // A batch and a job without recipients are closed when nothing of them is left to do.
        let open = matches!(row.r#type, 1 | 4..) && row.state != 2;
        let live = [
            (row.state == 0, StillLive::Loading),
            (row.doubt, StillLive::Doubt),
            (row.pending, StillLive::Pending),
            (row.revoking, StillLive::Revoking),
            (row.work || open, StillLive::Work),
            (row.event, StillLive::Event),
            (row.recent, StillLive::Recent),
        ];
        Facts {
            id: row.id,
            job_type: row.r#type,
            created_at: row.created_at,
            messages: row.messages,
            sent_as: row.sent_as,
            named: row.named,
            body: row.body,
            live: live.into_iter().find_map(|(is, live)| is.then_some(live)),
        }
    });
    Ok(facts.collect())
}

/// The messages with their keys, and the calls that name the account as their sender. False: not all of them may go.
async fn delete_messages(
    tx: &mut Transaction<'static, Postgres>,
    scope: EraseScope<'_>,
    facts: &Facts,
) -> Result<bool, StoreError> {
    if facts.messages == 0 {
        return Ok(true);
    }
    let gone = sqlx::query!(
        "DELETE FROM messages
         WHERE job_id = $1 AND created_at = $2 AND (to_account = $3 OR from_account = $3)
           AND state NOT IN (0, 1, 2) AND revoke_state <> 1
         RETURNING idx, call_id, from_account = $3 AS \"sent_as!\"",
        facts.id,
        facts.created_at,
        scope.account.as_str(),
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("erase messages", error))?;
    if gone.len() as i64 != facts.messages {
        return Ok(false);
    }
    let indexes: Vec<i32> = gone.iter().map(|row| row.idx).collect();
    sqlx::query!(
        "DELETE FROM message_keys WHERE job_id = $1 AND idx = ANY ($2)",
        facts.id,
        &indexes
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("erase further keys", error))?;
    // A call that jobs share is needed by the members that are still there; the last of them takes it along.
    let mut calls: Vec<_> = gone
        .iter()
        .filter(|row| row.sent_as)
        .filter_map(|row| row.call_id)
        .collect();
    calls.sort_unstable();
    calls.dedup();
    sqlx::query!(
        "DELETE FROM calls c
         WHERE (c.call_id = ANY ($1) OR c.job_id = $2) AND c.sender = $3
           AND NOT EXISTS (SELECT FROM messages m
                           WHERE m.job_id = ANY (CASE WHEN c.jobs IS NULL THEN ARRAY[c.job_id] ELSE c.jobs END)
                             AND m.from_account = $3)",
        &calls,
        facts.id,
        scope.account.as_str(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("erase calls", error))?;
    Ok(true)
}

/// What errors say of the account, in the rows that stay.
async fn clear_texts(
    tx: &mut Transaction<'static, Postgres>,
    scope: EraseScope<'_>,
    facts: &Facts,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM attempts WHERE job_id = $1 AND created_at = $2
           AND NOT EXISTS (SELECT FROM messages m WHERE m.job_id = $1 AND m.created_at = $2)",
        facts.id,
        facts.created_at,
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("erase attempts", error))?;
    sqlx::query!(
        "UPDATE attempts SET message = NULL WHERE job_id = $1 AND created_at = $2 AND strpos(message, $3) > 0",
        facts.id,
        facts.created_at,
        scope.account.as_str(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("erase the texts of attempts", error))?;
    sqlx::query!(
        "UPDATE messages
         SET error_message = CASE WHEN strpos(error_message, $3) > 0 THEN NULL ELSE error_message END,
             revoke_error = CASE WHEN strpos(revoke_error, $3) > 0 THEN split_part(revoke_error, ':', 1) ELSE revoke_error END
         WHERE job_id = $1 AND created_at = $2 AND (strpos(error_message, $3) > 0 OR strpos(revoke_error, $3) > 0)",
        facts.id,
        facts.created_at,
        scope.account.as_str(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("erase the texts of failures", error))?;
    Ok(())
}

/// The job's own row: what was published goes, unless others of a batch may still be tried again.
async fn clear_job(
    tx: &mut Transaction<'static, Postgres>,
    scope: EraseScope<'_>,
    facts: &Facts,
) -> Result<(), StoreError> {
    let batch = if facts.job_type == 1 {
        let rest = sqlx::query!(
            r#"
            SELECT body, EXISTS (SELECT FROM messages m WHERE m.job_id = j.id AND m.created_at = j.created_at) AS "others!"
            FROM jobs j WHERE id = $1
            "#,
            facts.id
        )
        .fetch_one(&mut **tx)
        .await
        .map_err(|error| StoreError::query("read the rest of a batch", error))?;
        rest.body
            .filter(|_| rest.others)
            .and_then(|body| without_recipient(&body, scope.account))
    } else {
        None
    };
    sqlx::query!(
        "UPDATE jobs
         SET body = $2,
             properties = CASE WHEN $2::bytea IS NULL OR position(convert_to($3, 'UTF8') IN properties) > 0 THEN NULL
                               ELSE properties END,
             error_message = CASE WHEN $2::bytea IS NULL OR strpos(error_message, $3) > 0 THEN NULL ELSE error_message END
         WHERE id = $1",
        facts.id,
        batch,
        scope.account.as_str(),
    )
    .execute(&mut **tx)
    .await
    .map_err(|error| StoreError::query("erase what was published", error))?;
    Ok(())
}
