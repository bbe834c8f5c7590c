//! Publishing with confirms: one call, one answer, and never an answer that says more than is known.
//!
//! Knows exchanges and bytes. A publish waits for as long as its caller allows; whatever happens to the connection
//! meanwhile, the answer says whether the message is surely there, surely not, or perhaps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::{
    Properties,
    properties::MAX_SHORT_STRING,
    publish_channel::{CHANNELS, Kind, QUEUE},
    shared::Shared,
};

/// What a header frame needs besides the properties, in bytes, generously (AMQP 0-9-1, section 4.2.6.1).
const HEADER_FRAME_OVERHEAD: usize = 64;

/// A message to publish. Every message is persistent.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The exchange; empty for the default one, whose routing keys are queue names.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Properties and headers.
    pub properties: Properties,
    /// The message.
    pub body: Bytes,
    /// Whether it matters that a queue takes it.
    pub mandatory: bool,
}

/// The broker has taken the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// Every queue that it was routed to has it; without `mandatory` that may be none.
    Routed,
    /// Only with `mandatory`: no queue took it, so it is nowhere.
    Unroutable,
}

/// Why there is no confirm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// AMQP can't carry it: a name is too long, or the headers don't fit a frame. Surely not published.
    #[error("can't be published: {0}")]
    Invalid(String),
    /// There is no connection. Surely not published.
    #[error("RabbitMQ is away: {0}")]
    Away(String),
    /// The broker takes no publishes (memory or disk alarm). Surely not published.
    #[error("RabbitMQ takes no publishes: {0}")]
    Blocked(String),
    /// Too many publishes wait already. Surely not published.
    #[error("too many publishes wait")]
    Busy,
    /// The broker refused it (`basic.nack`): a full queue, or an error inside. Counts as not published.
    #[error("RabbitMQ refused the message")]
    Refused,
    /// It was given to the connection and no answer came: unknown whether published.
    #[error("unknown whether published: {0}")]
    Unknown(String),
}

