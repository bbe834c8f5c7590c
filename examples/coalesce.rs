//! How much sooner do sends of one content go out that may be merged? Real services, a worker process of its own, and the
//! simulator's own count of what arrived when.
//!
//! ```sh
//! cargo run --release --example coalesce -- --binary target/release/im-dispatcher --sends 20000
//! ```
//!
//! All sends are published before the worker starts; a run is timed from the service's first call to its last. One JSON
//! object a line for each run: the same sends one by one, merged at the documented limits, and merged with 6,000,000
//! recipients a minute. `DATABASE_URL` and `AMQP_URL` name the services; each run has its own database and namespace.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use im_dispatcher::{
    domain::Command,
    simulator::{Arrival, Limits, SAMPLE_SDK_APP_ID, SAMPLE_SECRET, Simulator, SimulatorOptions},
};
use lapin::{
    Connection, ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeleteOptions},
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// Times sends that may be merged against sends that may not.
#[derive(Parser)]
struct Arguments {
    /// The binary under test.
    #[arg(long)]
    binary: PathBuf,
    /// Sends of each run.
    #[arg(long, default_value_t = 20_000)]
    sends: u32,
    /// Runs, in this order.
    #[arg(long, value_delimiter = ',', default_values_t = ["singles".to_owned(), "merged".to_owned(), "raised".to_owned()])]
    runs: Vec<String>,
    /// A worker's log goes here instead of nowhere.
    #[arg(long)]
    log: Option<PathBuf>,
}

/// The worker's limits of a run: the documented ones, or with the recipients' limit raised.
const CALLS_PER_SECOND: u32 = 200;
const RECIPIENTS_PER_MINUTE: u32 = 12_000;
const RAISED: u32 = 6_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    for name in &arguments.runs {
        let (coalesce, recipients) = match name.as_str() {
            "singles" => (false, RECIPIENTS_PER_MINUTE),
            "merged" => (true, RECIPIENTS_PER_MINUTE),
            "raised" => (true, RAISED),
            other => bail!("no run is called {other}: singles, merged or raised"),
        };
        let figures = run(&arguments, name, coalesce, recipients).await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{figures}")?;
    }
    Ok(())
}

