//! `unread USER [PEER]…`.

use std::process::ExitCode;

use serde_json::json;

use crate::config::Settings;

use super::{
    args::account,
    context::{AppArg, im_client},
    output::{json as print_json, line, table},
};

/// Flags of `unread`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose messages
    user: String,
    /// From whom; without a peer the sum over all
    peers: Vec<String>,
    /// One object for machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    app: AppArg,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let user = account("USER", &args.user)?;
    let peers = args
        .peers
        .iter()
        .map(|peer| account("PEER", peer))
        .collect::<Result<Vec<_>, _>>()?;
    let reply = im_client(settings, &args.app.name()?)?
        .unread_all(&user, &peers)
        .await?;
    if args.json {
        let counts: serde_json::Map<_, _> = reply
            .peers
            .iter()
            .map(|count| (count.peer.to_string(), json!(count.count)))
            .collect();
        let failed: serde_json::Map<_, _> = reply
            .failed
            .iter()
            .map(|failure| (failure.to.to_string(), json!(failure.code.word())))
            .collect();
        print_json(&json!({"user": user, "total": reply.total, "peers": counts, "failed": failed}))?;
    } else if let Some(total) = reply.total {
        line(total)?;
    } else {
        let mut table = table(&["peer", "unread"]);
        for count in &reply.peers {
            table.add_row([count.peer.to_string(), count.count.to_string()]);
        }
        for failure in &reply.failed {
            table.add_row([failure.to.to_string(), failure.code.word()]);
        }
        line(table)?;
    }
    Ok(ExitCode::from(u8::from(!reply.failed.is_empty())))
}
