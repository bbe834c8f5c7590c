//! `pause` and `resume`: a lane, a group or an app, on every worker within a second.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::ArgGroup;

use crate::{
    config::Settings,
    domain::{
        AppName, GroupName, Lane,
        pause::{PauseScope, pause_end},
    },
};

use super::{
    act::act,
    context,
    output::{Usage, note, usage},
};

/// What is paused or resumed.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("scope").required(true).args(["lane", "group", "app"]))]
pub(super) struct Scope {
    /// The lane: high, normal or bulk. Its queues are not consumed
    #[arg(long, value_name = "LANE")]
    lane: Option<Lane>,
    /// The group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The configured app
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
}

impl Scope {
    fn parse(&self, settings: &Settings) -> Result<PauseScope, Usage> {
        if let Some(lane) = self.lane {
            return Ok(PauseScope::Lane(lane));
        }
        if let Some(group) = &self.group {
            let group = GroupName::parse(group).map_err(|error| usage(format!("--group {error}")))?;
            return Ok(PauseScope::Group(group));
        }
        let name = self.app.as_deref().unwrap_or_default();
        let app = AppName::parse(name).map_err(|error| usage(format!("--app {error}")))?;
        if !settings.apps.contains_key(&app) {
            return Err(usage(format!("--app: no app named {app} is configured")));
        }
        Ok(PauseScope::App(app))
    }
}

/// Flags of `pause`.
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    scope: Scope,
    /// When the pause ends by itself, RFC 3339 [default: when it is resumed]
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
}

/// Flags of `resume`.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    scope: Scope,
}

pub(super) async fn pause(settings: &Settings, args: &PauseArgs) -> anyhow::Result<ExitCode> {
    let scope = args.scope.parse(settings)?;
    if args.until.is_some_and(|until| until <= Utc::now()) {
        return Err(usage("--until is in the past").into());
    }
    let told = pause_end(args.until);
    let store = context::store(settings)?;
    let deed = store.pause(&scope, args.until);
    act(&store, "pause", &scope.to_string(), deed, |()| told.clone()).await?;
    note(format_args!("{scope} is paused {told}"));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(settings: &Settings, args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    let scope = args.scope.parse(settings)?;
    let store = context::store(settings)?;
    let told = |was: &bool| if *was { "resumed" } else { "it wasn't paused" }.to_owned();
    if act(&store, "resume", &scope.to_string(), store.resume(&scope), told).await? {
        note(format!("{scope} is resumed"));
    } else {
        note(format!("{scope} wasn't paused"));
    }
    Ok(ExitCode::SUCCESS)
}
