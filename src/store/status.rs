//! Where a job, its recipients or a group stand: the read-only queries behind `status` and the API.
//!
//! Reads the tables as they are, in one snapshot, and changes nothing.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use super::{Store, StoreError, revoke_status::revoke_status};
use crate::domain::{
    AccountId, AppName, GroupName, JobId, MsgKey,
    event::ErrorInfo,
    job::JobType,
    record,
    status::{Counts, GroupStatus, JobState, JobStatus, MessageState, MessageStatus, Progress},
};

/// The messages of a job that `status` prints unless told otherwise (contract: the first 1,000).
pub const DEFAULT_PAGE: u32 = 1_000;

/// Which of a job's messages are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePage {
    /// At most so many; 0: none, the counts alone.
    pub limit: u32,
    /// Only those behind this one.
    pub after: Option<After>,
    /// Only those in this state.
    pub state: Option<MessageState>,
}

impl Default for MessagePage {
    fn default() -> Self {
        Self {
            limit: DEFAULT_PAGE,
            after: None,
            state: None,
        }
    }
}

impl MessagePage {
    /// The counts alone.
    pub const fn counts_only() -> Self {
        Self {
            limit: 0,
            after: None,
            state: None,
        }
    }
}

/// Where a page begins: behind a recipient, the last of the page before, or behind so many messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After(String);

impl After {
    /// A recipient of the job, or a number. Accounts are often numbers themselves, so one of the job's recipients counts
    /// as that before it counts as a number.
    pub fn parse(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The recipient that it may be.
    pub(super) fn recipient(&self) -> &str {
        &self.0
    }

    /// The number that it is otherwise; neither: behind everything.
    pub(super) fn count(&self) -> i64 {
        self.0.parse().unwrap_or(i64::MAX)
    }
}

/// A job's row, as far as a status needs it.
pub(super) struct JobRow {
    pub(super) id: String,
    pub(super) job_type: JobType,
    pub(super) created_at: DateTime<Utc>,
    pub(super) state: i16,
    pub(super) total: u64,
    pub(super) failed: bool,
}

/// The job's state: its recipients are still being written.
const WRITING: i16 = 0;
/// The job's state: closed.
pub(super) const CLOSED: i16 = 2;

impl Store {
    /// Where a job stands, with a page of its messages; `None`: it isn't on record.
    pub async fn job_status(&self, id: &JobId, page: &MessagePage) -> Result<Option<JobStatus>, StoreError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query!(
            "SELECT type, app, group_name, created_at, state, total, error_code FROM jobs WHERE id = $1",
            id.as_str()
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("read a job", error))?;
        let Some(row) = row else { return Ok(None) };
        let job = JobRow {
            id: id.to_string(),
            job_type: job_type(id, row.r#type)?,
            created_at: row.created_at,
            state: row.state,
            total: u64::try_from(row.total).unwrap_or(0),
            failed: row.error_code.is_some(),
        };
        let (recipients, progress, messages) = if job.job_type == JobType::Revoke {
            revoke_status(&mut tx, &job, page).await?
        } else {
            let counts = counts(&mut tx, &job).await?;
            (counts, job.progress(), messages(&mut tx, &job, page).await?)
        };
        Ok(Some(JobStatus {
            job: id.clone(),
            job_type: job.job_type,
            app: AppName::parse(&row.app).map_err(|error| inconsistent("jobs", "app", id.as_str(), error))?,
            group: row
                .group_name
                .map(|group| {
                    GroupName::parse(group).map_err(|error| inconsistent("jobs", "group_name", id.as_str(), error))
                })
                .transpose()?,
            state: JobState::derive(&recipients, progress),
            created_at: row.created_at,
            recipients,
            messages,
        }))
    }

