//! Events, for those who read them: a queue of one's own on the exchange of events, while its connection lasts.
//!
//! Knows AMQP and bytes; not what an event says.

use bytes::Bytes;
use futures::StreamExt;
use lapin::{
    Acker, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{BrokerError, link::Link, properties::MAX_SHORT_STRING, shared::Shared, topology::short};

/// Events that the broker hands out before the first is read: a few round trips' worth, and bounded memory.
const PREFETCH: u16 = 256;

/// An exclusive queue and its consumer. The queue goes with the connection, and what lies in it.
pub struct EventQueue {
    link: Link,
    consumer: Consumer,
    name: String,
    /// Acknowledged with the next call: an event that was handed over may still be lost with its future.
    last: Option<Acker>,
}

impl EventQueue {
    pub(super) async fn open(shared: &Shared, keys: &[&str]) -> Result<Self, BrokerError> {
        let link = Link::open(&shared.endpoint, "events", &shared.stop).await?;
        match Self::declare(&link, &shared.topology.events_exchange(), keys).await {
            Ok((consumer, name)) => Ok(Self {
                link,
                consumer,
                name,
                last: None,
            }),
            Err(error) => {
                link.close().await;
                Err(error)
            }
        }
    }

    async fn declare(link: &Link, exchange: &str, keys: &[&str]) -> Result<(Consumer, String), BrokerError> {
        let failed = |what: String| move |source: lapin::Error| BrokerError::Declare { what, source };
        let channel = link.channel().await?;
        let queue = channel
            .queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default())
            .await
            .map_err(failed("a queue for events".to_owned()))?;
        let name = queue.name().clone();
        // A key that AMQP can't carry matches nothing.
        for key in keys.iter().filter(|key| key.len() <= MAX_SHORT_STRING) {
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            channel
                .queue_bind(name.clone(), short(exchange), short(key), options, arguments)
                .await
                .map_err(failed(format!("binding to {exchange:?} under {key:?}")))?;
        }
        let read = |source: lapin::Error| BrokerError::Read {
            queue: name.to_string(),
            source,
        };
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await
            .map_err(read)?;
        let consumer = channel
            .basic_consume(
                name.clone(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(read)?;
        Ok((consumer, name.to_string()))
    }

    /// Its name, for a job's `reply_to`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next event's bytes. An error is the end of it: the connection is gone, and the queue with it.
    ///
    /// # Cancel safety
    /// An event is never lost to a future that was dropped; it may come twice.
    pub async fn next(&mut self) -> Result<Bytes, BrokerError> {
        if let Some(acker) = &self.last {
            acker
                .ack(BasicAckOptions::default())
                .await
                .map_err(|source| BrokerError::Read {
                    queue: self.name.clone(),
                    source,
                })?;
            self.last = None;
        }
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                self.last = Some(delivery.acker);
                Ok(delivery.data.into())
            }
            Some(Err(source)) => Err(BrokerError::Read {
                queue: self.name.clone(),
                source,
            }),
            None => Err(BrokerError::Away("the queue of events is gone".to_owned())),
        }
    }

    /// Closes its connection, and with it the queue.
    pub async fn close(self) {
        self.link.close().await;
    }
}
