//! Jobs as producers publish them.
//!
//! Answers what a job can say. How one is read is in `decode`, how one is written in `encode`, when two are the same in
//! `digest`.

use std::fmt;

use chrono::{DateTime, Utc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AccountId, AppName, GroupName, JobId, MsgKey,
    json::Fault,
    message::Message,
    policy::{Cap, SendWindow},
};

/// The most recipients of one `batch_send` job.
pub const MAX_RECIPIENTS: usize = 100_000;
/// The most recipients of one batchsendmsg call (im-api: over it the service answers 90011).
pub const MAX_CALL_RECIPIENTS: usize = 500;

/// A job, decoded and checked: every limit of the contract holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The idempotency key.
    pub id: JobId,
    /// The configured app that carries it out. Whether it is configured is checked by the worker.
    pub app: AppName,
    /// The campaign or other label.
    pub group: Option<GroupName>,
    /// Not before.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after.
    pub expires_at: Option<DateTime<Utc>>,
    /// May be merged with equal sends to other recipients into one batch call.
    pub coalesce: bool,
    /// What follows when nobody can tell whether a call was carried out.
    pub on_unknown: OnUnknown,
    /// When its messages may go out; outside of it they wait.
    pub send_window: Option<SendWindow>,
    /// How many messages a recipient may get; what is beyond it is suppressed.
    pub cap: Option<Cap>,
    /// What to do.
    pub task: Task,
}

/// What follows when a call's answer was lost and the history can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// The end state is `unknown`.
    #[default]
    Reconcile,
    /// The end state is `failed`, code `outcome-unknown`.
    Fail,
    /// Sent again, at the risk of a second message.
    Resend,
}

/// What a job asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// One message to one recipient.
    Send {
        /// The sender; `None` is the app's administrator.
        from: Option<AccountId>,
        /// The recipient.
        to: AccountId,
        /// The message.
        message: Message,
    },
    /// One message to many.
    BatchSend {
        /// The sender; `None` is the app's administrator.
        from: Option<AccountId>,
        /// The recipients, in the job's order, duplicates removed.
        to: Vec<AccountId>,
        /// The message.
        message: Message,
    },
    /// Revokes messages.
    Revoke(RevokeTarget),
    /// Imports a message with its own time.
    Import {
        /// The sender.
        from: AccountId,
        /// The recipient.
        to: AccountId,
        /// The message.
        message: Message,
        /// Unix seconds.
        timestamp: u64,
        /// Counted as unread and pushed, or history.
        unread: bool,
    },
    /// Sets a conversation to read.
    MarkRead {
        /// Who reads.
        user: AccountId,
        /// The other side.
        peer: AccountId,
    },
    /// Counts unread messages; answered through `reply_to`.
    Unread {
        /// Whose.
        user: AccountId,
        /// From whom; empty: the total.
        peers: Vec<AccountId>,
    },
    /// Every message of a conversation; answered through `reply_to`.
    History {
        /// One side, whose view is asked.
        from: AccountId,
        /// The other side.
        to: AccountId,
        /// Not older.
        since: Option<DateTime<Utc>>,
        /// Not newer.
        until: Option<DateTime<Utc>>,
        /// The most messages.
        limit: Option<u32>,
    },
}

/// What a revoke job revokes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokeTarget {
    /// A job's messages, all or those to some recipients.
    Job {
        /// The job that sent.
        job: JobId,
        /// `None`: every recipient.
        to: Option<Vec<AccountId>>,
    },
    /// Every message of a group's jobs, also of those that arrive within 7 days.
    Group(GroupName),
    /// One message by its key.
    Message {
        /// The sender that the message had.
        from: AccountId,
        /// The recipient.
        to: AccountId,
        /// Its key.
        msg_key: MsgKey,
    },
}

/// As people read it, in the audit log for instance; of many recipients the first ten.
impl fmt::Display for RevokeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job { job, to: None } => write!(f, "job {job}"),
            Self::Job { job, to: Some(to) } => {
                let some: Vec<&str> = to.iter().take(10).map(AccountId::as_str).collect();
                write!(f, "job {job} to {}", some.join(", "))?;
                match to.len().saturating_sub(some.len()) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::Group(group) => write!(f, "group {group}"),
            Self::Message { from, to, msg_key } => write!(f, "message {msg_key} from {from} to {to}"),
        }
    }
}

