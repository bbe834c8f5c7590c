//! `verify`: the proof. Reconciles the records with the IM history, and says what waits in the queues.

use std::{collections::BTreeMap, num::NonZeroU32, process::ExitCode, time::Duration};

use chrono::Utc;
use serde::Serialize;

use crate::{
    broker::QueueDepth,
    config::Settings,
    domain::{AppName, Command, GroupName},
    store::{CALL_WINDOW, Store, VerifyScope},
    verify::{HistoryAsker, VerifyOptions, VerifyReport, verify},
};

use super::{
    args::{patience, time},
    context::{im_client, start_broker, store},
    output::{json as print_json, line, note, plain, progress, table, usage},
};

/// How long RabbitMQ may take; the proof doesn't need it.
const BROKER_PATIENCE: Duration = Duration::from_secs(10);
/// Findings of each kind that are named.
const EXAMPLES: usize = 20;

/// Flags of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only the jobs of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only jobs received since: RFC 3339, Unix seconds, or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Calls a second to the history, for each app; 0: no limit [default: half of the app's limit]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// How far back the service keeps its history, by the app's edition
    #[arg(long, value_name = "TIME", default_value = "7d")]
    retention: String,
    /// How many findings of each kind are named
    #[arg(long, value_name = "N", default_value_t = EXAMPLES)]
    limit: usize,
    /// One object, for machines
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Printed<'a> {
    group: Option<&'a GroupName>,
    #[serde(flatten)]
    report: &'a VerifyReport,
    /// Jobs that no worker has taken yet, by queue; null where RabbitMQ can't be reached.
    queues: Option<BTreeMap<&'a str, u32>>,
    dead_letters: Option<u32>,
    /// Events and letters to be published.
    outbox: i64,
    ok: bool,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let group = args
        .group
        .as_ref()
        .map(|group| GroupName::parse(group).map_err(|error| usage(format!("--group {error}"))))
        .transpose()?;
    let since = args
        .since
        .as_ref()
        .map(|value| time("--since", value, Utc::now()))
        .transpose()?;
    let options = VerifyOptions {
        scope: VerifyScope {
            group: group.as_ref(),
            since,
            retention: patience("--retention", &args.retention)?,
        },
        quiet: CALL_WINDOW + settings.im.total_timeout + settings.reconcile.settle,
        settle: settings.reconcile.settle,
        listed_after: settings.reconcile.listed_after,
        examples: args.limit,
    };
    let store = store(settings)?;
    let askers = askers(settings, args.rate)?;
    let done = run_on(settings, &store, &askers, &options, args.json).await;
    store.close().await;
    done
}

/// A client for each app that is configured.
fn askers(settings: &Settings, rate: Option<u32>) -> anyhow::Result<BTreeMap<AppName, HistoryAsker>> {
    let mut askers = BTreeMap::new();
    for (name, app) in settings.require_apps()? {
        let limit = app.limits.calls_per_second(Command::GetRoamMsg);
        let rate = rate.or_else(|| (limit > 0).then(|| (limit / 2).max(1)));
        let asker = HistoryAsker::new(im_client(settings, name)?, rate.and_then(NonZeroU32::new));
        askers.insert(name.clone(), asker);
    }
    Ok(askers)
}

