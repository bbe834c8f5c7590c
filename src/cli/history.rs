//! `history --from A --to B`: every message of a conversation, following the pages to the end.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use chrono::Utc;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    config::Settings,
    domain::Command,
    im::{HistoryQuery, HistoryWalk, MAX_PAGE},
};

use super::{
    args::{account, time},
    context::{AppArg, im_client},
};

/// Flags of `history`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One side, whose view of the conversation is asked
    #[arg(long, value_name = "ACCOUNT")]
    from: String,
    /// The other side
    #[arg(long, value_name = "ACCOUNT")]
    to: String,
    /// Not older: RFC 3339, Unix seconds, or how long ago, such as 2h [default: as far as the service keeps it]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not newer [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    app: AppArg,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let now = Utc::now();
    let seconds = |name: &str, value: &Option<String>, absent: i64| -> anyhow::Result<u64> {
        let seconds = match value {
            Some(value) => time(name, value, now)?.timestamp(),
            None => absent,
        };
        Ok(u64::try_from(seconds).unwrap_or_default())
    };
    let query = HistoryQuery {
        operator: account("--from", &args.from)?,
        peer: account("--to", &args.to)?,
        min_time: seconds("--since", &args.since, 0)?,
        max_time: seconds("--until", &args.until, now.timestamp())?,
        max_count: MAX_PAGE,
    };
    let app = args.app.name()?;
    let client = im_client(settings, &app)?;
    let limit = settings.require_app(&app)?.limits.calls_per_second(Command::GetRoamMsg);
    let mut ticker = (limit > 0).then(|| {
        let mut ticker = interval(Duration::from_secs(1) / limit);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticker
    });
    let mut walk = HistoryWalk::new(query);
    loop {
        if let Some(ticker) = &mut ticker
            && walk.will_call()
        {
            ticker.tick().await;
        }
        let Some(page) = walk.next_page(&client).await else {
            break;
        };
        let mut text = Vec::new();
        for message in page? {
            serde_json::to_writer(&mut text, &message)?;
            text.push(b'\n');
        }
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}
