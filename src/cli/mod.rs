//! The command line: one file per command. Parses, prints, asks and waits; has no rules of its own.
//!
//! What a machine reads goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or
//! configuration.

mod act;
mod args;
mod check;
mod completions;
mod config;
mod context;
mod dead_letters;
mod erase;
mod explain;
mod history;
mod import;
mod mark_read;
mod migrate;
mod output;
mod pause;
mod prune;
mod retry;
mod revoke;
mod schema;
mod simulate;
mod status;
mod submit;
mod top;
mod unread;
mod usersig;
mod verify;
mod wait;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    config::{ConfigError, Settings},
    store::StoreError,
};

use context::GlobalArgs;
use output::Usage;
pub use worker::WorkerArgs;

/// Exit code for a command that failed.
const FAILED: u8 = 1;
/// Exit code for wrong usage or configuration, which is clap's own too.
const WRONG_USAGE: u8 = 2;

/// The outbound dispatcher for Tencent Cloud IM: jobs from RabbitMQ, through the rate budget, to the IM API, every MsgKey
/// on record.
#[derive(Debug, Parser)]
#[command(name = "im-dispatcher", version, max_term_width = 120, propagate_version = true)]
#[command(
    after_help = "Settings come from flags, the environment, a TOML file and defaults, in this order of precedence; \
                        `im-dispatcher config show` prints them.\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration."
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume jobs and carry them out, until SIGTERM or SIGINT
    Worker(WorkerArgs),
    /// Publish jobs, one JSON object a line
    Submit(submit::Args),
    /// Say where a job or a group stands
    Status(status::Args),
    /// Say why a job is where it is, as a timeline
    Explain(explain::Args),
    /// Prove that everything was sent once: reconcile the records with the IM history and the queues
    Verify(verify::Args),
    /// Revoke the messages of a job, of some of its recipients or of a group, or one message by its key
    Revoke(revoke::Args),
    /// Try failed recipients again, as a new generation of their jobs
    Retry(retry::Args),
    /// Pause what sends of a lane, a group or an app, on every worker within a second
    Pause(pause::PauseArgs),
    /// End a pause
    Resume(pause::ResumeArgs),
    /// Watch the budgets, lanes and workers of the whole fleet
    Top(top::Args),
    /// Look at the jobs that could not be carried out, replay them or discard them
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Remove one account's data from the records, except for what is still under way
    Erase(erase::Args),
    /// Remove records that are older than their retention, except for what isn't over
    Prune(prune::Args),
    /// Print every message of a conversation, one JSON object a line
    History(history::Args),
    /// Count an account's unread messages, in all or by peer
    Unread(unread::Args),
    /// Set a conversation to read
    MarkRead(mark_read::Args),
    /// Import a message with its own time
    Import(import::Args),
    /// Print a UserSig
    Usersig(usersig::Args),
    /// Try each dependency and print a line for it, with the mend where it fails
    Check,
    /// Look at the settings
    #[command(subcommand)]
    Config(config::Command),
    /// Apply the database migrations
    Migrate,
    /// Print the JSON Schema of jobs or events
    Schema(schema::Args),
    /// Run the IM API simulator, with faults, on loopback
    Simulate(simulate::SimulateArgs),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

impl Command {
    /// Whether it runs for days and its news belong into a log, rather than beside a table.
    const fn is_service(&self) -> bool {
        matches!(self, Self::Worker(_) | Self::Simulate(_))
    }
}

/// Parses the command line of this process, runs the command and turns its result into an exit code.
pub fn main() -> ExitCode {
    small_pages();
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            if output::is_broken_pipe(&error) {
                // Whoever read our output has seen enough: `history … | head`.
                return ExitCode::SUCCESS;
            }
            let wrong_usage = error
                .chain()
                .any(|cause| cause.is::<ConfigError>() || cause.is::<Usage>());
            output::error(&error);
            if error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<StoreError>())
                .any(StoreError::lacks_migrations)
            {
                output::note("the database lacks migrations: start a worker, or run `im-dispatcher migrate`");
            }
            ExitCode::from(if wrong_usage { WRONG_USAGE } else { FAILED })
        }
    }
}

