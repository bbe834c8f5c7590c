//! A job on its way: what AMQP carries of it.

use bytes::Bytes;
use chrono::Utc;

use crate::{
    broker::{MAX_SHORT_STRING, Properties},
    domain::{AppName, job::Job},
};

use super::ProduceError;

/// An encoded job with what goes beside its body.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its id, for `message_id`; `None` where the body was not looked into, or where AMQP can't carry it.
    pub(super) id: Option<String>,
    /// Its app, which may have a queue of its own.
    pub(super) app: AppName,
    /// The job.
    pub(super) body: Bytes,
    reply_to: Option<String>,
    correlation_id: Option<String>,
}

impl Outgoing {
    /// Checks and encodes a job. One that needs an answer (`unread`, `history`) needs [`Outgoing::with_reply_to`].
    ///
    /// ```
    /// use im_dispatcher::{domain::{AccountId, JobId, job::{Job, Task}}, producer::Outgoing};
    ///
    /// let unread = Task::Unread { user: AccountId::parse("alice")?, peers: vec![] };
    /// let outgoing = Outgoing::of(&Job::new(JobId::parse("q-1")?, unread))?.with_reply_to("answers");
    /// assert_eq!(outgoing.body().as_ref(), br#"{"type":"unread","id":"q-1","user":"alice"}"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(job: &Job) -> Result<Self, ProduceError> {
        job.check().map_err(|source| ProduceError::Invalid {
            job_id: job.id.to_string(),
            source,
        })?;
        Ok(Self::encoded(job, job.encode().into()))
    }

    /// A job that was decoded from these bytes, which are published as they are.
    pub fn encoded(job: &Job, body: Bytes) -> Self {
        Self {
            id: Some(job.id.to_string()).filter(|id| id.len() <= MAX_SHORT_STRING),
            app: job.app.clone(),
            body,
            reply_to: None,
            correlation_id: None,
        }
    }

    /// Bytes that nobody has looked into: what is no job becomes a dead letter.
    pub fn unchecked(body: Bytes) -> Self {
        Self {
            id: None,
            app: AppName::default_app(),
            body,
            reply_to: None,
            correlation_id: None,
        }
    }

    /// A queue that gets the job's events, beside the exchange; at most [`MAX_SHORT_STRING`] bytes, else it is left out.
    #[must_use]
    pub fn with_reply_to(mut self, queue: impl Into<String>) -> Self {
        self.reply_to = Some(queue.into()).filter(|queue| queue.len() <= MAX_SHORT_STRING);
        self
    }

    /// What comes back as `correlation_id` with each event at `reply_to`; at most [`MAX_SHORT_STRING`] bytes.
    #[must_use]
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into()).filter(|id| id.len() <= MAX_SHORT_STRING);
        self
    }

    /// The job as it is published.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its properties, with the time of now.
    pub(super) fn properties(&self) -> Properties {
        let now = u64::try_from(Utc::now().timestamp()).unwrap_or(0);
        let properties = Properties::new()
            .with_content_type("application/json")
            .with_timestamp(now);
        let set = |properties: Properties, value: &Option<String>, with: fn(Properties, &str) -> Properties| match value
        {
            Some(value) => with(properties, value),
            None => properties,
        };
        let properties = set(properties, &self.id, Properties::with_message_id);
        let properties = set(properties, &self.reply_to, Properties::with_reply_to);
        set(properties, &self.correlation_id, Properties::with_correlation_id)
    }
}