/// Why a delivery is no job: a stable word and a sentence that names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct DecodeError {
    /// `invalid-json` or `invalid-job`.
    pub word: &'static str,
    /// Which field and why; never the value of a message's text.
    pub sentence: String,
}

impl DecodeError {
    /// Not JSON.
    pub const INVALID_JSON: &'static str = "invalid-json";
    /// JSON, but no job.
    pub const INVALID_JOB: &'static str = "invalid-job";

    pub(crate) fn invalid_job(fault: &Fault) -> Self {
        Self {
            word: Self::INVALID_JOB,
            sentence: fault.to_string(),
        }
    }

    pub(crate) fn invalid_json(sentence: String) -> Self {
        Self {
            word: Self::INVALID_JSON,
            sentence,
        }
    }
}

/// The type of a job, as the job spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobType {
    /// One message to one recipient.
    Send,
    /// One message to many.
    BatchSend,
    /// Revokes messages.
    Revoke,
    /// Imports a message with its own time.
    Import,
    /// Sets a conversation to read.
    MarkRead,
    /// Counts unread messages.
    Unread,
    /// Every message of a conversation.
    History,
}

impl JobType {
    /// Every type.
    pub const ALL: [Self; 7] = [
        Self::Send,
        Self::BatchSend,
        Self::Revoke,
        Self::Import,
        Self::MarkRead,
        Self::Unread,
        Self::History,
    ];

    /// The word of the job's field `type`, of routing keys, metrics and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::BatchSend => "batch_send",
            Self::Revoke => "revoke",
            Self::Import => "import",
            Self::MarkRead => "mark_read",
            Self::Unread => "unread",
            Self::History => "history",
        }
    }

    /// The inverse of [`JobType::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job_type| job_type.as_str() == word)
    }

    /// Whether the job's result goes to its `reply_to`, so that it makes no sense without one.
    pub const fn needs_reply(self) -> bool {
        matches!(self, Self::Unread | Self::History)
    }

    /// Whether send windows and caps hold for it: it makes a new message reach a recipient, which an import, whose
    /// messages have been there before, doesn't.
    pub const fn obeys_policy(self) -> bool {
        matches!(self, Self::Send | Self::BatchSend)
    }

    /// Whether the job makes messages appear, which are on record and can be revoked.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Send | Self::BatchSend | Self::Import)
    }
}

impl fmt::Display for JobType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Job {
    /// A job with every option at its default; set the others by `Job { group: …, ..Job::new(id, task) }`.
    pub fn new(id: JobId, task: Task) -> Self {
        Self {
            id,
            app: AppName::default_app(),
            group: None,
            send_at: None,
            expires_at: None,
            coalesce: false,
            on_unknown: OnUnknown::default(),
            send_window: None,
            cap: None,
            task,
        }
    }

    /// The job's type.
    pub const fn job_type(&self) -> JobType {
        match self.task {
            Task::Send { .. } => JobType::Send,
            Task::BatchSend { .. } => JobType::BatchSend,
            Task::Revoke(_) => JobType::Revoke,
            Task::Import { .. } => JobType::Import,
            Task::MarkRead { .. } => JobType::MarkRead,
            Task::Unread { .. } => JobType::Unread,
            Task::History { .. } => JobType::History,
        }
    }

    /// The type as the job spells it: `send`, `batch_send`, …
    pub const fn type_name(&self) -> &'static str {
        self.job_type().as_str()
    }

    /// The message, if the job has one.
    pub const fn message(&self) -> Option<&Message> {
        match &self.task {
            Task::Send { message, .. } | Task::BatchSend { message, .. } | Task::Import { message, .. } => {
                Some(message)
            }
            _ => None,
        }
    }

    /// Whether its message is for those online only (`life_time` 0): the service keeps it in no history.
    pub fn is_online_only(&self) -> bool {
        self.message().is_some_and(|message| message.life_time == Some(0))
    }

    /// Refuses a job whose result would go nowhere: `unread` and `history` answer through the AMQP property
    /// `reply_to`, which is not part of the body.
    pub fn check_reply(&self, has_reply_to: bool) -> Result<(), DecodeError> {
        if self.job_type().needs_reply() && !has_reply_to {
            let rule = format!("is missing: the result of a job of type {} goes there", self.job_type());
            return Err(DecodeError::invalid_job(&Fault::new(rule).at("reply_to")));
        }
        Ok(())
    }
}
