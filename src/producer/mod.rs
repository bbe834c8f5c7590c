//! Publishing jobs from Rust: typed, checked before they leave, confirmed and routed.
//!
//! Answers how a job gets safely into its lane, one at a time or thousands in flight, and how its outcomes come back. It
//! must not know what carries a job out. `im-dispatcher submit` is built on it.
//!
//! ```no_run
//! use im_dispatcher::{
//!     domain::{AccountId, JobId, Lane, job::{Job, Task}, message::Message},
//!     producer::{Producer, ProducerOptions},
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = Producer::connect(ProducerOptions::new("amqp://guest:guest@127.0.0.1:5672/%2f")).await?;
//! let mut outcomes = producer.outcomes(&["send.*"]).await?;
//!
//! let job = Job::new(
//!     JobId::parse("otp-4711")?, // the idempotency key: the same job again is not sent again
//!     Task::Send {
//!         from: None, // the app's administrator
//!         to: AccountId::parse("alice")?,
//!         message: Message::from_text("Your code is 123456"),
//!     },
//! );
//! producer.publish(Lane::High, &job).await?; // returns when a queue has it for good
//!
//! let event = outcomes.next().await?;
//! println!("{} is {}, MsgKey {:?}", event.data.job_id, event.outcome, event.data.msg_key);
//! producer.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Many jobs are published through a [`Pipeline`], which has a thousand confirms under way at once.
//!
//! The names must be the workers': [`ProducerOptions::namespace`], and [`ProducerOptions::app_queues`] where apps have
//! queues of their own. What is missing of the exchanges and queues is declared, where the login may.

mod outcomes;
mod outgoing;
mod pipeline;

use std::{path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use crate::{
    broker::{
        Broker, BrokerError, BrokerOptions, BrokerReadiness, BrokerSetupError, Confirmed, Publication, PublishError,
        Publisher,
    },
    domain::{
        AppName, Lane,
        job::{DecodeError, Job},
    },
};

pub use self::{
    outcomes::{OutcomeError, Outcomes},
    outgoing::Outgoing,
    pipeline::Pipeline,
};

/// Between two attempts to publish a job.
const PAUSE: Duration = Duration::from_millis(500);

/// What a producer needs to know.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// `amqp://` or `amqps://`, with login and virtual host; of a cluster the URL of each node, with commas between.
    pub url: SecretString,
    /// The prefix of exchanges and queues; `im` unless set.
    pub namespace: String,
    /// The apps that have lane queues of their own (`apps.NAME.queues` of the workers' settings).
    pub app_queues: Vec<AppName>,
    /// PEM certificates that are trusted besides the system's.
    pub extra_ca: Option<Vec<u8>>,
    /// A file with more of them, read anew for each connection.
    pub ca_file: Option<PathBuf>,
    /// How long [`Producer::connect`] waits for the broker; 15 s unless set.
    pub connect_timeout: Duration,
    /// How long a job is tried while the broker is away or takes nothing; 60 s unless set.
    pub patience: Duration,
}

impl ProducerOptions {
    /// The defaults for one broker.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: SecretString::from(url.into()),
            namespace: "im".to_owned(),
            app_queues: Vec::new(),
            extra_ca: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(15),
            patience: Duration::from_mins(1),
        }
    }
}

/// Why there is no producer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL, the namespace or a certificate is wrong.
    #[error(transparent)]
    Setup(#[from] BrokerSetupError),
    /// The broker was not there in time.
    #[error("RabbitMQ can't be used: {}", .0.reasons.join("; "))]
    Away(BrokerReadiness),
}

/// Why a job was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// It breaks a rule of the contract: a worker would only make a dead letter of it. Surely not published.
    #[error("job {job_id} is refused: {source}")]
    Invalid {
        /// Which job.
        job_id: String,
        /// Which field and why.
        #[source]
        source: DecodeError,
    },
    /// The broker didn't take it within [`ProducerOptions::patience`]. Publishing it again is harmless, whatever
    /// [`PublishError::maybe_published`] says: its id makes a second one a repeat.
    #[error("publish job {job_id}: {source}")]
    Publish {
        /// Which job.
        job_id: String,
        /// What the broker said, or that it said nothing.
        #[source]
        source: PublishError,
    },
}

