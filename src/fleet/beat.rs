//! Writes this worker's report, once a second.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Report;
use crate::store::{Store, WorkerIdentity};

/// How often. A worker counts as gone after three beats that are missing.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// How long a worker that ends tries to remove its row; one that stays is shown as gone.
const FORGET_PATIENCE: Duration = Duration::from_secs(5);
/// Every so many beats the rows of those who are gone are looked after.
const BURY_EVERY: u32 = 60;

/// Who this process is, to the fleet.
pub type Identity = WorkerIdentity;

/// This process, as it starts.
pub fn identity(http: Option<String>) -> Identity {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = match name.trim() {
        "" => std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned()),
        name => name.to_owned(),
    };
    Identity {
        id: Uuid::new_v4(),
        host: name,
        pid: std::process::id(),
        http,
    }
}

/// Writes until the process stops, then removes the row. A database that is away is no fault of this task's: the next beat
/// tries again.
pub async fn beat(
    store: Store,
    identity: Identity,
    report: impl Fn() -> Report + Send + Sync,
    stop: CancellationToken,
) {
    let mut beats = 0_u32;
    loop {
        if let Err(error) = once(&store, &identity, &report(), beats).await {
            tracing::debug!(%error, "this worker's report could not be written");
        }
        beats = beats.wrapping_add(1);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    match tokio::time::timeout(FORGET_PATIENCE, store.forget_worker(identity.id)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "this worker's row could not be removed"),
        Err(_) => tracing::debug!("this worker's row could not be removed in time"),
    }
}

async fn once(store: &Store, identity: &Identity, report: &Report, beats: u32) -> Result<(), crate::store::StoreError> {
    // It has no value that JSON can't express.
    let text = serde_json::to_string(report).unwrap_or_else(|_| "{}".to_owned());
    store.beat(identity, &text).await?;
    if beats.is_multiple_of(BURY_EVERY) {
        store.bury_workers(identity).await?;
    }
    Ok(())
}
