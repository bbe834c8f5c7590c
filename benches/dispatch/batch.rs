//! Recipients a second of long batches: sent, and recorded one by one.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    Arguments,
    figures::Figures,
    process,
    stage::{Lab, Stage},
};

/// Recipients of a run, and how they are divided into jobs.
const RECIPIENTS: usize = 200_000;
const JOBS: [usize; 2] = [2, 100];

pub(crate) async fn measure(lab: &Lab, arguments: &Arguments) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let recipients = arguments.jobs_or(RECIPIENTS);
    for _ in 0..arguments.rounds {
        for jobs in JOBS {
            let stage = Stage::open(lab, Duration::ZERO).await?;
            stage.prepare().await?;
            run(&stage, recipients, jobs, &mut figures).await?;
            stage.close().await?;
        }
    }
    Ok(figures)
}

async fn run(stage: &Stage<'_>, recipients: usize, jobs: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let worker = stage.worker(0)?;
    stage.ready().await?;
    let size = recipients / jobs;
    let bodies: Vec<String> = (0..jobs)
        .map(|job| {
            let to: Vec<String> = (0..size)
                .map(|number| format!("user_{}", job * size + number))
                .collect();
            json!({"type": "batch_send", "id": format!("batch-{job}"), "group": "campaign", "to": to,
                   "message": {"text": "The summer sale has begun: everything for the garden at half its price."}})
            .to_string()
        })
        .collect();
    let mut database = stage.database().await?;
    let (cpu_before, services_before) = (process::cpu_seconds(worker.pid()), stage.lab.service_cpu());
    let began = Instant::now();
    stage.producer.publish("bulk", bodies.into_iter()).await?;
    // Closed: every recipient of the job has its outcome on record.
    loop {
        let closed: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 2")
            .fetch_one(&mut database)
            .await?;
        if closed == jobs as i64 {
            break;
        }
        ensure!(
            began.elapsed() < Duration::from_mins(5),
            "{closed} of {jobs} batches ended"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let services = stage.lab.service_cpu();
    let sent: i64 = sqlx::query_scalar("SELECT count(*) FROM messages WHERE state = 3 AND msg_key IS NOT NULL")
        .fetch_one(&mut database)
        .await?;
    ensure!(sent == recipients as i64, "{sent} of {recipients} were sent");
    let calls = stage.calls("batchsendmsg").await?;
    let first = calls.iter().map(|call| call.at).min().context("a call")?;
    let last = calls.iter().map(|call| call.at).max().context("a call")?;
    let peak = process::peak_rss_kib(worker.pid());
    let (cpu, _) = worker.end().await?;
    let variant = format!("{jobs} batches of {size}");
    let thousand = |seconds: f64| seconds * 1_000.0 / recipients as f64;
    figures.add(&variant, "recipients/s from publish", recipients as f64 / seconds);
    figures.add(
        &variant,
        "first to last call",
        recipients as f64 / ((last - first) as f64 / 1e6),
    );
    figures.add(&variant, "CPU s/1,000", thousand(cpu - cpu_before));
    figures.add(
        &variant,
        "Postgres",
        thousand(services.postgres - services_before.postgres),
    );
    figures.add(&variant, "RabbitMQ", thousand(services.broker - services_before.broker));
    figures.add(&variant, "peak MiB", peak as f64 / 1024.0);
    Ok(())
}
