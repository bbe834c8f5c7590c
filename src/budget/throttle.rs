//! How throttled answers slow a key down, and how it comes back.
//!
//! One throttled answer stops the key for a second. Where more than one call in a hundred of the last five seconds was
//! throttled, the rate is halved, and comes back in steps. Time comes in as a parameter; nobody is woken here.

use std::collections::VecDeque;

use super::{
    Limits, Nanos,
    options::{ThrottleOptions, nanos},
};

/// The state of one key.
#[derive(Debug)]
pub(super) struct Throttle {
    options: ThrottleOptions,
    /// When the recent throttled answers came.
    answers: VecDeque<Nanos>,
    /// Answers before this belong to calls that were under way when the rate was last halved: they say nothing new.
    judged_from: Nanos,
    paused_until: Nanos,
    /// The share of the limits that is in force.
    share: f64,
    /// When the next step back up is due.
    next_step: Nanos,
    total: u64,
}

impl Throttle {
    /// Not throttled.
    pub(super) fn new(options: ThrottleOptions) -> Self {
        Self {
            options,
            answers: VecDeque::new(),
            judged_from: 0,
            paused_until: 0,
            share: 1.0,
            next_step: Nanos::MAX,
            total: 0,
        }
    }

    /// Until when no call may be due.
    pub(super) fn paused_until(&self) -> Nanos {
        self.paused_until
    }

    /// Throttled answers since the start.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// When [`Throttle::recover`] will change something.
    pub(super) fn next_step(&self) -> Option<Nanos> {
        (self.share < 1.0).then_some(self.next_step)
    }

    /// The limits in force.
    pub(super) fn limits(&self, configured: Limits) -> Limits {
        configured.scaled(self.share)
    }

    /// Stops the key until then.
    pub(super) fn pause_until(&mut self, until: Nanos) {
        self.paused_until = self.paused_until.max(until);
    }

    /// A call was throttled; `calls` are those of the last span. True if the rate was halved.
    pub(super) fn throttled(&mut self, now: Nanos, calls: u64) -> bool {
        self.total += 1;
        self.pause_until(now + nanos(self.options.pause));
        if now < self.judged_from {
            return false;
        }
        self.answers.push_back(now);
        self.forget(now);
        if self.answers.len() < 2 || self.answers.len() as f64 <= self.options.share * calls as f64 {
            return false;
        }
        self.answers.clear();
        self.judged_from = self.paused_until;
        self.next_step = self.paused_until + nanos(self.options.span);
        let halved = (self.share / 2.0).max(self.options.least);
        let changed = halved < self.share;
        self.share = halved;
        changed
    }

    /// Takes the steps back up that are due. True if the rate changed.
    pub(super) fn recover(&mut self, now: Nanos) -> bool {
        let before = self.share;
        while self.share < 1.0 && now >= self.next_step {
            self.share = (self.share + self.options.step).min(1.0);
            self.next_step += nanos(self.options.span);
        }
        self.share > before
    }

    fn forget(&mut self, now: Nanos) {
        let start = now.saturating_sub(nanos(self.options.span));
        while self.answers.front().is_some_and(|&at| at < start) {
            self.answers.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Nanos = 1_000_000_000;

    fn throttle() -> Throttle {
        Throttle::new(ThrottleOptions::default())
    }

    fn calls(throttle: &Throttle) -> u32 {
        throttle
            .limits(Limits {
                calls_per_second: 200,
                recipients_per_minute: 12_000,
            })
            .calls_per_second
    }

    #[test]
    fn one_throttled_answer_pauses_for_a_second_and_halves_nothing() {
        let mut throttle = throttle();
        assert!(!throttle.throttled(10 * S, 3));
        assert_eq!(throttle.paused_until(), 11 * S);
        assert_eq!(calls(&throttle), 200);
    }

    #[test]
    fn over_one_percent_halves_once_for_all_calls_under_way_and_comes_back_in_steps() {
        let mut throttle = throttle();
        for answer in 0..10 {
            assert!(!throttle.throttled(10 * S + answer, 1_000));
        }
        assert!(throttle.throttled(10 * S + 10, 1_000));
        for answer in 11..60 {
            assert!(
                !throttle.throttled(10 * S + answer, 1_000),
                "these calls were sent before"
            );
        }
        assert_eq!(calls(&throttle), 100);
        assert!(!throttle.recover(15 * S));
        assert!(throttle.recover(16 * S + 10));
        assert_eq!(calls(&throttle), 125);
        assert!(throttle.recover(31 * S + 10));
        assert_eq!(calls(&throttle), 200);
        assert_eq!(throttle.next_step(), None);
    }

    #[test]
    fn the_rate_never_falls_to_nothing() {
        let mut throttle = throttle();
        for second in 0..60 {
            throttle.throttled(second * 2 * S, 2);
        }
        assert_eq!(calls(&throttle), 13);
        let one = Limits {
            calls_per_second: 1,
            recipients_per_minute: 0,
        };
        assert_eq!(throttle.limits(one), one);
    }
}