async fn run_on(
    settings: &Settings,
    store: &Store,
    askers: &BTreeMap<AppName, HistoryAsker>,
    options: &VerifyOptions<'_>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let bar = progress(Some(0), "{bar:30} {pos}/{len} records, {per_sec}, {eta} left");
    let done = verify(store, askers, options, |judged, records| {
        bar.set_length(records);
        bar.set_position(judged);
    })
    .await;
    bar.finish_and_clear();
    let report = done?;
    let depths = queue_depths(settings).await;
    let waiting = depths
        .as_ref()
        .map(|depths| depths.iter().filter(|depth| depth.lane.is_some()));
    let dead = depths
        .as_ref()
        .and_then(|depths| depths.iter().find(|depth| depth.lane.is_none()));
    let printed = Printed {
        group: options.scope.group,
        report: &report,
        queues: waiting.map(|queues| queues.map(|depth| (depth.queue.as_str(), depth.messages)).collect()),
        dead_letters: dead.map(|depth| depth.messages),
        outbox: store.backlog().await?.outbox,
        ok: report.holds(),
    };
    if json {
        print_json(&printed)?;
    } else {
        print(&printed)?;
    }
    Ok(if report.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What waits in the queues; a broker that is away leaves the proof as it is.
async fn queue_depths(settings: &Settings) -> Option<Vec<QueueDepth>> {
    let told = |error: String| note(format_args!("note: RabbitMQ's queues were not counted: {error}"));
    let broker = match start_broker(settings) {
        Ok(broker) => broker,
        Err(error) => {
            told(format!("{error:#}"));
            return None;
        }
    };
    let depths = match broker.wait_until_ready(BROKER_PATIENCE).await {
        Ok(()) => broker
            .queue_depths()
            .await
            .map_err(|error| format!("{:#}", anyhow::Error::from(error))),
        Err(readiness) => Err(readiness.reasons.join("; ")),
    };
    broker.close().await;
    depths.map_err(told).ok()
}

fn print(printed: &Printed<'_>) -> anyhow::Result<()> {
    let report = printed.report;
    let mut counts = table(&["", "messages", ""]);
    let mut row = |name: &str, count: u64, meaning: &str| {
        counts.add_row([name.to_owned(), count.to_string(), meaning.to_owned()]);
    };
    row("sent", report.sent, "in the history, once, under the recorded key");
    row(
        "missing",
        report.missing,
        "sent by the records, and in no history; or pending without work",
    );
    row("sent twice", report.sent_twice, "in the history twice, and not revoked");
    row("in doubt", report.in_doubt, "nobody knows");
    let unverifiable = &report.unverifiable;
    for (name, count, meaning) in [
        (
            "unrecorded",
            report.unrecorded,
            "in the history, though the records say that it was not sent",
        ),
        ("unasked", report.unasked, "the history could not be asked"),
        (
            "online only",
            unverifiable.online_only,
            "unverifiable: no history keeps them",
        ),
        (
            "too old",
            unverifiable.beyond_retention,
            "unverifiable: older than the history",
        ),
        (
            "refused",
            unverifiable.refused,
            "unverifiable: the service shows the conversation to nobody",
        ),
        ("waiting", report.waiting, "not sent yet"),
        ("past due", report.past_due, "among these: due for more than a second"),
        ("revoked", report.revoked, ""),
        (
            "not revoked",
            report.not_revoked,
            "revoked by the records, and not marked so in the history",
        ),
        ("failed", report.failed, ""),
        ("cancelled", report.cancelled, ""),
        ("expired", report.expired, ""),
        ("suppressed", report.suppressed, ""),
    ] {
        if count > 0 {
            row(name, count, meaning);
        }
    }
    line(counts)?;
    for finding in &report.findings {
        let keys = finding.msg_keys.join(", ");
        let name = serde_json::to_value(finding.finding)?;
        line(format_args!(
            "{}: job {} to {} [{}]: {}",
            name.as_str().unwrap_or_default().replace('_', " "),
            plain(&finding.job),
            plain(&finding.to),
            plain(keys),
            plain(&finding.why)
        ))?;
    }
    let queues: u64 = printed
        .queues
        .iter()
        .flat_map(BTreeMap::values)
        .map(|depth| u64::from(*depth))
        .sum();
    let letters = printed
        .dead_letters
        .map_or_else(|| "?".to_owned(), |letters| letters.to_string());
    note(format_args!(
        "{queues} jobs wait in the queues, {letters} dead letters, {} events and letters to publish; {} calls to the history",
        printed.outbox, report.calls
    ));
    note(if printed.ok {
        "ok: nothing is missing, sent twice or in doubt"
    } else {
        "FAILED"
    });
    Ok(())
}
