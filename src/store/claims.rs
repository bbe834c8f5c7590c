//! Claims of single calls by deliveries: "I intend to call now", written before the call, many in one statement.
//!
//! A claim decides who works. A new id is inserted with its message in state `calling` (or straight in an end state
//! where a tombstone or the clock says so); an id that is there already comes back with what is known of it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::{AccountId, AppName, GroupName, JobId, Lane, MessageState, Owner};

/// How long after its claim a call may still be written, by design: 3 s, the IM backend's own time limit.
pub const CALL_WINDOW: std::time::Duration = std::time::Duration::from_secs(3);

/// A claim of a job that needs one call: a send or an import.
#[derive(Debug, Clone)]
pub struct NewClaim {
    /// The job.
    pub id: JobId,
    /// [`crate::domain::job::Job::digest`].
    pub digest: [u8; 32],
    /// The number of its type.
    pub job_type: i16,
    /// Its app.
    pub app: AppName,
    /// Its group.
    pub group: Option<GroupName>,
    /// The lane that it came from.
    pub lane: Lane,
    /// The account that the API will use as the sender.
    pub from: AccountId,
    /// The recipient.
    pub to: AccountId,
    /// As in the job.
    pub send_at: Option<DateTime<Utc>>,
    /// As in the job.
    pub expires_at: Option<DateTime<Utc>>,
    /// The number of `on_unknown`.
    pub on_unknown: i16,
    /// MsgSeq of the call.
    pub seq: u32,
    /// MsgRandom of the call.
    pub random: u32,
    /// The version of the encoder that will write the body.
    pub encoder: i16,
    /// Names this claim for ever.
    pub token: Uuid,
    /// Record it as expired instead of claiming it.
    pub expired: bool,
    /// For those online only: in no history.
    pub online_only: bool,
}

/// What a claim found.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimVerdict {
    /// Ours: call now.
    Claimed {
        /// The partition key of its message.
        created_at: DateTime<Utc>,
    },
    /// A tombstone covers it: recorded as cancelled.
    Cancelled {
        /// The revoke job.
        revocation: JobId,
    },
    /// Recorded as expired.
    Expired,
    /// The id is on record already.
    Existing(Box<ExistingJob>),
}

/// A job that is on record already.
#[derive(Debug, Clone, PartialEq)]
pub struct ExistingJob {
    /// Whether type, target and content are the same.
    pub same: bool,
    /// Who has it.
    pub owner: Owner,
    /// Whether its recipients are still being written.
    pub loading: bool,
    /// The partition key of its messages.
    pub created_at: DateTime<Utc>,
    /// The failure of the job as a whole.
    pub error: Option<(String, String)>,
    /// Its message, where it has exactly one.
    pub message: Option<ExistingMessage>,
}

/// The only message of a job that is on record already.
#[derive(Debug, Clone, PartialEq)]
pub struct ExistingMessage {
    /// Its state.
    pub state: MessageState,
    /// Who claimed it last.
    pub token: Option<Uuid>,
    /// Calls so far.
    pub attempts: u32,
    /// The generation.
    pub generation: i32,
    /// Its key.
    pub msg_key: Option<String>,
    /// The service's time of it.
    pub msg_time: Option<i64>,
    /// Its error.
    pub error: Option<(String, String)>,
    /// The revocation that covers it.
    pub revocation: Option<String>,
}

impl ClaimVerdict {
    /// What a message that a claim has just inserted says of it.
    pub(super) fn of_inserted(
        created_at: DateTime<Utc>,
        state: i16,
        revocation: Option<&str>,
    ) -> Result<Self, StoreError> {
        Ok(match revocation {
            Some(revocation) => Self::Cancelled {
                revocation: parse_id(revocation)?,
            },
            None if state == MessageState::Expired.number() => Self::Expired,
            None => Self::Claimed { created_at },
        })
    }

