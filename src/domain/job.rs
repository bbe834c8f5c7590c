//! Jobs as producers publish them.

use chrono::{DateTime, Utc};

use super::{AccountId, AppName, GroupName, JobId, MsgKey, message::Message};

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
    /// What to do.
    pub task: Task,
}

/// What follows when a call's answer was lost and the history can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

/// Why a delivery is no job: a stable word and a sentence that names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct DecodeError {
    /// `invalid-json` or `invalid-job`.
    pub word: &'static str,
    /// Which field and why; never the value of a message's text.
    pub sentence: String,
}

impl Job {
    /// The type as the job spells it: `send`, `batch_send`, …
    pub const fn type_name(&self) -> &'static str {
        match self.task {
            Task::Send { .. } => "send",
            Task::BatchSend { .. } => "batch_send",
            Task::Revoke(_) => "revoke",
            Task::Import { .. } => "import",
            Task::MarkRead { .. } => "mark_read",
            Task::Unread { .. } => "unread",
            Task::History { .. } => "history",
        }
    }
}
