//! Everything that the records know of one job, for `explain`: read in one snapshot, changed nowhere, judged elsewhere.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{
    Store, StoreError,
    claims::message_state,
    parts::range,
    status::{job_type, unsigned},
};
use crate::domain::{
    AccountId, AppName, Command, GroupName, JobId, Lane, MessageState, Owner,
    event::ErrorInfo,
    job::{JobType, MAX_CALL_RECIPIENTS},
};

/// The most rows of one kind that are read: a batch of 100,000 has 200 calls, and some of them again.
const MOST_ROWS: i64 = 1_000;
/// The most rows of `work` that are read, those due first first.
const MOST_WORK: i64 = 10;

/// A job as the records know it.
#[derive(Debug, Clone)]
pub struct JobFacts {
    /// Its type.
    pub job_type: JobType,
    /// Its app.
    pub app: AppName,
    /// Its group.
    pub group: Option<GroupName>,
    /// Its lane.
    pub lane: Lane,
    /// Who has it.
    pub owner: Owner,
    /// Its recipients are still being written.
    pub loading: bool,
    /// Distinct recipients.
    pub total: u64,
    /// How often its failed recipients were tried again.
    pub generation: i32,
    /// When it was first recorded.
    pub created_at: DateTime<Utc>,
    /// Not before.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after.
    pub expires_at: Option<DateTime<Utc>>,
    /// For those online only: in no history.
    pub online_only: bool,
    /// The queue that it came from, where the job outlived its delivery.
    pub queue: Option<String>,
    /// A failure of the job as a whole.
    pub error: Option<ErrorInfo>,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// The message that is asked about: the only one, or that to a recipient.
    pub message: Option<MessageFact>,
    /// What the table has still to do, what is due first first, 10 rows at most.
    pub work: Vec<WorkFact>,
    /// Rows of work in all.
    pub work_rows: u64,
    /// Batch calls, the first first.
    pub calls: Vec<CallFact>,
    /// Calls that didn't simply succeed, and what reconciliation saw, the first first.
    pub attempts: Vec<AttemptFact>,
    /// Further keys.
    pub keys: Vec<KeyFact>,
    /// Tombstones that name the job, its group, or the message that is asked about.
    pub tombstones: Vec<RevocationFact>,
    /// The tombstone that the job itself is.
    pub revocation: Option<RevocationFact>,
    /// Events and letters that are written, but not published yet.
    pub outbox: Vec<OutboxFact>,
}