    /// What an id on record says to whoever claims it. Under the claim's own token it is this claim: an earlier try of its
    /// statement committed and only the answer was lost. What it ended has been told to nobody then.
    pub(super) fn of_existing(job: ExistingJob, token: Uuid) -> Result<Self, StoreError> {
        let own = job.message.as_ref().filter(|message| message.token == Some(token));
        Ok(
            match own.map(|message| (message.state, message.revocation.as_deref())) {
                Some((MessageState::Calling, _)) => Self::Claimed {
                    created_at: job.created_at,
                },
                Some((MessageState::Cancelled, Some(revocation))) => Self::Cancelled {
                    revocation: parse_id(revocation)?,
                },
                Some((MessageState::Expired, _)) => Self::Expired,
                _ => Self::Existing(Box::new(job)),
            },
        )
    }
}

impl Store {
    /// Claims many jobs in one statement. The verdicts come in the order of the claims.
    ///
    /// Ids must be distinct. `high` uses the connections that are kept for urgent work.
    ///
    /// # Errors
    /// [`StoreError::Query`]; nothing is claimed then, unless the COMMIT's answer was lost: the same tokens may be
    /// tried again, and a claim that had been committed gives the same verdict again.
    pub async fn claim_new(&self, high: bool, claims: &[NewClaim]) -> Result<Vec<ClaimVerdict>, StoreError> {
        let mut order: Vec<&NewClaim> = claims.iter().collect();
        // One order in every statement: opposite orders deadlock; the statement searches the ids, too.
        order.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let mut found = HashMap::with_capacity(claims.len());
        // An id without a verdict is one that another transaction is committing: asked again in a new statement.
        for _ in 0..5 {
            let asked: Vec<&NewClaim> = order
                .iter()
                .copied()
                .filter(|claim| !found.contains_key(&claim.id))
                .collect();
            if asked.is_empty() {
                break;
            }
            self.claim_round(high, &asked, &mut found).await?;
        }
        claims
            .iter()
            .map(|claim| {
                found.remove(&claim.id).ok_or_else(|| StoreError::Inconsistent {
                    table: "jobs",
                    column: "id",
                    job: claim.id.to_string(),
                    value: "neither inserted nor found".to_owned(),
                })
            })
            .collect()
    }

    async fn claim_round(
        &self,
        high: bool,
        claims: &[&NewClaim],
        found: &mut HashMap<JobId, ClaimVerdict>,
    ) -> Result<(), StoreError> {
        let pool = self.hot(high);
        let column = Columns::of(claims);
        let rows = sqlx::query!(
            r#"
            WITH job AS (
                INSERT INTO jobs (id, digest, type, app, group_name, lane, owner, state, total, send_at, expires_at, on_unknown,
                                  online_only)
                SELECT id, digest, type, app, group_name, lane, 0, 1, 1, send_at, expires_at, on_unknown, online_only
                FROM unnest($1::text[], $2::bytea[], $3::int2[], $4::text[], $5::text[], $6::int2[], $9::timestamptz[],
                            $10::timestamptz[], $11::int2[], $17::bool[])
                    AS i(id, digest, type, app, group_name, lane, send_at, expires_at, on_unknown, online_only)
                ON CONFLICT (id) DO NOTHING
                RETURNING id, created_at, group_name, width_bucket(id COLLATE "C", $1) AS at
            )
            INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state, attempts, token, seq,
                                  random, encoder, first_call_at, last_call_at, call_by, revoke_id)
            SELECT n.created_at, n.id, 0, ($7::text[])[at], n.to_account,
                   CASE WHEN n.revocation IS NOT NULL THEN 5 WHEN n.expired THEN 6 ELSE 1 END,
                   CASE WHEN n.revocation IS NOT NULL OR n.expired THEN 0 ELSE 1 END,
                   ($15::uuid[])[at], ($12::int8[])[at], ($13::int8[])[at], ($14::int2[])[at],
                   CASE WHEN n.revocation IS NULL AND NOT n.expired THEN n.now END,
                   CASE WHEN n.revocation IS NULL AND NOT n.expired THEN n.now END,
                   CASE WHEN n.revocation IS NULL AND NOT n.expired THEN n.now + interval '3 seconds' END,
                   n.revocation
            FROM (
                SELECT job.*, ($8::text[])[at] AS to_account, ($16::bool[])[at] AS expired, clock_timestamp() AS now, (
                    SELECT t.id FROM revocations t
                    WHERE t.target_job = job.id AND (t.to_accounts IS NULL OR ($8::text[])[at] = ANY (t.to_accounts))
                    UNION ALL
                    SELECT g.id FROM revocations g
                    WHERE g.target_group = job.group_name AND g.lifted_at IS NULL AND g.expires_at > now()
                    LIMIT 1
                ) AS revocation
                FROM job OFFSET 0
            ) n
            RETURNING job_id, created_at, state, revoke_id
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
            &column.seq,
            &column.random,
            &column.encoder,
            &column.tokens,
            &column.expired,
            &column.online_only,
        )
        .fetch_all(pool)
        .await
        .map_err(|error| StoreError::query("claim jobs", error))?;

