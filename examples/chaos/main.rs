//! The chaos run: is anything lost or sent twice, if everything is killed? `scripts/chaos.sh` builds it and brings the
//! private services that it kills.
//!
//! Worker processes carry mixed jobs out against the simulator of the IM API, which answers late, cuts, resets, lies
//! and never answers. Meanwhile, by a schedule that a seed decides, workers are killed and frozen, their connections
//! cut and stalled, the broker killed and Postgres stopped as by a power cut. Then the chaos ends, everything settles,
//! and what the service has is compared with what the records and the events say. It exits 0 only if nothing is wrong.
//!
//! It knows the product from outside only: its binary, its queues, its events, its tables.

mod acceptance;
mod check;
mod cluster;
mod disaster;
mod events;
mod fleet;
mod jobs;
#[expect(
    clippy::unwrap_used,
    reason = "the tests' own helper: loopback ports can be bound, or nothing works"
)]
#[path = "../../tests/it/support/net.rs"]
mod net;
mod producer;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests' own helper: sockets on loopback"
)]
#[path = "../../tests/it/support/relay.rs"]
mod relay;
mod report;
mod services;
mod settle;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;
use im_dispatcher::simulator::{FaultRule, Simulator, SimulatorOptions};

use self::{events::Events, fleet::Fleet, services::Services};

/// Kills everything under load, and counts what reached each recipient.
#[derive(Debug, Parser)]
struct Arguments {
    /// Minutes of chaos under load, before everything settles.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Decides the jobs, the faults and the schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Jobs a second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// The workers' `reconcile.listed_after`; the default of 3 minutes makes settling that much longer.
    #[arg(long, default_value = "20s")]
    listed_after: humantime::Duration,
    /// Seconds that settling may take after the last disaster.
    #[arg(long)]
    patience: Option<u64>,
    /// Also writes the figures there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where logs are kept. Emptied by whoever starts this.
    #[arg(long)]
    directory: PathBuf,
    /// The binary.
    #[arg(long)]
    binary: PathBuf,
    /// The workers' log filter.
    #[arg(long, default_value = "info")]
    log: String,
    /// RabbitMQ is a cluster of the nodes that are up: the leader's node is killed, and cut off from the others, by turns.
    #[arg(long)]
    cluster: bool,
    /// The acceptance load instead of the mixed one: 20,000 sends and 20 batches of 2,000 through workers at their default
    /// settings that are killed 20 times; settled within 5 minutes of the last kill.
    #[arg(long)]
    acceptance: bool,
    /// Of the acceptance load: a share of its sends and batches.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Of the acceptance load: how often workers are killed.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Of the acceptance load: the faults hit every command, the history too, not only sends and batches.
    #[arg(long)]
    faults_everywhere: bool,
}

/// The workers' settings that differ from the defaults: shorter waits, in the same order, so that a run settles in
/// minutes. A resend comes 3 s (the claim's window) + 3 s (the time-out) + 2 s (settling) after the last call.
const SETTINGS: [(&str, &str); 3] = [
    ("IM_DISPATCHER__IM__TOTAL_TIMEOUT", "3s"),
    ("IM_DISPATCHER__RECONCILE__SETTLE", "2s"),
    ("IM_DISPATCHER__RETRY__MAX", "10s"),
];

/// How long a message stays invisible in the history: less than `reconcile.settle`.
const ROAM_LAG: Duration = Duration::from_millis(300);

