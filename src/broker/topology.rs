//! Which exchanges and queues there are, exactly as the contract says, and how they come to be.
//!
//! Knows names and arguments; not who consumes or publishes. A queue that exists with other arguments is used as it is
//! and named, since stopping would help nobody and deleting it could lose jobs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use lapin::{
    Channel, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{BrokerError, BrokerSetupError, link::Link, properties::MAX_SHORT_STRING};
use crate::domain::{AppName, Lane};

/// `x-delivery-limit`. Unset means 20 on RabbitMQ 4, and -1 drops every message on 3.10 to 3.13, so the contract asks
/// for a number that no message reaches.
const DELIVERY_LIMIT: i32 = 1_000_000;

/// One job queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobQueue {
    /// The lane that its jobs belong to.
    pub lane: Lane,
    /// The app whose own queue it is; `None` for the lane's common queue.
    pub app: Option<AppName>,
    /// Its name, also a routing key.
    pub name: Arc<str>,
    /// Its other routing key, `<lane>` or `<lane>.<app>`.
    pub key: Arc<str>,
}

/// The names of everything in one namespace.
#[derive(Debug, Clone)]
pub struct Topology {
    namespace: Arc<str>,
    queues: Arc<[JobQueue]>,
}

impl Topology {
    /// The names for a namespace and the apps with queues of their own.
    pub fn new(namespace: &str, app_queues: &[(Lane, AppName)]) -> Result<Self, BrokerSetupError> {
        if namespace.is_empty() {
            return Err(BrokerSetupError::Namespace("must not be empty".into()));
        }
        let common = Lane::ALL.into_iter().map(|lane| (lane, None));
        let own = app_queues.iter().cloned().map(|(lane, app)| (lane, Some(app)));
        let mut seen = BTreeSet::new();
        let mut queues = Vec::new();
        for (lane, app) in common.chain(own) {
            let key = app
                .as_ref()
                .map_or_else(|| lane.to_string(), |app| format!("{lane}.{app}"));
            let name = format!("{namespace}.jobs.{key}");
            if name.len() > MAX_SHORT_STRING {
                return Err(BrokerSetupError::Namespace(format!(
                    "the queue name {name:?} is {} bytes long, AMQP allows {MAX_SHORT_STRING}",
                    name.len()
                )));
            }
            if seen.insert(name.clone()) {
                queues.push(JobQueue {
                    lane,
                    app,
                    name: name.into(),
                    key: key.into(),
                });
            }
        }
        Ok(Self {
            namespace: namespace.into(),
            queues: queues.into(),
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Every job queue: the lanes' own first, most urgent first, then the apps'.
    pub fn job_queues(&self) -> &[JobQueue] {
        &self.queues
    }

    /// `<ns>.jobs`, direct.
    pub fn jobs_exchange(&self) -> String {
        format!("{}.jobs", self.namespace)
    }

    /// `<ns>.unrouted`, fanout: where a mistyped lane goes, and from there to the dead queue.
    pub fn unrouted_exchange(&self) -> String {
        format!("{}.unrouted", self.namespace)
    }

    /// `<ns>.events`, topic.
    pub fn events_exchange(&self) -> String {
        format!("{}.events", self.namespace)
    }

    /// `<ns>.jobs.dead`.
    pub fn dead_queue(&self) -> String {
        format!("{}.jobs.dead", self.namespace)
    }

    /// The lane's common queue.
    pub fn lane_queue(&self, lane: Lane) -> String {
        format!("{}.jobs.{lane}", self.namespace)
    }

    /// The lane of a job queue of this namespace by its name, also of an app that this process doesn't know.
    pub fn lane_of(&self, queue: &str) -> Option<Lane> {
        let key = queue.strip_prefix(self.namespace.as_ref())?.strip_prefix(".jobs.")?;
        key.split('.').next()?.parse().ok()
    }

    /// The arguments of a job queue.
    pub fn job_queue_arguments(&self) -> FieldTable {
        let mut table = self.dead_queue_arguments();
        let text = |value: &str| AMQPValue::LongString(value.into());
        table.insert("x-dead-letter-exchange".into(), text(""));
        table.insert("x-dead-letter-routing-key".into(), text(&self.dead_queue()));
        table.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        table.insert("x-overflow".into(), text("reject-publish"));
        table
    }

    /// The arguments of the dead queue.
    pub fn dead_queue_arguments(&self) -> FieldTable {
        let mut table = FieldTable::default();
        table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        table.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        table
    }

    /// Declares everything. What exists otherwise than the contract says, or may not be declared by this login, is
    /// looked up instead and named in the answer, a sentence each.
    pub(super) async fn declare(&self, link: &Link) -> Result<Vec<String>, BrokerError> {
        let mut declarer = Declarer {
            link,
            channel: link.channel().await?,
            notes: Vec::new(),
        };
        let mut alternate = FieldTable::default();
        alternate.insert(
            "alternate-exchange".into(),
            AMQPValue::LongString(self.unrouted_exchange().into()),
        );
        declarer
            .exchange(&self.unrouted_exchange(), ExchangeKind::Fanout, FieldTable::default())
            .await?;
        declarer
            .exchange(&self.jobs_exchange(), ExchangeKind::Direct, alternate)
            .await?;
        declarer
            .exchange(&self.events_exchange(), ExchangeKind::Topic, FieldTable::default())
            .await?;
        // The dead queue first: from the moment a job queue exists, its dead letters need somewhere to go.
        declarer.queue(&self.dead_queue(), self.dead_queue_arguments()).await?;
        declarer.bind(&self.dead_queue(), &self.unrouted_exchange(), "").await?;
        for queue in self.job_queues() {
            declarer.queue(&queue.name, self.job_queue_arguments()).await?;
            for key in [&queue.key, &queue.name] {
                declarer.bind(&queue.name, &self.jobs_exchange(), key).await?;
            }
        }
        let Declarer { channel, notes, .. } = declarer;
        link.close_channel(&channel).await;
        Ok(notes)
    }
}

/// How many messages wait in a queue and how many consumers it has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct QueueDepth {
    /// The queue.
    pub queue: String,
    /// Its lane; `None` for the dead queue.
    pub lane: Option<Lane>,
    /// Messages that no consumer holds.
    pub messages: u32,
    /// Consumers, of every worker.
    pub consumers: u32,
}

/// Looks up the job queues and the dead queue; a queue that is missing is left out.
pub(super) async fn depths(topology: &Topology, link: &Link) -> Result<Vec<QueueDepth>, BrokerError> {
    let mut channel = link.channel().await?;
    let mut depths = Vec::new();
    let jobs = topology
        .job_queues()
        .iter()
        .map(|queue| (queue.name.to_string(), Some(queue.lane)));
    for (queue, lane) in jobs.chain([(topology.dead_queue(), None)]) {
        match passive(&channel, &queue).await {
            Ok(found) => depths.push(QueueDepth {
                queue,
                lane,
                messages: found.message_count(),
                consumers: found.consumer_count(),
            }),
            // A missing queue closes the channel that asked.
            Err(error) if soft_error(&error).is_some() => channel = link.channel().await?,
            Err(source) => return Err(BrokerError::Declare { what: queue, source }),
        }
    }
    link.close_channel(&channel).await;
    Ok(depths)
}

/// Asks for a queue without creating it.
pub(super) async fn passive(channel: &Channel, queue: &str) -> Result<lapin::Queue, lapin::Error> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(short(queue), options, FieldTable::default())
        .await
}

/// The code with which the broker closed a channel, if that is what happened.
pub(super) fn soft_error(error: &lapin::Error) -> Option<AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// A name that [`Topology::new`] has checked.
pub(super) fn short(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_default()
}

/// Declares one thing after the other, on a new channel after each one that the broker refused.
struct Declarer<'a> {
    link: &'a Link,
    channel: Channel,
    notes: Vec<String>,
}