        let mut inserted: HashMap<String, ClaimVerdict> = HashMap::with_capacity(rows.len());
        for row in rows {
            let verdict = ClaimVerdict::of_inserted(row.created_at, row.state, row.revoke_id.as_deref())?;
            inserted.insert(row.job_id, verdict);
        }
        self.complete(high, claims, inserted, found).await
    }

    /// The verdicts of a claim's statement: of what it inserted, and of the ids that were on record before.
    pub(super) async fn complete(
        &self,
        high: bool,
        claims: &[&NewClaim],
        mut inserted: HashMap<String, ClaimVerdict>,
        found: &mut HashMap<JobId, ClaimVerdict>,
    ) -> Result<(), StoreError> {
        let (mut asked, mut tokens) = (Vec::new(), HashMap::new());
        for claim in claims {
            if let Some(verdict) = inserted.remove(claim.id.as_str()) {
                found.insert(claim.id.clone(), verdict);
            } else {
                asked.push((&claim.id, claim.digest.as_slice()));
                tokens.insert(&claim.id, claim.token);
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        for (id, job) in self.existing(high, &asked).await? {
            let token = tokens.get(&id).copied().unwrap_or_default();
            found.insert(id, ClaimVerdict::of_existing(job, token)?);
        }
        Ok(())
    }

    /// What is on record of these ids, each with the digest that it is compared with.
    pub async fn existing(
        &self,
        high: bool,
        asked: &[(&JobId, &[u8])],
    ) -> Result<Vec<(JobId, ExistingJob)>, StoreError> {
        let ids: Vec<&str> = asked.iter().map(|(id, _)| id.as_str()).collect();
        let rows = sqlx::query!(
            r#"
            SELECT j.id AS "id!", j.digest AS "digest!", j.owner AS "owner!", j.state AS "state!",
                   j.created_at AS "created_at!", j.error_code, j.error_message,
                   m.state AS "message_state?", m.token AS "token?", m.attempts AS "attempts?",
                   m.generation AS "generation?", m.msg_key AS "msg_key?", m.msg_time AS "msg_time?",
                   m.error_code AS "message_error_code?", m.error_message AS "message_error?", m.revoke_id AS "revoke_id?"
            FROM jobs j
            LEFT JOIN LATERAL (
                SELECT * FROM messages m WHERE m.job_id = j.id AND m.created_at = j.created_at AND m.idx = 0 OFFSET 0
            ) m ON j.total = 1 AND j.type IN (0, 3)
            WHERE j.id = ANY ($1)
            "#,
            &ids as &[&str],
        )
        .fetch_all(self.hot(high))
        .await
        .map_err(|error| StoreError::query("read jobs that are on record", error))?;
        let asked: HashMap<&str, (&JobId, &[u8])> =
            asked.iter().map(|(id, digest)| (id.as_str(), (*id, *digest))).collect();
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            let Some((id, digest)) = asked.get(row.id.as_str()) else {
                continue;
            };
            let message = match row.message_state {
                None => None,
                Some(state) => Some(ExistingMessage {
                    state: message_state(state, id)?,
                    token: row.token,
                    attempts: row.attempts.unwrap_or(0).max(0) as u32,
                    generation: row.generation.unwrap_or(0),
                    msg_key: row.msg_key,
                    msg_time: row.msg_time,
                    error: row
                        .message_error_code
                        .map(|code| (code, row.message_error.unwrap_or_default())),
                    revocation: row.revoke_id,
                }),
            };
            jobs.push((
                (*id).clone(),
                ExistingJob {
                    same: row.digest == *digest,
                    owner: Owner::from_number(row.owner),
                    loading: row.state == 0,
                    created_at: row.created_at,
                    error: row.error_code.map(|code| (code, row.error_message.unwrap_or_default())),
                    message,
                },
            ));
        }
        Ok(jobs)
    }
}