/// What goes wrong at the service.
const FAULTS: [&str; 23] = [
    "sendmsg:late:2500ms=0.03",
    "sendmsg:cut_after=0.02",
    "sendmsg:reset_before=0.02",
    "sendmsg:code:60008=0.01",
    "sendmsg:code_after:60008=0.01",
    "sendmsg:never=0.01",
    "sendmsg:code:60007=0.01",
    "batchsendmsg:late:2500ms=0.03",
    "batchsendmsg:cut_after=0.02",
    "batchsendmsg:reset_before=0.02",
    "batchsendmsg:code:60008=0.01",
    "batchsendmsg:code_after:60008=0.01",
    "batchsendmsg:never=0.01",
    "batchsendmsg:partial_cut:100=0.04",
    "batchsendmsg:recipient:70169=0.01",
    "importmsg:cut_after=0.02",
    "importmsg:code_after:60008=0.02",
    "admin_getroammsg:late:2500ms=0.03",
    "admin_getroammsg:cut_after=0.02",
    "admin_getroammsg:code:60007=0.02",
    "admin_msgwithdraw:cut_after=0.02",
    "admin_msgwithdraw:code_after:60008=0.02",
    "admin_msgwithdraw:never=0.01",
];
#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(arguments.workers > 0 && arguments.minutes > 0.0, "nothing to do");
    if arguments.acceptance {
        return acceptance::run(&arguments).await;
    }
    let mut services = Services::private()?;
    if arguments.cluster {
        services.form_cluster().await?;
    }
    let simulator = Arc::new(start_simulator(arguments.seed, &FAULTS)?);
    let database = services.create_database("chaos").await?;
    let mut settings: Vec<(&str, String)> = SETTINGS.map(|(name, value)| (name, value.to_owned())).into();
    let listed_after = arguments.listed_after.to_string();
    settings.push(("IM_DISPATCHER__RECONCILE__LISTED_AFTER", listed_after));
    let mut fleet = Fleet::prepare(&arguments, settings, &services, &database, &simulator.base_url()).await?;
    fleet.start().await.context("start the workers")?;
    // RabbitMQ 3.10.8: a kill soon after the first declaration can bring a new quorum queue back empty.
    services.sync_queues().await;
    let events = Events::listen(&services.amqp_url, fleet::NAMESPACE).await?;
    services.sync_queues().await;
    report::print_settings(&arguments, &SETTINGS, ROAM_LAG);

    let ledger = Arc::new(jobs::Ledger::default());
    let began = Instant::now();
    let span = Duration::from_secs_f64(arguments.minutes * 60.0);
    let load = tokio::spawn(producer::run(producer::Load {
        amqp_url: services.amqp_url.clone(),
        seed: arguments.seed,
        rate: arguments.rate,
        until: began + span,
        ledger: Arc::clone(&ledger),
        events: events.clone(),
    }));
    let done = disaster::run(&mut fleet, &services, &simulator, arguments.seed, began + span).await?;
    load.await.context("the producer")??;

    report::say(&format!("{done}; the chaos is over, everything settles"));
    simulator.clear_faults();
    // A lease of a killed worker (a minute), then two looks, a repeat after the signature has ended (35 s) and the service
    // lists, and all of that perhaps once more.
    let patience = (Duration::from_secs(155) + *arguments.listed_after) * 2;
    let patience = arguments.patience.map_or(patience, Duration::from_secs);
    let pool = services.pool(&database).await?;
    let settled = settle::wait(&pool, &ledger, &events, &services.amqp_url, patience).await?;
    let letters = settle::letters(&services.amqp_url).await?;
    let verdict = check::check(&pool, &ledger, &events, &simulator, &letters).await?;
    let sound = report::print(
        &arguments,
        &done,
        &settled,
        &verdict,
        &simulator.report(),
        fleet.directory(),
    )?;
    fleet.stop().await;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start_simulator(seed: u64, faults: &[&str]) -> anyhow::Result<Simulator> {
    let faults: Result<Vec<FaultRule>, String> = faults.iter().map(|rule| rule.parse()).collect();
    Simulator::start(SimulatorOptions {
        // Only our own care counts.
        dedup: Duration::ZERO,
        roam_lag: ROAM_LAG,
        seed,
        keep_calls: None,
        faults: faults.map_err(anyhow::Error::msg)?,
        ..SimulatorOptions::default()
    })
}
