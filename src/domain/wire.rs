//! A job's fields as they are spelled in JSON, per type. serde reads them, schemars describes them; the rules that
//! neither can say are in `decode`.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::{
    AccountId, AppName, GroupName, JobId, MsgKey,
    job::OnUnknown,
    message::Message,
    policy::{Cap, SendWindow},
};

/// The fields that every job can have.
pub(super) const ENVELOPE: [&str; 10] = [
    "type",
    "id",
    "app",
    "group",
    "send_at",
    "expires_at",
    "coalesce",
    "on_unknown",
    "send_window",
    "cap",
];
/// The fields of the envelope that only a `send` and a `batch_send` can have.
pub(super) const POLICY: [&str; 2] = ["send_window", "cap"];
/// The options of a message that a `batch_send` can't have: batchsendmsg has no `ForbidCallbackControl`.
pub(super) const NOT_IN_BATCH: [&str; 1] = ["forbid_callbacks"];
/// The options of a message that an `import` can't have: importmsg has MsgSeq, MsgRandom and `CloudCustomData` only.
pub(super) const NOT_IN_IMPORT: [&str; 7] = [
    "offline_push",
    "life_time",
    "sync_to_sender",
    "forbid_callbacks",
    "control",
    "read_receipt",
    "extension",
];

/// What every job can say.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    /// What to do.
    #[serde(rename = "type")]
    #[expect(
        dead_code,
        reason = "read before the rest of the envelope, since it says what the rest may be"
    )]
    job_type: super::job::JobType,
    /// The idempotency key, unique in the namespace. Needed here or as the AMQP property `message_id`; where both are
    /// given, this one counts.
    pub(super) id: Option<JobId>,
    /// The configured app that carries the job out.
    #[serde(default = "AppName::default_app")]
    pub(super) app: AppName,
    /// A label such as a campaign's name, to revoke or look up many jobs at once.
    pub(super) group: Option<GroupName>,
    /// Not before this time.
    #[serde(default, deserialize_with = "time")]
    pub(super) send_at: Option<DateTime<Utc>>,
    /// Not after this time: the outcome is then `expired`. Later than `send_at`.
    #[serde(default, deserialize_with = "time")]
    pub(super) expires_at: Option<DateTime<Utc>>,
    /// Whether the job may be merged with equal ones to other recipients into one batch call. True only in a `send`.
    #[serde(default)]
    pub(super) coalesce: bool,
    /// What follows when a call's answer was lost and the history can't tell: `reconcile` ends as `unknown`, `fail` as
    /// `failed`, `resend` sends again, at the risk of a second message.
    #[serde(default)]
    pub(super) on_unknown: OnUnknown,
    /// When its messages may go out; outside of it they wait for the next opening. Only in a `send` or a `batch_send`.
    pub(super) send_window: Option<SendWindow>,
    /// How many messages a recipient may get within a period: a message beyond it is suppressed. Only in a `send` or a
    /// `batch_send`.
    pub(super) cap: Option<Cap>,
}

/// One message to one recipient.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Send {
    /// The sender; without it, the app's administrator.
    pub(super) from: Option<AccountId>,
    /// The recipient.
    pub(super) to: AccountId,
    /// The message.
    pub(super) message: Message,
}

/// One message to many recipients, sent in calls of at most 500.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchSend {
    /// The sender; without it, the app's administrator.
    pub(super) from: Option<AccountId>,
    /// The recipients. Duplicates are sent once.
    #[schemars(length(min = 1, max = 100_000))]
    pub(super) to: Vec<AccountId>,
    /// The message.
    pub(super) message: Message,
}

/// A message imported with its own time.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    /// The sender.
    pub(super) from: AccountId,
    /// The recipient.
    pub(super) to: AccountId,
    /// The message.
    pub(super) message: Message,
    /// When it was sent, in Unix seconds.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub(super) timestamp: u64,
    /// Counted as unread and pushed (true), or history (false).
    pub(super) unread: bool,
}

/// Sets a conversation to read.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkRead {
    /// Who reads.
    pub(super) user: AccountId,
    /// The other side.
    pub(super) peer: AccountId,
}

/// Counts unread messages. Answers through `reply_to`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Unread {
    /// Whose.
    pub(super) user: AccountId,
    /// From whom; empty or left out: in all.
    #[serde(default)]
    #[schemars(length(max = 100_000))]
    pub(super) peers: Vec<AccountId>,
}

/// Every message of a conversation. Answers through `reply_to`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// One side, whose view is asked.
    pub(super) from: AccountId,
    /// The other side.
    pub(super) to: AccountId,
    /// Not older.
    #[serde(default, deserialize_with = "time")]
    pub(super) since: Option<DateTime<Utc>>,
    /// Not newer.
    #[serde(default, deserialize_with = "time")]
    pub(super) until: Option<DateTime<Utc>>,
    /// The most messages.
    #[schemars(range(min = 1))]
    pub(super) limit: Option<u32>,
}

/// Revokes messages.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Revoke {
    /// What to revoke.
    #[expect(
        dead_code,
        reason = "describes the field; decode reads it by its form, to name its faults"
    )]
    target: Target,
}

/// What a revoke job revokes.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "RevokeTarget")]
#[expect(
    dead_code,
    reason = "describes the forms; decode reads each by itself, to name its faults"
)]
pub(super) enum Target {
    Job(JobTarget),
    Group(GroupTarget),
    Message(MessageTarget),
}

/// A job's messages, all or those to some recipients.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobTarget {
    /// The job that sent.
    pub(super) job: JobId,
    /// Only to these recipients.
    #[schemars(length(min = 1, max = 100_000))]
    pub(super) to: Option<Vec<AccountId>>,
}

/// Every message of a group's jobs, also of those that arrive within 7 days.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupTarget {
    /// The group.
    pub(super) group: GroupName,
}

/// One message by its key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageTarget {
    /// The sender that the message had.
    pub(super) from: AccountId,
    /// The recipient.
    pub(super) to: AccountId,
    /// Its MsgKey.
    pub(super) msg_key: MsgKey,
}

/// Reads an RFC 3339 time. chrono's own reading is more lenient, and JSON Schema's `date-time` is not.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = DateTime<Utc>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an RFC 3339 time")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<DateTime<Utc>, E> {
            // chrono takes a blank for the T, which RFC 3339 leaves to applications and JSON Schema doesn't.
            let separated = text
                .as_bytes()
                .get(10)
                .is_some_and(|byte| byte.eq_ignore_ascii_case(&b'T'));
            DateTime::parse_from_rfc3339(text)
                .ok()
                .filter(|_| separated)
                .map(|time| time.with_timezone(&Utc))
                .ok_or_else(|| E::custom("must be an RFC 3339 time, such as 2026-05-01T08:00:00Z"))
        }
    }

    deserializer.deserialize_str(Visitor).map(Some)
}
