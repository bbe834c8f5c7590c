//! `erase ACCOUNT`: one account's data leaves the records.
//!
//! Counts first. What is still live is left and named, so that nothing which waits is lost; a second run takes it once it
//! has ended. What a repeat of a job is recognised by stays: no redelivery sends again.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    config::Settings,
    domain::{AccountId, AppName, JobId, erasure::pseudonym},
    store::{EraseScope, JobErased, JobOfAccount, StillLive, Store, TracesOfAccount},
};

use super::{
    act::act,
    context::store,
    output::{agreed, json as print_json, line, note, plain, progress, usage},
};

/// What has just ended is waited for where it takes no longer.
const PATIENCE: Duration = Duration::from_mins(1);
/// What waits is named one by one up to so many.
const SHOWN: usize = 1_000;

/// Flags of `erase`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account whose data is removed, as a recipient and as a sender
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Only what this app sent [default: every app]
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Count, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// Leave what ended later than so long ago: its event may still be on its way. Up to a minute is waited for
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    settled_for: humantime::Duration,
    /// One object, for machines
    #[arg(long)]
    json: bool,
}

/// What was counted, or erased.
#[derive(Default)]
struct Count {
    jobs: u64,
    messages: u64,
    as_sender: u64,
    /// Jobs whose id or group holds the name.
    named: u64,
    traces: TracesOfAccount,
    waiting: Vec<(JobId, StillLive)>,
}

impl Count {
    fn told(&self) -> String {
        let TracesOfAccount {
            cap_uses,
            revocations,
            audit,
        } = self.traces;
        let (jobs, messages, as_sender) = (self.jobs, self.messages, self.as_sender);
        format!(
            "{messages} messages of {jobs} jobs ({as_sender} of them sent by it), {cap_uses} counts of caps, \
             {revocations} revocations, {audit} entries of the audit log"
        )
    }
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let account = AccountId::parse(&args.account).map_err(|error| usage(format!("ACCOUNT {error}")))?;
    let app = args.app.as_ref().map(AppName::parse).transpose();
    let app = app.map_err(|error| usage(format!("--app {error}")))?;
    let own = settings
        .apps
        .iter()
        .find(|(name, settings)| app.as_ref().is_none_or(|app| app == *name) && settings.admin_account == account);
    if let Some((name, _)) = own {
        return Err(usage(format!(
            "ACCOUNT is the admin_account of the app {name}: the sender of its messages and nobody's own account"
        ))
        .into());
    }
    let store = store(settings)?;
    let scope = EraseScope {
        account: &account,
        app: app.as_ref(),
        settled_for: args.settled_for.into(),
    };
    let done = run_on(&store, scope, args).await;
    store.close().await;
    done
}

