//! What must not grow with the backlog: memory, the time to start, throughput. A queue of a million jobs, a tenth of them
//! scheduled for tomorrow, beside one of fifty thousand.

use std::time::{Duration, Instant};

use super::{
    Arguments,
    figures::Figures,
    jobs, process,
    stage::{Lab, Stage},
};

/// Jobs that wait.
const JOBS: usize = 1_000_000;
/// The short queue, and what the throughput is measured with.
const FEW: usize = 50_000;
/// How long the worker runs at the default limit.
const PACED: Duration = Duration::from_secs(30);
/// Every tenth job is for tomorrow.
const SCHEDULED: usize = 10;

pub(crate) async fn measure(lab: &Lab, arguments: &Arguments) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let most = arguments.jobs_or(JOBS);
    let size = std::fs::metadata(&lab.worker)?.len();
    for jobs in [FEW.min(most), most] {
        let stage = Stage::open(lab, Duration::ZERO).await?;
        stage.prepare().await?;
        let tomorrow = chrono::Utc::now() + chrono::TimeDelta::days(1);
        let publish = (0..jobs).map(|number| {
            let job = jobs::send(number, &jobs::recipient(number));
            if number % SCHEDULED == 0 {
                job.replacen('{', &format!("{{\"send_at\":\"{}\",", tomorrow.to_rfc3339()), 1)
            } else {
                job
            }
        });
        stage.producer.publish("normal", publish).await?;
        let variant = format!("{jobs} jobs wait");
        figures.add(&variant, "binary MiB", size as f64 / 1_048_576.0);
        run(&stage, jobs, &variant, &mut figures).await?;
        stage.close().await?;
    }
    Ok(figures)
}

async fn run(stage: &Stage<'_>, jobs: usize, variant: &str, figures: &mut Figures) -> anyhow::Result<()> {
    let started = Instant::now();
    let worker = stage.worker(200)?;
    stage.ready().await?;
    figures.add(variant, "ready ms", started.elapsed().as_secs_f64() * 1_000.0);
    tokio::time::sleep(PACED).await;
    figures.add(variant, "MiB at 200/s", process::rss_kib(worker.pid()) as f64 / 1024.0);
    worker.end().await?;

    // The same queue with limits off: the first fifty thousand of it.
    let wanted = (FEW.min(jobs) * (SCHEDULED - 1) / SCHEDULED) as u64 / 2;
    let worker = stage.worker(0)?;
    let events = "im_dispatcher_events_total";
    let before = stage.reaches(events, 1, &worker).await?;
    let began = Instant::now();
    let after = stage.reaches(events, before + wanted, &worker).await?;
    figures.add(
        variant,
        "jobs/s, no limit",
        (after - before) as f64 / began.elapsed().as_secs_f64(),
    );
    if jobs > FEW {
        // Until all that is scheduled may have been handed to the table.
        let most = (jobs / SCHEDULED * (SCHEDULED - 1)) as u64 / 2;
        stage.reaches(events, most, &worker).await?;
    }
    figures.add(variant, "peak MiB", process::peak_rss_kib(worker.pid()) as f64 / 1024.0);
    worker.end().await?;
    Ok(())
}
