//! A producer and an observer on RabbitMQ, as any AMQP client could be: publishes jobs, reads the dead queue, listens to
//! events.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use super::eventually;

/// Queues that the contract declares under a namespace. What a test adds to it, it names to `delete_also`.
const QUEUES: [&str; 4] = ["jobs.high", "jobs.normal", "jobs.bulk", "jobs.dead"];
const EXCHANGES: [&str; 3] = ["jobs", "unrouted", "events"];

/// A client for one namespace. Deletes the namespace's queues and exchanges when it is dropped.
#[derive(Debug)]
pub(crate) struct TestBroker {
    url: String,
    namespace: String,
    connection: Connection,
    publisher: Channel,
    queues_to_delete: Vec<String>,
}

/// A message of the dead queue.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// What the producer sent.
    pub(crate) body: Vec<u8>,
    /// Its properties, with the headers of both the producer and the dispatcher.
    pub(crate) properties: BasicProperties,
}

impl TestBroker {
    /// Connects.
    pub(crate) async fn connect(url: &str, namespace: &str) -> Self {
        let connection = connect(url).await;
        let publisher = connection.create_channel().await.unwrap();
        publisher.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let queues_to_delete = QUEUES.iter().map(|name| format!("{namespace}.{name}")).collect();
        Self {
            url: url.to_owned(),
            namespace: namespace.to_owned(),
            connection,
            publisher,
            queues_to_delete,
        }
    }

    /// Another queue that goes with the namespace.
    pub(crate) fn delete_also(&mut self, queue: impl Into<String>) {
        self.queues_to_delete.push(queue.into());
    }

    /// A channel of its own, for what isn't common.
    pub(crate) async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// Publishes a job to a lane, persistent and mandatory, and waits until the broker has confirmed it and routed it.
    pub(crate) async fn publish(&self, lane: &str, job: &Value) {
        self.publish_with(lane, job.to_string().as_bytes(), BasicProperties::default())
            .await;
    }

    /// The same for any bytes and properties; persistent whatever they say.
    pub(crate) async fn publish_with(&self, lane: &str, body: &[u8], properties: BasicProperties) {
        let exchange = format!("{}.jobs", self.namespace);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirmation = self
            .publisher
            .basic_publish(
                exchange.into(),
                lane.into(),
                options,
                body,
                properties.with_delivery_mode(2),
            )
            .await
            .unwrap()
            .await
            .unwrap();
        // An unroutable message is confirmed, too, and returned.
        assert!(
            matches!(confirmation, Confirmation::Ack(None)),
            "not accepted and routed: {confirmation:?}"
        );
    }

    /// How many messages a queue of the namespace (`jobs.dead`, say) has ready; those that a consumer holds unacked
    /// don't count. `None` where there is no such queue.
    pub(crate) async fn depth(&self, queue: &str) -> Option<u32> {
        // A channel of its own: the broker closes the one that names a missing queue.
        let channel = self.channel().await;
        let name = format!("{}.{queue}", self.namespace);
        let declared = channel
            .queue_declare(
                name.into(),
                QueueDeclareOptions::durable().passive(),
                FieldTable::default(),
            )
            .await;
        declared.ok().map(|queue| queue.message_count())
    }

    /// Takes one message from a queue of the namespace.
    pub(crate) async fn take(&self, queue: &str) -> Option<Letter> {
        let channel = self.channel().await;
        let letter = take(&channel, &format!("{}.{queue}", self.namespace)).await;
        channel.close(200, "done".into()).await.unwrap();
        letter
    }

    /// Takes every message that the dead queue has ready, in its order.
    pub(crate) async fn drain_dead(&self) -> Vec<Letter> {
        let channel = self.channel().await;
        let queue = format!("{}.jobs.dead", self.namespace);
        let mut letters = Vec::new();
        while let Some(letter) = take(&channel, &queue).await {
            letters.push(letter);
        }
        channel.close(200, "done".into()).await.unwrap();
        letters
    }

    /// Waits until `count` dead letters could be taken.
    pub(crate) async fn dead_letters(&self, count: usize, within: Duration) -> Vec<Letter> {
        let letters = Mutex::new(Vec::new());
        eventually(within, &format!("{count} dead letters"), || async {
            let taken = self.drain_dead().await;
            let mut letters = letters.lock().unwrap();
            letters.extend(taken);
            (letters.len() >= count).then_some(())
        })
        .await;
        letters.into_inner().unwrap()
    }

