//! `submit [FILE or -]`: publishes jobs, one JSON object a line, or one for each row of a table.
//!
//! Here is what both have in common: flags, and what a job is checked against before it is published.

mod csv;
mod input;
mod lines;
mod pace;
mod report;

use std::{num::NonZeroU32, path::PathBuf, process::ExitCode};

use crate::{
    broker::MAX_SHORT_STRING,
    config::Settings,
    domain::{
        Lane,
        job::{Job, JobType},
    },
    producer::Outgoing,
};

use super::{args::patience, output::usage};
use pace::MAX_RATE;

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
    /// Jobs a second at most
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<NonZeroU32>,
    /// How long a job is tried while RabbitMQ is away or takes nothing, in seconds or such as 5m
    #[arg(long, value_name = "S", default_value = "60")]
    timeout: String,
    /// A summary object on stdout, for machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    table: csv::Flags,
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .ok()
        .filter(|rate: &NonZeroU32| rate.get() <= MAX_RATE)
        .ok_or_else(|| format!("a number from 1 to {MAX_RATE}"))
}

/// What a job is checked against.
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
    match args.table.path(&args.file)? {
        Some(path) => csv::run(settings, &rules, path, timeout).await,
        None => lines::run(settings, &rules, timeout).await,
    }
}

impl Rules<'_> {
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

    /// A job with the queue for its answers, where one is named.
    fn addressed(&self, job: Outgoing) -> Outgoing {
        match &self.args.reply_to {
            Some(queue) => job.with_reply_to(queue),
            None => job,
        }
    }
}
