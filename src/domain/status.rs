//! Status objects: where a job, its recipients or a group stand.
//!
//! Answers which states there are and how a job's follows from its recipients'. It must not know where records are kept.

use std::{fmt, ops::AddAssign};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{AccountId, AppName, GroupName, JobId, MsgKey, event::ErrorInfo, job::JobType};

/// The state of one recipient's message. Every recipient is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// Not yet in an end state.
    Pending,
    /// The service accepted it (or imported it).
    Sent,
    /// It was not sent and will not be.
    Failed,
    /// Revoked before it was sent.
    Cancelled,
    /// Its `expires_at` passed before it was sent.
    Expired,
    /// Sent and revoked.
    Revoked,
    /// Nobody can tell whether it was sent.
    Unknown,
    /// Held back by a sending policy.
    Suppressed,
}

impl MessageState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Sent,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Revoked,
        Self::Unknown,
        Self::Suppressed,
    ];

    /// The word of status objects and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Suppressed => "suppressed",
        }
    }

    /// The inverse of [`MessageState::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the state is an end state, which only a revocation or a retry by an operator changes.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

impl fmt::Display for MessageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many recipients are in each state. The states add up to `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Distinct recipients.
    pub total: u64,
    /// Not yet in an end state.
    pub pending: u64,
    /// Sent or imported.
    pub sent: u64,
    /// Failed.
    pub failed: u64,
    /// Revoked before they were sent.
    pub cancelled: u64,
    /// Expired.
    pub expired: u64,
    /// Sent and revoked; not counted under `sent`.
    pub revoked: u64,
    /// Nobody can tell.
    pub unknown: u64,
    /// Held back by a sending policy; left out while there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field by reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    /// How many are in a state.
    pub const fn get(&self, state: MessageState) -> u64 {
        match state {
            MessageState::Pending => self.pending,
            MessageState::Sent => self.sent,
            MessageState::Failed => self.failed,
            MessageState::Cancelled => self.cancelled,
            MessageState::Expired => self.expired,
            MessageState::Revoked => self.revoked,
            MessageState::Unknown => self.unknown,
            MessageState::Suppressed => self.suppressed,
        }
    }

    /// Counts recipients, in their state and in all.
    pub const fn add(&mut self, state: MessageState, recipients: u64) {
        let count = match state {
            MessageState::Pending => &mut self.pending,
            MessageState::Sent => &mut self.sent,
            MessageState::Failed => &mut self.failed,
            MessageState::Cancelled => &mut self.cancelled,
            MessageState::Expired => &mut self.expired,
            MessageState::Revoked => &mut self.revoked,
            MessageState::Unknown => &mut self.unknown,
            MessageState::Suppressed => &mut self.suppressed,
        };
        *count += recipients;
        self.total += recipients;
    }
}

impl FromIterator<(MessageState, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (MessageState, u64)>>(counted: I) -> Self {
        let mut counts = Self::default();
        for (state, recipients) in counted {
            counts.add(state, recipients);
        }
        counts
    }
}

/// A group's counts are the sum of its jobs'.
impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for state in MessageState::ALL {
            self.add(state, other.get(state));
        }
    }
}

/// How far a job is as a whole, apart from what its recipients say: all that there is to say of one without any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Something of it is still to be done, or not all of its recipients are on record yet.
    Open,
    /// Everything is done.
    Done,
    /// It failed as a whole.
    Failed,
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// A recipient is pending, or the job isn't carried out yet.
    Pending,
    /// Every recipient was sent to.
    Sent,
    /// Every recipient failed, or a job without recipients did.
    Failed,
    /// Every recipient was cancelled.
    Cancelled,
    /// Every recipient expired.
    Expired,
    /// Every recipient's message was revoked.
    Revoked,
    /// Every recipient's outcome is unknown.
    Unknown,
    /// Every recipient was held back.
    Suppressed,
    /// Recipients ended in different states.
    Mixed,
    /// A job without recipients was carried out.
    Done,
}

impl JobState {
    /// The state that follows from the recipients; of a job without any, from its progress.
    pub fn derive(counts: &Counts, progress: Progress) -> Self {
        if progress == Progress::Open || counts.pending > 0 {
            return Self::Pending;
        }
        if counts.total == 0 {
            return if progress == Progress::Failed {
                Self::Failed
            } else {
                Self::Done
            };
        }
        MessageState::ALL
            .into_iter()
            .find(|state| counts.get(*state) == counts.total)
            .map_or(Self::Mixed, Self::from)
    }

    /// The word of status objects and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Suppressed => "suppressed",
            Self::Mixed => "mixed",
            Self::Done => "done",
        }
    }
}

impl From<MessageState> for JobState {
    fn from(state: MessageState) -> Self {
        match state {
            MessageState::Pending => Self::Pending,
            MessageState::Sent => Self::Sent,
            MessageState::Failed => Self::Failed,
            MessageState::Cancelled => Self::Cancelled,
            MessageState::Expired => Self::Expired,
            MessageState::Revoked => Self::Revoked,
            MessageState::Unknown => Self::Unknown,
            MessageState::Suppressed => Self::Suppressed,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One recipient's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageStatus {
    /// The recipient.
    pub to: AccountId,
    /// Its state.
    pub state: MessageState,
    /// The service's key, once there is one.
    pub msg_key: Option<MsgKey>,
    /// When the service accepted it.
    pub sent_at: Option<DateTime<Utc>>,
    /// The calls made for it.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<ErrorInfo>,
}

/// A job: `status JOB --json` and `GET /api/jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its id.
    pub job: JobId,
    /// Its type.
    #[serde(rename = "type")]
    pub job_type: JobType,
    /// Its app.
    pub app: AppName,
    /// Its group.
    pub group: Option<GroupName>,
    /// Where it stands.
    pub state: JobState,
    /// When it was first recorded.
    pub created_at: DateTime<Utc>,
    /// Its recipients by state; a revoke job's are its targets.
    pub recipients: Counts,
    /// Its messages, or the part that was asked for.
    pub messages: Vec<MessageStatus>,
}

