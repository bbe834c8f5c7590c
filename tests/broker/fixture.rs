//! A namespace with a broker layer in it, a plain connection beside it, and the end of both.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use im_dispatcher::{
    broker::{Broker, BrokerOptions, Confirmed, Deliveries, Delivery, Properties, Publication},
    domain::Lane,
};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
    uri::AMQPUri,
};
use secrecy::SecretString;
use tokio::{sync::mpsc, time};

use crate::relay::Relay;

/// By when what must happen has happened, on a machine however busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How long one listens to be convinced that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(400);

/// A namespace of a test's own.
pub(crate) struct Fixture {
    pub(crate) url: String,
    pub(crate) namespace: String,
    pub(crate) raw: Connection,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let url = std::env::var("AMQP_URL").expect("AMQP_URL names the RabbitMQ for tests");
        Self::at(url).await
    }

    pub(crate) async fn at(url: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // What the broker layer says, wherever RUST_LOG asks for it.
        let filter = tracing_subscriber::EnvFilter::builder()
            .with_default_directive(tracing_subscriber::filter::LevelFilter::OFF.into())
            .from_env_lossy();
        let told = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
        drop(told);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("t{}-{count}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
        let raw = Connection::connect(&url, ConnectionProperties::default())
            .await
            .unwrap();
        Self { url, namespace, raw }
    }

    /// Options for this namespace, quick to notice what is wrong.
    pub(crate) fn options(&self) -> BrokerOptions {
        self.options_at(&self.url)
    }

    pub(crate) fn options_at(&self, url: &str) -> BrokerOptions {
        let mut options = BrokerOptions::new(SecretString::from(url.to_owned()), self.namespace.as_str());
        options.max_backoff = Duration::from_millis(300);
        options
    }

    /// A relay to this broker, and options that lead through it.
    pub(crate) async fn through_relay(&self) -> (Relay, BrokerOptions) {
        let mut uri: AMQPUri = self.url.parse().unwrap();
        let relay = Relay::start(format!("{}:{}", uri.authority.host, uri.authority.port)).await;
        uri.authority.host = relay.address().ip().to_string();
        uri.authority.port = relay.address().port();
        let options = self.options_at(&uri.to_string());
        (relay, options)
    }

    pub(crate) async fn start(&self, options: BrokerOptions) -> Running {
        let (broker, deliveries) = Broker::start(options).unwrap();
        broker.wait_until_ready(SOON).await.unwrap();
        Running { broker, deliveries }
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.raw.create_channel().await.unwrap()
    }

    pub(crate) fn queue(&self, name: &str) -> String {
        format!("{}.jobs.{name}", self.namespace)
    }

    /// Messages that wait in a queue.
    pub(crate) async fn waiting(&self, queue: &str) -> u32 {
        let channel = self.channel().await;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .unwrap();
        channel.close(200, "OK".into()).await.unwrap();
        found.message_count()
    }

    /// Waits until so many messages wait in a queue.
    pub(crate) async fn until_waiting(&self, queue: &str, messages: u32) {
        let deadline = time::Instant::now() + SOON;
        loop {
            let found = self.waiting(queue).await;
            if found == messages {
                return;
            }
            assert!(
                time::Instant::now() < deadline,
                "{found} messages wait in {queue}, not {messages}"
            );
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deletes everything of the namespace.
    pub(crate) async fn remove(self) {
        let channel = self.channel().await;
        for queue in ["high", "normal", "bulk", "dead", "bulk.shop"] {
            channel
                .queue_delete(self.queue(queue).as_str().into(), QueueDeleteOptions::default())
                .await
                .unwrap();
        }
        for exchange in ["jobs", "events", "unrouted"] {
            let name = format!("{}.{exchange}", self.namespace);
            channel
                .exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default())
                .await
                .unwrap();
        }
        self.raw.close(200, "OK".into()).await.unwrap();
    }
}

/// A started broker layer.
pub(crate) struct Running {
    pub(crate) broker: Broker,
    pub(crate) deliveries: Deliveries,
}

impl Running {
    /// Publishes a body to a lane.
    pub(crate) async fn job(&self, lane: Lane, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let confirmed = self.broker.publisher().job(lane, None, "id", body, &[]).await.unwrap();
        assert_eq!(confirmed, Confirmed::Routed);
    }

    /// Publishes many bodies to a lane, `0` to `n - 1`, in no order.
    pub(crate) async fn jobs(&self, lane: Lane, n: usize) {
        futures::future::join_all((0..n).map(|i| async move { self.job(lane, &i.to_string()).await })).await;
    }
}

pub(crate) fn publication(exchange: &str, routing_key: &str, body: &str) -> Publication {
    Publication {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        properties: Properties::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        mandatory: true,
    }
}

pub(crate) async fn next(lane: &mut mpsc::Receiver<Delivery>) -> Delivery {
    time::timeout(SOON, lane.recv())
        .await
        .expect("nothing was delivered")
        .expect("the lane has ended")
}

/// Convinces itself that nothing is delivered.
pub(crate) async fn silence(lane: &mut mpsc::Receiver<Delivery>) {
    if let Ok(delivery) = time::timeout(QUIET, lane.recv()).await {
        panic!("unexpected: {delivery:?}");
    }
}

/// Does something that takes seconds where it holds no test up, and gives back what it was done to.
pub(crate) async fn on_a_thread<T: Send + 'static>(mut value: T, act: fn(&mut T)) -> T {
    tokio::task::spawn_blocking(move || {
        act(&mut value);
        value
    })
    .await
    .unwrap()
}

pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).unwrap()
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = time::Instant::now() + SOON;
    while !holds() {
        assert!(time::Instant::now() < deadline, "not in time: {what}");
        time::sleep(Duration::from_millis(10)).await;
    }
}
