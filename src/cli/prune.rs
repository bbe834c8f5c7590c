//! `prune`: what is older than its retention leaves the records.
//!
//! Counts first. Weeks of messages go whole, and only where nothing of them is open; ids go last and never before the time
//! for which a repeat has to be recognised.

use std::process::ExitCode;

use serde_json::json;

use crate::{
    config::Settings,
    store::{OldWeek, Pruned, Retention, Store},
};

use super::{
    act::act,
    context::store,
    output::{agreed, json as print_json, line, note, usage},
};

/// Flags of `prune`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long messages, attempts and contents are kept, such as 30d [default: retention.messages]. Job ids, the audit log
    /// and the counts of caps go by their own settings
    #[arg(long, value_name = "DURATION")]
    older_than: Option<humantime::Duration>,
    /// Count, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// One object, for machines
    #[arg(long)]
    json: bool,
}

fn told(pruned: &Pruned) -> String {
    let Pruned {
        messages,
        contents,
        ids,
        revocations,
        audit,
        cap_uses,
    } = pruned;
    format!(
        "{messages} messages, the content of {contents} jobs, {ids} job ids, {revocations} revocations, {audit} entries of \
         the audit log, {cap_uses} counts of caps"
    )
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let kept = settings.retention;
    let messages = args.older_than.map_or(kept.messages, Into::into);
    if messages > kept.ids {
        return Err(usage(format!(
            "--older-than is longer than retention.ids ({}); a message needs its job's record",
            humantime::format_duration(kept.ids)
        ))
        .into());
    }
    let retention = Retention {
        messages,
        ids: kept.ids,
        audit: kept.audit,
        cap_uses: kept.cap_uses,
    };
    let store = store(settings)?;
    let done = run_on(&store, retention, args).await;
    store.close().await;
    done
}

async fn run_on(store: &Store, retention: Retention, args: &Args) -> anyhow::Result<ExitCode> {
    let weeks = store.old_weeks(retention).await?;
    let found = store.prunable(retention, &weeks).await?;
    if !args.json {
        line(format_args!("{} are older than their retention", told(&found)))?;
    }
    if args.dry_run {
        tell(&weeks, &found, args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let nothing = found == Pruned::default() && weeks.iter().all(|week| week.open);
    if !nothing && !agreed(args.yes, "Remove them for good?")? {
        note("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    let target = format!("messages of {}", humantime::format_duration(retention.messages));
    let deed = prune(store, retention, weeks);
    let (weeks, pruned) = act(store, "prune", &target, deed, |(_, pruned)| told(pruned)).await?;
    tell(&weeks, &pruned, args)?;
    Ok(ExitCode::SUCCESS)
}

async fn prune(store: &Store, retention: Retention, mut weeks: Vec<OldWeek>) -> anyhow::Result<(Vec<OldWeek>, Pruned)> {
    let mut messages = 0;
    for week in weeks.iter_mut().filter(|week| !week.open) {
        match store.drop_week(*week).await? {
            Some(dropped) => messages += dropped,
            // Reopened since it was looked at.
            None => week.open = true,
        }
    }
    let rest = store.prune_rest(retention).await?;
    Ok((weeks, Pruned { messages, ..rest }))
}

fn tell(weeks: &[OldWeek], pruned: &Pruned, args: &Args) -> anyhow::Result<()> {
    let days = |open: bool| -> Vec<String> {
        let these = weeks.iter().filter(|week| week.open == open);
        these.map(|week| week.monday.to_string()).collect()
    };
    if args.json {
        return print_json(&json!({
            "dry_run": args.dry_run, "weeks": days(false), "kept_weeks": days(true), "messages": pruned.messages,
            "contents": pruned.contents, "ids": pruned.ids, "revocations": pruned.revocations, "audit": pruned.audit,
            "cap_uses": pruned.cap_uses,
        }));
    }
    if args.dry_run {
        note("nothing was changed (--dry-run)");
    } else {
        line(format_args!("{} are removed", told(pruned)))?;
    }
    for week in days(true) {
        note(format_args!(
            "kept: the week of {week}: something of it isn't over; `im-dispatcher verify` and `explain` tell what"
        ));
    }
    Ok(())
}