/// A message's row.
#[derive(Debug, Clone)]
pub struct MessageFact {
    /// Its index in the job.
    pub idx: i32,
    /// The sender that the service has.
    pub from: String,
    /// The recipient.
    pub to: String,
    /// Its state.
    pub state: MessageState,
    /// Calls made.
    pub attempts: u32,
    /// The generation of the job in which it was tried last.
    pub generation: i32,
    /// MsgSeq and MsgRandom of its own call; a batch's are its calls'.
    pub pair: Option<(u32, u32)>,
    /// The batch call that it was in last.
    pub call_id: Option<Uuid>,
    /// The first claim with this pair.
    pub first_call_at: Option<DateTime<Utc>>,
    /// The last claim.
    pub last_call_at: Option<DateTime<Utc>>,
    /// No call of the last claim is written after this time.
    pub call_by: Option<DateTime<Utc>>,
    /// The key.
    pub msg_key: Option<String>,
    /// When it was recorded as sent.
    pub sent_at: Option<DateTime<Utc>>,
    /// Why it failed.
    pub error: Option<ErrorInfo>,
    /// The revoke job that covers it.
    pub revoke_id: Option<String>,
    /// 0 none, 1 wanted, 2 done, 3 failed.
    pub revoke_state: i16,
    /// Why it could not be revoked.
    pub revoke_error: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A row of `work`.
#[derive(Debug, Clone)]
pub struct WorkFact {
    /// 0 deliver or reconcile, 1 revoke a message, 2 fan a revocation out, 3 close, 4 an operation, 5 revoke by key.
    pub kind: i16,
    /// The part, or the message's index.
    pub part: i32,
    /// The command of the next step.
    pub command: Option<Command>,
    /// When it is due; while it is leased, when the lease ends.
    pub due_at: DateTime<Utc>,
    /// When the send window opens that it waits for.
    pub opens_at: Option<DateTime<Utc>>,
    /// Attempts that counted.
    pub attempts: u32,
    /// How often its owner died with it in its hands.
    pub takeovers: u32,
    /// A worker has it.
    pub leased: bool,
    /// Looks at the history without a sight of the message.
    pub looks: u32,
    /// When the last was.
    pub looked_at: Option<DateTime<Utc>>,
}

/// A batch call.
#[derive(Debug, Clone)]
pub struct CallFact {
    /// The part that it is of.
    pub part: i32,
    /// The generation of its pair.
    pub generation: i32,
    /// MsgSeq.
    pub seq: u32,
    /// MsgRandom.
    pub random: u32,
    /// Recipients.
    pub members: u64,
    /// Several jobs share it.
    pub shared: bool,
    /// The first claim.
    pub first_call_at: DateTime<Utc>,
    /// The last claim.
    pub last_call_at: DateTime<Utc>,
}

/// A row of `attempts`.
#[derive(Debug, Clone)]
pub struct AttemptFact {
    /// The message's index, or of a batch call the part's first.
    pub idx: i32,
    /// Its number, from 1.
    pub attempt: u32,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// The command.
    pub command: Option<Command>,
    /// The word of what happened.
    pub code: String,
    /// Its class; `reconciled` for a look into the history.
    pub class: String,
    /// The service's or the network's text.
    pub message: Option<String>,
    /// The URL's `random`, by which the service's support finds the call.
    pub url_random: Option<i64>,
}

/// A further key of a message.
#[derive(Debug, Clone)]
pub struct KeyFact {
    /// The message's index.
    pub idx: i32,
    /// The key.
    pub msg_key: String,
    /// Found in the history, rather than answered to a claim that had been replaced.
    pub found: bool,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A tombstone.
#[derive(Debug, Clone)]
pub struct RevocationFact {
    /// The revoke job.
    pub id: String,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
    /// What it names.
    pub target: RevocationTarget,
    /// A group's covers jobs that arrive until then.
    pub expires_at: Option<DateTime<Utc>>,
    /// Lifted by an operator.
    pub lifted_at: Option<DateTime<Utc>>,
    /// It has reached all of its target's messages.
    pub fanned_out: bool,
    /// The job that its fan-out has come to.
    pub cursor: Option<String>,
}

/// What a tombstone names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationTarget {
    /// A job, or so many of its recipients.
    Job(String, Option<usize>),
    /// A group.
    Group(String),
    /// One message.
    Message {
        /// The sender.
        from: String,
        /// The recipient.
        to: String,
        /// The key.
        msg_key: String,
    },
}

/// A row of the outbox.
#[derive(Debug, Clone)]
pub struct OutboxFact {
    /// A dead letter rather than an event.
    pub letter: bool,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// The event's routing key, or the letter's word.
    pub what: String,
}

impl Store {
    /// What is known of a job, and of its message to one recipient; `None`: it isn't on record. A recipient that the job
    /// doesn't have leaves `message` empty.
    pub async fn job_facts(&self, id: &JobId, to: Option<&AccountId>) -> Result<Option<JobFacts>, StoreError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query!(
            r#"
            SELECT type, app, group_name, lane, owner, state, total, generation, created_at, send_at, expires_at, online_only,
                   queue, error_code, error_message, clock_timestamp() AS "now!"
            FROM jobs WHERE id = $1
            "#,
            id.as_str(),
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("read a job", error))?;
        let Some(row) = row else { return Ok(None) };
        let unreadable = |column: &'static str, value: String| StoreError::Inconsistent {
            table: "jobs",
            column,
            job: id.to_string(),
            value,
        };
        let job_type = job_type(id, row.r#type)?;
        let single = job_type.sends() && row.total == 1;
        let message = if single || to.is_some() {
            message(&mut tx, id, row.created_at, to).await?
        } else {
            None
        };
        // What is asked about: one message, or all.
        let idx = message.as_ref().map(|message| message.idx);
        let call_id = message.as_ref().and_then(|message| message.call_id);
        let revoke_id = message.as_ref().and_then(|message| message.revoke_id.as_deref());
        let (work, work_rows) = work(&mut tx, id, idx).await?;
        Ok(Some(JobFacts {
            job_type,
            app: AppName::parse(&row.app).map_err(|error| unreadable("app", error.to_string()))?,
            group: row
                .group_name
                .as_deref()
                .map(GroupName::parse)
                .transpose()
                .map_err(|error| unreadable("group_name", error.to_string()))?,
            lane: Lane::from_index(row.lane),
            owner: Owner::from_number(row.owner),
            loading: row.state == 0,
            total: unsigned(row.total.into()),
            generation: row.generation,
            created_at: row.created_at,
            send_at: row.send_at,
            expires_at: row.expires_at,
            online_only: row.online_only,
            queue: row.queue,
            error: error_info(row.error_code, row.error_message),
            now: row.now,
            work,
            work_rows,
            calls: calls(&mut tx, id, idx, call_id).await?,
            attempts: attempts(&mut tx, id, row.created_at, idx).await?,
            keys: keys(&mut tx, id, idx).await?,
            tombstones: if job_type == JobType::Revoke {
                Vec::new()
            } else {
                tombstones(&mut tx, Some(id.as_str()), row.group_name.as_deref(), revoke_id).await?
            },
            revocation: tombstones(&mut tx, None, None, Some(id.as_str())).await?.pop(),
            outbox: outbox(&mut tx, id).await?,
            message,
        }))
    }

