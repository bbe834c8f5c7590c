//! What time is it at the service? One monotonic clock with the Unix time of its start, which tests can put forward
//! so that a window of 120 seconds or a lag of three minutes passes without anyone waiting for it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The simulator's clock.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    started_unix: u64,
    skipped: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_unix: unix.as_micros() as u64,
            skipped: AtomicU64::new(0),
        }
    }

    /// Microseconds since the start. Never goes back.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_micros() as u64 + self.skipped.load(Ordering::Relaxed)
    }

    /// The Unix second of a time that [`Clock::now`] gave.
    pub(super) fn unix_seconds(&self, at: u64) -> u32 {
        u32::try_from((self.started_unix + at) / 1_000_000).unwrap_or(u32::MAX)
    }

    /// The Unix microsecond of the start.
    pub(super) const fn started_unix_micros(&self) -> u64 {
        self.started_unix
    }

    /// Puts the clock forward.
    pub(super) fn advance(&self, by: Duration) {
        self.skipped.fetch_add(by.as_micros() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_put_forward_shows_the_skipped_time_in_both_units() {
        let clock = Clock::new();
        let (micros, seconds) = (clock.now(), clock.unix_seconds(clock.now()));
        clock.advance(Duration::from_mins(2));
        assert!(clock.now() >= micros + 120_000_000);
        assert!(clock.unix_seconds(clock.now()) >= seconds + 120);
    }
}