    /// The sum of a group's jobs; `None`: no job of it is on record.
    pub async fn group_status(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        let mut tx = self.snapshot().await?;
        let jobs = sqlx::query!(
            r#"
            SELECT count(*) AS "all!", count(*) FILTER (WHERE type IN (0, 1, 3)) AS "sending!",
                   coalesce(sum(total) FILTER (WHERE type IN (0, 1, 3) AND state = 0), 0)::int8 AS "unwritten!"
            FROM jobs WHERE group_name = $1
            "#,
            group.as_str()
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| StoreError::query("count a group's jobs", error))?;
        if jobs.all == 0 {
            return Ok(None);
        }
        let states = sqlx::query!(
            r#"
            SELECT m.state, count(*) AS "count!", count(*) FILTER (WHERE j.state = 0) AS "written!"
            FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
            WHERE j.group_name = $1 AND j.type IN (0, 1, 3)
            GROUP BY m.state
            "#,
            group.as_str()
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(|error| StoreError::query("count a group's messages", error))?;
        let written: i64 = states.iter().map(|row| row.written).sum();
        let mut recipients: Counts = states
            .into_iter()
            .map(|row| Ok((message_state(row.state, group.as_str())?, unsigned(row.count))))
            .collect::<Result<_, StoreError>>()?;
        recipients.add(MessageState::Pending, unsigned(jobs.unwritten - written));
        Ok(Some(GroupStatus {
            group: group.clone(),
            jobs: unsigned(jobs.sending),
            recipients,
        }))
    }

    /// A transaction in which every statement sees the same moment, so that the states add up.
    pub(super) async fn snapshot(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
            .map_err(|error| StoreError::query("begin to read a status", error))
    }
}

impl JobRow {
    /// How far the job is as a whole.
    fn progress(&self) -> Progress {
        if self.job_type.sends() {
            // Its recipients say the rest.
            if self.state == WRITING {
                Progress::Open
            } else {
                Progress::Done
            }
        } else if self.state != CLOSED {
            Progress::Open
        } else if self.failed {
            Progress::Failed
        } else {
            Progress::Done
        }
    }
}

async fn counts(tx: &mut Transaction<'static, Postgres>, job: &JobRow) -> Result<Counts, StoreError> {
    let states = sqlx::query!(
        r#"SELECT state, count(*) AS "count!" FROM messages WHERE job_id = $1 AND created_at = $2 GROUP BY state"#,
        job.id,
        job.created_at,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("count a job's messages", error))?;
    let mut counts: Counts = states
        .into_iter()
        .map(|row| Ok((message_state(row.state, &job.id)?, unsigned(row.count))))
        .collect::<Result<_, StoreError>>()?;
    if job.state == WRITING {
        counts.add(MessageState::Pending, job.total.saturating_sub(counts.total));
    }
    Ok(counts)
}

async fn messages(
    tx: &mut Transaction<'static, Postgres>,
    job: &JobRow,
    page: &MessagePage,
) -> Result<Vec<MessageStatus>, StoreError> {
    if page.limit == 0 {
        return Ok(Vec::new());
    }
    let behind = page.after.as_ref().map(After::recipient);
    let skip = page.after.as_ref().map_or(0, After::count);
    let rows = sqlx::query!(
        r#"
        WITH behind AS (
            SELECT max(idx) AS idx FROM messages
            WHERE $4::text IS NOT NULL AND job_id = $1 AND created_at = $2 AND to_account = $4
        )
        SELECT to_account, state, msg_key, sent_at, attempts, error_code, error_message
        FROM messages
        WHERE job_id = $1 AND created_at = $2 AND ($3::int2[] IS NULL OR state = ANY ($3))
          AND idx > coalesce((SELECT idx FROM behind), -1)
        ORDER BY idx OFFSET (SELECT CASE WHEN idx IS NULL THEN $5::int8 ELSE 0 END FROM behind) LIMIT $6
        "#,
        job.id,
        job.created_at,
        page.state.map(numbers) as Option<Vec<i16>>,
        behind,
        skip,
        i64::from(page.limit),
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a job's messages", error))?;
    rows.into_iter()
        .map(|row| {
            message_status(
                &job.id,
                message_state(row.state, &job.id)?,
                MessageRow {
                    to: row.to_account,
                    msg_key: row.msg_key,
                    sent_at: row.sent_at,
                    attempts: row.attempts,
                    error: error_info(row.error_code, row.error_message),
                },
            )
        })
        .collect()
}

/// A message's columns.
pub(super) struct MessageRow {
    pub(super) to: String,
    pub(super) msg_key: Option<String>,
    pub(super) sent_at: Option<DateTime<Utc>>,
    pub(super) attempts: i32,
    pub(super) error: Option<ErrorInfo>,
}

pub(super) fn message_status(job: &str, state: MessageState, row: MessageRow) -> Result<MessageStatus, StoreError> {
    Ok(MessageStatus {
        to: AccountId::parse(row.to).map_err(|error| inconsistent("messages", "to_account", job, error))?,
        state,
        msg_key: row
            .msg_key
            .map(|key| MsgKey::parse(key).map_err(|error| inconsistent("messages", "msg_key", job, error)))
            .transpose()?,
        sent_at: row.sent_at,
        attempts: u32::try_from(row.attempts).unwrap_or(0),
        error: row.error,
    })
}

fn error_info(code: Option<String>, message: Option<String>) -> Option<ErrorInfo> {
    code.map(|code| ErrorInfo {
        code,
        message: message.unwrap_or_default(),
    })
}

/// The state of a number in the database.
pub(super) fn message_state(number: i16, job: &str) -> Result<MessageState, StoreError> {
    record::MessageState::from_number(number)
        .and_then(|state| MessageState::parse(state.as_str()))
        .ok_or_else(|| inconsistent("messages", "state", job, number))
}

/// The numbers of a state in the database.
fn numbers(state: MessageState) -> Vec<i16> {
    record::MessageState::ALL
        .into_iter()
        .filter(|stored| stored.as_str() == state.as_str())
        .map(record::MessageState::number)
        .collect()
}

pub(super) fn job_type(id: &JobId, number: i16) -> Result<JobType, StoreError> {
    JobType::parse(record::type_name(number)).ok_or_else(|| inconsistent("jobs", "type", id.as_str(), number))
}

pub(super) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn inconsistent(table: &'static str, column: &'static str, job: &str, value: impl std::fmt::Display) -> StoreError {
    StoreError::Inconsistent {
        table,
        column,
        job: job.to_owned(),
        value: format!("{value}"),
    }
}