    /// The tombstones that name a job, whether it is on record or not.
    pub async fn tombstones_of(&self, id: &JobId) -> Result<Vec<RevocationFact>, StoreError> {
        let mut tx = self.snapshot().await?;
        tombstones(&mut tx, Some(id.as_str()), None, None).await
    }
}

fn error_info(code: Option<String>, message: Option<String>) -> Option<ErrorInfo> {
    code.map(|code| ErrorInfo {
        code,
        message: message.unwrap_or_default(),
    })
}

async fn message(
    tx: &mut Transaction<'static, Postgres>,
    id: &JobId,
    created_at: DateTime<Utc>,
    to: Option<&AccountId>,
) -> Result<Option<MessageFact>, StoreError> {
    let row = sqlx::query!(
        "SELECT idx, from_account, to_account, state, attempts, generation, seq, random, call_id, first_call_at, last_call_at,
                call_by, msg_key, sent_at, error_code, error_message, revoke_id, revoke_state, revoke_error, revoked_at
         FROM messages WHERE job_id = $1 AND created_at = $2 AND ($3::text IS NULL OR to_account = $3) LIMIT 1",
        id.as_str(),
        created_at,
        to.map(AccountId::as_str),
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a message", error))?;
    row.map(|row| {
        Ok(MessageFact {
            idx: row.idx,
            from: row.from_account,
            to: row.to_account,
            state: message_state(row.state, id)?,
            attempts: row.attempts.max(0) as u32,
            generation: row.generation,
            pair: row.seq.zip(row.random).map(|(seq, random)| (seq as u32, random as u32)),
            call_id: row.call_id,
            first_call_at: row.first_call_at,
            last_call_at: row.last_call_at,
            call_by: row.call_by,
            msg_key: row.msg_key,
            sent_at: row.sent_at,
            error: error_info(row.error_code, row.error_message),
            revoke_id: row.revoke_id,
            revoke_state: row.revoke_state,
            revoke_error: row.revoke_error,
            revoked_at: row.revoked_at,
        })
    })
    .transpose()
}

/// The part of a message's index.
const fn part_of(idx: i32) -> i32 {
    idx / MAX_CALL_RECIPIENTS as i32
}

async fn work(
    tx: &mut Transaction<'static, Postgres>,
    id: &JobId,
    idx: Option<i32>,
) -> Result<(Vec<WorkFact>, u64), StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT kind, part, command, due_at, opens_at, attempts, takeovers, lease IS NOT NULL AS "leased!", looks, looked_at,
               count(*) OVER () AS "rows!"
        FROM work
        WHERE job_id = $1
          AND ($2::int4 IS NULL OR (kind = 0 AND part = $3) OR (kind = 1 AND part = $2) OR kind NOT IN (0, 1))
        ORDER BY due_at LIMIT $4
        "#,
        id.as_str(),
        idx,
        idx.map(part_of),
        MOST_WORK,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a job's work", error))?;
    let all = rows.first().map_or(0, |row| unsigned(row.rows));
    let facts = rows.into_iter().map(|row| WorkFact {
        kind: row.kind,
        part: row.part,
        command: Command::from_index(row.command),
        due_at: row.due_at,
        opens_at: row.opens_at,
        attempts: row.attempts.max(0) as u32,
        takeovers: row.takeovers.max(0) as u32,
        leased: row.leased,
        looks: row.looks.max(0) as u32,
        looked_at: row.looked_at,
    });
    Ok((facts.collect(), all))
}

