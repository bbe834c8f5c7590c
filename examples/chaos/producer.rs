//! The producer: publishes jobs at a steady rate, persistent, mandatory, with confirms. What it doesn't know to be
//! confirmed it publishes again under the same id.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use im_dispatcher::domain::split_urls;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::json;
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    events::Events,
    fleet::NAMESPACE,
    jobs::{Draw, Ledger, Publication},
    report::say,
};

/// What is to be published.
#[derive(Debug)]
pub(crate) struct Load {
    /// The broker, without a relay between: what is tested is the worker.
    pub(crate) amqp_url: String,
    /// Decides the jobs.
    pub(crate) seed: u64,
    /// Jobs a second.
    pub(crate) rate: f64,
    /// When it ends.
    pub(crate) until: Instant,
    /// Where it is noted.
    pub(crate) ledger: Arc<Ledger>,
    /// Where keys are known from.
    pub(crate) events: Events,
}

/// How long the broker may take for an answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);
/// Publications whose confirms are awaited side by side.
const AT_ONCE: usize = 200;
/// How long one publication is tried: far longer than a broker is away.
const PATIENCE: Duration = Duration::from_mins(3);

/// Publishes until the time is over and everything is confirmed.
pub(crate) async fn run(load: Load) -> anyhow::Result<()> {
    let mut draw = Draw::new(load.seed);
    let link = Arc::new(Link::new(load.amqp_url));
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / load.rate));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while Instant::now() < load.until {
        pace.tick().await;
        for publication in draw.next(&load.ledger) {
            let (link, ledger, events) = (Arc::clone(&link), Arc::clone(&load.ledger), load.events.clone());
            tasks.spawn(async move { carry(&link, &ledger, &events, publication).await });
        }
        while let Some(ended) = tasks.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Publishes these at once, and returns when everything is confirmed.
pub(crate) async fn publish_all(
    amqp_url: String,
    ledger: &Ledger,
    publications: Vec<Publication>,
) -> anyhow::Result<()> {
    let (link, events) = (Link::new(amqp_url), Events::default());
    stream::iter(publications)
        .map(|publication| carry(&link, ledger, &events, publication))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn carry(link: &Link, ledger: &Ledger, events: &Events, publication: Publication) -> anyhow::Result<()> {
    tokio::time::sleep(publication.after).await;
    let Publication {
        lane, id, body, key_of, ..
    } = publication;
    let body = if let Some(body) = body {
        body
    } else {
        // A key that isn't known yet can't be revoked: then nothing is published, and nothing expected.
        let Some((from, to, key)) = key_of.and_then(|job| events.key(&job)) else {
            return Ok(());
        };
        json!({"type": "revoke", "id": id, "target": {"from": from, "to": to, "msg_key": key}})
            .to_string()
            .into_bytes()
    };
    let began = Instant::now();
    loop {
        match link.publish(lane, &body).await {
            Ok(()) => {
                ledger.confirm(&id);
                return Ok(());
            }
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(error.context(format!("{id} could not be published within {PATIENCE:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

/// A channel that is made anew when it breaks.
#[derive(Debug)]
struct Link {
    url: String,
    open: Mutex<Option<(u64, Connection, Channel)>>,
}

impl Link {
    fn new(url: String) -> Self {
        Self {
            url,
            open: Mutex::new(None),
        }
    }

    async fn channel(&self) -> anyhow::Result<(u64, Channel)> {
        let mut open = self.open.lock().await;
        if let Some((number, connection, channel)) = &*open
            && connection.status().connected()
            && channel.status().connected()
        {
            return Ok((*number, channel.clone()));
        }
        let number = open.as_ref().map_or(0, |(number, ..)| number + 1);
        let connected = connect(&self.url).await;
        if connected.is_err() {
            // Everybody waits behind this one: one try at a time, and not too many.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (connection, channel) = connected?;
        // A broker that dies right now leaves the answer out for ever.
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        tokio::time::timeout(ANSWER, confirms)
            .await
            .context("RabbitMQ doesn't answer")??;
        if number > 0 {
            say("the producer is connected again");
        }
        *open = Some((number, connection, channel.clone()));
        Ok((number, channel))
    }

    async fn publish(&self, lane: &str, body: &[u8]) -> anyhow::Result<()> {
        let (number, channel) = self.channel().await?;
        let published = tokio::time::timeout(Duration::from_secs(10), publish(&channel, lane, body)).await;
        let result = published.context("no confirm within 10 s").and_then(|result| result);
        if result.is_err() {
            let open = self.open.lock().await;
            if let Some((current, connection, _)) = &*open
                && *current == number
                && connection.status().connected()
            {
                // Alive, but without a confirm: not to be trusted any more.
                drop(tokio::time::timeout(ANSWER, connection.close(200, "no confirm".into())).await);
            }
        }
        result
    }
}

async fn publish(channel: &Channel, lane: &str, body: &[u8]) -> anyhow::Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let confirmation = channel
        .basic_publish(
            format!("{NAMESPACE}.jobs").into(),
            lane.into(),
            options,
            body,
            BasicProperties::default().with_delivery_mode(2),
        )
        .await?
        .await?;
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        other => bail!("not accepted and routed: {other:?}"),
    }
}

/// Connects within seconds or not at all: lapin itself tries for long. Of a cluster to whichever node lets us in first,
/// beginning with one at random.
pub(crate) async fn connect(urls: &str) -> anyhow::Result<(Connection, Channel)> {
    let mut urls = split_urls(urls);
    let first = rand::random_range(0..urls.len());
    urls.rotate_left(first);
    let mut result = Err(anyhow::anyhow!("no URL"));
    for url in urls {
        let properties = ConnectionProperties::default().with_connection_name("chaos".into());
        let attempt = async {
            let connection = Connection::connect(url, properties).await?;
            let channel = connection.create_channel().await?;
            anyhow::Ok((connection, channel))
        };
        result = tokio::time::timeout(Duration::from_secs(5), attempt)
            .await
            .context("RabbitMQ doesn't answer")
            .and_then(|connected| connected);
        if result.is_ok() {
            break;
        }
    }
    result
}
