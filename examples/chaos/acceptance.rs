//! The acceptance load: does every recipient have its message exactly once, at the default settings, within 5 minutes?
//!
//! 20,000 single sends and 20 batches of 2,000 recipients through workers that are killed every few seconds, with one
//! kill of the broker and one immediate stop of Postgres on the way, against a service that drops no repeats, carries
//! calls out whose client has died, and answers late, not at all, or with lies.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Arguments, check,
    disaster::Done,
    events::Events,
    fleet::{self, Fleet},
    jobs::{Expected, Kind, Ledger, Publication},
    producer, report,
    report::{line, say},
    services::Services,
    settle, start_simulator,
};

/// Everything has settled so long after the last kill.
const LIMIT: Duration = Duration::from_mins(5);
/// How long it is waited for nevertheless, to see what hangs.
const PATIENCE: Duration = Duration::from_mins(12);
/// Single sends.
const SENDS: f64 = 20_000.0;
/// Batches.
const BATCHES: f64 = 20.0;
/// Recipients of a batch: four calls.
const BATCH_SIZE: usize = 2_000;
/// Accounts that batches draw their recipients from.
const ACCOUNTS: usize = 5_000;

/// What goes wrong, of each hundred calls: 3 answered 2.5 s late, 2 accepted and cut, 2 reset before they are accepted,
/// 2 answered 60008 and 1 never answered, of these half carried out each.
const FAULTS: [&str; 7] = [
    "late:2500ms=0.03",
    "cut_after=0.02",
    "reset_before=0.02",
    "code:60008=0.01",
    "code_after:60008=0.01",
    "never=0.005",
    "never_before=0.005",
];

/// Runs it; success only if nothing is wrong, and in time.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let services = Services::private()?;
    let commands: &[&str] = if arguments.faults_everywhere {
        &["*"]
    } else {
        &["sendmsg", "batchsendmsg"]
    };
    let rules: Vec<String> = commands
        .iter()
        .flat_map(|command| FAULTS.map(|fault| format!("{command}:{fault}")))
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let simulator = start_simulator(arguments.seed, &rules)?;
    let database = services.create_database("chaos").await?;
    let mut fleet = Fleet::prepare(arguments, Vec::new(), &services, &database, &simulator.base_url()).await?;
    fleet.start().await.context("start the workers")?;
    services.sync_queues().await;
    let events = Events::listen(&services.amqp_url, fleet::NAMESPACE).await?;
    services.sync_queues().await;

    let ledger = Arc::new(Ledger::default());
    let publications = load(arguments, &ledger);
    line(&format!(
        "acceptance: seed {}, {} workers at their default settings, {} jobs, {} kills, faults {}",
        arguments.seed,
        arguments.workers,
        publications.len(),
        arguments.kills,
        rules.join(" ")
    ));
    say("everything is published");
    let began = Instant::now();
    let publishing = tokio::spawn({
        let (url, ledger) = (services.amqp_url.clone(), Arc::clone(&ledger));
        async move { producer::publish_all(url, &ledger, publications).await }
    });
    let done = disasters(arguments, &mut fleet, &services).await?;
    say(&format!(
        "{done} in {:.0} s; the last kill is over, the faults go on",
        began.elapsed().as_secs_f64()
    ));
    let last = Instant::now();
    publishing.await.context("the producer")??;
    let pool = services.pool(&database).await?;
    let mut settled = settle::wait(&pool, &ledger, &events, &services.amqp_url, PATIENCE).await?;
    settled.after = last.elapsed().saturating_sub(settle::REST);
    settled.is_in_time &= settled.after <= LIMIT;
    let letters = settle::letters(&services.amqp_url).await?;
    let verdict = check::check(&pool, &ledger, &events, &simulator, &letters).await?;
    let sound = report::print(
        arguments,
        &done,
        &settled,
        &verdict,
        &simulator.report(),
        fleet.directory(),
    )?;
    fleet.stop().await;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The jobs, batches spread evenly among the sends.
fn load(arguments: &Arguments, ledger: &Ledger) -> Vec<Publication> {
    let sends = (SENDS * arguments.scale).ceil() as usize;
    let batches = (BATCHES * arguments.scale).ceil() as usize;
    let every = sends.div_ceil(batches.max(1));
    let mut publications = Vec::with_capacity(sends + batches);
    for n in 0..sends {
        if n % every == 0 {
            let first = (n / every) * 331;
            let to: BTreeSet<String> = (first..first + BATCH_SIZE)
                .map(|n| format!("user_{}", n % ACCOUNTS))
                .collect();
            let id = format!("batch-{}-{:03}", arguments.seed, n / every);
            let job = json!({"type": "batch_send", "id": id, "to": to, "message": {"text": id}});
            publications.push(publication(ledger, Kind::Batch, id, to, &job));
        }
        let (id, to) = (format!("send-{}-{n:06}", arguments.seed), format!("user_{n}"));
        let job = json!({"type": "send", "id": id, "to": to, "message": {"text": id}});
        publications.push(publication(ledger, Kind::Send, id, [to].into(), &job));
    }
    publications
}

fn publication(ledger: &Ledger, kind: Kind, id: String, to: BTreeSet<String>, job: &serde_json::Value) -> Publication {
    ledger.expect(&id, Expected::of(kind, to));
    Publication {
        after: Duration::ZERO,
        lane: if kind == Kind::Batch { "bulk" } else { "normal" },
        id,
        body: Some(job.to_string().into_bytes()),
        key_of: None,
    }
}

/// Kills the workers by turns, every few seconds, and once each the broker and Postgres.
async fn disasters(arguments: &Arguments, fleet: &mut Fleet, services: &Services) -> anyhow::Result<Done> {
    let mut random = StdRng::seed_from_u64(arguments.seed ^ 0xacce_97ed);
    let mut done = Done::default();
    let mut crashes: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for kill in 0..arguments.kills {
        if kill == arguments.kills / 3 {
            say("SIGKILL to the broker, and its start");
            let services = services.clone();
            crashes.spawn(async move { services.kill_broker().await });
            done.broker_kills += 1;
        }
        if kill == arguments.kills * 2 / 3 {
            say("Postgres is stopped at once, and started");
            let services = services.clone();
            crashes.spawn(async move { services.crash_postgres().await });
            done.postgres_crashes += 1;
        }
        let pause = random.random_range(2_500..5_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let worker = kill as usize % arguments.workers;
        if !fleet.is_running(worker)? {
            done.deaths += 1;
            say(&format!("worker {worker} had ended by itself"));
        }
        say(&format!("SIGKILL to worker {worker}"));
        fleet.kill(worker)?;
        tokio::time::sleep(Duration::from_millis(random.random_range(200..1_000))).await;
        fleet.spawn(worker)?;
        done.kills += 1;
    }
    while let Some(back) = crashes.join_next().await {
        back??;
    }
    Ok(done)
}
