//! `worker`: flags, and the call of the composition root.

use std::process::ExitCode;

use clap::Args;

use crate::config::{FlagValue, Settings};

use super::context::flag;

/// Flags of `worker`; each stands above its setting.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// Don't apply migrations at the start
    #[arg(long)]
    pub no_migrate: bool,
    /// Pace by this process alone instead of sharing the budget with other workers through Postgres
    #[arg(long)]
    pub no_fleet: bool,
    /// Where health, metrics and the API are served; empty turns them off
    #[arg(long, value_name = "ADDR:PORT")]
    pub http_addr: Option<String>,
    /// HTTP calls in flight at most
    #[arg(long, value_name = "N")]
    pub max_in_flight: Option<String>,
    /// How long a stop waits for calls in flight, such as 25s
    #[arg(long, value_name = "DURATION")]
    pub drain_timeout: Option<String>,
}

impl WorkerArgs {
    /// The flags that set something.
    pub(super) fn flags(&self) -> Vec<FlagValue> {
        let texts = [
            ("http.addr", "--http-addr", &self.http_addr),
            ("worker.max_in_flight", "--max-in-flight", &self.max_in_flight),
            ("worker.drain_timeout", "--drain-timeout", &self.drain_timeout),
        ];
        let switches = [
            ("worker.migrate", "--no-migrate", self.no_migrate),
            ("budget.fleet", "--no-fleet", self.no_fleet),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(path, name, value)| Some(flag(path, name, value.as_deref()?)));
        let switches = switches
            .into_iter()
            .filter(|(_, _, off)| *off)
            .map(|(path, name, _)| flag(path, name, "false"));
        texts.chain(switches).collect()
    }
}

/// `reload` reads the settings anew, as they were read at the start.
pub(super) async fn run(
    settings: Settings,
    reload: impl Fn() -> anyhow::Result<Settings> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    // Everything that the worker needs, checked before anything is connected.
    settings.require_apps()?;
    settings.require_database()?;
    settings.require_http()?;
    crate::app::run_worker(settings, reload).await
}
