//! The plain worker that the benchmark compares with: what one writes first with lapin, reqwest and sqlx.
//!
//! For each delivery a task: decode, one HTTP call, one INSERT, one ack; as many at once as the prefetch allows. No claim, no
//! events, no budget, no retries, no revocation; a crash between call and ack sends twice. Its figures say what the machine
//! gives to a worker without promises. The UserSig is made once.
//!
//! It ends by itself after `--jobs` acks and prints one JSON object: when its first delivery came, when its last ack was
//! written, its CPU seconds and peak memory in between; with `--stamps FILE` also when each job's record was committed.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use clap::Parser;
use futures::StreamExt;
use lapin::{
    Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::Notify;

#[expect(dead_code, reason = "the driver's own helper, of which this needs a part")]
#[path = "../dispatch/process.rs"]
mod process;

/// A worker without promises.
#[derive(Parser)]
struct Arguments {
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// The queue to consume.
    #[arg(long)]
    queue: String,
    /// The sendmsg URL, signed.
    #[arg(long, env = "REFERENCE_CALL_URL", hide_env_values = true)]
    call_url: String,
    /// Deliveries, and so calls, under way at once.
    #[arg(long, default_value_t = 200)]
    in_flight: u16,
    /// Ends after so many acks.
    #[arg(long)]
    jobs: u64,
    /// Writes `job id, Unix microseconds of its commit` lines here.
    #[arg(long)]
    stamps: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Job {
    id: String,
    to: String,
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    #[serde(rename = "To_Account")]
    to: &'a str,
    msg_seq: u32,
    msg_random: u32,
    msg_body: [Element<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Element<'a> {
    msg_type: &'static str,
    msg_content: Text<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Text<'a> {
    text: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    error_code: i32,
    msg_key: String,
    msg_time: i64,
}

struct Shared {
    http: reqwest::Client,
    pool: PgPool,
    call_url: String,
    acked: AtomicU64,
    jobs: u64,
    done: Notify,
    stamps: parking_lot::Mutex<Vec<(String, u64)>>,
    stamping: bool,
}

fn unix_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

async fn carry_out(shared: &Shared, delivery: Delivery) -> anyhow::Result<()> {
    let job: Job = serde_json::from_slice(&delivery.data)?;
    let request = Request {
        to: &job.to,
        msg_seq: rand::random(),
        msg_random: rand::random(),
        msg_body: [Element {
            msg_type: "TIMTextElem",
            msg_content: Text {
                text: &job.message.text,
            },
        }],
    };
    let url = format!("{}&random={}", shared.call_url, rand::random::<u32>());
    let answer: Answer = shared.http.post(url).json(&request).send().await?.json().await?;
    ensure!(answer.error_code == 0, "refused: {}", answer.error_code);
    sqlx::query("INSERT INTO reference_sent (job_id, to_account, msg_key, msg_time) VALUES ($1, $2, $3, $4)")
        .bind(&job.id)
        .bind(&job.to)
        .bind(&answer.msg_key)
        .bind(answer.msg_time)
        .execute(&shared.pool)
        .await?;
    if shared.stamping {
        shared.stamps.lock().push((job.id, unix_micros()));
    }
    delivery.acker.ack(BasicAckOptions::default()).await?;
    if shared.acked.fetch_add(1, Ordering::Relaxed) + 1 == shared.jobs {
        shared.done.notify_one();
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect(&arguments.database_url)
        .await
        .context("connect to Postgres")?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS reference_sent (job_id text PRIMARY KEY, to_account text NOT NULL,
         msg_key text NOT NULL, msg_time bigint NOT NULL, sent_at timestamptz NOT NULL DEFAULT now())",
    )
    .execute(&pool)
    .await?;
    let connection = Connection::connect(&arguments.amqp_url, ConnectionProperties::default())
        .await
        .context("connect to RabbitMQ")?;
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(arguments.in_flight, BasicQosOptions::default())
        .await?;
    let shared = Arc::new(Shared {
        http: reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only(Vec::new())
            .pool_max_idle_per_host(usize::from(arguments.in_flight))
            .build()?,
        pool,
        call_url: arguments.call_url,
        acked: AtomicU64::new(0),
        jobs: arguments.jobs,
        done: Notify::new(),
        stamps: parking_lot::Mutex::default(),
        stamping: arguments.stamps.is_some(),
    });
    let mut deliveries = channel
        .basic_consume(
            arguments.queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut began = None;
    loop {
        let delivery = tokio::select! {
            delivery = deliveries.next() => delivery.context("the consumer ended")??,
            () = shared.done.notified() => break,
        };
        if began.is_none() {
            began = Some((unix_micros(), process::cpu_seconds(std::process::id())));
            writeln!(std::io::stderr(), "began")?;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = carry_out(&shared, delivery).await {
                writeln!(std::io::stderr(), "{error:#}").ok();
                std::process::exit(1);
            }
        });
    }
    let ended = unix_micros();
    let cpu = process::cpu_seconds(std::process::id());
    let peak = process::peak_rss_kib(std::process::id());
    let (began, cpu_before) = began.context("no delivery came")?;
    if let Some(file) = arguments.stamps {
        let stamps = shared.stamps.lock();
        let lines: Vec<String> = stamps.iter().map(|(id, at)| format!("{id} {at}\n")).collect();
        let lines = lines.concat();
        std::fs::write(file, lines)?;
    }
    // So that the last ack has left before the connection closes.
    connection.close(200, "done".into()).await?;
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::json!({"began": began, "ended": ended, "cpu_seconds": cpu - cpu_before, "peak_rss_kib": peak})
    )?;
    Ok(())
}
