//! `status JOB` and `status --group G`.

use std::{process::ExitCode, time::Duration};

use crate::{
    config::Settings,
    domain::{
        GroupName, JobId,
        status::{Counts, GroupStatus, JobState, JobStatus, MessageState},
    },
    store::{After, DEFAULT_PAGE, MessagePage, Store},
};

use super::{
    args::patience,
    context::store,
    output::{json as print_json, line, note, plain, table, usage},
    wait::{Look, Waited, until_settled},
};

/// With `--wait` and without `--timeout`: how long a job that is not on record is believed to be still on its way.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(30);

/// Flags of `status`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("subject").required(true).args(["job", "group"]))]
pub(super) struct Args {
    /// The job's id
    job: Option<String>,
    /// A group instead
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The status object, for machines
    #[arg(long)]
    json: bool,
    /// Return when nothing is pending
    #[arg(long)]
    wait: bool,
    /// With --wait: how long at most, in seconds or such as 5m; exit code 1 if something is pending then
    #[arg(long, value_name = "S", requires = "wait")]
    timeout: Option<String>,
    /// The most messages that are printed
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PAGE, conflicts_with = "group")]
    limit: u32,
    /// Only the messages behind this recipient, the last of the page before; or behind so many
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "group")]
    after: Option<String>,
    /// Only the messages in this state
    #[arg(long, value_name = "STATE", conflicts_with = "group")]
    state: Option<String>,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let timeout = args
        .timeout
        .as_ref()
        .map(|value| patience("--timeout", value))
        .transpose()?;
    let store = store(settings)?;
    let code = match (&args.job, &args.group) {
        (Some(id), _) => {
            let id = JobId::parse(id).map_err(|error| usage(format!("the job id {error}")))?;
            job(&store, &id, args, timeout).await
        }
        (None, Some(group)) => {
            let group = GroupName::parse(group).map_err(|error| usage(format!("--group {error}")))?;
            self::group(&store, &group, args, timeout).await
        }
        (None, None) => Err(usage("name a job, or a group by --group").into()),
    };
    store.close().await;
    code
}

impl Args {
    fn page(&self) -> anyhow::Result<MessagePage> {
        let state = |word: &String| {
            MessageState::parse(word).ok_or_else(|| {
                let words: Vec<_> = MessageState::ALL.iter().map(|state| state.as_str()).collect();
                usage(format!("--state takes one of {}", words.join(", ")))
            })
        };
        Ok(MessagePage {
            limit: self.limit,
            after: self.after.as_ref().map(After::parse),
            state: self.state.as_ref().map(state).transpose()?,
        })
    }
}

async fn job(store: &Store, id: &JobId, args: &Args, timeout: Option<Duration>) -> anyhow::Result<ExitCode> {
    let page = args.page()?;
    let settled = !args.wait
        || wait_for_job(store, id, timeout)
            .await?
            .is_some_and(|state| state != JobState::Pending);
    let Some(status) = store.job_status(id, &page).await? else {
        note(format_args!(
            "error: no job {id} is on record; one that still waits in its queue isn't yet"
        ));
        return Ok(ExitCode::FAILURE);
    };
    if args.json {
        print_json(&status)?;
    } else {
        print_job(&status)?;
    }
    Ok(finished(settled))
}

/// Waits until nothing of a job is pending; the state that it was seen in last, `None` if it isn't on record.
pub(super) async fn wait_for_job(
    store: &Store,
    id: &JobId,
    timeout: Option<Duration>,
) -> anyhow::Result<Option<JobState>> {
    let waited = until_settled(timeout, UNKNOWN_PATIENCE, async || {
        Ok(store
            .job_status(id, &MessagePage::counts_only())
            .await?
            .map(|status| Look {
                seen: status.state,
                counts: status.recipients,
                settled: status.state != JobState::Pending,
            }))
    });
    Ok(match waited.await? {
        Waited::Settled(state) => Some(state),
        Waited::TimedOut(state) => state,
    })
}

async fn group(store: &Store, group: &GroupName, args: &Args, timeout: Option<Duration>) -> anyhow::Result<ExitCode> {
    let mut settled = true;
    if args.wait {
        let waited = until_settled(timeout, UNKNOWN_PATIENCE, async || {
            Ok(store.group_status(group).await?.map(|status| Look {
                seen: (),
                counts: status.recipients,
                settled: status.recipients.pending == 0,
            }))
        });
        settled = matches!(waited.await?, Waited::Settled(()));
    }
    let Some(status) = store.group_status(group).await? else {
        note(format_args!(
            "error: no job of group {group} is on record; those that still wait in a queue aren't yet"
        ));
        return Ok(ExitCode::FAILURE);
    };
    if args.json {
        print_json(&status)?;
    } else {
        print_group(&status)?;
    }
    Ok(finished(settled))
}

fn finished(settled: bool) -> ExitCode {
    if settled {
        ExitCode::SUCCESS
    } else {
        note("error: something is still pending; the time to wait is over");
        ExitCode::FAILURE
    }
}

fn print_job(status: &JobStatus) -> anyhow::Result<()> {
    let group = status
        .group
        .as_ref()
        .map(|group| format!(", group {}", plain(group)))
        .unwrap_or_default();
    line(format_args!(
        "job {} ({}, app {}{group}): {}, on record since {}",
        plain(&status.job),
        status.job_type.as_str(),
        status.app,
        status.state,
        status.created_at.format("%Y-%m-%d %H:%M:%S UTC")
    ))?;
    print_counts(&status.recipients)?;
    if status.messages.is_empty() {
        return Ok(());
    }
    let mut table = table(&["to", "state", "MsgKey", "sent at", "attempts", "error"]);
    for message in &status.messages {
        let error = message.error.as_ref();
        table.add_row([
            plain(&message.to),
            message.state.to_string(),
            message.msg_key.as_ref().map(plain).unwrap_or_default(),
            message
                .sent_at
                .map(|at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string())
                .unwrap_or_default(),
            message.attempts.to_string(),
            error
                .map(|error| plain(format_args!("{} {}", error.code, error.message)))
                .unwrap_or_default(),
        ]);
    }
    line(table)?;
    let (shown, total) = (status.messages.len() as u64, status.recipients.total);
    if let Some(last) = status.messages.last().filter(|_| shown < total) {
        note(format_args!(
            "{shown} of {total} messages; the next page: --after {}",
            plain(&last.to)
        ));
    }
    Ok(())
}

fn print_group(status: &GroupStatus) -> anyhow::Result<()> {
    line(format_args!("group {}: {} jobs", plain(&status.group), status.jobs))?;
    print_counts(&status.recipients)
}

fn print_counts(counts: &Counts) -> anyhow::Result<()> {
    let mut header = vec!["total"];
    let mut row = vec![counts.total.to_string()];
    for state in MessageState::ALL {
        if state != MessageState::Suppressed || counts.suppressed > 0 {
            header.push(state.as_str());
            row.push(counts.get(state).to_string());
        }
    }
    let mut table = table(&header);
    table.add_row(row);
    Ok(line(table)?)
}
