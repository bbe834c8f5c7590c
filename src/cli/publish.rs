//! Publishes jobs for `submit` and `revoke`: to their lane, or to their app's own queue of it, confirmed and routed.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::{
    broker::{Broker, Confirmed, Properties, Publication, PublishError, Publisher},
    config::Settings,
    domain::{AppName, Lane},
};

/// Between two attempts to publish a job.
const PAUSE: Duration = Duration::from_millis(500);

/// A job to publish.
pub(super) struct Outgoing {
    /// Its id, for `message_id`; `None` where the body was not looked into.
    pub(super) id: Option<String>,
    /// Its app, which may have a queue of its own.
    pub(super) app: AppName,
    /// The job.
    pub(super) body: Bytes,
    /// Where its events go beside the exchange.
    pub(super) reply_to: Option<String>,
}

/// Publishes to one lane. Cheap to clone.
#[derive(Clone)]
pub(super) struct LanePublisher {
    publisher: Publisher,
    exchange: String,
    lane: Lane,
    own_queues: Vec<AppName>,
    patience: Duration,
}

impl LanePublisher {
    /// For one lane. `patience` is how long a job is tried while the broker is away or takes nothing.
    pub(super) fn new(broker: &Broker, settings: &Settings, lane: Lane, patience: Duration) -> Self {
        Self {
            publisher: broker.publisher(),
            exchange: broker.topology().jobs_exchange(),
            lane,
            own_queues: settings
                .apps
                .iter()
                .filter(|(_, app)| app.queues)
                .map(|(name, _)| name.clone())
                .collect(),
            patience,
        }
    }

    /// Publishes a job; tried again while that may help, which is harmless: its id makes a second one a repeat.
    pub(super) async fn publish(&self, job: Outgoing) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.patience;
        let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap_or(0);
        let properties = Properties::new()
            .with_content_type("application/json")
            .with_timestamp(now);
        let properties = match &job.id {
            Some(id) => properties.with_message_id(id),
            None => properties,
        };
        let properties = match &job.reply_to {
            Some(queue) => properties.with_reply_to(queue),
            None => properties,
        };
        let publication = Publication {
            exchange: self.exchange.clone(),
            routing_key: self.routing_key(&job.app),
            properties,
            body: job.body,
            mandatory: true,
        };
        loop {
            let error = match self.publisher.publish(publication.clone()).await {
                Ok(Confirmed::Routed) => return Ok(()),
                Ok(Confirmed::Unroutable) => PublishError::Away(format!("no queue takes {}", publication.routing_key)),
                Err(error @ PublishError::Invalid(_)) => return Err(error),
                Err(error) => error,
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            sleep(PAUSE).await;
        }
    }

    fn routing_key(&self, app: &AppName) -> String {
        if self.own_queues.contains(app) {
            format!("{}.{app}", self.lane)
        } else {
            self.lane.to_string()
        }
    }
}
