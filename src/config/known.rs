//! Which settings exist: their names, short variables and whether they are secret. The defaults are in
//! `im-dispatcher.toml`, beside this file; a test holds the two together.

use crate::domain::Command;

/// A setting that exists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// `section.field`; of an app's settings what follows `apps.NAME.`.
    pub(super) path: &'static str,
    /// The short environment variable; of an app's settings that of the app `default`.
    pub(super) short: Option<&'static str>,
    /// Hidden in every output, and readable from a file by `<path>_file`.
    pub(super) secret: bool,
}

const fn plain(path: &'static str) -> Known {
    Known {
        path,
        short: None,
        secret: false,
    }
}

const fn short(path: &'static str, short: &'static str) -> Known {
    Known {
        path,
        short: Some(short),
        secret: false,
    }
}

const fn secret(path: &'static str, short: &'static str) -> Known {
    Known {
        path,
        short: Some(short),
        secret: true,
    }
}

/// Every setting but the apps', in the order of `config show`.
pub(super) const SETTINGS: &[Known] = &[
    short("namespace", "IM_DISPATCHER_NAMESPACE"),
    secret("database_url", "DATABASE_URL"),
    secret("amqp_url", "AMQP_URL"),
    plain("amqp.ca_file"),
    short("http.addr", "IM_DISPATCHER_HTTP_ADDR"),
    secret("http.admin_token", "IM_DISPATCHER_ADMIN_TOKEN"),
    secret("http.readonly_token", "IM_DISPATCHER_READONLY_TOKEN"),
    short("worker.max_in_flight", "IM_DISPATCHER_MAX_IN_FLIGHT"),
    plain("worker.drain_timeout"),
    plain("worker.migrate"),
    plain("lanes.high.prefetch"),
    plain("lanes.high.floor"),
    plain("lanes.high.cap.max"),
    plain("lanes.high.cap.period"),
    plain("lanes.high.cap.group_prefix"),
    plain("lanes.normal.prefetch"),
    plain("lanes.normal.floor"),
    plain("lanes.normal.send_window.start"),
    plain("lanes.normal.send_window.end"),
    plain("lanes.normal.send_window.timezone"),
    plain("lanes.normal.send_window.days"),
    plain("lanes.normal.cap.max"),
    plain("lanes.normal.cap.period"),
    plain("lanes.normal.cap.group_prefix"),
    plain("lanes.bulk.prefetch"),
    plain("lanes.bulk.floor"),
    plain("lanes.bulk.send_window.start"),
    plain("lanes.bulk.send_window.end"),
    plain("lanes.bulk.send_window.timezone"),
    plain("lanes.bulk.send_window.days"),
    plain("lanes.bulk.cap.max"),
    plain("lanes.bulk.cap.period"),
    plain("lanes.bulk.cap.group_prefix"),
    short("im.base_url", "IM_BASE_URL"),
    short("im.rate_limit", "IM_RATE_LIMIT"),
    short("im.recipients_per_minute", "IM_BATCH_RECIPIENTS_PER_MINUTE"),
    plain("im.connect_timeout"),
    plain("im.total_timeout"),
    plain("im.usersig_lifetime"),
    plain("im.ca_file"),
    plain("im.import_unread"),
    plain("im.import_read"),
    plain("budget.guard"),
    plain("budget.window"),
    plain("budget.fleet"),
    plain("reconcile.settle"),
    plain("reconcile.listed_after"),
    plain("retry.initial"),
    plain("retry.max"),
    plain("retry.factor"),
    plain("retry.jitter"),
    plain("retry.max_attempts"),
    plain("dead_letters.recipients"),
    plain("retention.ids"),
    plain("retention.messages"),
    plain("retention.audit"),
    plain("retention.cap_uses"),
    short("log.format", "IM_DISPATCHER_LOG_FORMAT"),
    short("log.filter", "RUST_LOG"),
    short("otel.endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    short("otel.service_name", "OTEL_SERVICE_NAME"),
    plain("otel.sample"),
];

/// The settings of each app, after `apps.NAME.`.
pub(super) const APP_SETTINGS: &[Known] = &[
    short("sdk_app_id", "IM_SDK_APP_ID"),
    short("admin_account", "IM_ADMIN_ACCOUNT"),
    secret("secret", "IM_SECRET_KEY"),
    plain("base_url"),
    plain("queues"),
    plain("limits.calls_per_second"),
    plain("limits.recipients_per_minute"),
    plain(limit_path(Command::SendMsg)),
    plain(limit_path(Command::BatchSendMsg)),
    plain(limit_path(Command::ImportMsg)),
    plain(limit_path(Command::GetRoamMsg)),
    plain(limit_path(Command::MsgWithdraw)),
    plain(limit_path(Command::SetMsgRead)),
    plain(limit_path(Command::GetUnreadNum)),
];

/// Where an app's own limit of a command is set, after `apps.NAME.`.
pub(super) const fn limit_path(command: Command) -> &'static str {
    match command {
        Command::SendMsg => "limits.sendmsg",
        Command::BatchSendMsg => "limits.batchsendmsg",
        Command::ImportMsg => "limits.importmsg",
        Command::GetRoamMsg => "limits.admin_getroammsg",
        Command::MsgWithdraw => "limits.admin_msgwithdraw",
        Command::SetMsgRead => "limits.admin_set_msg_read",
        Command::GetUnreadNum => "limits.get_c2c_unread_msg_num",
    }
}

