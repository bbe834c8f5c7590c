//! A producer: declares a lane's queue as the contract says, and publishes with confirms.

use anyhow::{Context, ensure};
use futures::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

/// Publishes without a confirm at a time.
const WINDOW: usize = 1_000;

/// A connection for one namespace.
pub(crate) struct Producer {
    connection: Connection,
    channel: Channel,
    namespace: String,
}

/// A job of one send, about as long as a notification is.
pub(crate) fn send(number: usize, to: &str) -> String {
    json!({"type": "send", "id": format!("bench-{number:08}"), "to": to,
           "message": {"text": format!("Your parcel {number:08} is on its way: it will be there tomorrow before noon.")}})
    .to_string()
}

/// The recipient of a job: 10,000 of them, in an order that repeats none soon.
pub(crate) fn recipient(number: usize) -> String {
    format!("user_{:05}", number * 7_919 % 10_000)
}

impl Producer {
    /// Connects and declares the lane queues with the contract's arguments.
    pub(crate) async fn connect(url: &str, namespace: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .context("connect to RabbitMQ")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let producer = Self {
            connection,
            channel,
            namespace: namespace.to_owned(),
        };
        for lane in ["high", "normal", "bulk"] {
            let mut table = FieldTable::default();
            for (name, value) in [
                ("x-queue-type", "quorum"),
                ("x-dead-letter-exchange", ""),
                ("x-dead-letter-strategy", "at-least-once"),
                ("x-overflow", "reject-publish"),
            ] {
                table.insert(name.into(), AMQPValue::LongString(value.into()));
            }
            let dead = format!("{namespace}.jobs.dead");
            table.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(dead.into()));
            table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000));
            producer
                .channel
                .queue_declare(producer.queue(lane).into(), QueueDeclareOptions::durable(), table)
                .await?;
        }
        Ok(producer)
    }

    /// A lane's queue.
    pub(crate) fn queue(&self, lane: &str) -> String {
        format!("{}.jobs.{lane}", self.namespace)
    }

    /// Publishes one job; what it returns waits for the confirm.
    pub(crate) async fn begin(
        &self,
        lane: &str,
        body: &str,
    ) -> anyhow::Result<impl Future<Output = lapin::Result<Confirmation>> + use<>> {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into());
        Ok(self
            .channel
            .basic_publish(
                "".into(),
                self.queue(lane).into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                properties,
            )
            .await?)
    }

    /// Publishes jobs, and waits until the broker has confirmed all of them.
    pub(crate) async fn publish(&self, lane: &str, jobs: impl Iterator<Item = String>) -> anyhow::Result<()> {
        let mut open = FuturesUnordered::new();
        for job in jobs {
            if open.len() >= WINDOW {
                confirmed(open.next().await)?;
            }
            open.push(self.begin(lane, &job).await?);
        }
        while let Some(confirmation) = open.next().await {
            confirmed(Some(confirmation))?;
        }
        Ok(())
    }

    /// A channel for consuming.
    pub(crate) async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(self.connection.create_channel().await?)
    }

    /// Deletes what the namespace has at the broker.
    pub(crate) async fn delete(self) -> anyhow::Result<()> {
        for queue in ["high", "normal", "bulk", "dead"] {
            self.channel
                .queue_delete(self.queue(queue).into(), QueueDeleteOptions::default())
                .await?;
        }
        for exchange in ["jobs", "unrouted", "events"] {
            let name = format!("{}.{exchange}", self.namespace);
            self.channel
                .exchange_delete(name.into(), ExchangeDeleteOptions::default())
                .await?;
        }
        self.connection.close(200, "done".into()).await?;
        Ok(())
    }
}

fn confirmed(confirmation: Option<lapin::Result<Confirmation>>) -> anyhow::Result<()> {
    let confirmation = confirmation.context("no confirm")??;
    ensure!(matches!(confirmation, Confirmation::Ack(None)), "a job was refused");
    Ok(())
}