impl PublishError {
    /// Whether the message may be in a queue all the same; publishing it again may then make a second one.
    pub fn maybe_published(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

const QUEUED: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;

/// Whose turn it is with a request: exactly one of channel and caller decides, so that a caller who gives up knows
/// whether the message was ever handed on.
#[derive(Clone, Default)]
pub(super) struct Fate(Arc<AtomicU8>);

impl Fate {
    fn decide(&self, fate: u8) -> bool {
        self.0
            .compare_exchange(QUEUED, fate, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The channel takes it. `false`: its caller has gone.
    pub(super) fn take(&self) -> bool {
        self.decide(TAKEN)
    }

    /// The caller gives up. `false`: the channel has it.
    fn abandon(&self) -> bool {
        self.decide(ABANDONED)
    }
}

/// A publication on its way to a channel.
pub(super) struct Request {
    pub(super) publication: Publication,
    pub(super) fate: Fate,
    pub(super) reply: oneshot::Sender<Result<Confirmed, PublishError>>,
}

/// Publishes. Cheap to clone; all clones share the channels.
#[derive(Clone)]
pub struct Publisher {
    pub(super) shared: Arc<Shared>,
    plain: Arc<[mpsc::Sender<Request>]>,
    mandatory: Arc<[mpsc::Sender<Request>]>,
    turn: Arc<AtomicUsize>,
}

impl Publisher {
    /// A publisher, and the other ends of its channels' queues.
    pub(super) fn new(shared: &Arc<Shared>) -> (Self, Vec<(Kind, mpsc::Receiver<Request>)>) {
        let (mut plain, mut mandatory, mut receivers) = (Vec::new(), Vec::new(), Vec::new());
        for kind in CHANNELS {
            let (sender, receiver) = mpsc::channel(QUEUE);
            match kind {
                Kind::Plain => plain.push(sender),
                Kind::Mandatory => mandatory.push(sender),
            }
            receivers.push((kind, receiver));
        }
        (
            Self {
                shared: Arc::clone(shared),
                plain: plain.into(),
                mandatory: mandatory.into(),
                turn: Arc::default(),
            },
            receivers,
        )
    }

    /// Publishes and waits for the broker's confirm, for [`super::BrokerOptions::confirm_timeout`] at most.
    ///
    /// # Cancel safety
    /// If the future is dropped the message may be published all the same.
    pub async fn publish(&self, publication: Publication) -> Result<Confirmed, PublishError> {
        self.publish_within(publication, self.shared.options.confirm_timeout)
            .await
    }

    /// The same, with a time of one's own.
    ///
    /// # Cancel safety
    /// If the future is dropped the message may be published all the same.
    pub async fn publish_within(
        &self,
        publication: Publication,
        patience: Duration,
    ) -> Result<Confirmed, PublishError> {
        let deadline = Instant::now() + patience;
        self.check(&publication)?;
        self.wait_until_up(deadline).await?;
        let (reply, answer) = oneshot::channel();
        let fate = Fate::default();
        let sender = self.channel(publication.mandatory);
        match time::timeout_at(deadline, sender.reserve()).await {
            Ok(Ok(permit)) => permit.send(Request {
                publication,
                fate: fate.clone(),
                reply,
            }),
            Ok(Err(_)) => return Err(PublishError::Away("shutting down".into())),
            Err(_) => return Err(self.why_not().unwrap_or(PublishError::Busy)),
        }
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(unknown("its channel ended"))),
            () = time::sleep_until(deadline) => Err(self.give_up(&fate, "no confirm in time")),
            () = self.blocked_for_long() => Err(self.give_up(&fate, "the broker blocked the connection")),
        }
    }

    /// The answer of a caller whose patience is at an end.
    fn give_up(&self, fate: &Fate, why: &str) -> PublishError {
        if fate.abandon() {
            self.why_not().unwrap_or(PublishError::Busy)
        } else {
            self.shared.stats.unknown.add(1);
            unknown(why)
        }
    }

    /// What AMQP or the broker would answer with the end of the channel, found out before.
    fn check(&self, publication: &Publication) -> Result<(), PublishError> {
        for (name, value) in [
            ("exchange", &publication.exchange),
            ("routing key", &publication.routing_key),
        ] {
            if value.len() > MAX_SHORT_STRING {
                let text = format!(
                    "the {name} is {} bytes long, AMQP allows {MAX_SHORT_STRING}",
                    value.len()
                );
                return Err(PublishError::Invalid(text));
            }
        }
        let (frame_max, len) = (
            self.shared.publishing.borrow().frame_max as usize,
            publication.properties.wire_len(),
        );
        if frame_max > 0 && len + HEADER_FRAME_OVERHEAD > frame_max {
            let text = format!("its properties take {len} bytes, a frame of this broker holds {frame_max}");
            return Err(PublishError::Invalid(text));
        }
        Ok(())
    }

    async fn wait_until_up(&self, deadline: Instant) -> Result<(), PublishError> {
        if self.why_not().is_none() {
            return Ok(());
        }
        let patience = Instant::now() + self.shared.options.event_timeout;
        let mut state = self.shared.publishing.subscribe();
        let up = time::timeout_at(deadline.min(patience), state.wait_for(|state| state.up)).await;
        match up {
            Ok(Ok(state)) => match &state.blocked {
                Some(why) => Err(PublishError::Blocked(why.clone())),
                None => Ok(()),
            },
            _ => Err(self
                .why_not()
                .unwrap_or_else(|| PublishError::Away("connecting".into()))),
        }
    }

    /// Why nothing can be published at this moment.
    fn why_not(&self) -> Option<PublishError> {
        let state = self.shared.publishing.borrow();
        match (&state.blocked, state.up) {
            (Some(why), true) => Some(PublishError::Blocked(why.clone())),
            (_, false) => Some(PublishError::Away(
                state.trouble.clone().unwrap_or_else(|| "connecting".into()),
            )),
            (None, true) => None,
        }
    }

    /// Returns once the connection has been blocked for as long as an event may wait.
    async fn blocked_for_long(&self) {
        let mut state = self.shared.publishing.subscribe();
        loop {
            if state.wait_for(|state| state.blocked.is_some()).await.is_err() {
                return std::future::pending().await;
            }
            let free = state.wait_for(|state| state.blocked.is_none());
            if time::timeout(self.shared.options.event_timeout, free).await.is_err() {
                return;
            }
        }
    }

    /// The channels of a kind by turns.
    fn channel(&self, mandatory: bool) -> &mpsc::Sender<Request> {
        let channels = if mandatory { &self.mandatory } else { &self.plain };
        &channels[self.turn.fetch_add(1, Ordering::Relaxed) % channels.len()]
    }
}

pub(super) fn unknown(why: &str) -> PublishError {
    PublishError::Unknown(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_and_channel_never_both_decide_a_requests_fate() {
        let fate = Fate::default();
        assert!(fate.take());
        assert!(!fate.abandon(), "a message that was handed on may be published");
        let fate = Fate::default();
        assert!(fate.abandon());
        assert!(
            !fate.take(),
            "a message whose caller was told that it is not published must not be"
        );
    }

    #[test]
    fn only_unknown_leaves_doubt() {
        assert!(unknown("x").maybe_published());
        for error in [
            PublishError::Busy,
            PublishError::Refused,
            PublishError::Blocked("alarm".into()),
        ] {
            assert!(!error.maybe_published());
        }
    }
}
