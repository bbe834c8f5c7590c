//! Publishes each line of a file, as it is, through the library's producer, and can wait for the events that answer it.
//!
//! ```sh
//! cargo run --example producer -- --namespace im --lane high --replies 2 jobs.ndjson
//! ```
//!
//! `AMQP_URL` names the broker. Unlike `im-dispatcher submit` it checks nothing, so a bad line becomes a dead letter. With
//! `--replies N` each job gets a `reply_to` of ours, and N answers are printed, one JSON a line. `--delete-namespace`
//! deletes every queue and exchange of the namespace instead: the demo's, on a broker that it was given.
//!
//! The shortest program that publishes a job is `examples/producers/rust/main.rs`.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;
use im_dispatcher::{
    domain::Lane,
    producer::{Outgoing, Producer, ProducerOptions},
};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeleteOptions},
};

/// Publishes jobs, a line each, to a lane of im-dispatcher.
#[derive(Parser)]
struct Arguments {
    /// The prefix of exchanges and queues.
    #[arg(long, env = "IM_DISPATCHER_NAMESPACE", default_value = "im")]
    namespace: String,
    /// high, normal or bulk.
    #[arg(long, default_value = "normal")]
    lane: Lane,
    /// Asks for answers, and prints so many.
    #[arg(long, default_value_t = 0)]
    replies: usize,
    /// Deletes the namespace's queues and exchanges.
    #[arg(long, conflicts_with = "file")]
    delete_namespace: bool,
    /// The jobs.
    #[arg(required_unless_present = "delete_namespace")]
    file: Option<PathBuf>,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    if let Some(file) = &arguments.file {
        let jobs = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let mut options = ProducerOptions::new(url);
        options.namespace.clone_from(&arguments.namespace);
        let producer = Producer::connect(options).await?;
        let published = publish(&producer, &arguments, &jobs).await;
        producer.close().await;
        published
    } else {
        let connection = Connection::connect(&url, ConnectionProperties::default())
            .await
            .context("connect to RabbitMQ")?;
        // Kept until the connection is closed: a channel that is dropped closes itself.
        let channel = connection.create_channel().await?;
        delete(&channel, &arguments.namespace).await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    }
}

async fn publish(producer: &Producer, arguments: &Arguments, jobs: &[u8]) -> anyhow::Result<()> {
    // No key: only what names the queue as its reply_to.
    let mut answers = match arguments.replies {
        0 => None,
        _ => Some(producer.outcomes(&[]).await?),
    };
    let mut pipeline = producer.pipeline(arguments.lane);
    let lines = jobs.split(|byte| *byte == b'\n').enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let mut job = Outgoing::unchecked(line.to_vec().into());
        if let Some(answers) = &answers {
            job = job
                .with_reply_to(answers.queue())
                .with_correlation_id(format!("line-{}", number + 1));
        }
        pipeline.publish(number + 1, job).await;
    }
    while let Some((number, result)) = pipeline.next().await {
        result.with_context(|| format!("line {number} wasn't accepted"))?;
    }
    let Some(answers) = &mut answers else { return Ok(()) };
    for _ in 0..arguments.replies {
        let answer = tokio::time::timeout(PATIENCE, answers.next())
            .await
            .context("no answer within a minute")??;
        let mut out = std::io::stdout().lock();
        out.write_all(&answer.to_bytes())?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

async fn delete(channel: &Channel, namespace: &str) -> anyhow::Result<()> {
    for queue in ["jobs.high", "jobs.normal", "jobs.bulk", "jobs.dead"] {
        channel
            .queue_delete(format!("{namespace}.{queue}").into(), QueueDeleteOptions::default())
            .await?;
    }
    for exchange in ["jobs", "unrouted", "events"] {
        channel
            .exchange_delete(
                format!("{namespace}.{exchange}").into(),
                ExchangeDeleteOptions::default(),
            )
            .await?;
    }
    Ok(())
}
