//! From publish to call and from publish to record: idle, one job at a time, and at a thousand jobs a second.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, ensure};
use futures::StreamExt;
use lapin::{
    ExchangeKind,
    options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{
    Arguments,
    figures::{Figures, quantile},
    jobs,
    stage::{Lab, Stage, unix_micros},
};

/// How the jobs come: so many, so far apart.
const PACES: [(&str, usize, Duration); 2] = [
    ("idle", 500, Duration::from_millis(20)),
    ("1,000/s", 5_000, Duration::from_millis(1)),
];
/// Jobs before those that count: connections are made by them.
const WARM_UP: usize = 50;

const NAMES: [[&str; 4]; 2] = [
    ["call p50 ms", "call p95 ms", "call p99 ms", "call max ms"],
    ["record p50 ms", "record p95 ms", "record p99 ms", "record max ms"],
];

pub(crate) async fn measure(lab: &Lab, arguments: &Arguments) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..arguments.rounds {
        for (pace, jobs, interval) in PACES {
            for reference in [false, true] {
                if reference && arguments.alone {
                    continue;
                }
                let stage = Stage::open(lab, Duration::ZERO).await?;
                stage.prepare().await?;
                let times = run(&stage, reference, jobs, interval).await?;
                let variant = format!("{} {pace}", if reference { "reference" } else { "im-dispatcher" });
                for (values, names) in times.iter().zip(NAMES) {
                    for (name, share) in names.into_iter().zip([0.5, 0.95, 0.99, 1.0]) {
                        figures.add(&variant, name, quantile(values, share));
                    }
                }
                stage.close().await?;
            }
        }
    }
    Ok(figures)
}

/// Milliseconds from publish to call, and from publish to record, of each job that counts.
async fn run(stage: &Stage<'_>, reference: bool, jobs: usize, interval: Duration) -> anyhow::Result<[Vec<f64>; 2]> {
    let total = WARM_UP + jobs;
    let stamps = stage.lab.directory.path().join("stamps");
    let events = events(stage).await?;
    let process = if reference {
        stage.reference(total, Some(&stamps))?
    } else {
        let worker = stage.worker(0)?;
        stage.ready().await?;
        worker
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    let recorded = tokio::spawn(listen(events, if reference { 0 } else { total }));
    let (mut published, mut confirms) = (Vec::with_capacity(total), Vec::with_capacity(total));
    let mut beat = tokio::time::interval(interval);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0..total {
        beat.tick().await;
        published.push(unix_micros());
        confirms.push(
            stage
                .producer
                .begin("normal", &jobs::send(number, &format!("user_{number}")))
                .await?,
        );
    }
    for confirm in confirms {
        confirm.await?;
    }
    let recorded = if reference {
        let mut process = process;
        let status = tokio::task::spawn_blocking(move || process.child.wait()).await??;
        ensure!(status.success(), "the reference: {status}");
        let lines = std::fs::read_to_string(&stamps)?;
        lines
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(id, at)| Some((id.to_owned(), at.parse().ok()?)))
            .collect()
    } else {
        let recorded = tokio::time::timeout(Duration::from_mins(1), recorded).await???;
        process.end().await?;
        recorded
    };
    let epoch = stage.epoch().await?;
    let calls: HashMap<String, u64> = stage
        .calls("sendmsg")
        .await?
        .into_iter()
        .filter_map(|call| Some((call.first_recipient?, epoch + call.at)))
        .collect();
    let since = |number: usize, at: u64| (at as f64 - published[number] as f64) / 1_000.0;
    let mut times = [Vec::new(), Vec::new()];
    for number in WARM_UP..total {
        let called = calls.get(&format!("user_{number}")).context("a call")?;
        times[0].push(since(number, *called));
        let record = recorded.get(&format!("bench-{number:08}")).context("a record")?;
        times[1].push(since(number, *record));
    }
    Ok(times)
}

/// A consumer of the namespace's events. An event is published once its record is committed, so when it comes bounds that.
async fn events(stage: &Stage<'_>) -> anyhow::Result<lapin::Consumer> {
    let channel = stage.producer.channel().await?;
    let exchange = format!("{}.events", stage.namespace);
    channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions {
                durable: true,
                ..ExchangeDeclareOptions::default()
            },
            FieldTable::default(),
        )
        .await?;
    let queue = channel
        .queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default())
        .await?;
    channel
        .queue_bind(
            queue.name().clone(),
            exchange.into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    Ok(channel
        .basic_consume(queue.name().clone(), "".into(), options, FieldTable::default())
        .await?)
}

/// When each job's event came.
async fn listen(mut events: lapin::Consumer, wanted: usize) -> anyhow::Result<HashMap<String, u64>> {
    let mut came = HashMap::with_capacity(wanted);
    while came.len() < wanted {
        let event = events.next().await.context("the events ended")??;
        let at = unix_micros();
        let event: serde_json::Value = serde_json::from_slice(&event.data)?;
        came.insert(event["subject"].as_str().context("a subject")?.to_owned(), at);
    }
    Ok(came)
}