/// Finds a setting by its whole path. The second value is true for the `_file` form of a secret.
pub(super) fn find(path: &str) -> Option<(Known, bool)> {
    let (table, rest) = match path.strip_prefix("apps.") {
        Some(rest) => (APP_SETTINGS, rest.split_once('.')?.1),
        None => (SETTINGS, path),
    };
    table.iter().find_map(|known| {
        if known.path == rest {
            Some((*known, false))
        } else if known.secret && rest.strip_suffix("_file") == Some(known.path) {
            Some((*known, true))
        } else {
            None
        }
    })
}

/// Whether a path names a section: something that exists lies below it.
pub(super) fn is_section(path: &str) -> bool {
    let below = |table: &[Known], rest: &str| {
        table
            .iter()
            .any(|known| known.path.strip_prefix(rest).is_some_and(|tail| tail.starts_with('.')))
    };
    if path == "apps" {
        return true;
    }
    match path.strip_prefix("apps.").map(|rest| rest.split_once('.')) {
        Some(None) => true,
        Some(Some((_, rest))) => below(APP_SETTINGS, rest),
        None => below(SETTINGS, path),
    }
}

/// The setting nearest to a path that doesn't exist, if any is near.
pub(super) fn suggest(path: &str) -> Option<String> {
    let (prefix, table, rest) = match path.strip_prefix("apps.").and_then(|rest| rest.split_once('.')) {
        Some((app, rest)) => (format!("apps.{app}."), APP_SETTINGS, rest),
        None => (String::new(), SETTINGS, path),
    };
    let candidates = table
        .iter()
        .flat_map(|known| {
            [
                Some(known.path.to_owned()),
                known.secret.then(|| format!("{}_file", known.path)),
            ]
        })
        .flatten()
        // A section's name by itself is often what was misspelled: `[htpp]`.
        .chain(
            table
                .iter()
                .filter_map(|known| known.path.rsplit_once('.').map(|(section, _)| section.to_owned())),
        )
        .chain(prefix.is_empty().then(|| "apps".to_owned()));
    nearest(rest, candidates)
        .or_else(|| {
            // The field is right and its section isn't: `worker.prefetch`.
            let field = rest.rsplit('.').next()?;
            table
                .iter()
                .find(|known| known.path.rsplit('.').next() == Some(field))
                .map(|known| known.path.to_owned())
        })
        .map(|found| format!("{prefix}{found}"))
}

/// The candidate nearest to a word, if it is near enough to be meant.
pub(super) fn nearest(word: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, &candidate), candidate))
        // 0.85 lets two letters of ten be wrong, and keeps unrelated names apart.
        .filter(|(score, _)| *score > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