async fn run(arguments: &Arguments, name: &str, coalesce: bool, recipients: u32) -> anyhow::Result<serde_json::Value> {
    let database_url = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
    let amqp_url = std::env::var("AMQP_URL").context("AMQP_URL")?;
    let namespace = format!("bench{:08x}", rand::random::<u32>());
    let own_url = with_database(&database_url, &namespace)?;
    execute(&database_url, &format!("CREATE DATABASE {namespace}")).await?;
    // What is granted is the worker's matter here; the service only counts.
    let simulator = Simulator::start(SimulatorOptions {
        limits: Limits::none(),
        keep_calls: None,
        ..SimulatorOptions::default()
    })?;
    let environment = [
        ("DATABASE_URL", own_url),
        ("AMQP_URL", amqp_url.clone()),
        ("IM_DISPATCHER_NAMESPACE", namespace.clone()),
        ("IM_DISPATCHER_HTTP_ADDR", String::new()),
        ("IM_BASE_URL", simulator.base_url()),
        ("IM_SDK_APP_ID", SAMPLE_SDK_APP_ID.to_string()),
        ("IM_SECRET_KEY", SAMPLE_SECRET.to_owned()),
        ("IM_RATE_LIMIT", CALLS_PER_SECOND.to_string()),
        ("IM_BATCH_RECIPIENTS_PER_MINUTE", recipients.to_string()),
        (
            "RUST_LOG",
            std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()),
        ),
    ];
    let start = |command: &str, more: &[&str], stdin: Stdio, log: Option<&Path>| -> anyhow::Result<Child> {
        let mut process = Process::new(&arguments.binary);
        process.arg(command).args(more).stdin(stdin).stdout(Stdio::null());
        process.env_clear().envs(environment.iter().cloned());
        if let Some(log) = log {
            process.stderr(std::fs::File::create(log)?);
        }
        process.spawn().context("start the binary")
    };
    let mut producer = start("submit", &["--lane", "bulk", "-"], Stdio::piped(), None)?;
    {
        let mut lines = std::io::BufWriter::new(producer.stdin.take().context("the producer's stdin")?);
        for n in 0..arguments.sends {
            let job = json!({"type": "send", "id": format!("job-{n}"), "to": format!("user{n}"), "group": "campaign",
                             "coalesce": coalesce, "message": {"text": "The same for everybody."}});
            writeln!(lines, "{job}")?;
        }
    }
    ensure!(producer.wait()?.success(), "the producer failed");
    let mut worker = start("worker", &[], Stdio::null(), arguments.log.as_deref())?;
    let ended = until_delivered(&simulator, arguments.sends, &mut worker).await;
    let settled = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&worker), rustix::process::Signal::TERM)?;
    let status = worker.wait()?;
    let drained = settled.elapsed();
    clean(&database_url, &amqp_url, &namespace).await?;
    ended?;
    ensure!(status.success(), "the worker didn't drain");

    let report = simulator.report();
    ensure!(report.sent_twice.is_empty(), "sent twice: {:?}", report.sent_twice);
    let singles = simulator.arrivals(Command::SendMsg);
    let batches = simulator.arrivals(Command::BatchSendMsg);
    let times = || singles.iter().chain(&batches).map(|arrival| arrival.at);
    let (first, last) = (times().min().context("no call")?, times().max().context("no call")?);
    let seconds = |microseconds: u64| Duration::from_micros(microseconds).as_secs_f64();
    Ok(json!({
        "run": name,
        "sends": arguments.sends,
        "seconds": seconds(last - first),
        "singles": singles.len(),
        "batches": batches.len(),
        "batch_recipients": batches.iter().map(|batch| u64::from(batch.recipients)).sum::<u64>(),
        "singles_busiest_second": busiest(&singles, 1_000_000, |_| 1),
        "batches_busiest_second": busiest(&batches, 1_000_000, |_| 1),
        "recipients_busiest_minute": busiest(&batches, 60_000_000, |batch| batch.recipients.into()),
        "drain_seconds": drained.as_secs_f64(),
    }))
}

/// The most that any sliding window of so many microseconds holds.
fn busiest(arrivals: &[Arrival], window: u64, weight: impl Fn(&Arrival) -> u64) -> u64 {
    let mut sorted: Vec<(u64, u64)> = arrivals.iter().map(|arrival| (arrival.at, weight(arrival))).collect();
    sorted.sort_unstable();
    let (mut from, mut sum, mut most) = (0, 0, 0);
    for &(at, weight) in &sorted {
        sum += weight;
        while sorted[from].0 + window <= at {
            sum -= sorted[from].1;
            from += 1;
        }
        most = most.max(sum);
    }
    most
}

/// Waits until the service has accepted all of them, as long as it goes on.
async fn until_delivered(simulator: &Simulator, sends: u32, worker: &mut Child) -> anyhow::Result<()> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let delivered = simulator.delivered_total();
        if delivered >= u64::from(sends) {
            return Ok(());
        }
        if delivered > seen {
            (seen, since) = (delivered, Instant::now());
        }
        ensure!(worker.try_wait()?.is_none(), "the worker ended");
        ensure!(
            since.elapsed() < Duration::from_mins(2),
            "nothing came for two minutes, after {delivered}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn execute(url: &str, statement: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    Ok(())
}

/// The same server's database of that name.
fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let mut url = url::Url::parse(url)?;
    url.set_path(name);
    Ok(url.into())
}

async fn clean(database_url: &str, amqp_url: &str, namespace: &str) -> anyhow::Result<()> {
    execute(database_url, &format!("DROP DATABASE {namespace} WITH (FORCE)")).await?;
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for queue in ["jobs.high", "jobs.normal", "jobs.bulk", "jobs.dead"] {
        let queue = format!("{namespace}.{queue}");
        channel
            .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await?;
    }
    for exchange in ["jobs", "events", "unrouted"] {
        let exchange = format!("{namespace}.{exchange}");
        channel
            .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
            .await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}
