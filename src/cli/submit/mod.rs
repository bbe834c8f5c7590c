//! `submit [FILE or -]`: publishes jobs, one JSON object a line.
//!
//! A file is read twice: every line is checked before anything is published, and if one is bad nothing is. Standard
//! input can only be read once, so its lines are checked and published as they come, and the bad ones are left out.

mod input;
mod report;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use indicatif::ProgressBar;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use crate::{
    broker::{MAX_SHORT_STRING, PublishError},
    config::Settings,
    domain::{
        AppName, Lane,
        job::{Job, JobType},
    },
};

use super::{
    args::patience,
    context,
    output::{note, progress, usage},
    publish::{LanePublisher, Outgoing},
};
use input::{Line, Lines};
use report::{BadLine, Phase, Report};

/// Publishes that wait for their confirms at once. At 1 ms for a confirm that is far more than a broker takes.
const WINDOW: usize = 1_024;
/// Bytes of jobs that wait for their confirms at once: four of the longest.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;

/// Flags of `submit`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct Args {
    /// A file with one job a line; - is standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,
    /// high, normal or bulk
    #[arg(long, default_value = "normal", value_name = "LANE")]
    lane: Lane,
    /// Publish the good lines of a file although some are bad
    #[arg(long)]
    skip_bad: bool,
    /// Check every line and publish nothing
    #[arg(long, conflicts_with_all = ["skip_bad", "unchecked"])]
    dry_run: bool,
    /// Publish the lines as they are: what is no job becomes a dead letter
    #[arg(long)]
    unchecked: bool,
    /// Accept jobs of apps that aren't configured here
    #[arg(long)]
    any_app: bool,
    /// A queue that gets each job's events; `unread` and `history` jobs need one
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// How long a job is tried while RabbitMQ is away or takes nothing, in seconds or such as 5m
    #[arg(long, value_name = "S", default_value = "60")]
    timeout: String,
    /// A summary object on stdout, for machines
    #[arg(long)]
    json: bool,
}

/// What a line is checked against.
struct Rules<'a> {
    settings: &'a Settings,
    args: &'a Args,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let timeout = patience("--timeout", &args.timeout)?;
    if args
        .reply_to
        .as_ref()
        .is_some_and(|queue| queue.len() > MAX_SHORT_STRING)
    {
        return Err(usage(format!(
            "--reply-to takes a queue's name of at most {MAX_SHORT_STRING} bytes"
        ))
        .into());
    }
    let rules = Rules { settings, args };
    let mut report = Report::default();
    if args.dry_run || (input::is_file(&args.file) && !args.unchecked) {
        rules.check_all(&mut report).await?;
        if args.dry_run || (report.is_bad() && !args.skip_bad) {
            return report.finish(args.json, Phase::Checked);
        }
        // The second pass finds the same lines again.
        report = Report::default();
    }
    publish_all(settings, &rules, timeout, &mut report).await?;
    report.finish(args.json, Phase::Published)
}

impl Rules<'_> {
    /// The job of a line, ready to publish, or what is wrong with it.
    fn outgoing(&self, body: Bytes) -> Result<Outgoing, (String, String)> {
        let reply_to = self.args.reply_to.clone();
        let job = match Job::decode(&body, None) {
            Ok(job) => job,
            Err(_) if self.args.unchecked => {
                let app = AppName::default_app();
                return Ok(Outgoing {
                    id: None,
                    app,
                    body,
                    reply_to,
                });
            }
            Err(error) => return Err((error.word.to_owned(), error.sentence)),
        };
        if !self.args.unchecked {
            self.check(&job)?;
        }
        let id = Some(job.id.to_string()).filter(|id| id.len() <= MAX_SHORT_STRING);
        Ok(Outgoing {
            id,
            app: job.app,
            body,
            reply_to,
        })
    }

    /// What the worker would refuse beyond the job itself.
    fn check(&self, job: &Job) -> Result<(), (String, String)> {
        if self.args.reply_to.is_none() && JobType::parse(job.type_name()).is_some_and(JobType::needs_reply) {
            let sentence = format!(
                "a job of type {} needs a queue for its answer: --reply-to",
                job.type_name()
            );
            return Err(("invalid-job".to_owned(), sentence));
        }
        if self.settings.knows_apps() && !self.args.any_app && !self.settings.mentions_app(&job.app) {
            let sentence = format!(
                "app: no app named {} is configured here; --any-app if the workers know it",
                job.app
            );
            return Err(("unknown-app".to_owned(), sentence));
        }
        Ok(())
    }

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
            Ok(outgoing) => Ok((number, outgoing)),
            Err((code, error)) => Err(BadLine::new(number, code, error)),
        }
    }
}