impl Declarer<'_> {
    async fn exchange(&mut self, name: &str, kind: ExchangeKind, arguments: FieldTable) -> Result<(), BrokerError> {
        let what = format!("exchange {name:?}");
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared = self
            .channel
            .exchange_declare(short(name), kind.clone(), options, arguments)
            .await;
        if self.refused(&what, declared).await? {
            let options = ExchangeDeclareOptions {
                passive: true,
                ..ExchangeDeclareOptions::default()
            };
            let found = self
                .channel
                .exchange_declare(short(name), kind, options, FieldTable::default())
                .await;
            found.map_err(|source| BrokerError::Declare { what, source })?;
        }
        Ok(())
    }

    async fn queue(&mut self, name: &str, arguments: FieldTable) -> Result<(), BrokerError> {
        let what = format!("queue {name:?}");
        let declared = self
            .channel
            .queue_declare(short(name), QueueDeclareOptions::durable(), arguments)
            .await
            .map(|_| ());
        if self.refused(&what, declared).await? {
            passive(&self.channel, name)
                .await
                .map_err(|source| BrokerError::Declare { what, source })?;
        }
        Ok(())
    }

    async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let what = format!("binding of queue {queue:?} to {exchange:?} under {key:?}");
        let options = QueueBindOptions::default();
        let bound = self
            .channel
            .queue_bind(
                short(queue),
                short(exchange),
                short(key),
                options,
                FieldTable::default(),
            )
            .await;
        self.refused(&what, bound).await.map(|_| ())
    }

    /// Whether the broker refused for a reason with which one can live; the note is taken and a new channel opened.
    async fn refused(&mut self, what: &str, result: Result<(), lapin::Error>) -> Result<bool, BrokerError> {
        let Err(source) = result else { return Ok(false) };
        let note = match soft_error(&source) {
            Some(AMQPSoftError::PRECONDITIONFAILED) => format!("{what} differs: {}", difference(&source.to_string())),
            Some(AMQPSoftError::ACCESSREFUSED) => format!("{what}: this login may not declare it"),
            _ => {
                return Err(BrokerError::Declare {
                    what: what.to_owned(),
                    source,
                });
            }
        };
        self.notes.push(note);
        // The broker takes the old channel down in its own time; a short wait keeps the number of open ones low.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.channel = self.link.channel().await?;
        Ok(true)
    }
}

