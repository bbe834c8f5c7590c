//! How fast jobs are published, and how fast they were: `--rate`, and the progress that people see.

use std::{
    io::{IsTerminal, stderr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use indicatif::{HumanCount, HumanDuration, ProgressBar};

use super::super::output::{note, progress};

/// Where there is no terminal, a line of progress so often.
const EVERY: Duration = Duration::from_secs(10);
/// Bursts are 1/20 of a second's jobs: a timer can't be asked for much less than a millisecond.
const BURSTS: u32 = 20;

/// The highest rate that can be asked for, in jobs a second: more than any broker takes.
pub(super) const MAX_RATE: u32 = 1_000_000;

/// Lets so many jobs through a second, up to [`MAX_RATE`].
pub(super) fn pace(rate: NonZeroU32) -> DefaultDirectRateLimiter {
    let burst = NonZeroU32::new(rate.get() / BURSTS).unwrap_or(NonZeroU32::MIN);
    RateLimiter::direct(Quota::per_second(rate).allow_burst(burst))
}

/// Progress of a known number of jobs: a bar with rate and time left on a terminal, a line now and then elsewhere.
pub(super) struct Meter {
    bar: ProgressBar,
    total: u64,
    done: u64,
    began: Instant,
    told: Instant,
    tells: bool,
}

impl Meter {
    pub(super) fn new(total: u64) -> Self {
        let template = "publishing {bar:30} {human_pos}/{human_len} {per_sec} ETA {eta}";
        Self {
            bar: progress(Some(total), template),
            total,
            done: 0,
            began: Instant::now(),
            told: Instant::now(),
            tells: !stderr().is_terminal(),
        }
    }

    /// One more job has its answer.
    pub(super) fn tick(&mut self) {
        self.done += 1;
        self.bar.set_position(self.done);
        if self.tells && self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            note(line(self.done, self.total, self.began.elapsed()));
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate.max(0.001)).min(1e9));
    format!(
        "{} of {} published, {rate:.0}/s, about {} left",
        HumanCount(done),
        HumanCount(total),
        HumanDuration(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_rate_and_time_left() {
        let text = line(2_000, 50_000, Duration::from_secs(10));
        assert_eq!(text, "2,000 of 50,000 published, 200/s, about 4 minutes left");
        assert!(line(0, 5, Duration::ZERO).starts_with("0 of 5"));
    }

    #[test]
    fn any_rate_makes_a_limiter_with_a_burst_of_a_twentieth_of_a_second() {
        for (rate, burst) in [(1, 1), (19, 1), (200, 10), (MAX_RATE, 50_000)] {
            let limiter = pace(NonZeroU32::new(rate).unwrap());
            let burst = NonZeroU32::new(burst).unwrap();
            assert!(limiter.check_n(burst).unwrap().is_ok(), "{rate}");
            assert!(limiter.check_n(burst.saturating_add(1)).is_err(), "{rate}");
        }
    }
}
