//! A producer as any program can be one, without a line of im-dispatcher's code: publishes each line of a file, as it is,
//! with publisher confirms and `mandatory`, and can wait for the events that answer it.
//!
//! ```sh
//! cargo run --example producer -- --namespace im --lane high --replies 2 jobs.ndjson
//! ```
//!
//! `AMQP_URL` names the broker. Unlike `im-dispatcher submit` it checks nothing, so a bad line becomes a dead letter. With
//! `--replies N` each job gets a `reply_to` of ours, and N answers are printed, one JSON a line. `--delete-namespace`
//! deletes every queue and exchange of the namespace instead: the demo's, on a broker that it was given.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Parser;
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::FieldTable,
};

/// Publishes jobs, a line each, to a lane of im-dispatcher.
#[derive(Parser)]
struct Arguments {
    /// The prefix of exchanges and queues.
    #[arg(long, env = "IM_DISPATCHER_NAMESPACE", default_value = "im")]
    namespace: String,
    /// The routing key: high, normal or bulk.
    #[arg(long, default_value = "normal")]
    lane: String,
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
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .context("connect to RabbitMQ")?;
    let channel = connection.create_channel().await?;
    if let Some(file) = &arguments.file {
        let jobs = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        publish(&channel, &arguments, &jobs).await?;
    } else {
        delete(&channel, &arguments.namespace).await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

async fn publish(channel: &Channel, arguments: &Arguments, jobs: &[u8]) -> anyhow::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    // Persistent, or a restart of the broker forgets it.
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    let mut answers = None;
    if arguments.replies > 0 {
        let queue = channel
            .queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default())
            .await?;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let name = queue.name().clone();
        answers = Some(
            channel
                .basic_consume(name.clone(), "".into(), options, FieldTable::default())
                .await?,
        );
        properties = properties.with_reply_to(name);
    }
    for (number, line) in jobs
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        let number = number + 1;
        let confirmation = channel
            .basic_publish(
                format!("{}.jobs", arguments.namespace).into(),
                arguments.lane.as_str().into(),
                BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                },
                line,
                properties.clone().with_correlation_id(format!("line-{number}").into()),
            )
            .await?
            .await?;
        // A message that no queue took is confirmed, too, and returned: only an empty Ack is success.
        ensure!(
            matches!(confirmation, Confirmation::Ack(None)),
            "line {number} wasn't accepted: {confirmation:?}"
        );
    }
    let Some(mut answers) = answers else { return Ok(()) };
    for _ in 0..arguments.replies {
        let answer = tokio::time::timeout(PATIENCE, answers.next())
            .await
            .context("no answer within a minute")?;
        let answer = answer.context("the answers ended")??;
        #[expect(clippy::print_stdout, reason = "it is what the program is for")]
        {
            println!("{}", String::from_utf8_lossy(&answer.data));
        }
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
