//! Outcomes as events: what each kind of end says, under an id that a repeat shares.

use chrono::Utc;

use crate::{
    broker::Properties,
    domain::{
        AccountId, AppName, GroupName, JobId, MsgKey,
        event::{ErrorInfo, Event, EventData, Outcome, RecipientFailure, Reply, event_id},
        job::JobType,
    },
    store::OutboxEvent,
};

/// Builds events of one namespace.
#[derive(Debug)]
pub(super) struct Events {
    namespace: String,
}

/// Whose event it is.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) job: JobId,
    pub(super) job_type: JobType,
    pub(super) app: AppName,
    pub(super) group: Option<GroupName>,
    pub(super) from: Option<AccountId>,
    pub(super) reply_to: Option<String>,
    pub(super) correlation_id: Option<String>,
}

impl About {
    /// A producer's wish for a copy, from the job's AMQP properties.
    pub(super) fn replying(mut self, properties: &Properties) -> Self {
        self.reply_to = properties.reply_to().map(str::to_owned);
        self.correlation_id = properties.correlation_id().map(str::to_owned);
        self
    }
}

/// What an event says beside whose it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) to: Option<AccountId>,
    pub(super) sent: Option<Vec<AccountId>>,
    pub(super) failed: Option<Vec<RecipientFailure>>,
    pub(super) msg_key: Option<String>,
    pub(super) msg_time: Option<i64>,
    pub(super) attempts: u32,
    pub(super) error: Option<(String, String)>,
    pub(super) revocation: Option<JobId>,
    pub(super) reply: Option<Reply>,
}

impl Events {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    /// An event; `call` names the call among the job's calls, the same in each repeat.
    pub(super) fn build(&self, about: &About, call: &str, outcome: Outcome, facts: Facts) -> OutboxEvent {
        let mut data = EventData::new(about.job.clone(), about.job_type, about.app.clone());
        data.group.clone_from(&about.group);
        data.from.clone_from(&about.from);
        data.to = facts.to;
        data.sent = facts.sent;
        data.failed = facts.failed;
        data.msg_key = facts.msg_key.and_then(|key| MsgKey::parse(key).ok());
        data.msg_time = facts.msg_time.and_then(|time| u64::try_from(time).ok());
        data.attempts = facts.attempts;
        data.error = facts.error.map(|(code, message)| ErrorInfo { code, message });
        data.revocation = facts.revocation;
        data.reply = facts.reply;
        let event = Event {
            id: event_id(&about.job, call, outcome),
            namespace: self.namespace.clone(),
            time: Utc::now(),
            outcome,
            data,
        };
        OutboxEvent {
            job: about.job.clone(),
            event_id: event.id.to_string(),
            routing_key: event.routing_key(),
            body: event.to_bytes(),
            reply_to: about.reply_to.clone(),
            correlation_id: about.correlation_id.clone(),
        }
    }
}

/// The call's name of a single: its generation.
pub(super) fn single_call(generation: i32) -> String {
    format!("single/{generation}")
}

/// Recipients that were not reached for one common reason.
pub(super) fn all_failed<'a>(
    to: impl IntoIterator<Item = &'a str>,
    code: &str,
    message: &str,
) -> Vec<RecipientFailure> {
    to.into_iter()
        .filter_map(|to| {
            Some(RecipientFailure {
                to: AccountId::parse(to).ok()?,
                code: code.to_owned(),
                message: message.to_owned(),
            })
        })
        .collect()
}
