//! A campaign's revocation: calls a second from the first to the last, with the default limit and without one.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    Arguments,
    figures::Figures,
    process,
    stage::{Lab, Stage},
};

/// Recipients of the campaign: half of them by single sends, half by one batch.
const RECIPIENTS: usize = 20_000;
/// The service's default, and none.
const LIMITS: [u32; 2] = [0, 200];

pub(crate) async fn measure(lab: &Lab, arguments: &Arguments) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let recipients = arguments.jobs_or(RECIPIENTS);
    for round in 0..arguments.rounds {
        for limit in LIMITS {
            // A hundred seconds each: once is enough, since it is the budget that is measured.
            if limit > 0 && round > 0 {
                continue;
            }
            let stage = Stage::open(lab, Duration::ZERO).await?;
            stage.prepare().await?;
            run(&stage, recipients, limit, &mut figures).await?;
            stage.close().await?;
        }
    }
    Ok(figures)
}

async fn run(stage: &Stage<'_>, recipients: usize, limit: u32, figures: &mut Figures) -> anyhow::Result<()> {
    let sending = stage.worker(0)?;
    let text = json!({"text": "The summer sale has begun: everything for the garden at half its price."});
    let singles = (0..recipients / 2).map(|number| {
        json!({"type": "send", "id": format!("single-{number}"), "group": "campaign",
               "to": format!("user_{number}"), "message": text})
        .to_string()
    });
    stage.producer.publish("normal", singles).await?;
    let rest: Vec<String> = (recipients / 2..recipients)
        .map(|number| format!("user_{number}"))
        .collect();
    let batch = json!({"type": "batch_send", "id": "batch", "group": "campaign", "to": rest, "message": text});
    stage
        .producer
        .publish("bulk", std::iter::once(batch.to_string()))
        .await?;
    for (kind, count) in [("send", recipients / 2), ("batch_send", recipients - recipients / 2)] {
        let sent = format!("im_dispatcher_messages_total{{type=\"{kind}\",outcome=\"sent\"}}");
        stage.reaches(&sent, count as u64, &sending).await?;
    }
    sending.end().await?;

    let worker = stage.worker(limit)?;
    stage.ready().await?;
    let (cpu_before, services_before) = (process::cpu_seconds(worker.pid()), stage.lab.service_cpu());
    let revoke = json!({"type": "revoke", "id": "revoke", "target": {"group": "campaign"}}).to_string();
    stage.producer.publish("high", std::iter::once(revoke)).await?;
    let mut revoked = 0;
    for (kind, count) in [("send", recipients / 2), ("batch_send", recipients - recipients / 2)] {
        let metric = format!("im_dispatcher_messages_total{{type=\"{kind}\",outcome=\"revoked\"}}");
        revoked += stage.reaches(&metric, count as u64, &worker).await?;
    }
    ensure!(revoked == recipients as u64, "{revoked} of {recipients} were revoked");
    let services = stage.lab.service_cpu();
    let peak = process::peak_rss_kib(worker.pid());
    let (cpu, _) = worker.end().await?;
    let calls = stage.calls("admin_msgwithdraw").await?;
    ensure!(
        calls.len() == recipients,
        "{} calls for {recipients} messages",
        calls.len()
    );
    let first = calls.iter().map(|call| call.at).min().context("a call")?;
    let last = calls.iter().map(|call| call.at).max().context("a call")?;
    let rate = (recipients - 1) as f64 / ((last - first) as f64 / 1e6);
    let variant = if limit == 0 {
        "no limit".to_owned()
    } else {
        format!("{limit}/s")
    };
    let thousand = |seconds: f64| seconds * 1_000.0 / recipients as f64;
    figures.add(&variant, "calls/s", rate);
    if limit > 0 {
        figures.add(&variant, "of the budget", rate / f64::from(limit));
    }
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
