//! Which events came? A durable quorum queue on the events exchange, which outlives the broker's death.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use futures::StreamExt;
use lapin::{
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use crate::producer::{ANSWER, connect};

/// What the events say of one recipient of a job: an outcome's word and the ids of the events that say so.
type Told = HashMap<(String, String), HashMap<String, BTreeSet<String>>>;

/// Everything that came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    told: Told,
    keys: HashMap<String, (String, String, String)>,
    count: u64,
    ids: BTreeSet<String>,
}

impl Events {
    /// Declares the queue and reads it from now on, over every restart of the broker.
    pub(crate) async fn listen(url: &str, namespace: &str) -> anyhow::Result<Self> {
        let events = Self::default();
        let (exchange, queue) = (format!("{namespace}.events"), format!("{namespace}.chaos.events"));
        let (connection, channel) = connect(url).await.context("listen to events")?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let declare = channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), arguments);
        declare.await.context("declare the queue of events")?;
        let bind = channel.queue_bind(
            queue.as_str().into(),
            exchange.into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.context("bind the queue of events")?;
        connection.close(200, "declared".into()).await?;
        let (reader, url) = (events.clone(), url.to_owned());
        tokio::spawn(async move {
            loop {
                // Whatever ends it: what wasn't acknowledged comes again.
                drop(reader.read(&url, &queue).await);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Ok(events)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, url: &str, queue: &str) -> anyhow::Result<()> {
        let (_connection, channel) = connect(url).await?;
        let consume = async {
            channel.basic_qos(500, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel
                .basic_consume(queue.into(), "".into(), options, FieldTable::default())
                .await
        };
        // A broker that dies right now leaves the answer out for ever.
        let mut consumer = tokio::time::timeout(ANSWER, consume).await??;
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery?;
            self.note(&serde_json::from_slice(&delivery.data)?);
            // What is asked just as the connection goes gets no answer at all.
            tokio::time::timeout(ANSWER, delivery.acker.ack(BasicAckOptions::default())).await??;
        }
        Ok(())
    }

    fn note(&self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, data) = (text(&event["id"]), &event["data"]);
        let kind = text(&event["type"]);
        let outcome = kind.rsplit('.').next().unwrap_or_default();
        let job = text(&data["job_id"]);
        let mut state = self.lock();
        state.count += 1;
        state.ids.insert(id.clone());
        let mut tell = |to: &Value, outcome: &str| {
            let of_recipient = state.told.entry((job.clone(), text(to))).or_default();
            of_recipient.entry(outcome.to_owned()).or_default().insert(id.clone());
        };
        if data["to"].is_string() {
            tell(&data["to"], outcome);
        }
        for to in data["sent"].as_array().into_iter().flatten() {
            tell(to, outcome);
        }
        for failure in data["failed"].as_array().into_iter().flatten() {
            // In the event of a call that reached others, too.
            tell(&failure["to"], if outcome == "sent" { "failed" } else { outcome });
        }
        if outcome == "sent" && data["to"].is_string() && data["msg_key"].is_string() {
            let key = (text(&data["from"]), text(&data["to"]), text(&data["msg_key"]));
            state.keys.insert(job, key);
        }
    }

    /// Sender, recipient and key of a single message, once its event has told them.
    pub(crate) fn key(&self, job: &str) -> Option<(String, String, String)> {
        self.lock().keys.get(job).cloned()
    }

    /// How many came, and how many different ones.
    pub(crate) fn count(&self) -> (u64, usize) {
        let state = self.lock();
        (state.count, state.ids.len())
    }

    /// What they say.
    pub(crate) fn told(&self) -> Told {
        self.lock().told.clone()
    }
}
