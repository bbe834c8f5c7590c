//! Outcome events: CloudEvents 1.0 in structured mode, one for each API call that reached an end.
//!
//! Answers how an event is spelled, read and routed. It must not know who publishes it or when.

use std::fmt;

use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{AccountId, AppName, GroupName, JobId, MsgKey, job::JobType};

/// The content type of an event in structured mode.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// The namespace of event ids (RFC 9562, version 5): itself the version 5 UUID of the name `im-dispatcher/events` in
/// RFC 9562's URL namespace.
const EVENT_IDS: Uuid = Uuid::from_u128(0x22cb_130e_f674_59e3_b181_feaf_f34a_01a3);

/// What stays as it is in a `source`, which is a URI reference: RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a call, or a job without one, ended. A closed set: routing keys, event types and labels come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The service accepted the message for at least one recipient of the call.
    Sent,
    /// Nobody was reached.
    Failed,
    /// Revoked before it was sent.
    Cancelled,
    /// Its `expires_at` passed before it was sent.
    Expired,
    /// Held back by a sending policy.
    Suppressed,
    /// Nobody can tell whether it was sent.
    Unknown,
    /// Revoked at the recipient.
    Revoked,
    /// Could not be revoked.
    RevokeFailed,
    /// Imported.
    Imported,
    /// A conversation was set to read.
    Read,
    /// The result of an `unread` or `history` job.
    Reply,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 11] = [
        Self::Sent,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Suppressed,
        Self::Unknown,
        Self::Revoked,
        Self::RevokeFailed,
        Self::Imported,
        Self::Read,
        Self::Reply,
    ];

    /// The last word of the routing key, and the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::RevokeFailed => "revoke_failed",
            Self::Imported => "imported",
            Self::Read => "read",
            Self::Reply => "reply",
        }
    }

    /// The inverse of [`Outcome::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }

    /// The inverse of [`Outcome::event_type`].
    pub fn of_event_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.event_type() == name)
    }

    /// The event's `type`.
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::Sent => "im.message.sent",
            Self::Failed => "im.message.failed",
            Self::Cancelled => "im.message.cancelled",
            Self::Expired => "im.message.expired",
            Self::Suppressed => "im.message.suppressed",
            Self::Unknown => "im.message.unknown",
            Self::Revoked => "im.message.revoked",
            Self::RevokeFailed => "im.message.revoke_failed",
            Self::Imported => "im.message.imported",
            Self::Read => "im.message.read",
            Self::Reply => "im.reply",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as events and statuses tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorInfo {
    /// A stable word: `im-90012`, `retries-exhausted`, `outcome-unknown`, …, as in the header `x-im-error-code`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// A recipient of a batch call that was not reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecipientFailure {
    /// Who.
    pub to: AccountId,
    /// A stable word, such as `im-70107`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// How many messages of one peer are unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerUnread {
    /// From whom.
    pub peer: AccountId,
    /// How many.
    pub unread: u64,
}

/// The result that an `im.reply` carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Reply {
    /// Of an `unread` job without peers.
    Unread {
        /// The unread messages in all.
        unread: u64,
    },
    /// Of an `unread` job with peers.
    UnreadByPeer {
        /// Those that the service could count.
        peers: Vec<PeerUnread>,
        /// Those that it could not.
        failed: Vec<RecipientFailure>,
    },
    /// Of a `history` job, or a part of it.
    History {
        /// Messages as the service lists them, newest page first.
        messages: Vec<Value>,
        /// Whether nothing follows.
        complete: bool,
    },
}

/// The event's `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventData {
    /// The job that the event is about; for a revocation the job that sent.
    pub job_id: JobId,
    /// Its type.
    #[serde(rename = "type")]
    pub job_type: JobType,
    /// Its app.
    pub app: AppName,
    /// Its group.
    pub group: Option<GroupName>,
    /// The account that the IM API used as sender.
    pub from: Option<AccountId>,
    /// The recipient, unless the call was a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<AccountId>,
    /// The recipients that a batch call reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<Vec<AccountId>>,
    /// The recipients that a batch call did not reach, each with its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Vec<RecipientFailure>>,
    /// The service's key of the message.
    pub msg_key: Option<MsgKey>,
    /// The service's time of the message (`MsgTime`), in Unix seconds.
    pub msg_time: Option<u64>,
    /// The calls that were made for it, counted from 1; 0 if there was none.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<ErrorInfo>,
    /// The revoke job whose doing it was.
    pub revocation: Option<JobId>,
    /// The result of an `unread` or `history` job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