async fn run_on(store: &Store, scope: EraseScope<'_>, args: &Args) -> anyhow::Result<ExitCode> {
    let (jobs, found) = look(store, scope).await?;
    if !args.json {
        line(format_args!("{} are on record", found.told()))?;
    }
    if args.dry_run {
        tell(&found, args)?;
        if !args.json {
            note("nothing was changed (--dry-run)");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !agreed(args.yes, "Erase what has ended of it for good?")? {
        note("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    let of_app = scope.app.map(|app| format!(" of app {app}")).unwrap_or_default();
    let target = format!("{}{of_app}", pseudonym(scope.account));
    let erased = act(store, "erase", &target, erase(store, scope, &jobs), Count::told).await?;
    tell(&erased, args)?;
    Ok(if erased.waiting.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Looks through every job for the account: it may have sent, been sent to, or been asked about.
async fn look(store: &Store, scope: EraseScope<'_>) -> anyhow::Result<(Vec<JobOfAccount>, Count)> {
    let bar = progress(None, "{spinner} {pos} jobs of the account found {elapsed}");
    let (mut jobs, mut after): (Vec<JobOfAccount>, Option<JobId>) = (Vec::new(), None);
    loop {
        let page = store.jobs_of_account(scope, after.as_ref()).await?;
        bar.inc(page.jobs.len() as u64);
        jobs.extend(page.jobs);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    let mut found = Count {
        traces: store.traces_of_account(scope).await?,
        ..Count::default()
    };
    for job in &jobs {
        found.jobs += 1;
        found.messages += job.messages;
        found.as_sender += job.as_sender;
        found.named += u64::from(job.named);
        found.waiting.extend(job.live.map(|live| (job.id.clone(), live)));
    }
    found.add_revocations(store, scope).await?;
    Ok((jobs, found))
}

impl Count {
    /// Erases and counts one job's part, unless it is live: what was when it was counted may have ended meanwhile.
    async fn erase(
        &mut self,
        store: &Store,
        scope: EraseScope<'_>,
        job: &JobOfAccount,
    ) -> anyhow::Result<Option<StillLive>> {
        match store.erase_job(scope, &job.id).await? {
            JobErased::Done { messages, as_sender } => {
                self.jobs += 1;
                self.messages += messages;
                self.as_sender += as_sender;
                self.named += u64::from(job.named);
                Ok(None)
            }
            JobErased::Live(live) => Ok(Some(live)),
            JobErased::Nothing => Ok(None),
        }
    }

    async fn add_revocations(&mut self, store: &Store, scope: EraseScope<'_>) -> anyhow::Result<()> {
        let waiting = store.live_revocations_of(scope).await?;
        self.waiting
            .extend(waiting.into_iter().map(|id| (id, StillLive::Tombstone)));
        Ok(())
    }
}

async fn erase(store: &Store, scope: EraseScope<'_>, jobs: &[JobOfAccount]) -> anyhow::Result<Count> {
    let bar = progress(Some(jobs.len() as u64), "{bar:30} {pos}/{len} {elapsed}");
    let (mut count, mut recent) = (Count::default(), Vec::new());
    for job in jobs {
        match count.erase(store, scope, job).await? {
            Some(StillLive::Recent) if scope.settled_for <= PATIENCE => recent.push(job),
            Some(live) => count.waiting.push((job.id.clone(), live)),
            None => {}
        }
        bar.inc(1);
    }
    if !recent.is_empty() {
        tokio::time::sleep(scope.settled_for).await;
        for job in recent {
            let live = count.erase(store, scope, job).await?;
            count.waiting.extend(live.map(|live| (job.id.clone(), live)));
        }
    }
    count.traces = store
        .erase_traces(scope)
        .await
        .context("the jobs are erased, but not what names the account beside them: run it again")?;
    count.add_revocations(store, scope).await?;
    bar.finish_and_clear();
    Ok(count)
}

fn tell(count: &Count, args: &Args) -> anyhow::Result<()> {
    let left_out = count.waiting.len().saturating_sub(SHOWN);
    let shown = &count.waiting[..count.waiting.len() - left_out];
    if args.json {
        let waiting: Vec<Value> = shown
            .iter()
            .map(|(job, live)| json!({"job": job, "why": live.as_str()}))
            .collect();
        return print_json(&json!({
            "account": args.account, "app": args.app, "dry_run": args.dry_run, "jobs": count.jobs,
            "messages": count.messages, "as_sender": count.as_sender, "cap_uses": count.traces.cap_uses,
            "revocations": count.traces.revocations, "audit": count.traces.audit, "named_by_id": count.named,
            "waiting": waiting, "waiting_left_out": left_out,
        }));
    }
    if !args.dry_run {
        line(format_args!("{} are erased", count.told()))?;
    }
    for (job, live) in shown {
        note(format_args!("left: job {}: {}", plain(job), live.advice()));
    }
    if left_out > 0 {
        note(format_args!("left: {left_out} more"));
    }
    if !count.waiting.is_empty() && !args.dry_run {
        note("error: not everything has ended; run it again once it has");
    }
    if count.named > 0 {
        note(format_args!(
            "{} of the jobs have the account's name in their id or group, which are kept: a repeat is recognised by its id",
            count.named
        ));
    }
    if count.jobs > 0 && !args.dry_run {
        note("what RabbitMQ still holds is out of reach: `im-dispatcher dead-letters list` shows the dead letters");
    }
    Ok(())
}
