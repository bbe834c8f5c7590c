//! `mark-read USER PEER`.

use std::process::ExitCode;

use crate::config::Settings;

use super::{
    args::account,
    context::{AppArg, im_client},
    output::note,
};

/// Flags of `mark-read`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who has read
    user: String,
    /// Whose messages
    peer: String,
    #[command(flatten)]
    app: AppArg,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let (user, peer) = (account("USER", &args.user)?, account("PEER", &args.peer)?);
    im_client(settings, &args.app.name()?)?.mark_read(&user, &peer).await?;
    note(format_args!("{user} has read everything from {peer}"));
    Ok(ExitCode::SUCCESS)
}
