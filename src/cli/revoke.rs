//! `revoke`: the tombstone into Postgres at once, the job to `high`.
//!
//! Either is enough: a tombstone queues its own fan-out, and a worker writes the tombstone of a job. Both, because the
//! first takes effect at once and the second works where this machine can't reach the database.

use std::{process::ExitCode, time::Duration};

use clap::ArgGroup;
use uuid::Uuid;

use crate::{
    config::Settings,
    domain::{
        AppName, GroupName, JobId, Lane, MsgKey,
        job::{Job, RevokeTarget, Task},
        status::JobState,
    },
    store::{MessagePage, NewRevocation, RevocationAdded, Store},
};

use super::{
    act::act_even_unnoted,
    args::{account, patience},
    context::{self, AppArg},
    output::{line, note, usage},
    status::wait_for_job,
};

/// How long the job is tried while the broker is away, if there is no tombstone.
const PATIENCE: Duration = Duration::from_secs(15);

/// Flags of `revoke`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("target").required(true).args(["job", "group", "msg_key"]))]
pub(super) struct Args {
    /// Revoke a job's messages
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// With --job: only that to this recipient; may be given several times. With --msg-key: the recipient
    #[arg(long, value_name = "ACCOUNT", conflicts_with = "group")]
    to: Vec<String>,
    /// Revoke the messages of a group's jobs, also of those that arrive within 7 days
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// With --msg-key: the sender that the message had
    #[arg(long, value_name = "ACCOUNT", requires = "msg_key")]
    from: Option<String>,
    /// Revoke one message by its key
    #[arg(long, value_name = "KEY", requires = "from", requires = "to")]
    msg_key: Option<String>,
    /// The revoke job's id [default: a random one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Show the progress to the end
    #[arg(long)]
    wait: bool,
    /// With --wait: how long at most, in seconds or such as 5m
    #[arg(long, value_name = "S", requires = "wait")]
    timeout: Option<String>,
    #[command(flatten)]
    app: AppArg,
}

impl Args {
    fn target(&self) -> anyhow::Result<RevokeTarget> {
        if let Some(key) = &self.msg_key {
            let [to] = self.to.as_slice() else {
                return Err(usage("--msg-key takes exactly one --to").into());
            };
            let from = self.from.as_deref().unwrap_or_default();
            return Ok(RevokeTarget::Message {
                from: account("--from", from)?,
                to: account("--to", to)?,
                msg_key: MsgKey::parse(key).map_err(|error| usage(format!("--msg-key {error}")))?,
            });
        }
        if let Some(group) = &self.group {
            return Ok(RevokeTarget::Group(
                GroupName::parse(group).map_err(|error| usage(format!("--group {error}")))?,
            ));
        }
        let to = self
            .to
            .iter()
            .map(|to| account("--to", to))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(RevokeTarget::Job {
            job: JobId::parse(self.job.as_deref().unwrap_or_default())
                .map_err(|error| usage(format!("--job {error}")))?,
            to: (!to.is_empty()).then_some(to),
        })
    }

    fn revocation(&self, app: AppName) -> anyhow::Result<Job> {
        let id = self.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let id = JobId::parse(id).map_err(|error| usage(format!("--id {error}")))?;
        let job = Job {
            app,
            ..Job::new(id, Task::Revoke(self.target()?))
        };
        job.check().map_err(|error| usage(error.sentence))?;
        Ok(job)
    }
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let timeout = args
        .timeout
        .as_ref()
        .map(|value| patience("--timeout", value))
        .transpose()?;
    let job = args.revocation(args.app.name()?)?;
    let store = if settings.database_url.is_some() || args.wait {
        Some(context::store(settings)?)
    } else {
        None
    };
    let target = args.target()?.to_string();
    let told = |(): &()| format!("taken as revocation {}", job.id);
    let deed = give(settings, store.as_ref(), &job);
    act_even_unnoted(store.as_ref(), "revoke", &target, deed, told).await?;
    line(&job.id)?;
    let code = match &store {
        Some(store) if args.wait => wait(store, &job.id, timeout).await?,
        _ => ExitCode::SUCCESS,
    };
    if let Some(store) = store {
        store.close().await;
    }
    Ok(code)
}

/// Puts it in force: by its tombstone, by its job, or by both.
async fn give(settings: &Settings, store: Option<&Store>, job: &Job) -> anyhow::Result<()> {
    let tombstone = match store {
        Some(store) => write_tombstone(store, job).await?,
        None => false,
    };
    match publish(settings, job, if tombstone { Duration::ZERO } else { PATIENCE }).await {
        Err(error) if !tombstone => return Err(error.context("the revocation was not published")),
        Err(error) => note(format_args!(
            "note: the revocation is on record and in force, but was not published too: {error:#}"
        )),
        Ok(()) => {}
    }
    Ok(())
}

/// Writes the tombstone. False: the database can't be reached, and the job alone must do.
async fn write_tombstone(store: &Store, job: &Job) -> anyhow::Result<bool> {
    let Task::Revoke(target) = &job.task else {
        return Ok(false);
    };
    let revocation = NewRevocation {
        id: &job.id,
        digest: job.digest(),
        app: &job.app,
        group: None,
        lane: Lane::High,
        target,
        reply_to: None,
        correlation_id: None,
    };
    match store.add_revocation(&revocation).await {
        Ok(RevocationAdded::Added | RevocationAdded::Repeated) => Ok(true),
        Ok(RevocationAdded::Conflict) => {
            anyhow::bail!("the id {} names another job already; choose another --id", job.id)
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            note(format_args!(
                "note: the database was not reached, so the job alone must do: {error:#}"
            ));
            Ok(false)
        }
    }
}

async fn publish(settings: &Settings, job: &Job, patience: Duration) -> anyhow::Result<()> {
    let producer = context::producer(settings, patience).await?;
    let published = producer.publish(Lane::High, job).await;
    producer.close().await;
    Ok(published?)
}

async fn wait(store: &Store, id: &JobId, timeout: Option<Duration>) -> anyhow::Result<ExitCode> {
    let state = wait_for_job(store, id, timeout).await?;
    let Some(status) = store.job_status(id, &MessagePage::counts_only()).await? else {
        note("error: no worker has taken the revocation yet");
        return Ok(ExitCode::FAILURE);
    };
    let counts = &status.recipients;
    note(format_args!(
        "{}: {} of {} revoked, {} cancelled before they were sent, {} failed, {} pending",
        status.state, counts.revoked, counts.total, counts.cancelled, counts.failed, counts.pending
    ));
    let done = counts.failed == 0 && state.is_some_and(|state| state != JobState::Pending && state != JobState::Failed);
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
