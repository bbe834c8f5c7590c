//! `check`: tries each dependency and prints a line for each, with the mend where it fails.

use std::{error::Error, fmt::Display, io::ErrorKind, net::TcpListener, process::ExitCode, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::{
    broker::Broker,
    config::{Settings, mask_url},
    domain::{AppName, ErrorClass},
    im::ImError,
    store::Store,
};

use super::{
    context,
    output::{line, plain, table},
};

/// How long RabbitMQ may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Files and connections beside the calls in flight: the database's, the broker's, those of the HTTP server.
const OTHER_FILES: u64 = 200;
/// A UserSig lives for 30 s and is at most 7 s old when it is used, so clocks may be some seconds apart.
const MAX_CLOCKS_APART: TimeDelta = TimeDelta::seconds(5);

/// What was found out, a row each.
#[derive(Default)]
struct Findings {
    rows: Vec<[String; 3]>,
    failed: bool,
}

impl Findings {
    fn ok(&mut self, what: &str, detail: impl Display) {
        self.rows.push(["ok".into(), what.into(), plain(detail)]);
    }

    /// It works, and an operator should know.
    fn warn(&mut self, what: &str, detail: impl Display) {
        self.rows.push(["warn".into(), what.into(), plain(detail)]);
    }

    fn fail(&mut self, what: &str, detail: impl Display, mend: &str) {
        self.failed = true;
        self.rows
            .push(["FAIL".into(), what.into(), format!("{}; {mend}", plain(detail))]);
    }
}

pub(super) async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    check_config(settings, &mut findings);
    check_machine(settings, &mut findings);
    check_postgres(settings, &mut findings).await;
    check_rabbitmq(settings, &mut findings).await;
    for name in settings.apps.keys() {
        check_im(settings, name, &mut findings).await;
    }
    let mut table = table(&["", "what", ""]);
    for row in findings.rows {
        table.add_row(row);
    }
    line(table)?;
    Ok(if findings.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn check_config(settings: &Settings, findings: &mut Findings) {
    let problems: Vec<_> = [
        settings.require_apps().err(),
        settings.require_database().err(),
        settings.require_http().err(),
    ]
    .into_iter()
    .flatten()
    .collect();
    for problem in &problems {
        findings.fail(
            "config",
            problem,
            "`im-dispatcher config show` prints every setting with its source",
        );
    }
    if problems.is_empty() {
        findings.ok(
            "config",
            format_args!("namespace {}, {} app(s)", settings.namespace, settings.apps.len()),
        );
    }
    for warning in settings.warnings() {
        findings.warn("config", warning);
    }
    if settings.im.usersig_lifetime > Duration::from_mins(2) {
        findings.warn(
            "config",
            "im.usersig_lifetime is above 2m: a worker that was frozen for minutes could send a message twice",
        );
    }
}

/// What a worker needs of the machine that it runs on.
fn check_machine(settings: &Settings, findings: &mut Findings) {
    if let Some(addr) = settings.http.addr {
        match TcpListener::bind(addr) {
            Ok(_) => findings.ok("http", format_args!("{addr} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => findings.warn(
                "http",
                format_args!("{addr} is in use: by a worker that runs, or another needs its own http.addr"),
            ),
            Err(error) => findings.fail(
                "http",
                format_args!("listen on {addr}: {error}"),
                "set IM_DISPATCHER_HTTP_ADDR to an address of this machine, or leave it empty",
            ),
        }
    }
    let needed = u64::from(settings.worker.max_in_flight) + OTHER_FILES;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(open_files) = soft_limit(&limits, "Max open files")
        && open_files < needed
    {
        findings.warn(
            "open files",
            format_args!(
                "this shell allows {open_files}, worker.max_in_flight may take {needed}: raise it (ulimit -n, \
                 LimitNOFILE), or lower that"
            ),
        );
    }
}

/// A soft limit as `/proc/self/limits` prints it; `None` where it is unlimited, or not told.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn check_clock(now: DateTime<Utc>, findings: &mut Findings) {
    let apart = (Utc::now() - now).abs();
    if apart > MAX_CLOCKS_APART {
        findings.warn(
            "clock",
            format_args!(
                "this machine's and the database's are {} s apart; UserSigs are signed by this one: keep both by NTP",
                apart.num_seconds()
            ),
        );
    }
}

async fn check_postgres(settings: &Settings, findings: &mut Findings) {
    let Ok(url) = settings.require_database().map(mask_url) else {
        return;
    };
    let store = match context::store(settings) {
        Ok(store) => store,
        Err(error) => return findings.fail("postgres", error, "set DATABASE_URL"),
    };
    match store.durability().await {
        Err(error) => {
            let mend = if error.distrust().is_some() {
                let file = settings.require_database().ok().and_then(root_certificate);
                let file = file.unwrap_or_else(|| "no file".to_owned());
                format!("sslrootcert in DATABASE_URL names {file} for an authority of your own; the server is {url}")
            } else {
                format!("is Postgres running, and may this user in? DATABASE_URL is {url}")
            };
            findings.fail("postgres", causes(&error), &mend);
        }
        Ok(durability) => {
            findings.ok("postgres", format_args!("{} at {url}", durability.version));
            check_clock(durability.now, findings);
            if !durability.synchronous_replicas {
                findings.warn(
                    "postgres",
                    "no synchronous replica: a failover can lose the last commits, and with them the last MsgKeys",
                );
            }
            check_migrations(&store, findings).await;
        }
    }
    store.close().await;
}

/// The file that `sslrootcert` names.
fn root_certificate(url: &SecretString) -> Option<String> {
    let url = Url::parse(url.expose_secret()).ok()?;
    let (_, file) = url.query_pairs().find(|(name, _)| name == "sslrootcert")?;
    Some(plain(file))
}

async fn check_migrations(store: &Store, findings: &mut Findings) {
    match store.missing_migration().await {
        Ok(None) => findings.ok("migrations", "all applied"),
        Ok(Some(version)) => findings.fail(
            "migrations",
            format_args!("{version} is not applied"),
            "run `im-dispatcher migrate`, or start a worker without --no-migrate",
        ),
        Err(error) => findings.fail(
            "migrations",
            causes(&error),
            "may this user read the table _sqlx_migrations?",
        ),
    }
}

async fn check_rabbitmq(settings: &Settings, findings: &mut Findings) {
    let url = mask_url(&settings.amqp_url);
    let broker = match context::start_broker(settings) {
        Ok(broker) => broker,
        Err(error) => return findings.fail("rabbitmq", error, "set AMQP_URL, and amqp.ca_file if it needs one"),
    };
    if let Err(readiness) = broker.wait_until_ready(PATIENCE).await {
        let trust = match &settings.amqp.ca_file {
            Some(path) => format!("; besides the system's authorities {} is trusted", path.display()),
            None if url.starts_with("amqps:") => "; an authority of your own is named by amqp.ca_file".to_owned(),
            None => String::new(),
        };
        let mend = format!("is RabbitMQ running, and may this user in? AMQP_URL is {url}{trust}");
        findings.fail("rabbitmq", readiness.reasons.join("; "), &mend);
    } else {
        findings.ok("rabbitmq", &url);
        check_topology(&broker, findings).await;
    }
    broker.close().await;
}

async fn check_topology(broker: &Broker, findings: &mut Findings) {
    match broker.queue_depths().await {
        Err(error) => findings.fail(
            "topology",
            error,
            "may this user configure, write and read these names?",
        ),
        Ok(depths) => {
            let consumers: u32 = depths.iter().map(|depth| depth.consumers).sum();
            let waiting: u64 = depths.iter().map(|depth| u64::from(depth.messages)).sum();
            let queues = depths.len();
            findings.ok(
                "topology",
                format_args!("{queues} queues, {waiting} messages, {consumers} consumers"),
            );
        }
    }
    for note in broker.readiness().notes {
        findings.warn("topology", note);
    }
}

async fn check_im(settings: &Settings, name: &AppName, findings: &mut Findings) {
    let what = format!("im api, app {name}");
    let client = match context::im_client(settings, name) {
        Ok(client) => client,
        Err(error) => return findings.fail(&what, error, "see the app's settings"),
    };
    // Reads one number and changes nothing.
    let answer = client.unread(&client.app().admin, &[]).await;
    let host = client.app().host();
    match answer {
        Ok(_) => findings.ok(&what, format_args!("{host} accepts the UserSig")),
        // An answer about the account or the request: the signature has been checked before.
        Err(error) if error.code.is_some() && error.class != ErrorClass::Auth => {
            findings.ok(
                &what,
                format_args!("{host} accepts the UserSig, and answers {}", error.word()),
            );
        }
        Err(error) => findings.fail(&what, im_causes(&error), &im_mend(&error, &host)),
    }
}

fn im_causes(error: &ImError) -> String {
    match error.code_info() {
        Some(info) => format!("{error} ({})", info.meaning),
        None => causes(error),
    }
}

fn im_mend(error: &ImError, host: &str) -> String {
    if error.code.is_some() {
        format!("are sdk_app_id, secret and admin_account those of one app, and is {host} its region?")
    } else {
        format!("can this machine reach {host}?")
    }
}

/// An error with its causes, each told once.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let told = inner.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_soft_limit_is_read_where_it_is_a_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max file locks            unlimited            unlimited            locks     \n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        assert_eq!(soft_limit(limits, "Max file locks"), None);
        assert_eq!(soft_limit("", "Max open files"), None);
    }

    #[test]
    fn causes_are_told_once_each() {
        let error = StoreError::query("ping", sqlx::Error::PoolTimedOut);
        let text = causes(&error);
        assert!(
            text.starts_with("ping: ") && text.matches("timed out").count() == 1,
            "{text}"
        );
    }
}