    /// Listens to the namespace's events from now on, by routing key pattern (`#`: all). Waits until the exchange is
    /// there, which the worker declares.
    pub(crate) async fn tap_events(&self, pattern: &str) -> EventTap {
        let exchange = format!("{}.events", self.namespace);
        let channel = eventually(Duration::from_secs(30), "the events exchange is declared", || async {
            let channel = self.channel().await;
            let options = ExchangeDeclareOptions {
                passive: true,
                ..ExchangeDeclareOptions::default()
            };
            let declared = channel
                .exchange_declare(
                    exchange.as_str().into(),
                    lapin::ExchangeKind::Topic,
                    options,
                    FieldTable::default(),
                )
                .await;
            declared.is_ok().then_some(channel)
        })
        .await;
        let (queue, consumer) = private_queue(&channel).await;
        let bind = channel.queue_bind(
            queue.as_str().into(),
            exchange.into(),
            pattern.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.unwrap();
        EventTap::collect(queue, channel, consumer)
    }

    /// A queue for replies: its name goes into a job's `reply_to`.
    pub(crate) async fn tap_replies(&self) -> EventTap {
        let channel = self.channel().await;
        let (queue, consumer) = private_queue(&channel).await;
        EventTap::collect(queue, channel, consumer)
    }
}

/// How long declarations of a worker that is gone may still be carried out.
const SETTLED_DECLARATIONS: Duration = Duration::from_millis(300);

impl Drop for TestBroker {
    fn drop(&mut self) {
        let (url, namespace) = (self.url.clone(), self.namespace.clone());
        let queues = std::mem::take(&mut self.queues_to_delete);
        // Also after a failure: a letter can be printed by the test, and a queue that nobody consumes only grows.
        super::process::on_another_thread(async move {
            // A worker that was killed while it started may still have a queue being declared. Deleted within a millisecond
            // of its declaration, a quorum queue takes RabbitMQ 3.10.8's supervisor of dead-lettering with it, and then no
            // queue of the whole broker can be declared any more.
            tokio::time::sleep(SETTLED_DECLARATIONS).await;
            let connection = connect(&url).await;
            let channel = connection.create_channel().await.unwrap();
            // Neither fails where there is nothing to delete.
            for queue in queues {
                channel
                    .queue_delete(queue.into(), QueueDeleteOptions::default())
                    .await
                    .unwrap();
            }
            for exchange in EXCHANGES {
                let name = format!("{namespace}.{exchange}");
                channel
                    .exchange_delete(name.into(), ExchangeDeleteOptions::default())
                    .await
                    .unwrap();
            }
            connection.close(200, "done".into()).await.unwrap();
        });
    }
}

async fn connect(url: &str) -> Connection {
    let attempt = Connection::connect(
        url,
        ConnectionProperties::default().with_connection_name("im-test".into()),
    );
    // lapin itself tries for a long time where nobody listens.
    let connected = tokio::time::timeout(Duration::from_secs(20), attempt)
        .await
        .expect("RabbitMQ doesn't answer");
    connected.expect("connect to AMQP_URL")
}

async fn take(channel: &Channel, queue: &str) -> Option<Letter> {
    let BasicGetMessage { delivery, .. } = channel
        .basic_get(queue.into(), BasicGetOptions::default())
        .await
        .unwrap()?;
    assert!(
        delivery.acker.ack(BasicAckOptions::default()).await.unwrap(),
        "the ack wasn't sent"
    );
    Some(Letter {
        body: delivery.data,
        properties: delivery.properties,
    })
}

/// An exclusive queue of this connection, named by the broker, and its consumer.
async fn private_queue(channel: &Channel) -> (String, lapin::Consumer) {
    let declare = channel.queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default());
    let queue = declare.await.unwrap().name().to_string();
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consume = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
    (queue, consume.await.unwrap())
}

impl Letter {
    /// A header as text; `None` where it is absent or of another type.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            AMQPValue::LongInt(number) => Some(number.to_string()),
            AMQPValue::LongUInt(number) => Some(number.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The word of the failure, `x-im-error-code`.
    pub(crate) fn word(&self) -> Option<String> {
        self.header("x-im-error-code")
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the letter's body is JSON")
    }
}

/// A queue that is read as messages come, and keeps them.
#[derive(Debug)]
pub(crate) struct EventTap {
    queue: String,
    received: Arc<Mutex<Vec<Letter>>>,
    // The channel lives as long as its consumer is needed.
    _channel: Channel,
}

impl EventTap {
    fn collect(queue: String, channel: Channel, mut consumer: lapin::Consumer) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&received);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                let letter = Letter {
                    body: delivery.data,
                    properties: delivery.properties,
                };
                sink.lock().unwrap().push(letter);
            }
        });
        Self {
            queue,
            received,
            _channel: channel,
        }
    }

    /// The queue's name.
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// Every message until now, as JSON.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.received.lock().unwrap().iter().map(Letter::json).collect()
    }

    /// Waits until there are at least `count` messages that `wanted` accepts, and returns those. Events are delivered at
    /// least once, so a test that counts looks at their `id`.
    pub(crate) async fn wait_for(
        &self,
        count: usize,
        within: Duration,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        eventually(within, what, || async {
            let found: Vec<Value> = self.events().into_iter().filter(|event| wanted(event)).collect();
            (found.len() >= count).then_some(found)
        })
        .await
    }
}