/// Reads a state's number.
pub(super) fn message_state(number: i16, job: &JobId) -> Result<MessageState, StoreError> {
    MessageState::from_number(number).ok_or_else(|| StoreError::Inconsistent {
        table: "messages",
        column: "state",
        job: job.to_string(),
        value: number.to_string(),
    })
}

/// Reads a job's id.
pub(super) fn parse_id(id: &str) -> Result<JobId, StoreError> {
    JobId::parse(id).map_err(|error| StoreError::Inconsistent {
        table: "jobs",
        column: "id",
        job: id.to_owned(),
        value: error.to_string(),
    })
}

/// The claims as columns.
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<&'a str>,
    pub(super) digests: Vec<&'a [u8]>,
    pub(super) types: Vec<i16>,
    pub(super) apps: Vec<&'a str>,
    pub(super) groups: Vec<Option<&'a str>>,
    pub(super) lanes: Vec<i16>,
    pub(super) from: Vec<&'a str>,
    pub(super) to: Vec<&'a str>,
    pub(super) send_at: Vec<Option<DateTime<Utc>>>,
    pub(super) expires_at: Vec<Option<DateTime<Utc>>>,
    pub(super) on_unknown: Vec<i16>,
    pub(super) seq: Vec<i64>,
    pub(super) random: Vec<i64>,
    pub(super) encoder: Vec<i16>,
    pub(super) tokens: Vec<Uuid>,
    pub(super) expired: Vec<bool>,
    pub(super) online_only: Vec<bool>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(claims: &[&'a NewClaim]) -> Self {
        Self {
            ids: claims.iter().map(|c| c.id.as_str()).collect(),
            digests: claims.iter().map(|c| c.digest.as_slice()).collect(),
            types: claims.iter().map(|c| c.job_type).collect(),
            apps: claims.iter().map(|c| c.app.as_str()).collect(),
            groups: claims.iter().map(|c| c.group.as_ref().map(GroupName::as_str)).collect(),
            lanes: claims.iter().map(|c| c.lane.index() as i16).collect(),
            from: claims.iter().map(|c| c.from.as_str()).collect(),
            to: claims.iter().map(|c| c.to.as_str()).collect(),
            send_at: claims.iter().map(|c| c.send_at).collect(),
            expires_at: claims.iter().map(|c| c.expires_at).collect(),
            on_unknown: claims.iter().map(|c| c.on_unknown).collect(),
            seq: claims.iter().map(|c| i64::from(c.seq)).collect(),
            random: claims.iter().map(|c| i64::from(c.random)).collect(),
            encoder: claims.iter().map(|c| c.encoder).collect(),
            tokens: claims.iter().map(|c| c.token).collect(),
            expired: claims.iter().map(|c| c.expired).collect(),
            online_only: claims.iter().map(|c| c.online_only).collect(),
        }
    }
}
