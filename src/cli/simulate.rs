//! `simulate`: runs the IM API simulator until SIGTERM or SIGINT, and tells what it accepted.

use std::{
    collections::HashSet,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueHint};
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    domain::{Command, SdkAppId},
    simulator::{AccountRules, AppOptions, FaultRule, Limits, SAMPLE_SECRET, Simulator, SimulatorOptions},
};

/// The grammar of `--fault`, as `--help` shows it.
const FAULT_HELP: &str = "\
A fault rule, repeatable: COMMAND:FAULT[:ARGUMENT]=WHEN[,OPTION=VALUE]...

COMMAND  sendmsg, batchsendmsg, importmsg, admin_getroammsg, admin_msgwithdraw,
         admin_set_msg_read, get_c2c_unread_msg_num, or * for all
FAULT    not carried out: code:N, http:STATUS, garbage, reset_before, never_before
         carried out:     code_after:N, http_after:STATUS, garbage_after, no_msg_key,
                          reset_after, cut_after, cut_midway, never, late:DURATION
         later:           accept_late:DURATION
         batches:         recipient:N (each by itself), partial_cut:COUNT
WHEN     a probability (0.02), next:N calls, or nth:N call
OPTION   to=ACCOUNT, to=PREFIX*, app=SDKAPPID, after=DURATION, for=DURATION,
         every=DURATION

Examples: sendmsg:cut_after=0.02   sendmsg:late:2500ms=0.03
          *:code:70009=1,after=10s,for=30s   batchsendmsg:recipient:70169=0.05";

/// Arguments of `simulate`.
#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Where to listen; port 0 takes a free one. The control API under /_sim/ answers loopback clients only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9080")]
    listen: SocketAddr,
    /// Write the base URL to this file once it listens
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    url_file: Option<PathBuf>,
    /// Threads that serve connections
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,

    /// The app's SDKAppID
    #[arg(long, value_name = "ID", env = "IM_SDK_APP_ID", default_value_t = 1_400_000_000)]
    sdk_app_id: u64,
    /// The app's administrator account
    #[arg(
        long,
        value_name = "ACCOUNT",
        env = "IM_ADMIN_ACCOUNT",
        default_value = "administrator"
    )]
    admin: String,
    /// The app's secret key [default: the key of the public UserSig sample]
    #[arg(long, value_name = "KEY", env = "IM_SECRET_KEY", hide_env_values = true)]
    secret_key: Option<SecretString>,
    /// A file with the app's secret key
    #[arg(long, value_name = "FILE", env = "IM_SECRET_KEY_FILE", conflicts_with = "secret_key", value_hint = ValueHint::FilePath)]
    secret_key_file: Option<PathBuf>,
    /// A further app, repeatable: SDKAPPID:ADMIN:FILE, where the file has its secret key
    #[arg(long, value_name = "APP", value_parser = parse_app)]
    app: Vec<(u64, String, PathBuf)>,

    /// Calls a second that each command is granted; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 200)]
    rate_limit: u32,
    /// Another limit for one command, repeatable: COMMAND=N
    #[arg(long, value_name = "COMMAND=N", value_parser = parse_limit)]
    limit: Vec<(Command, u32)>,
    /// Recipients of batchsendmsg a minute; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 12_000)]
    batch_recipients_per_minute: u32,
    /// Calls a second over all commands of an app; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    app_rate_limit: u32,

    /// How long a send is remembered for de-duplication; 0s: never
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = humantime::parse_duration)]
    dedup: Duration,
    /// How long an accepted message stays invisible in the history
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    roam_lag: Duration,
    /// How far back the history reaches
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = humantime::parse_duration)]
    roam_retention: Duration,
    /// An account that doesn't exist, repeatable
    #[arg(long, value_name = "ACCOUNT")]
    unknown: Vec<String>,
    /// Accounts that begin like this don't exist, repeatable
    #[arg(long, value_name = "PREFIX", default_values = ["unknown", "missing_"])]
    unknown_prefix: Vec<String>,
    /// A file with the accounts that exist, one a line; all others don't
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    accounts: Option<PathBuf>,
    /// `SyncFromOldSystem` of imports as on older services: 1 or 2 instead of 5 or 2
    #[arg(long)]
    legacy_import: bool,

    /// What every call takes at least
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// A fault rule, repeatable, such as `sendmsg:cut_after=0.02` (the grammar is in --help)
    #[arg(long, value_name = "RULE", long_help = FAULT_HELP)]
    fault: Vec<FaultRule>,
    /// The seed by which faults are drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// How many calls per app and command are kept for `GET /_sim/calls`
    #[arg(long, value_name = "N", default_value_t = 100_000, conflicts_with = "keep_all_calls")]
    keep_calls: usize,
    /// Keep all calls, whatever memory that takes
    #[arg(long)]
    keep_all_calls: bool,
    /// Print the report as JSON at the end
    #[arg(long)]
    report: bool,
    /// Write the report as JSON to this file at the end
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    report_file: Option<PathBuf>,
}

/// Reads `COMMAND=N`.
fn parse_limit(text: &str) -> Result<(Command, u32), String> {
    let (name, limit) = text.split_once('=').ok_or("use COMMAND=N, such as sendmsg=300")?;
    let command = Command::ALL.into_iter().find(|command| command.as_str() == name);
    let command = command.ok_or_else(|| {
        format!(
            "unknown command: use one of {}",
            Command::ALL.map(Command::as_str).join(", ")
        )
    })?;
    Ok((
        command,
        limit
            .parse()
            .map_err(|_| "the limit is a number of calls a second, 0 for none")?,
    ))
}

