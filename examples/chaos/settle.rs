//! When is everything at rest? Nothing open in the records, nothing in the queues, nothing to be published.

use std::time::{Duration, Instant};

use lapin::{
    options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use sqlx::{PgPool, Row};

use crate::{
    events::Events,
    fleet::NAMESPACE,
    jobs::{Kind, Ledger},
    producer::connect,
    report::say,
};

/// How long it has to stay so.
pub(crate) const REST: Duration = Duration::from_secs(5);

/// How settling ended.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    /// Seconds until everything was at rest.
    pub(crate) after: Duration,
    /// What is still open; empty if everything settled.
    pub(crate) open: Vec<(String, i64)>,
    /// Whether it was within the time that is allowed.
    pub(crate) is_in_time: bool,
}

/// Waits until everything is at rest, for so long at most.
pub(crate) async fn wait(
    pool: &PgPool,
    ledger: &Ledger,
    events: &Events,
    amqp_url: &str,
    patience: Duration,
) -> anyhow::Result<Settled> {
    let began = Instant::now();
    let expected = ledger.jobs().values().filter(|job| job.kind != Kind::Invalid).count() + ledger.revocations().len();
    let (mut since, mut told, mut said) = (None, events.count(), Instant::now());
    loop {
        let mut open = still_open(pool).await?;
        let jobs: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(pool).await?;
        open.push(("jobs without a record".to_owned(), expected as i64 - jobs));
        // Unknown while the broker doesn't answer.
        open.push(("deliveries in queues".to_owned(), waiting(amqp_url).await.unwrap_or(1)));
        open.retain(|(_, count)| *count > 0);
        let now_told = events.count();
        if !open.is_empty() || now_told != told {
            since = None;
            told = now_told;
        }
        if open.is_empty() && *since.get_or_insert_with(Instant::now) + REST < Instant::now() {
            let after = began.elapsed().saturating_sub(REST);
            return Ok(Settled {
                after,
                open,
                is_in_time: true,
            });
        }
        if began.elapsed() > patience {
            return Ok(Settled {
                after: began.elapsed(),
                open,
                is_in_time: false,
            });
        }
        if said.elapsed() > Duration::from_secs(15) {
            said = Instant::now();
            say(&format!("still open: {open:?}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn still_open(pool: &PgPool) -> anyhow::Result<Vec<(String, i64)>> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM messages WHERE state IN (0, 1, 2)) AS messages,
                (SELECT count(*) FROM messages WHERE revoke_state = 1) AS revocations,
                (SELECT count(*) FROM work) AS work,
                (SELECT count(*) FROM outbox) AS outbox",
    )
    .fetch_one(pool)
    .await?;
    ["messages", "revocations", "work", "outbox"]
        .into_iter()
        .map(|name| Ok((name.to_owned(), row.try_get(name)?)))
        .collect()
}

async fn waiting(amqp_url: &str) -> anyhow::Result<i64> {
    let (connection, channel) = connect(amqp_url).await?;
    let mut ready = 0;
    for lane in ["high", "normal", "bulk"] {
        let name = format!("{NAMESPACE}.jobs.{lane}");
        let passive = QueueDeclareOptions::durable().passive();
        let queue = channel
            .queue_declare(name.into(), passive, FieldTable::default())
            .await?;
        ready += i64::from(queue.message_count());
    }
    connection.close(200, "counted".into()).await?;
    Ok(ready)
}

/// A dead letter.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// What the producer sent.
    pub(crate) body: String,
    /// The word of the failure.
    pub(crate) word: Option<String>,
    /// Its sentence.
    pub(crate) sentence: Option<String>,
}

/// Takes every dead letter.
pub(crate) async fn letters(amqp_url: &str) -> anyhow::Result<Vec<Letter>> {
    let (connection, channel) = connect(amqp_url).await?;
    let mut letters = Vec::new();
    let queue = format!("{NAMESPACE}.jobs.dead");
    while let Some(message) = channel
        .basic_get(queue.as_str().into(), BasicGetOptions::default())
        .await?
    {
        let delivery = message.delivery;
        let header = |name: &str| {
            let headers = delivery.properties.headers().as_ref()?;
            match headers.inner().get(name)? {
                AMQPValue::LongString(text) => Some(text.to_string()),
                _ => None,
            }
        };
        letters.push(Letter {
            word: header("x-im-error-code"),
            sentence: header("x-im-error"),
            body: String::from_utf8_lossy(&delivery.data).into_owned(),
        });
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    connection.close(200, "taken".into()).await?;
    Ok(letters)
}
