//! `import`: one message with its own time, at once.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use chrono::Utc;
use serde_json::{Value, json};

use crate::{
    config::Settings,
    domain::job::{Job, Task},
    im::{Pair, encode_import},
};

use super::{
    args::time,
    context::{AppArg, im_client},
    output::{json as print_json, usage},
};

/// Flags of `import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sender
    #[arg(long, value_name = "ACCOUNT")]
    from: String,
    /// The recipient
    #[arg(long, value_name = "ACCOUNT")]
    to: String,
    /// The message's text
    #[arg(long, conflicts_with = "message", required_unless_present = "message")]
    text: Option<String>,
    /// A file with the message, as the field `message` of a job
    #[arg(long, value_name = "FILE")]
    message: Option<PathBuf>,
    /// When it was sent: RFC 3339, Unix seconds, or how long ago [default: now]
    #[arg(long, value_name = "TIME")]
    timestamp: Option<String>,
    /// Count it as unread and push it, as if it were sent now
    #[arg(long)]
    unread: bool,
    #[command(flatten)]
    app: AppArg,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let now = Utc::now();
    let timestamp = match &args.timestamp {
        Some(value) => time("--timestamp", value, now)?,
        None => now,
    };
    let message: Value = match (&args.message, &args.text) {
        (Some(path), _) => {
            let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            serde_json::from_slice(&text).map_err(|error| usage(format!("--message {}: {error}", path.display())))?
        }
        (None, text) => json!({"text": text}),
    };
    // The rules for jobs hold for what is typed here as well.
    let job = json!({
        "type": "import", "id": "import", "from": args.from, "to": args.to, "message": message,
        "timestamp": timestamp.timestamp(), "unread": args.unread,
    });
    let job = Job::decode(job.to_string().as_bytes(), None).map_err(|error| usage(error.sentence))?;
    let Task::Import {
        from,
        to,
        message,
        timestamp,
        unread,
    } = job.task
    else {
        anyhow::bail!("an import job was decoded as another type");
    };
    let pair = Pair {
        seq: message.seq.unwrap_or_else(rand::random),
        random: message.random.unwrap_or_else(rand::random),
    };
    let mode = if unread {
        settings.im.import_unread
    } else {
        settings.im.import_read
    };
    let body = encode_import(&from, &to, &message, pair, timestamp, mode);
    im_client(settings, &args.app.name()?)?.import(body, None).await?;
    // importmsg answers no MsgKey; with these it can be found and imported again without a second message.
    print_json(&json!({"from": from, "to": to, "timestamp": timestamp, "seq": pair.seq, "random": pair.random}))?;
    Ok(ExitCode::SUCCESS)
}
