//! `check`: tries each dependency and prints a line for each, with the mend where it fails.

use std::{error::Error, fmt::Display, process::ExitCode, time::Duration};

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
            let mend = format!("is Postgres running, and may this user in? DATABASE_URL is {url}");
            findings.fail("postgres", causes(&error), &mend);
        }
        Ok(durability) => {
            findings.ok("postgres", format_args!("{} at {url}", durability.version));
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
        Err(error) => return findings.fail("rabbitmq", error, "set AMQP_URL"),
    };
    if let Err(readiness) = broker.wait_until_ready(PATIENCE).await {
        let mend = format!("is RabbitMQ running, and may this user in? AMQP_URL is {url}");
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
    fn causes_are_told_once_each() {
        let error = StoreError::query("ping", sqlx::Error::PoolTimedOut);
        let text = causes(&error);
        assert!(
            text.starts_with("ping: ") && text.matches("timed out").count() == 1,
            "{text}"
        );
    }
}