/// Reads `SDKAPPID:ADMIN:FILE`.
fn parse_app(text: &str) -> Result<(u64, String, PathBuf), String> {
    let mut parts = text.splitn(3, ':');
    let (Some(id), Some(admin), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("use SDKAPPID:ADMIN:FILE".to_owned());
    };
    Ok((
        id.parse().map_err(|_| "SDKAPPID is a number")?,
        admin.to_owned(),
        file.into(),
    ))
}

/// Reads a secret from a file, without the line's end.
fn read_secret(file: &Path) -> anyhow::Result<SecretString> {
    let secret =
        std::fs::read_to_string(file).with_context(|| format!("read the secret key from {}", file.display()))?;
    anyhow::ensure!(!secret.trim_end().is_empty(), "{} has no secret key", file.display());
    Ok(secret.trim_end().into())
}

impl SimulateArgs {
    fn options(self) -> anyhow::Result<SimulatorOptions> {
        let secret = match (self.secret_key, &self.secret_key_file) {
            (Some(secret), _) => {
                anyhow::ensure!(
                    !secret.expose_secret().is_empty(),
                    "--secret-key or IM_SECRET_KEY is empty"
                );
                secret
            }
            (None, Some(file)) => read_secret(file)?,
            (None, None) => {
                tracing::info!("no secret key is set: UserSigs are checked with the key of the public sample");
                SAMPLE_SECRET.into()
            }
        };
        let mut apps = vec![AppOptions {
            sdk_app_id: SdkAppId(self.sdk_app_id),
            admins: vec![self.admin],
            secret,
        }];
        for (id, admin, file) in self.app {
            apps.push(AppOptions {
                sdk_app_id: SdkAppId(id),
                admins: vec![admin],
                secret: read_secret(&file)?,
            });
        }
        let mut limits = Limits::calls(self.rate_limit).with_recipients_per_minute(self.batch_recipients_per_minute);
        limits.app_calls_per_second = self.app_rate_limit;
        for (command, limit) in self.limit {
            limits = limits.with(command, limit);
        }
        let only = self.accounts.map(|file| -> anyhow::Result<HashSet<String>> {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("read accounts from {}", file.display()))?;
            Ok(text
                .lines()
                .filter(|line| !line.is_empty())
                .map(ToOwned::to_owned)
                .collect())
        });
        Ok(SimulatorOptions {
            listen: self.listen,
            threads: self.threads,
            apps,
            limits,
            dedup: self.dedup,
            accounts: AccountRules {
                unknown_prefixes: self.unknown_prefix,
                unknown: self.unknown.into_iter().collect(),
                only: only.transpose()?,
            },
            roam_lag: self.roam_lag,
            roam_retention: self.roam_retention,
            legacy_import: self.legacy_import,
            latency: self.latency,
            faults: self.fault,
            seed: self.seed,
            keep_calls: (!self.keep_all_calls).then_some(self.keep_calls),
        })
    }
}

/// Runs the simulator until SIGTERM or SIGINT.
///
/// # Errors
/// If a file can't be read or written, or the address not be bound.
pub(super) async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    let (print, report_file, url_file) = (args.report, args.report_file.clone(), args.url_file.clone());
    // Before it listens, so that whoever sees it up can end it in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let simulator = Simulator::start(args.options()?)?;
    tracing::info!(url = simulator.base_url(), "the IM API simulator listens");
    if let Some(file) = url_file {
        std::fs::write(&file, simulator.base_url() + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if print || report_file.is_some() {
        let report = serde_json::to_string_pretty(&simulator.report())? + "\n";
        if print {
            std::io::stdout()
                .write_all(report.as_bytes())
                .context("print the report")?;
        }
        if let Some(file) = report_file {
            std::fs::write(&file, report).with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn options(args: &[&str]) -> SimulatorOptions {
        let args = std::iter::once("simulate").chain(args.iter().copied());
        Cli::try_parse_from(args).unwrap().args.options().unwrap()
    }

    #[test]
    fn without_flags_it_is_the_documented_service() {
        let options = options(&[]);
        assert_eq!(options.limits, Limits::default());
        assert_eq!(options.dedup, Duration::from_mins(2));
        assert_eq!(options.accounts, AccountRules::default());
        assert!(options.listen.ip().is_loopback());
    }

    #[test]
    fn flags_set_limits_accounts_and_faults() {
        let options = options(&[
            "--rate-limit=0",
            "--limit=sendmsg=204",
            "--unknown=bob",
            "--unknown-prefix=nobody_",
            "--dedup=0s",
            "--fault=sendmsg:cut_after=0.02",
            "--fault=*:late:2500ms=0.03",
            "--keep-all-calls",
        ]);
        assert_eq!(options.limits.calls_per_second, [204, 0, 0, 0, 0, 0, 0]);
        assert!(!options.accounts.exists("bob") && !options.accounts.exists("nobody_1"));
        assert!(
            options.accounts.exists("unknown_1"),
            "a given prefix takes the place of the default ones"
        );
        assert_eq!(
            (options.faults.len(), options.keep_calls, options.dedup),
            (2, None, Duration::ZERO)
        );
    }

    #[test]
    fn a_wrong_rule_or_limit_is_a_usage_error_and_a_secret_is_never_shown() {
        for args in [
            ["simulate", "--fault=sendmsg:nothing=1"],
            ["simulate", "--limit=sendmail=1"],
            ["simulate", "--app=7"],
        ] {
            assert!(Cli::try_parse_from(args).is_err());
        }
        let args = Cli::try_parse_from(["simulate", "--secret-key=hushhush"]).unwrap().args;
        assert!(!format!("{args:?}").contains("hushhush"));
    }
}