/// What differs, out of RabbitMQ's `inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received the value
/// '1000000' of type 'signedint' but current is none`.
fn difference(text: &str) -> String {
    let argument = text
        .split("inequivalent arg '")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let values = text.split("': ").nth(1);
    match (argument, values) {
        (Some(argument), Some(values)) => format!("argument {argument}: {values}"),
        (Some(argument), None) => format!("argument {argument}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        let app = AppName::parse("shop").unwrap();
        Topology::new("im", &[(Lane::Bulk, app.clone()), (Lane::Bulk, app)]).unwrap()
    }

    #[test]
    fn names_follow_the_contract() {
        let topology = topology();
        let names: Vec<_> = topology.job_queues().iter().map(|q| (&*q.name, &*q.key)).collect();
        assert_eq!(
            names,
            [
                ("im.jobs.high", "high"),
                ("im.jobs.normal", "normal"),
                ("im.jobs.bulk", "bulk"),
                ("im.jobs.bulk.shop", "bulk.shop")
            ]
        );
        assert_eq!(topology.dead_queue(), "im.jobs.dead");
        assert_eq!(topology.events_exchange(), "im.events");
        assert_eq!(topology.unrouted_exchange(), "im.unrouted");
    }

    #[test]
    fn the_lane_of_a_queue_is_read_from_its_name_and_the_dead_queue_has_none() {
        let topology = topology();
        assert_eq!(topology.lane_of("im.jobs.high"), Some(Lane::High));
        assert_eq!(topology.lane_of("im.jobs.bulk.other"), Some(Lane::Bulk));
        assert_eq!(topology.lane_of("im.jobs.dead"), None);
        assert_eq!(topology.lane_of("other.jobs.high"), None);
    }

    #[test]
    fn a_name_beyond_255_bytes_is_an_error_and_not_a_panic() {
        assert!(Topology::new(&"n".repeat(250), &[]).is_err());
        let app = AppName::parse("é".repeat(64)).unwrap();
        assert!(Topology::new(&"n".repeat(130), &[(Lane::High, app)]).is_err());
    }

    #[test]
    fn the_differing_argument_is_named() {
        let text = "protocol error: AMQP soft error: PRECONDITION-FAILED: PRECONDITION_FAILED - inequivalent arg \
                    'x-delivery-limit' for queue 'im.jobs.high' in vhost '/': received the value '1000000' of type \
                    'signedint' but current is none";
        assert_eq!(
            difference(text),
            "argument x-delivery-limit: received the value '1000000' of type 'signedint' but current is none"
        );
    }
}