/// Where the kernel gives huge pages to whoever doesn't ask, two megabytes become resident for each first byte: of an idle
/// worker's memory that was a third (59 MiB, 40 without).
fn small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        // Only memory is at stake; a kernel without them has nothing to turn off.
        tracing::debug!(%error, "huge pages can't be turned off");
    }
}

/// Threads of the runtime, unless `TOKIO_WORKER_THREADS` says otherwise: half of the cores. The database and
/// the broker need as much for each job. On two cores a second thread cost a quarter more CPU at 30 ms of API latency, and made
/// no more jobs/s at 0 ms, where one carries some 7,000.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // These two need no settings, and must work where those are wrong.
    match &cli.command {
        Command::Schema(args) => return schema::run(args),
        Command::Completions(args) => return completions::run(args),
        _ => {}
    }
    let mut flags = cli.global.flags()?;
    if let Command::Worker(args) = &cli.command {
        flags.extend(args.flags());
    }
    let settings = cli.global.load(flags.clone())?;
    let global = cli.global;
    let reload = move || global.load(flags.clone());
    let log = settings.log_for(cli.command.is_service());
    crate::telemetry::init_logging(&log)?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(threads());
    }
    let runtime = runtime.enable_all().build()?;
    let code = runtime.block_on(run_command(cli.command, settings, reload));
    // Whatever still hangs in a resolver or on a closed stdin is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    code
}

async fn run_command(
    command: Command,
    settings: Settings,
    reload: impl Fn() -> anyhow::Result<Settings> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Worker(_) => worker::run(settings, reload).await,
        Command::Submit(args) => submit::run(&settings, &args).await,
        Command::Status(args) => status::run(&settings, &args).await,
        Command::Explain(args) => explain::run(&settings, &args).await,
        Command::Verify(args) => verify::run(&settings, &args).await,
        Command::Revoke(args) => revoke::run(&settings, &args).await,
        Command::Retry(args) => retry::run(&settings, &args).await,
        Command::Pause(args) => pause::pause(&settings, &args).await,
        Command::Resume(args) => pause::resume(&settings, &args).await,
        Command::Top(args) => top::run(&settings, &args).await,
        Command::DeadLetters(command) => dead_letters::run(&settings, &command).await,
        Command::Erase(args) => erase::run(&settings, &args).await,
        Command::Prune(args) => prune::run(&settings, &args).await,
        Command::History(args) => history::run(&settings, &args).await,
        Command::Unread(args) => unread::run(&settings, &args).await,
        Command::MarkRead(args) => mark_read::run(&settings, &args).await,
        Command::Import(args) => import::run(&settings, &args).await,
        Command::Usersig(args) => usersig::run(&settings, &args),
        Command::Check => check::run(&settings).await,
        Command::Config(command) => config::run(&settings, &command),
        Command::Migrate => migrate::run(&settings).await,
        Command::Schema(args) => schema::run(&args),
        Command::Simulate(args) => simulate::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => completions::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_commands_that_exist_are_listed() {
        let names: Vec<_> = Cli::command()
            .get_subcommands()
            .map(|c| c.get_name().to_owned())
            .collect();
        for expected in [
            "worker",
            "submit",
            "status",
            "explain",
            "verify",
            "revoke",
            "retry",
            "pause",
            "resume",
            "top",
            "dead-letters",
            "erase",
            "prune",
            "history",
            "unread",
            "mark-read",
            "import",
            "usersig",
            "check",
            "config",
            "migrate",
            "schema",
            "simulate",
            "completions",
        ] {
            assert!(names.iter().any(|name| name == expected), "{expected}");
        }
    }
}
