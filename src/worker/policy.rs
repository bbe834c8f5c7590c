//! Sending policy on a job's way: does its window let it out now, and which caps hold for it?
//!
//! A window is looked at when a job arrives, when its row is taken, and once more with the slot in hand, right before the
//! claim. What is capped is the table's: the claim there counts in its own transaction, and the way of every other job has
//! nothing to do with it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::context::{Context, Halt};
use crate::{
    domain::{
        Lane,
        job::Job,
        policy::{self, CapScope, Gate, LanePolicy, SendWindow},
    },
    store::{Opening, Store, WorkUnit},
};

/// What the settings ask of each lane, by [`Lane::index`]; a SIGHUP replaces it.
pub(crate) type LanePolicies = Arc<ArcSwap<[LanePolicy; 3]>>;

/// When a job is looked at again whose windows have nothing in common: the settings may have changed by then.
const LOOK_AGAIN: TimeDelta = TimeDelta::days(1);
/// How often it is tried to record the lanes' windows while the database is away.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

impl Context {
    /// The opening that a job waits for; `None`: it may go out now.
    pub(super) fn closed_window(&self, job: &Job, lane: Lane) -> Option<Opening> {
        let now = Utc::now();
        let at = match policy::gate(job, &self.policies.load()[lane.index()], now) {
            Gate::Open => return None,
            Gate::Until(at) => at,
            Gate::Never => {
                tracing::warn!(job.id = %job.id, %lane, "the job's send window and its lane's have no time in common");
                now + LOOK_AGAIN
            }
        };
        Some(opening(at, job.expires_at, now))
    }

    /// Whether what has this window of its own, and obeys its lane's, may go out now.
    pub(super) fn window_is_open(&self, own: Option<&SendWindow>, lane: Lane) -> bool {
        policy::windows(own, &self.policies.load()[lane.index()], Utc::now()) == Gate::Open
    }

    /// The caps that hold for a job.
    pub(super) fn caps(&self, job: &Job, lane: Lane) -> Vec<CapScope> {
        policy::caps(job, lane, &self.policies.load()[lane.index()])
    }

    /// Lets a row wait if its window is closed. False: go on with it.
    pub(super) async fn waits_for_window(&self, job: &Job, unit: &WorkUnit) -> Result<bool, Halt> {
        match self.closed_window(job, unit.lane) {
            Some(opening) => self.persist(|| self.store.wait_for_window(unit, opening)).await,
            None => Ok(false),
        }
    }
}

/// A job whose time is over before the window opens is due when its time is over.
fn opening(at: DateTime<Utc>, expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Opening {
    let due = expires_at.map_or(at, |expires_at| expires_at.min(at));
    Opening {
        at,
        after: (due - now).to_std().unwrap_or_default(),
    }
}

/// Records the lanes' windows, and wakes what waits in a lane whose window isn't what the workers last had, or which
/// `changed` names. Tries until the database is there.
pub(crate) async fn announce_windows(
    store: &Store,
    policies: &[LanePolicy; 3],
    changed: [bool; 3],
    stopping: &CancellationToken,
) {
    for lane in Lane::ALL {
        let window = policies[lane.index()].send_window;
        let window = window.map_or_else(String::new, |window| window.to_string());
        while let Err(error) = announce(store, lane, &window, changed[lane.index()]).await {
            tracing::debug!(%error, %lane, "a lane's send window could not be recorded yet");
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(ANNOUNCE_EVERY) => {}
            }
        }
    }
}

async fn announce(store: &Store, lane: Lane, window: &str, changed: bool) -> Result<(), crate::store::StoreError> {
    if !store.announce_window(lane, window).await? && !changed {
        return Ok(());
    }
    let woken = store.wake_waiting_for_window(lane).await?;
    if woken > 0 {
        tracing::info!(%lane, woken, "what waits for its send window is looked at anew");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_expires_before_the_opening_is_due_when_it_expires() {
        let now = Utc::now();
        let at = now + TimeDelta::hours(8);
        let hours = |hours| Duration::from_hours(hours);
        assert_eq!(opening(at, None, now).after, hours(8));
        assert_eq!(opening(at, Some(now + TimeDelta::hours(9)), now).after, hours(8));
        let sooner = opening(at, Some(now + TimeDelta::hours(1)), now);
        assert_eq!((sooner.at, sooner.after), (at, hours(1)));
        assert_eq!(opening(at, Some(now - TimeDelta::hours(1)), now).after, Duration::ZERO);
    }
}
