//! Jobs as they are, one JSON object a line.
//!
//! A file is read twice: every line is checked before anything is published, and if one is bad nothing is. Standard
//! input can only be read once, so its lines are checked and published as they come, and the bad ones are left out.

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use indicatif::ProgressBar;

use crate::{broker::PublishError, config::Settings, domain::job::Job, producer::Outgoing};

use super::{
    super::{
        context,
        output::{note, progress},
    },
    Rules,
    input::{Line, Lines, is_file},
    pace::pace,
    report::{BadLine, Phase, Report},
};

pub(super) async fn run(settings: &Settings, rules: &Rules<'_>, timeout: Duration) -> anyhow::Result<ExitCode> {
    let args = rules.args;
    let mut report = Report::default();
    if args.dry_run || (is_file(&args.file) && !args.unchecked) {
        rules.check_all(&mut report).await?;
        if args.dry_run || (report.is_bad() && !args.skip_bad) {
            return report.finish(args.json, Phase::Checked);
        }
        // The second pass finds the same lines again.
        report = Report::default();
    }
    publish_all(settings, rules, timeout, &mut report).await?;
    report.finish(args.json, Phase::Published)
}

impl Rules<'_> {
    async fn check_all(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut lines = Lines::open(&self.args.file).await?;
        let bar = progress(lines.bytes(), "checking {bar:30} {percent}% {msg}");
        while let Some(line) = lines.next().await? {
            bar.set_position(lines.position());
            match self.job_of(line) {
                Ok(_) => report.good(),
                Err(bad) => report.bad(bad),
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn job_of(&self, line: Line) -> Result<(u64, Outgoing), BadLine> {
        let number = line.number;
        let body = line.body.map_err(|error| BadLine::new(number, "invalid-json", error))?;
        match self.outgoing(body) {
            Ok(outgoing) => Ok((number, self.addressed(outgoing))),
            Err((code, error)) => Err(BadLine::new(number, code, error)),
        }
    }

    /// The job of a line, ready to publish, or what is wrong with it.
    fn outgoing(&self, body: Bytes) -> Result<Outgoing, (String, String)> {
        let job = match Job::decode(&body, None) {
            Ok(job) => job,
            Err(_) if self.args.unchecked => return Ok(Outgoing::unchecked(body)),
            Err(error) => return Err((error.word.to_owned(), error.sentence)),
        };
        if !self.args.unchecked {
            self.check(&job)?;
        }
        Ok(Outgoing::encoded(&job, body))
    }
}

async fn publish_all(
    settings: &Settings,
    rules: &Rules<'_>,
    timeout: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut lines = Lines::open(&rules.args.file).await?;
    let producer = context::producer(settings, timeout).await?;
    let pace = rules.args.rate.map(pace);
    let bar = progress(
        lines.bytes(),
        "publishing {bar:30} {percent}% {msg} {elapsed} ETA {eta}",
    );
    let mut pipeline = producer.pipeline(rules.args.lane);
    while let Some(line) = lines.next().await? {
        bar.set_position(lines.position());
        match rules.job_of(line) {
            Ok((number, outgoing)) => {
                if let Some(pace) = &pace {
                    pace.until_ready().await;
                }
                pipeline.publish(number, outgoing).await;
            }
            Err(bad) => {
                if !is_file(&rules.args.file) {
                    bar.suspend(|| note(&bad));
                }
                report.bad(bad);
            }
        }
        while let Some(answer) = pipeline.try_next() {
            take(answer, report, &bar);
        }
        if report.gave_up() {
            break;
        }
    }
    while let Some(answer) = pipeline.next().await {
        take(answer, report, &bar);
    }
    bar.finish_and_clear();
    producer.close().await;
    Ok(())
}

fn take((number, result): (u64, Result<(), PublishError>), report: &mut Report, bar: &ProgressBar) {
    match result {
        Ok(()) => report.good(),
        Err(error) => report.unpublished(number, &error),
    }
    bar.set_message(format!(
        "{} jobs, {:.0}/s",
        report.published(),
        report.published() as f64 / bar.elapsed().as_secs_f64().max(0.1)
    ));
}
