//! `explain JOB`: why a job is where it is, as a timeline.

use std::process::ExitCode;

use crate::{
    config::Settings,
    domain::{AccountId, JobId, status::MessageState},
    explain::{Explanation, explain, knows_recipient, meaning},
    store::{JobFacts, MessagePage, Store},
};

use super::{
    args::account,
    context::store,
    output::{json as print_json, line, note, plain, usage},
};

/// Failed recipients of a batch that are shown.
const FAILURES: u32 = 10;

/// Flags of `explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's id
    job: String,
    /// Of a batch: its message to this recipient
    #[arg(long, value_name = "ACCOUNT")]
    to: Option<String>,
    /// One object, for machines
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let id = JobId::parse(&args.job).map_err(|error| usage(format!("the job id {error}")))?;
    let to = args.to.as_ref().map(|to| account("--to", to)).transpose()?;
    let store = store(settings)?;
    let code = run_on(&store, &id, to.as_ref(), args.json).await;
    store.close().await;
    code
}

async fn run_on(store: &Store, id: &JobId, to: Option<&AccountId>, json: bool) -> anyhow::Result<ExitCode> {
    let Some(facts) = store.job_facts(id, to).await? else {
        return unknown(store, id).await;
    };
    if let Some(to) = to
        && !knows_recipient(&facts, to)
    {
        note(format_args!("error: job {id} has no recipient {}", plain(to)));
        return Ok(ExitCode::FAILURE);
    }
    let page = MessagePage {
        limit: if facts.message.is_some() { 0 } else { FAILURES },
        after: None,
        state: Some(MessageState::Failed),
    };
    let Some(status) = store.job_status(id, &page).await? else {
        return unknown(store, id).await;
    };
    let explanation = explain(&facts, status);
    if json {
        print_json(&explanation)?;
    } else {
        print(&explanation, &facts)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn unknown(store: &Store, id: &JobId) -> anyhow::Result<ExitCode> {
    note(format_args!(
        "error: no job {id} is on record. It may still wait in its queue (jobs are recorded when a worker takes them), be a dead \
         letter that was refused (`im-dispatcher dead-letters show {id}`), be older than the records, or never have been published"
    ));
    for tombstone in store.tombstones_of(id).await? {
        note(format_args!(
            "a revocation waits for it: job {} names it since {}; it will be cancelled when it arrives",
            plain(&tombstone.id),
            tombstone.created_at.format("%Y-%m-%d %H:%M:%S UTC")
        ));
    }
    Ok(ExitCode::FAILURE)
}

fn print(explanation: &Explanation, facts: &JobFacts) -> anyhow::Result<()> {
    let group = explanation.group.as_ref();
    let group = group
        .map(|group| format!(", group {}", plain(group)))
        .unwrap_or_default();
    line(format_args!(
        "job {} ({}, app {}{group}, lane {}): {}",
        plain(&explanation.job),
        explanation.job_type.as_str(),
        explanation.app,
        explanation.lane,
        explanation.state,
    ))?;
    line(plain(&explanation.summary))?;
    line("")?;
    let half = explanation.timeline.len() / 2;
    for (at, entry) in explanation.timeline.iter().enumerate() {
        if at == half && explanation.left_out > 0 {
            line(format_args!(
                "{:24}  … {} entries left out; --to shows one recipient's",
                "", explanation.left_out
            ))?;
        }
        let time = entry.at.map_or_else(
            || "(no time on record)".to_owned(),
            |at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        );
        let code = entry
            .code
            .as_ref()
            .map(|code| format!("{}: ", plain(code)))
            .unwrap_or_default();
        line(format_args!("{time:24}  {code}{}", plain(&entry.text)))?;
        if let Some(meaning) = &entry.meaning {
            line(format_args!("{:24}    means: {}", "", meaning.meaning))?;
            line(format_args!("{:24}    to do: {}", "", meaning.advice))?;
        }
    }
    for waiting in &explanation.waiting {
        let until = waiting
            .until
            .map_or_else(|| "now".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
        let part = waiting.part.map(|part| format!("part {part}: ")).unwrap_or_default();
        line(format_args!("{until:24}  waits: {part}{}", plain(&waiting.text)))?;
    }
    let more = facts.work_rows.saturating_sub(facts.work.len() as u64);
    if more > 0 {
        line(format_args!("{:24}  and {more} more that wait", ""))?;
    }
    print_failures(explanation)
}

fn print_failures(explanation: &Explanation) -> anyhow::Result<()> {
    if explanation.failures.is_empty() {
        return Ok(());
    }
    line("")?;
    let (shown, failed) = (explanation.failures.len(), explanation.recipients.failed);
    line(format_args!("{failed} recipients failed, the first {shown}:"))?;
    for message in &explanation.failures {
        let Some(error) = &message.error else { continue };
        line(format_args!(
            "  {}: {} {}",
            plain(&message.to),
            plain(&error.code),
            plain(&error.message)
        ))?;
        if let Some(meaning) = meaning(&error.code) {
            line(format_args!("    to do: {}", meaning.advice))?;
        }
    }
    note("--to ACCOUNT shows one recipient's own timeline");
    Ok(())
}
