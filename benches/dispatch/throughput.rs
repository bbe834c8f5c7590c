//! Jobs a second from the first call to the last ack, and CPU seconds for a thousand jobs.

use std::{io::Read as _, time::Duration};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::{
    Arguments,
    figures::Figures,
    jobs, process,
    stage::{Lab, Running, ServiceCpu, Stage},
};

/// Jobs of a run without API latency, and with it.
const JOBS: usize = 60_000;
const JOBS_WITH_LATENCY: usize = 40_000;
/// Calls in flight, of both.
const IN_FLIGHT: f64 = 200.0;

const RATE: &str = "jobs/s";
const CPU: &str = "CPU s/1,000";
const POSTGRES: &str = "Postgres";
const BROKER: &str = "RabbitMQ";
const PEAK: &str = "peak MiB";
const SHARE: &str = "of 200 in flight";

/// What the reference says of itself.
#[derive(Debug, Deserialize)]
struct Report {
    ended: u64,
    cpu_seconds: f64,
    peak_rss_kib: u64,
}

/// One run's figures.
struct Run {
    seconds: f64,
    /// CPU seconds for one job.
    cpu: f64,
    services: ServiceCpu,
    peak_kib: u64,
}

pub(crate) async fn measure(lab: &Lab, arguments: &Arguments) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let latencies: Vec<u64> = arguments.latency.map_or_else(|| vec![0, 30], |only| vec![only]);
    for _ in 0..arguments.rounds {
        for &latency in &latencies {
            let own = if latency == 0 { JOBS } else { JOBS_WITH_LATENCY };
            let jobs = arguments.jobs_or(own);
            for reference in [false, true] {
                if reference && arguments.alone {
                    continue;
                }
                let stage = Stage::open(lab, Duration::from_millis(latency)).await?;
                stage.prepare().await?;
                let publish = (0..jobs).map(|number| jobs::send(number, &jobs::recipient(number)));
                stage.producer.publish("normal", publish).await?;
                let run = if reference {
                    run_reference(&stage, jobs).await?
                } else {
                    run_worker(&stage, jobs).await?
                };
                let variant = format!("{} {latency} ms", if reference { "reference" } else { "im-dispatcher" });
                let thousand = |seconds: f64| seconds * 1_000.0 / jobs as f64;
                figures.add(&variant, RATE, jobs as f64 / run.seconds);
                figures.add(&variant, CPU, run.cpu * 1_000.0);
                figures.add(&variant, POSTGRES, thousand(run.services.postgres));
                figures.add(&variant, BROKER, thousand(run.services.broker));
                figures.add(&variant, PEAK, run.peak_kib as f64 / 1024.0);
                if latency > 0 {
                    let allowed = IN_FLIGHT * 1_000.0 / latency as f64;
                    figures.add(&variant, SHARE, jobs as f64 / run.seconds / allowed);
                }
                stage.close().await?;
            }
        }
    }
    for latency in latencies {
        let (ours, theirs) = (format!("im-dispatcher {latency} ms"), format!("reference {latency} ms"));
        figures.compare(&ours, &theirs, &[RATE, CPU, POSTGRES, BROKER, PEAK]);
    }
    Ok(figures)
}

async fn run_worker(stage: &Stage<'_>, jobs: usize) -> anyhow::Result<Run> {
    let events = "im_dispatcher_events_total";
    let worker = stage.worker(0)?;
    let before = stage.reaches(events, 1, &worker).await?;
    let (cpu_before, services_before) = (process::cpu_seconds(worker.pid()), stage.lab.service_cpu());
    stage.reaches(events, jobs as u64, &worker).await?;
    let services = stage.lab.service_cpu();
    let peak_kib = process::peak_rss_kib(worker.pid());
    // Everything is recorded and confirmed: what is left is the last acks, and an end in good order.
    let (cpu, ended) = worker.end().await?;
    let ended = since_epoch(ended)?;
    let counted = jobs as f64 - before as f64;
    let scale = jobs as f64 / counted;
    Ok(Run {
        seconds: seconds_from_first_call(stage, jobs, ended).await?,
        cpu: (cpu - cpu_before) / counted,
        services: ServiceCpu {
            postgres: (services.postgres - services_before.postgres) * scale,
            broker: (services.broker - services_before.broker) * scale,
        },
        peak_kib,
    })
}

async fn run_reference(stage: &Stage<'_>, jobs: usize) -> anyhow::Result<Run> {
    let services_before = stage.lab.service_cpu();
    let mut reference = stage.reference(jobs, None)?;
    let report = report_of(&mut reference).await?;
    let services = stage.lab.service_cpu();
    Ok(Run {
        seconds: seconds_from_first_call(stage, jobs, report.ended).await?,
        cpu: report.cpu_seconds / jobs as f64,
        services: ServiceCpu {
            postgres: services.postgres - services_before.postgres,
            broker: services.broker - services_before.broker,
        },
        peak_kib: report.peak_rss_kib,
    })
}

/// Waits for the reference's end.
async fn report_of(reference: &mut Running) -> anyhow::Result<Report> {
    let mut stdout = reference.child.stdout.take().context("its report")?;
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    serde_json::from_str(&read.await??).context("the reference's report")
}

/// An instant of ours in Unix microseconds.
fn since_epoch(at: std::time::Instant) -> anyhow::Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.saturating_sub(at.elapsed()).as_micros() as u64)
}

async fn seconds_from_first_call(stage: &Stage<'_>, jobs: usize, ended: u64) -> anyhow::Result<f64> {
    let calls = stage.calls("sendmsg").await?;
    ensure!(calls.len() == jobs, "{} calls of {jobs}", calls.len());
    ensure!(calls.iter().all(|call| call.code == 0), "a call was refused");
    let first = stage.epoch().await? + calls.iter().map(|call| call.at).min().context("a call")?;
    Ok((ended.saturating_sub(first)) as f64 / 1e6)
}
