//! What became of the jobs: the dispatcher's events, typed.

use crate::{
    broker::{BrokerError, EventQueue},
    domain::event::{Event, EventError},
};

/// Why there is no further outcome.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// The connection is gone, and the queue with it: subscribe anew. What happened meanwhile is in `status`.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// What came is no event of this version; the next one may be.
    #[error(transparent)]
    Event(#[from] EventError),
}

/// Outcome events, as they come. Each is delivered at least once: [`Event::id`] is stable over repeats.
pub struct Outcomes {
    queue: EventQueue,
}

impl Outcomes {
    pub(super) const fn new(queue: EventQueue) -> Self {
        Self { queue }
    }

    /// The queue's name, for [`super::Outgoing::with_reply_to`].
    pub fn queue(&self) -> &str {
        self.queue.name()
    }

    /// The next event; waits for as long as it takes.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Event, OutcomeError> {
        Ok(Event::from_bytes(&self.queue.next().await?)?)
    }

    /// Closes the connection, and with it the queue.
    pub async fn close(self) {
        self.queue.close().await;
    }
}