impl EventData {
    /// Data that says only whose it is; the rest is set field by field.
    pub const fn new(job_id: JobId, job_type: JobType, app: AppName) -> Self {
        Self {
            job_id,
            job_type,
            app,
            group: None,
            from: None,
            to: None,
            sent: None,
            failed: None,
            msg_key: None,
            msg_time: None,
            attempts: 0,
            error: None,
            revocation: None,
            reply: None,
        }
    }
}

/// An outcome event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Stable over repeats, see [`event_id`].
    pub id: Uuid,
    /// The prefix of exchanges and queues, part of the event's `source`.
    pub namespace: String,
    /// When the outcome became known.
    pub time: DateTime<Utc>,
    /// What came out.
    pub outcome: Outcome,
    /// About what.
    pub data: EventData,
}

/// Why bytes are no event of ours.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not JSON, or a field is missing or of another type.
    #[error("read an event: {source}")]
    Json {
        /// What `serde_json` says.
        #[from]
        source: serde_json::Error,
    },
    /// A `type` that this version doesn't know.
    #[error("an event of the unknown type {0:?}")]
    UnknownType(String),
    /// A `source` that isn't a dispatcher's.
    #[error("an event of the foreign source {0:?}")]
    ForeignSource(String),
}

/// What is read of an event; further fields are passed over, since later versions may add some.
#[derive(Deserialize)]
struct Received {
    id: Uuid,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    time: DateTime<Utc>,
    data: EventData,
}

/// An outcome event of im-dispatcher: CloudEvents 1.0, structured mode. Fields may be added in later versions.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Event")]
pub(super) struct Envelope<'a> {
    /// The version of CloudEvents.
    #[schemars(extend("const" = "1.0"))]
    specversion: &'static str,
    /// Stable over repeats of the same event, unique in its `source`.
    #[schemars(with = "String", extend("format" = "uuid"))]
    id: Uuid,
    /// `im-dispatcher/<namespace>/<app>`.
    #[schemars(extend("format" = "uri-reference"))]
    source: String,
    /// What came out.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = Outcome::ALL.map(Outcome::event_type)))]
    event_type: &'static str,
    /// The job's id.
    subject: &'a JobId,
    /// When the outcome became known.
    time: DateTime<Utc>,
    /// What `data` is.
    #[schemars(extend("const" = "application/json"))]
    datacontenttype: &'static str,
    /// What came out for whom.
    data: &'a EventData,
}

impl Event {
    /// `<job type>.<outcome>`, such as `send.sent`.
    pub fn routing_key(&self) -> String {
        format!("{}.{}", self.data.job_type, self.outcome)
    }

    /// `im-dispatcher/<namespace>/<app>`; characters that a URI reference can't hold are percent-encoded.
    pub fn source(&self) -> String {
        let segment = |text| utf8_percent_encode(text, RESERVED).to_string();
        format!(
            "im-dispatcher/{}/{}",
            segment(&self.namespace),
            segment(self.data.app.as_str())
        )
    }

    /// Reads an event as a consumer gets it.
    pub fn from_bytes(body: &[u8]) -> Result<Self, EventError> {
        let received: Received = serde_json::from_slice(body)?;
        let outcome =
            Outcome::of_event_type(&received.event_type).ok_or(EventError::UnknownType(received.event_type))?;
        let mut segments = received.source.split('/');
        let (Some("im-dispatcher"), Some(namespace)) = (segments.next(), segments.next()) else {
            return Err(EventError::ForeignSource(received.source));
        };
        let namespace = percent_decode_str(namespace).decode_utf8_lossy().into_owned();
        Ok(Self {
            id: received.id,
            namespace,
            time: received.time,
            outcome,
            data: received.data,
        })
    }

    /// The event as JSON, to be published with [`CONTENT_TYPE`].
    ///
    /// # Panics
    ///
    /// Never: every type in an event serialises to JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&Envelope {
            specversion: "1.0",
            id: self.id,
            source: self.source(),
            event_type: self.outcome.event_type(),
            subject: &self.data.job_id,
            time: self.time,
            datacontenttype: "application/json",
            data: &self.data,
        })
        .expect("an event's types serialise to JSON")
    }
}

