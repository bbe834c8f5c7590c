//! `usersig [ACCOUNT]`.

use std::{process::ExitCode, time::Duration};

use crate::{config::Settings, domain::AccountId, im::user_sig};

use super::{
    context::AppArg,
    output::{line, usage},
};

/// Flags of `usersig`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account [default: the app's administrator]
    account: Option<String>,
    /// How long it is valid, such as 24h [default: the setting `im.usersig_lifetime`]
    #[arg(long, value_name = "DURATION")]
    lifetime: Option<String>,
    #[command(flatten)]
    app: AppArg,
}

pub(super) fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let app = settings.require_app(&args.app.name()?)?;
    let account = match &args.account {
        Some(account) => AccountId::parse(account).map_err(|error| usage(format!("the account {error}")))?,
        None => app.admin_account.clone(),
    };
    let lifetime = match &args.lifetime {
        Some(text) => humantime::parse_duration(text)
            .ok()
            .filter(|lifetime| *lifetime >= Duration::from_secs(1))
            .ok_or_else(|| usage("--lifetime takes a duration of at least a second, such as 24h"))?,
        None => settings.im.usersig_lifetime,
    };
    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap_or_default();
    let sig = user_sig::sign(app.sdk_app_id, account.as_str(), &app.secret, now, lifetime.as_secs());
    line(sig.expose())?;
    Ok(ExitCode::SUCCESS)
}
