//! RabbitMQ: jobs come in, events and dead letters go out, and neither a restart nor a cut of the broker changes that.
//!
//! Two connections, since an alarm of the broker stops only the one that publishes. Each is kept up by a supervisor,
//! which rebuilds connection, topology, channels and consumers. This module knows AMQP and the contract's names; it
//! must not know what a job is, nor what is stored or called.
//!
//! ```text
//! mod            the handle
//! topology       what exists             link        one connection, and its certain end
//! supervisor     keeps both up           watchdog    does it get anywhere?
//! consumer       a queue's deliveries    settle      a disposition becomes an ack
//! publisher      one call, one answer    publish_channel   confirms, and what was returned
//! legible, net   bytes from the broker, so that lapin can read them
//! messages       jobs, events, letters   dead_letters      look, replay, discard
//! event_queue    events, for who reads them
//! ```
//!
//! ```no_run
//! use std::time::Duration;
//! use im_dispatcher::{broker::{Broker, BrokerOptions, Disposition}, domain::Lane};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let url = "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned().into();
//! let (broker, mut deliveries) = Broker::start(BrokerOptions::new(url, "im"))?;
//! if let Err(not_ready) = broker.wait_until_ready(Duration::from_secs(15)).await {
//!     return Err(not_ready.reasons.join("; ").into());
//! }
//! let mut urgent = deliveries.take(Lane::High);
//! while let Some(delivery) = urgent.recv().await {
//!     println!("{} bytes from {}", delivery.body.len(), delivery.queue);
//!     delivery.settle(Disposition::Ack);
//! }
//! broker.close().await;
//! # Ok(())
//! # }
//! ```

mod consumer;
pub mod dead_letters;
mod error;
mod event_queue;
mod legible;
mod link;
mod messages;
mod net;
mod options;
mod properties;
mod publish_channel;
mod publisher;
mod settle;
mod shared;
mod stats;
mod supervisor;
mod topology;
mod watchdog;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::{sync::mpsc, task::JoinHandle, time};
use tokio_util::sync::DropGuard;

pub use self::{
    dead_letters::{DeadLetter, DeadLetterReport, DeadLetters, Selection},
    error::{BrokerError, BrokerSetupError},
    event_queue::EventQueue,
    messages::{EVENT_CONTENT_TYPE, Letter, header},
    options::BrokerOptions,
    properties::{MAX_SHORT_STRING, Properties, PropertiesError},
    publisher::{Confirmed, Publication, PublishError, Publisher},
    settle::{Delivery, Disposition},
    shared::BrokerReadiness,
    stats::{BrokerStats, Counter},
    topology::{JobQueue, QueueDepth, Topology},
};
use self::{
    link::{Endpoint, Link},
    publish_channel::Publishing,
    shared::Shared,
    supervisor::{Consumers, keep_up},
};
use crate::domain::Lane;

/// How long [`Broker::stop_consuming`] waits for the broker's answers.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long [`Broker::close`] waits for both connections; each step inside has a shorter limit of its own.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// A handle to the broker layer, cheap to clone. When the last one goes, everything is closed in the background;
/// [`Broker::close`] waits for it.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    publisher: Publisher,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    _stop: DropGuard,
}

impl Broker {
    /// Starts connecting and returns at once; a broker that is away is tried again for ever. Needs a tokio runtime.
    pub fn start(options: BrokerOptions) -> Result<(Self, Deliveries), BrokerSetupError> {
        let options = Arc::new(options);
        let endpoint = Endpoint::new(&options)?;
        let topology = Topology::new(&options.namespace, &options.app_queues)?;
        let shared = Arc::new(Shared::new(Arc::clone(&options), endpoint, topology));
        let (publisher, requests) = Publisher::new(&shared);
        let (outs, deliveries) = streams(&shared);
        let mut tasks = vec![tokio::spawn(keep_up(Arc::clone(&shared), Publishing::new(requests)))];
        if options.consume {
            let consumers = Consumers::new(&shared, &outs);
            tasks.push(tokio::spawn(keep_up(Arc::clone(&shared), consumers)));
        }
        let stop = shared.stop.clone().drop_guard();
        let inner = Inner {
            shared,
            publisher,
            tasks: Mutex::new(tasks),
            _stop: stop,
        };
        Ok((Self { inner: Arc::new(inner) }, deliveries))
    }

    /// Takes another URL for the connections to come, so that a password can be changed, or a node replaced, without a new
    /// start: the user and the virtual host must be the same. Connections that stand stay as they are.
    ///
    /// # Errors
    /// The URL is none, or of another user or virtual host; then nothing is changed.
    pub fn set_url(&self, url: &SecretString) -> Result<(), BrokerSetupError> {
        self.shared().endpoint.set_url(url)
    }

    /// Publishes jobs, events and dead letters.
    pub fn publisher(&self) -> Publisher {
        self.inner.publisher.clone()
    }

