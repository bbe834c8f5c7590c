//! `--wait`: looks again until nothing is pending, with a progress bar on a terminal.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, sleep};

use crate::{domain::status::Counts, store::StoreError};

use super::output::progress;

/// Between two looks: short at first, so that one message is reported at once, and half a second for a campaign.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_millis(500);

/// What one look saw.
pub(super) struct Look<T> {
    /// What is to be printed in the end.
    pub(super) seen: T,
    /// The recipients by state.
    pub(super) counts: Counts,
    /// Nothing is pending.
    pub(super) settled: bool,
}

/// How the waiting ended.
pub(super) enum Waited<T> {
    /// Nothing is pending.
    Settled(T),
    /// The patience is over; what was seen last, if anything.
    TimedOut(Option<T>),
}

/// Looks until nothing is pending or `patience` is over. What is not on record yet may still come: `unknown_patience`
/// bounds how long that is believed. A database that is away for a moment, or has no tables yet, is looked at again.
pub(super) async fn until_settled<T>(
    patience: Option<Duration>,
    unknown_patience: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<Look<T>>, StoreError>,
) -> Result<Waited<T>, StoreError> {
    let begun = Instant::now();
    let over = |patience: Duration| begun.elapsed() >= patience;
    let bar = progress(Some(0), "{bar:30} {pos}/{len} {msg} {elapsed}");
    let mut last = None;
    let mut pause = FIRST_LOOK;
    loop {
        match look().await {
            Ok(Some(found)) => {
                show(&bar, &found.counts);
                if found.settled {
                    bar.finish_and_clear();
                    return Ok(Waited::Settled(found.seen));
                }
                last = Some(found.seen);
            }
            Ok(None) => {}
            Err(error) if error.is_unavailable() && !over(unknown_patience) => {
                bar.set_message("the database is away");
            }
            // A worker that starts for the first time is about to make the tables.
            Err(error) if error.lacks_migrations() && !over(unknown_patience) => {
                bar.set_message("the database has no tables yet");
            }
            Err(error) => return Err(error),
        }
        if patience.is_some_and(over) || (last.is_none() && patience.is_none() && over(unknown_patience)) {
            bar.finish_and_clear();
            return Ok(Waited::TimedOut(last));
        }
        sleep(patience.map_or(pause, |patience| pause.min(patience.saturating_sub(begun.elapsed())))).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

fn show(bar: &ProgressBar, counts: &Counts) {
    bar.set_length(counts.total);
    bar.set_position(counts.total - counts.pending);
    let states = [
        ("sent", counts.sent),
        ("failed", counts.failed),
        ("cancelled", counts.cancelled),
        ("expired", counts.expired),
        ("revoked", counts.revoked),
        ("unknown", counts.unknown),
    ];
    let text: Vec<_> = states
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(state, n)| format!("{n} {state}"))
        .collect();
    bar.set_message(text.join(", "));
}