async fn publish_all(
    settings: &Settings,
    rules: &Rules<'_>,
    timeout: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut lines = Lines::open(&rules.args.file).await?;
    let broker = context::broker(settings).await?;
    let publisher = LanePublisher::new(&broker, settings, rules.args.lane, timeout);
    let bar = progress(lines.bytes(), "publishing {bar:30} {percent}% {msg} {elapsed}");
    let mut window = Window::new(publisher);
    while let Some(line) = lines.next().await? {
        bar.set_position(lines.position());
        match rules.job_of(line) {
            Ok((number, outgoing)) => window.publish(number, outgoing).await,
            Err(bad) => {
                if !input::is_file(&rules.args.file) {
                    bar.suspend(|| note(&bad));
                }
                report.bad(bad);
            }
        }
        window.collect(report, &bar);
        if report.gave_up() {
            break;
        }
    }
    window.drain(report, &bar).await;
    bar.finish_and_clear();
    broker.close().await;
    Ok(())
}

/// Publishes on their way.
struct Window {
    publisher: LanePublisher,
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    tasks: JoinSet<(u64, Result<(), PublishError>)>,
}

impl Window {
    fn new(publisher: LanePublisher) -> Self {
        Self {
            publisher,
            count: Arc::new(Semaphore::new(WINDOW)),
            bytes: Arc::new(Semaphore::new(WINDOW_BYTES)),
            tasks: JoinSet::new(),
        }
    }

    /// Waits for room, then publishes in the background.
    async fn publish(&mut self, number: u64, outgoing: Outgoing) {
        let size = outgoing.body.len().clamp(1, WINDOW_BYTES) as u32;
        let permits = (room(&self.count, 1).await, room(&self.bytes, size).await);
        let publisher = self.publisher.clone();
        self.tasks.spawn(async move {
            let result = publisher.publish(outgoing).await;
            drop(permits);
            (number, result)
        });
    }

    /// Takes the answers that are there.
    fn collect(&mut self, report: &mut Report, bar: &ProgressBar) {
        while let Some(joined) = self.tasks.try_join_next() {
            take(joined, report, bar);
        }
    }

    /// Waits for every answer.
    async fn drain(&mut self, report: &mut Report, bar: &ProgressBar) {
        while let Some(joined) = self.tasks.join_next().await {
            take(joined, report, bar);
        }
    }
}

/// Room in a window; `None` if it were closed, which it never is.
async fn room(window: &Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
    Arc::clone(window).acquire_many_owned(permits).await.ok()
}

type Joined = Result<(u64, Result<(), PublishError>), tokio::task::JoinError>;

fn take(joined: Joined, report: &mut Report, bar: &ProgressBar) {
    match joined {
        Ok((_, Ok(()))) => report.good(),
        Ok((number, Err(error))) => report.unpublished(number, &error),
        Err(error) => report.lost(&error),
    }
    bar.set_message(format!(
        "{} jobs, {:.0}/s",
        report.published(),
        report.published() as f64 / bar.elapsed().as_secs_f64().max(0.1)
    ));
}