    /// The dead queue's tools.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.clone())
    }

    /// A queue of one's own that gets the events whose routing keys match, on a connection of its own: `send.sent`,
    /// `batch_send.*`, `#` for all. With no key it gets only what names it as `reply_to`. It lasts as long as its
    /// connection: who must not miss an event binds a durable queue instead.
    pub async fn event_queue(&self, keys: &[&str]) -> Result<EventQueue, BrokerError> {
        EventQueue::open(self.shared(), keys).await
    }

    /// Whether everything is there, and what is not.
    pub fn readiness(&self) -> BrokerReadiness {
        self.shared().readiness()
    }

    /// Whether its connections are up, whatever else may be missing.
    pub fn is_connected(&self) -> bool {
        self.shared().is_connected()
    }

    /// What was counted since the start.
    pub fn stats(&self) -> Arc<BrokerStats> {
        Arc::clone(&self.shared().stats)
    }

    /// The names in use.
    pub fn topology(&self) -> &Topology {
        &self.shared().topology
    }

    /// Stops taking deliveries, or goes on, while some other service is away. What was delivered stays with its holder
    /// and can be settled.
    pub fn pause_consuming(&self, pause: bool) {
        self.shared()
            .intake
            .send_if_modified(|intake| std::mem::replace(&mut intake.paused, pause) != pause);
    }

    /// Lets each queue start with one delivery, and the number double as deliveries are acknowledged: as
    /// [`BrokerOptions::slow_start`], for what is learnt only now. Without effect on a queue that is consumed already.
    pub fn start_slowly(&self) {
        self.shared().slow_start.store(true, Ordering::Relaxed);
    }

    /// Sets the prefetch of a lane's queues, or with `None` goes back to that of the options. One that the options fix stays.
    pub fn set_prefetch(&self, lane: Lane, prefetch: Option<u16>) {
        let options = &self.shared().options;
        let own = options.prefetch[lane.index()];
        let wanted = match prefetch {
            Some(prefetch) if !options.fixed_prefetch[lane.index()] => prefetch.max(own),
            _ => own,
        };
        self.shared()
            .prefetch
            .send_if_modified(|now| std::mem::replace(&mut now[lane.index()], wanted) != wanted);
    }

    /// Stops taking deliveries of a lane, or goes on.
    pub fn pause_lane(&self, lane: Lane, pause: bool) {
        self.shared()
            .intake
            .send_if_modified(|intake| std::mem::replace(&mut intake.lanes[lane.index()], pause) != pause);
    }

    /// The first step of a shutdown: cancels every consumer, for good, and returns when the broker has answered (or
    /// after 5 s). What was delivered stays with its holder and can be settled.
    pub async fn stop_consuming(&self) {
        self.shared().intake.send_modify(|intake| intake.stopped = true);
        let mut intake = self.shared().intake.subscribe();
        if time::timeout(STOP_TIMEOUT, intake.wait_for(|intake| intake.active == 0))
            .await
            .is_err()
        {
            tracing::warn!("not every consumer was cancelled in time");
        }
    }

    /// The last step of a shutdown, after the last settle: sends what acks wait, closes channels and connections.
    /// Unsettled deliveries go back to their queues. Call it before the runtime ends; lapin's threads outlive it
    /// otherwise and say so.
    pub async fn close(&self) {
        self.stop_consuming().await;
        self.shared().stop.cancel();
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            match time::timeout(CLOSE_TIMEOUT, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a supervisor's task panicked"),
                Err(_) => tracing::warn!("RabbitMQ's connections were not closed in time"),
            }
        }
    }

    /// How many messages wait in each queue, the dead queue last; a queue that is missing is left out.
    pub async fn queue_depths(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        let link = self.wait_for_link().await?;
        let depths = topology::depths(self.topology(), &link);
        time::timeout(self.shared().options.attempt_timeout, depths)
            .await
            .unwrap_or_else(|_| {
                Err(BrokerError::Timeout {
                    what: "ask for the queues' depths".into(),
                })
            })
    }

    /// Waits until the broker layer is ready, for at most `patience`; what is missing otherwise.
    pub async fn wait_until_ready(&self, patience: Duration) -> Result<(), BrokerReadiness> {
        let deadline = time::Instant::now() + patience;
        loop {
            let readiness = self.readiness();
            if readiness.ready {
                return Ok(());
            }
            if time::Instant::now() >= deadline {
                return Err(readiness);
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// A connection to ask something on; a short wait covers a start or a reconnect.
    async fn wait_for_link(&self) -> Result<Arc<Link>, BrokerError> {
        let deadline = time::Instant::now() + self.shared().options.event_timeout;
        loop {
            match self.shared().any_link() {
                Err(_) if time::Instant::now() < deadline => time::sleep(Duration::from_millis(20)).await,
                found => return found,
            }
        }
    }
}

/// The deliveries of all lanes, a stream each.
pub struct Deliveries {
    lanes: [Option<mpsc::Receiver<Delivery>>; 3],
}

impl Deliveries {
    /// A lane's stream: its own queue's deliveries and those of the apps' queues of that lane. It ends when the broker
    /// layer has closed.
    ///
    /// # Panics
    /// If it was taken before: a lane has one reader.
    pub fn take(&mut self, lane: Lane) -> mpsc::Receiver<Delivery> {
        self.lanes[lane.index()]
            .take()
            .expect("a lane's deliveries are taken once")
    }
}

/// A stream for each lane, with room for everything that its queues may have unsettled, twice: what a lost channel had
/// brought may still lie there when the next one brings it again.
fn streams(shared: &Shared) -> ([mpsc::Sender<Delivery>; 3], Deliveries) {
    let room = |lane: Lane| {
        let queues = shared
            .topology
            .job_queues()
            .iter()
            .filter(|queue| queue.lane == lane)
            .count();
        2 * queues * usize::from(shared.options.prefetch[lane.index()].max(1))
    };
    let [(high, h), (normal, n), (bulk, b)] = Lane::ALL.map(|lane| mpsc::channel(room(lane)));
    (
        [high, normal, bulk],
        Deliveries {
            lanes: [Some(h), Some(n), Some(b)],
        },
    )
}
