//! How many calls, and how many recipients, were in any window that ends now? Exact sliding windows, for the limits
//! and for the record of the busiest ones. It knows nothing of HTTP or of messages.
//!
//! A window of `w` that ends at `t` holds what came after `t - w`, up to and with `t`: two calls exactly 1,000 ms
//! apart are not in the same second.

use std::collections::VecDeque;

use serde::Serialize;

/// When something came and for how many recipients, in one word: a minute of 50,000 calls a second is kept.
/// The upper 44 bits are microseconds (203 days), the lower 20 recipients.
#[derive(Debug, Clone, Copy)]
struct Stamp(u64);

impl Stamp {
    const BITS: u32 = 20;
    const MASK: u64 = (1 << Self::BITS) - 1;

    const fn new(at: u64, recipients: u32) -> Self {
        Self(at << Self::BITS | recipients as u64 & Self::MASK)
    }

    const fn at(self) -> u64 {
        self.0 >> Self::BITS
    }

    const fn recipients(self) -> u64 {
        self.0 & Self::MASK
    }
}

/// One window that moves over the stamps.
#[derive(Debug, Clone)]
struct Window {
    length: u64,
    /// The number of the oldest stamp inside, counted from the very first one.
    tail: u64,
    calls: u64,
    recipients: u64,
    busiest_calls: u64,
    busiest_recipients: u64,
}

impl Window {
    const fn new(length: u64) -> Self {
        Self {
            length,
            tail: 0,
            calls: 0,
            recipients: 0,
            busiest_calls: 0,
            busiest_recipients: 0,
        }
    }
}

/// The most calls and recipients that were in any window of a length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Busiest {
    /// Calls in the busiest 980 ms: what a sender that keeps to 1,000 ms can never exceed, whatever 20 ms of jitter
    /// the network added.
    pub calls_980ms: u64,
    /// Calls in the busiest 1,000 ms.
    pub calls_second: u64,
    /// Calls in the busiest 60 s.
    pub calls_minute: u64,
    /// Recipients in the busiest 1,000 ms.
    pub recipients_second: u64,
    /// Recipients in the busiest 60 s.
    pub recipients_minute: u64,
}

/// A count of what came, over windows of 980 ms, 1,000 ms and 60 s.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    stamps: VecDeque<Stamp>,
    /// The number of the front stamp.
    first: u64,
    /// In ascending length: what the last one has left behind is forgotten.
    windows: [Window; 3],
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            stamps: VecDeque::new(),
            first: 0,
            windows: [Window::new(980_000), Window::new(1_000_000), Window::new(60_000_000)],
        }
    }
}

impl Meter {
    /// Moves the windows so that they end now.
    pub(super) fn advance(&mut self, now: u64) {
        for window in &mut self.windows {
            while let Some(stamp) = self.stamps.get((window.tail - self.first) as usize) {
                if stamp.at() + window.length > now {
                    break;
                }
                window.tail += 1;
                window.calls -= 1;
                window.recipients -= stamp.recipients();
            }
        }
        while self.first < self.windows[2].tail {
            self.stamps.pop_front();
            self.first += 1;
        }
    }

    /// Counts a call at `now`, which never goes back.
    pub(super) fn push(&mut self, now: u64, recipients: u32) {
        self.advance(now);
        let stamp = Stamp::new(now, recipients);
        self.stamps.push_back(stamp);
        for window in &mut self.windows {
            window.calls += 1;
            window.recipients += stamp.recipients();
            window.busiest_calls = window.busiest_calls.max(window.calls);
            window.busiest_recipients = window.busiest_recipients.max(window.recipients);
        }
    }

    /// Calls in the second that ends at the last `advance`.
    pub(super) const fn calls_in_second(&self) -> u64 {
        self.windows[1].calls
    }

    /// Recipients in the minute that ends at the last `advance`.
    pub(super) const fn recipients_in_minute(&self) -> u64 {
        self.windows[2].recipients
    }

    pub(super) const fn busiest(&self) -> Busiest {
        let [narrow, second, minute] = &self.windows;
        Busiest {
            calls_980ms: narrow.busiest_calls,
            calls_second: second.busiest_calls,
            calls_minute: minute.busiest_calls,
            recipients_second: second.busiest_recipients,
            recipients_minute: minute.busiest_recipients,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000;

    #[test]
    fn calls_exactly_a_second_apart_are_in_different_windows_and_closer_ones_are_not() {
        let mut meter = Meter::default();
        meter.push(0, 1);
        meter.push(1_000 * MS, 1);
        assert_eq!(meter.busiest().calls_second, 1);
        meter.push(1_999 * MS, 1);
        assert_eq!(meter.busiest().calls_second, 2);
        assert_eq!(meter.busiest().calls_980ms, 1);
        assert_eq!(meter.busiest().calls_minute, 3);
    }

    #[test]
    fn recipients_are_counted_over_a_minute_and_old_stamps_are_forgotten() {
        let mut meter = Meter::default();
        for i in 0..240 {
            meter.push(i * 1_000 * MS, 500);
        }
        assert_eq!(meter.busiest().recipients_minute, 60 * 500);
        assert_eq!(meter.busiest().recipients_second, 500);
        assert_eq!(meter.stamps.len(), 60);
        meter.advance(10_000 * 1_000 * MS);
        assert_eq!(
            (
                meter.recipients_in_minute(),
                meter.calls_in_second(),
                meter.stamps.len()
            ),
            (0, 0, 0)
        );
    }

    proptest! {
        #[test]
        fn the_busiest_windows_are_those_that_a_plain_count_finds(gaps in prop::collection::vec((0_u64..400_000, 0_u32..600), 1..80)) {
            let mut meter = Meter::default();
            let (mut now, mut stamps) = (0, Vec::new());
            for (gap, recipients) in gaps {
                now += gap;
                meter.push(now, recipients);
                stamps.push((now, u64::from(recipients)));
            }
            let most = |length: u64, value: fn(&(u64, u64)) -> u64| {
                stamps.iter().map(|(end, _)| {
                    stamps.iter().filter(|(at, _)| at <= end && at + length > *end).map(value).sum::<u64>()
                }).max().unwrap()
            };
            // Several calls of one microsecond: the last of them sees all.
            prop_assert_eq!(meter.busiest().calls_980ms, most(980_000, |_| 1));
            prop_assert_eq!(meter.busiest().calls_second, most(1_000_000, |_| 1));
            prop_assert_eq!(meter.busiest().calls_minute, most(60_000_000, |_| 1));
            prop_assert_eq!(meter.busiest().recipients_second, most(1_000_000, |(_, r)| *r));
            prop_assert_eq!(meter.busiest().recipients_minute, most(60_000_000, |(_, r)| *r));
        }
    }
}