/// The id of an event: equal for equal job, call and outcome, so that a repeat is recognised. `call` names the call
/// among the job's calls and must itself be stable, such as the number of the batch and its generation.
pub fn event_id(job: &JobId, call: &str, outcome: Outcome) -> Uuid {
    let job = job.as_str();
    // The lengths keep ("a", "bc") and ("ab", "c") apart.
    let name = format!("{}:{job}{}:{call}{outcome}", job.len(), call.len());
    Uuid::new_v5(&EVENT_IDS, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> JobId {
        JobId::parse(text).unwrap()
    }

    fn event(outcome: Outcome) -> Event {
        let job_id = id("order-1");
        Event {
            id: event_id(&job_id, "0", outcome),
            namespace: "im".to_owned(),
            time: DateTime::from_timestamp(1_777_000_000, 0).unwrap(),
            outcome,
            data: EventData::new(job_id, JobType::Send, AppName::default_app()),
        }
    }

    #[test]
    fn an_event_is_a_cloud_event_with_every_required_attribute() {
        let mut event = event(Outcome::Sent);
        event.data.to = Some(AccountId::parse("bob").unwrap());
        event.data.msg_key = Some(MsgKey::parse("1_2_3").unwrap());
        event.data.attempts = 1;
        let value: Value = serde_json::from_slice(&event.to_bytes()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "specversion": "1.0", "id": event.id.to_string(), "source": "im-dispatcher/im/default",
                "type": "im.message.sent", "subject": "order-1", "time": "2026-04-24T03:06:40Z",
                "datacontenttype": "application/json",
                "data": {
                    "job_id": "order-1", "type": "send", "app": "default", "group": null, "from": null, "to": "bob",
                    "msg_key": "1_2_3", "msg_time": null, "attempts": 1, "error": null, "revocation": null,
                },
            })
        );
        assert_eq!(event.routing_key(), "send.sent");
    }

    #[test]
    fn an_event_is_read_as_it_was_written_whatever_it_says_beside() {
        let mut event = event(Outcome::Reply);
        event.namespace = "im a".to_owned();
        event.data.failed = Some(Vec::new());
        for reply in [
            Reply::Unread { unread: 3 },
            Reply::UnreadByPeer {
                peers: Vec::new(),
                failed: Vec::new(),
            },
            Reply::History {
                messages: vec![serde_json::json!({"MsgKey": "1_2_3"})],
                complete: true,
            },
        ] {
            event.data.reply = Some(reply);
            let mut value: Value = serde_json::from_slice(&event.to_bytes()).unwrap();
            value["later"] = 1.into();
            assert_eq!(Event::from_bytes(value.to_string().as_bytes()).unwrap(), event);
        }
        let mut value: Value = serde_json::from_slice(&event.to_bytes()).unwrap();
        value["type"] = "im.message.other".into();
        let unknown = Event::from_bytes(value.to_string().as_bytes());
        assert!(matches!(unknown, Err(EventError::UnknownType(_))));
        value["type"] = "im.reply".into();
        value["source"] = "elsewhere".into();
        let foreign = Event::from_bytes(value.to_string().as_bytes());
        assert!(matches!(foreign, Err(EventError::ForeignSource(_))));
        assert!(matches!(Event::from_bytes(b"{}"), Err(EventError::Json { .. })));
    }

    #[test]
    fn event_ids_are_stable_and_differ_by_job_call_and_outcome() {
        let first = event_id(&id("a"), "bc", Outcome::Sent);
        assert_eq!(first, event_id(&id("a"), "bc", Outcome::Sent));
        assert_ne!(first, event_id(&id("ab"), "c", Outcome::Sent));
        assert_ne!(first, event_id(&id("a"), "bc", Outcome::Failed));
        // Pinned: a new release must recognise the events of the one before it.
        assert_eq!(first.to_string(), "7d275578-78bb-5f10-8275-e2be34b31ea7");
        assert_eq!(EVENT_IDS, Uuid::new_v5(&Uuid::NAMESPACE_URL, b"im-dispatcher/events"));
    }

    #[test]
    fn the_words_of_outcomes_are_pinned() {
        let words: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.event_type()).collect();
        assert_eq!(
            words,
            [
                "im.message.sent",
                "im.message.failed",
                "im.message.cancelled",
                "im.message.expired",
                "im.message.suppressed",
                "im.message.unknown",
                "im.message.revoked",
                "im.message.revoke_failed",
                "im.message.imported",
                "im.message.read",
                "im.reply"
            ]
        );
        for outcome in Outcome::ALL {
            assert!(outcome.event_type().ends_with(&format!(".{outcome}")));
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
    }

    #[test]
    fn a_source_is_a_uri_reference_whatever_the_app_is_called() {
        let mut event = event(Outcome::Sent);
        event.data.app = AppName::parse("shop a/ü").unwrap();
        assert_eq!(event.source(), "im-dispatcher/im/shop%20a%2F%C3%BC");
    }
}