async fn calls(
    tx: &mut Transaction<'static, Postgres>,
    id: &JobId,
    idx: Option<i32>,
    call_id: Option<Uuid>,
) -> Result<Vec<CallFact>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT part, generation, seq, random, coalesce(cardinality(jobs), cardinality(members)) AS "members!",
               jobs IS NOT NULL AS "shared!", first_call_at, last_call_at
        FROM calls
        WHERE (job_id = $1 AND jobs IS NULL AND ($2::int4 IS NULL OR $2 = ANY (members))) OR (jobs IS NOT NULL AND call_id = $4)
        ORDER BY first_call_at LIMIT $3
        "#,
        id.as_str(),
        idx,
        MOST_ROWS,
        call_id,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a job's calls", error))?;
    let facts = rows.into_iter().map(|row| CallFact {
        part: row.part,
        generation: row.generation,
        seq: row.seq as u32,
        random: row.random as u32,
        members: unsigned(row.members.into()),
        shared: row.shared,
        first_call_at: row.first_call_at,
        last_call_at: row.last_call_at,
    });
    Ok(facts.collect())
}

async fn attempts(
    tx: &mut Transaction<'static, Postgres>,
    id: &JobId,
    created_at: DateTime<Utc>,
    idx: Option<i32>,
) -> Result<Vec<AttemptFact>, StoreError> {
    // A batch call's attempts are kept under the first index of its part.
    let rows = sqlx::query!(
        "SELECT idx, attempt, at, command, code, class, message, url_random FROM attempts
         WHERE job_id = $1 AND created_at = $2 AND ($3::int4 IS NULL OR idx = $3 OR idx = $4)
         ORDER BY at LIMIT $5",
        id.as_str(),
        created_at,
        idx,
        idx.map(|idx| range(part_of(idx)).0),
        MOST_ROWS,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a job's attempts", error))?;
    let facts = rows.into_iter().map(|row| AttemptFact {
        idx: row.idx,
        attempt: row.attempt.max(0) as u32,
        at: row.at,
        command: Command::from_index(row.command),
        code: row.code,
        class: row.class,
        message: row.message,
        url_random: row.url_random,
    });
    Ok(facts.collect())
}

async fn keys(
    tx: &mut Transaction<'static, Postgres>,
    id: &JobId,
    idx: Option<i32>,
) -> Result<Vec<KeyFact>, StoreError> {
    let rows = sqlx::query!(
        "SELECT idx, msg_key, source, at, revoked_at FROM message_keys
         WHERE job_id = $1 AND ($2::int4 IS NULL OR idx = $2) ORDER BY at LIMIT $3",
        id.as_str(),
        idx,
        MOST_ROWS,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a job's further MsgKeys", error))?;
    let facts = rows.into_iter().map(|row| KeyFact {
        idx: row.idx,
        msg_key: row.msg_key,
        found: row.source == 1,
        at: row.at,
        revoked_at: row.revoked_at,
    });
    Ok(facts.collect())
}

async fn tombstones(
    tx: &mut Transaction<'static, Postgres>,
    job: Option<&str>,
    group: Option<&str>,
    id: Option<&str>,
) -> Result<Vec<RevocationFact>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT id, created_at, target_job, cardinality(to_accounts) AS some, target_group, from_account, to_account, msg_key,
               expires_at, lifted_at, fanned_out, cursor_job
        FROM revocations WHERE target_job = $1 OR target_group = $2 OR id = $3
        ORDER BY created_at LIMIT $4
        "#,
        job,
        group,
        id,
        MOST_ROWS,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read tombstones", error))?;
    let facts = rows.into_iter().map(|row| RevocationFact {
        id: row.id,
        created_at: row.created_at,
        target: match (row.target_job, row.target_group) {
            (Some(job), _) => RevocationTarget::Job(job, row.some.and_then(|some| usize::try_from(some).ok())),
            (None, Some(group)) => RevocationTarget::Group(group),
            (None, None) => RevocationTarget::Message {
                from: row.from_account.unwrap_or_default(),
                to: row.to_account.unwrap_or_default(),
                msg_key: row.msg_key.unwrap_or_default(),
            },
        },
        expires_at: row.expires_at,
        lifted_at: row.lifted_at,
        fanned_out: row.fanned_out,
        cursor: (!row.cursor_job.is_empty()).then_some(row.cursor_job),
    });
    Ok(facts.collect())
}

async fn outbox(tx: &mut Transaction<'static, Postgres>, id: &JobId) -> Result<Vec<OutboxFact>, StoreError> {
    let rows = sqlx::query!(
        "SELECT kind, created_at, routing_key, error_code FROM outbox WHERE job_id = $1 ORDER BY id LIMIT 20",
        id.as_str(),
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a job's outbox", error))?;
    let facts = rows.into_iter().map(|row| OutboxFact {
        letter: row.kind == 1,
        created_at: row.created_at,
        what: if row.kind == 1 {
            row.error_code.unwrap_or_default()
        } else {
            row.routing_key
        },
    });
    Ok(facts.collect())
}
