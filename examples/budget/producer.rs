//! A producer as any program can be one: publishes jobs with confirms.

use anyhow::{Context, ensure};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeleteOptions},
};

/// How many confirms may be awaited at a time.
const WINDOW: usize = 1_000;

/// A channel to the broker.
pub(crate) struct Producer {
    channel: Channel,
    connection: Connection,
    namespace: String,
}

impl Producer {
    /// Connects.
    pub(crate) async fn connect(url: &str, namespace: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .context("connect to RabbitMQ")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self {
            channel,
            connection,
            namespace: namespace.to_owned(),
        })
    }

    /// Publishes jobs into a lane, and returns when the broker has them all.
    pub(crate) async fn publish(&self, lane: &str, jobs: impl Iterator<Item = String>) -> anyhow::Result<()> {
        let mut confirms = Vec::with_capacity(WINDOW);
        for job in jobs {
            confirms.push(self.send(lane, &job).await?);
            if confirms.len() == WINDOW {
                for confirm in confirms.drain(..) {
                    ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "a job wasn't taken");
                }
            }
        }
        for confirm in confirms {
            ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "a job wasn't taken");
        }
        Ok(())
    }

    /// Publishes one job without waiting for its confirm.
    pub(crate) async fn send(&self, lane: &str, job: &str) -> anyhow::Result<PublisherConfirm> {
        Ok(self
            .channel
            .basic_publish(
                format!("{}.jobs", self.namespace).into(),
                lane.into(),
                BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                },
                job.as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?)
    }

    /// Deletes everything of the namespace, and leaves.
    pub(crate) async fn clean_up(self) -> anyhow::Result<()> {
        for queue in ["jobs.high", "jobs.normal", "jobs.bulk", "jobs.dead"] {
            let queue = format!("{}.{queue}", self.namespace);
            self.channel
                .queue_delete(queue.into(), QueueDeleteOptions::default())
                .await?;
        }
        for exchange in ["jobs", "unrouted", "events"] {
            let exchange = format!("{}.{exchange}", self.namespace);
            self.channel
                .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
                .await?;
        }
        self.connection.close(200, "done".into()).await?;
        Ok(())
    }
}

/// A `send` to a recipient of its own.
pub(crate) fn send_job(prefix: &str, number: usize) -> String {
    format!(
        r#"{{"type":"send","id":"{prefix}-{number}","to":"{prefix}_{number}","message":{{"text":"Parcel {number} is on its way"}}}}"#
    )
}