/// A group: `status --group G --json` and `GET /api/groups/{group}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub group: GroupName,
    /// Its send, `batch_send` and import jobs.
    pub jobs: u64,
    /// The sum of their recipients.
    pub recipients: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counted: &[(MessageState, u64)]) -> Counts {
        counted.iter().copied().collect()
    }

    #[test]
    fn a_job_is_pending_while_any_recipient_is() {
        let counts = counts(&[(MessageState::Sent, 99), (MessageState::Pending, 1)]);
        assert_eq!(JobState::derive(&counts, Progress::Done), JobState::Pending);
    }

    #[test]
    fn a_job_has_the_state_that_all_recipients_share() {
        for state in MessageState::ALL {
            let derived = JobState::derive(&counts(&[(state, 3)]), Progress::Done);
            assert_eq!(derived.as_str(), state.as_str());
        }
    }

    #[test]
    fn a_job_whose_recipients_ended_differently_is_mixed() {
        let counts = counts(&[(MessageState::Sent, 2), (MessageState::Revoked, 1)]);
        assert_eq!(JobState::derive(&counts, Progress::Done), JobState::Mixed);
    }

    #[test]
    fn a_job_without_recipients_is_done_or_failed_by_its_progress() {
        let none = Counts::default();
        assert_eq!(JobState::derive(&none, Progress::Open), JobState::Pending);
        assert_eq!(JobState::derive(&none, Progress::Done), JobState::Done);
        assert_eq!(JobState::derive(&none, Progress::Failed), JobState::Failed);
    }

    #[test]
    fn the_states_add_up_to_the_total_and_sums_keep_that() {
        let mut sum = counts(&[(MessageState::Sent, 2), (MessageState::Unknown, 5)]);
        sum += counts(&[(MessageState::Sent, 1), (MessageState::Expired, 4)]);
        assert_eq!(sum.total, 12);
        assert_eq!(
            MessageState::ALL.iter().map(|state| sum.get(*state)).sum::<u64>(),
            sum.total
        );
        assert_eq!(sum.sent, 3);
    }

    #[test]
    fn suppressed_is_shown_only_where_it_is_used() {
        let mut counts = Counts::default();
        assert_eq!(
            serde_json::to_string(&counts).unwrap(),
            r#"{"total":0,"pending":0,"sent":0,"failed":0,"cancelled":0,"expired":0,"revoked":0,"unknown":0}"#
        );
        counts.add(MessageState::Suppressed, 1);
        assert!(serde_json::to_string(&counts).unwrap().ends_with(r#""suppressed":1}"#));
    }

    #[test]
    fn a_status_prints_times_in_utc_and_a_missing_error_as_null() {
        let message = MessageStatus {
            to: AccountId::parse("bob").unwrap(),
            state: MessageState::Sent,
            msg_key: Some(MsgKey::parse("1_2_3").unwrap()),
            sent_at: DateTime::from_timestamp_micros(1_777_000_000_123_456),
            attempts: 1,
            error: None,
        };
        let job = JobStatus {
            job: JobId::parse("order-1").unwrap(),
            job_type: JobType::Send,
            app: AppName::default_app(),
            group: None,
            state: JobState::Sent,
            created_at: DateTime::from_timestamp(1_777_000_000, 0).unwrap(),
            recipients: counts(&[(MessageState::Sent, 1)]),
            messages: vec![message],
        };
        let value = serde_json::to_value(&job).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "job": "order-1", "type": "send", "app": "default", "group": null, "state": "sent",
                "created_at": "2026-04-24T03:06:40Z",
                "recipients": {"total": 1, "pending": 0, "sent": 1, "failed": 0, "cancelled": 0, "expired": 0,
                    "revoked": 0, "unknown": 0},
                "messages": [{"to": "bob", "state": "sent", "msg_key": "1_2_3",
                    "sent_at": "2026-04-24T03:06:40.123456Z", "attempts": 1, "error": null}],
            })
        );
        assert_eq!(serde_json::from_value::<JobStatus>(value).unwrap(), job);
    }
}