/// Publishes jobs. Cheap to clone; all clones share one connection, which is rebuilt whenever it is lost.
#[derive(Clone)]
pub struct Producer {
    broker: Broker,
    publisher: Publisher,
    exchange: Arc<str>,
    own_queues: Arc<[AppName]>,
    patience: Duration,
}

impl Producer {
    /// Connects, declares what is missing, and waits until jobs can be published. Needs a tokio runtime.
    pub async fn connect(options: ProducerOptions) -> Result<Self, ConnectError> {
        let mut broker = BrokerOptions::new(options.url, options.namespace).publishing_only();
        broker.extra_ca = options.extra_ca;
        broker.ca_file = options.ca_file;
        broker.app_queues = options
            .app_queues
            .iter()
            .flat_map(|app| Lane::ALL.map(|lane| (lane, app.clone())))
            .collect();
        let (broker, _no_deliveries) = Broker::start(broker)?;
        if let Err(readiness) = broker.wait_until_ready(options.connect_timeout).await {
            broker.close().await;
            return Err(ConnectError::Away(readiness));
        }
        Ok(Self::over(broker, options.app_queues, options.patience))
    }

    /// A producer over a broker layer that is there already. `own_queues` are the apps with lane queues of their own,
    /// `patience` is how long a job is tried while the broker is away or takes nothing.
    pub fn over(broker: Broker, own_queues: impl IntoIterator<Item = AppName>, patience: Duration) -> Self {
        Self {
            publisher: broker.publisher(),
            exchange: broker.topology().jobs_exchange().into(),
            own_queues: own_queues.into_iter().collect(),
            patience,
            broker,
        }
    }

    /// Checks a job, publishes it, and waits for the broker's word that a queue has it for good.
    ///
    /// # Cancel safety
    /// If the future is dropped the job may be published all the same.
    pub async fn publish(&self, lane: Lane, job: &Job) -> Result<(), ProduceError> {
        let outgoing = Outgoing::of(job)?;
        self.publish_outgoing(lane, outgoing)
            .await
            .map_err(|source| ProduceError::Publish {
                job_id: job.id.to_string(),
                source,
            })
    }

    /// The same for a job that is encoded already, or has a `reply_to`. It is tried again while that may help, which is
    /// harmless: its id makes a second one a repeat.
    ///
    /// # Cancel safety
    /// If the future is dropped the job may be published all the same.
    pub async fn publish_outgoing(&self, lane: Lane, job: Outgoing) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.patience;
        let publication = Publication {
            exchange: self.exchange.as_ref().to_owned(),
            routing_key: self.routing_key(lane, &job.app),
            properties: job.properties(),
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

    /// Publishes many jobs of a lane with their confirms under way at once. `T` is what the caller knows a job by.
    pub fn pipeline<T: Send + 'static>(&self, lane: Lane) -> Pipeline<T> {
        Pipeline::new(self.clone(), lane)
    }

    /// The outcomes whose routing keys match, `<job type>.<outcome>`: `send.sent`, `batch_send.*`, `#` for all; with no key
    /// only those of jobs whose `reply_to` is [`Outcomes::queue`]. From now on, and as long as the connection lasts: who
    /// must not miss one binds a durable queue to the exchange `<namespace>.events`.
    pub async fn outcomes(&self, keys: &[&str]) -> Result<Outcomes, BrokerError> {
        Ok(Outcomes::new(self.broker.event_queue(keys).await?))
    }

    /// Closes the connection in good order. Call it before the runtime ends.
    pub async fn close(&self) {
        self.broker.close().await;
    }

    fn routing_key(&self, lane: Lane, app: &AppName) -> String {
        if self.own_queues.contains(app) {
            format!("{lane}.{app}")
        } else {
            lane.to_string()
        }
    }
}
