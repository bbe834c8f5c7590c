//! Why is a job where it is? Turns what the records know of it into a timeline and into what it waits for.
//!
//! Pure: reads nothing and prints nothing, so that whoever shows it, tells the same.
//!
//! ```
//! use im_dispatcher::explain::meaning;
//!
//! let known = meaning("im-90012").unwrap();
//! println!("{}: {}", known.meaning, known.advice);
//! assert!(known.advice.contains("import the account"));
//! assert!(meaning("no-such-word").is_none());
//! ```

mod timeline;
mod waiting;
mod words;

use chrono::{DateTime, Utc};
use serde::Serialize;

pub use waiting::{Reason, Waiting};
pub use words::{Meaning, meaning, words};

use crate::{
    domain::{
        AccountId, AppName, GroupName, JobId, Lane, MessageState,
        job::JobType,
        status::{Counts, JobState, JobStatus, MessageStatus},
    },
    store::{JobFacts, MessageFact},
};

/// Entries of a timeline at most; a long batch has many calls.
const MOST_ENTRIES: usize = 200;

/// Why a job is where it is.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// Its type.
    #[serde(rename = "type")]
    pub job_type: JobType,
    /// Its app.
    pub app: AppName,
    /// Its group.
    pub group: Option<GroupName>,
    /// Its lane.
    pub lane: Lane,
    /// Its state; where one recipient was asked about, that of its message.
    pub state: JobState,
    /// The recipient that was asked about, or the only one.
    pub to: Option<String>,
    /// Where it stands, in a sentence.
    pub summary: String,
    /// What it waits for; empty where nothing is to be done any more.
    pub waiting: Vec<Waiting>,
    /// What happened, in order; entries without a time last.
    pub timeline: Vec<Entry>,
    /// Entries that were left out of the middle of the timeline.
    pub left_out: usize,
    /// The recipients by state; a revoke job's are its targets.
    pub recipients: Counts,
    /// The first recipients that failed, each with its error.
    pub failures: Vec<MessageStatus>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When; `None`: not on record.
    pub at: Option<DateTime<Utc>>,
    /// What, in a word.
    pub event: Event,
    /// What, in a sentence.
    pub text: String,
    /// The word of a call that didn't simply succeed, or of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What it means and what to do about it.
    #[serde(flatten)]
    pub meaning: Option<Meaning>,
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// First recorded.
    Received,
    /// An operator, or a replayed letter, had failed recipients tried again.
    Retried,
    /// Claimed for a call.
    Claimed,
    /// A batch call.
    Called,
    /// A call that didn't simply succeed.
    Attempt,
    /// What the IM history said.
    Reconciled,
    /// The end: sent, failed, cancelled, expired, unknown.
    Outcome,
    /// A further MsgKey: sent twice.
    FurtherKey,
    /// A revocation came.
    Revocation,
    /// Revoked, or not.
    Revoked,
    /// An event or a dead letter waits to be published.
    Unpublished,
}

impl Event {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Received,
        Self::Retried,
        Self::Claimed,
        Self::Called,
        Self::Attempt,
        Self::Reconciled,
        Self::Outcome,
        Self::FurtherKey,
        Self::Revocation,
        Self::Revoked,
        Self::Unpublished,
    ];
}

impl Entry {
    fn new(at: Option<DateTime<Utc>>, event: Event, text: impl Into<String>) -> Self {
        Self {
            at,
            event,
            text: text.into(),
            code: None,
            meaning: None,
        }
    }

    fn with_code(mut self, code: impl Into<String>) -> Self {
        let code = code.into();
        self.meaning = meaning(&code);
        self.code = Some(code);
        self
    }
}

/// Explains a job, or its message to the one recipient that `facts` are about. `status` has the first failed messages.
pub fn explain(facts: &JobFacts, status: JobStatus) -> Explanation {
    let state = match &facts.message {
        Some(message) => message_state(message.state),
        None => status.state,
    };
    let waiting = waiting::of(facts, state);
    let mut timeline = timeline::of(facts, status.state);
    let left_out = timeline.len().saturating_sub(MOST_ENTRIES);
    if left_out > 0 {
        timeline.drain(MOST_ENTRIES / 2..MOST_ENTRIES / 2 + left_out);
    }
    Explanation {
        job: status.job,
        job_type: facts.job_type,
        app: facts.app.clone(),
        group: facts.group.clone(),
        lane: facts.lane,
        state,
        to: facts.message.as_ref().map(|message| message.to.clone()),
        summary: summary(facts, state, &status.recipients, &waiting),
        waiting,
        timeline,
        left_out,
        recipients: status.recipients,
        failures: status.messages,
    }
}

/// The state that status objects show.
fn message_state(state: MessageState) -> JobState {
    use crate::domain::status::MessageState as Shown;
    Shown::parse(state.as_str()).map_or(JobState::Pending, JobState::from)
}

fn summary(facts: &JobFacts, state: JobState, counts: &Counts, waiting: &[Waiting]) -> String {
    if state == JobState::Pending {
        return waiting
            .first()
            .map_or_else(|| "pending".to_owned(), |waiting| waiting.text.clone());
    }
    if let Some(message) = &facts.message {
        return message_summary(facts, message);
    }
    if facts.job_type == JobType::Revoke {
        return format!(
            "{} of {} messages revoked, {} cancelled before they were sent, {} failed",
            counts.revoked, counts.total, counts.cancelled, counts.failed
        );
    }
    if counts.total > 0 {
        let shares = crate::domain::status::MessageState::ALL
            .into_iter()
            .filter(|state| counts.get(*state) > 0)
            .map(|state| format!("{} {state}", counts.get(state)))
            .collect::<Vec<_>>();
        return format!("of {} recipients {}", counts.total, shares.join(", "));
    }
    match &facts.error {
        Some(error) => format!("failed: {} {}", error.code, error.message),
        None => "done".to_owned(),
    }
}

fn message_summary(facts: &JobFacts, message: &MessageFact) -> String {
    let key = message.msg_key.as_deref().unwrap_or("none");
    let verb = if facts.job_type == JobType::Import {
        "imported"
    } else {
        "sent"
    };
    match message.state {
        MessageState::Sent if message.revoke_state == 3 => format!(
            "{verb} to {}, MsgKey {key}; its revocation failed: {}",
            message.to,
            message.revoke_error.as_deref().unwrap_or_default()
        ),
        MessageState::Sent if message.revoke_state == 1 => {
            format!("{verb} to {}, MsgKey {key}; it is about to be revoked", message.to)
        }
        MessageState::Sent => format!("{verb} to {}, MsgKey {key}", message.to),
        MessageState::Revoked => format!("{verb} to {} and revoked", message.to),
        MessageState::Cancelled => format!("revoked before it was sent to {}", message.to),
        MessageState::Expired => format!("its time was over before it was sent to {}", message.to),
        state => {
            let error = message.error.as_ref();
            let why = error.map(|error| format!(": {} {}", error.code, error.message));
            format!("{} for {}{}", state.as_str(), message.to, why.unwrap_or_default())
        }
    }
}

/// Whether a recipient is one of the job's: what a question about another is told.
pub fn knows_recipient(facts: &JobFacts, to: &AccountId) -> bool {
    facts.message.as_ref().is_some_and(|message| message.to == to.as_str())
}
