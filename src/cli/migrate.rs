//! `migrate`.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::{Settings, mask_url};

use super::{context::store, output::note};

pub(super) async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let url = mask_url(settings.require_database()?);
    let store = store(settings)?;
    store.migrate().await.with_context(|| format!("the database {url}"))?;
    store.close().await;
    note("the database is up to date");
    Ok(ExitCode::SUCCESS)
}
