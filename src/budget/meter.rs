//! How much was used lately: calls and recipients of the last second and minute, also where no limit counts them.
//!
//! A ring of buckets of 100 ms, without a lock: it is on the path of every call.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Nanos, source::Past};

/// The length of a bucket in nanoseconds.
const BUCKET: Nanos = 100_000_000;
/// A minute of buckets, and the one that is being filled.
const BUCKETS: u64 = 601;

/// A ring of buckets. Each holds its number (upper half, from 1 on) and its count (lower half), so that both change as one.
#[derive(Debug)]
struct Ring(Box<[AtomicU64]>);

impl Ring {
    fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    fn add(&self, number: u64, count: u32) {
        let update = |cell: u64| {
            let held = if cell >> 32 == number { cell & 0xffff_ffff } else { 0 };
            Some(number << 32 | (held + u64::from(count)).min(0xffff_ffff))
        };
        let cell = &self.0[(number % BUCKETS) as usize];
        cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
            .unwrap_or_else(|held| held);
    }

    fn get(&self, number: u64) -> u32 {
        let cell = self.0[(number % BUCKETS) as usize].load(Ordering::Relaxed);
        if cell >> 32 == number { cell as u32 } else { 0 }
    }

    /// The sum of the bucket that is being filled and the full ones that began at most `span` before it.
    fn sum(&self, number: u64, span: Nanos) -> u64 {
        let first = number.saturating_sub(span / BUCKET).max(1);
        (first..=number).map(|number| u64::from(self.get(number))).sum()
    }
}

/// What one key used.
#[derive(Debug)]
pub(super) struct Meter {
    calls: Ring,
    recipients: Option<Ring>,
}

impl Meter {
    /// Nothing used; recipients are counted if asked for.
    pub(super) fn new(recipients: bool) -> Self {
        Self {
            calls: Ring::new(),
            recipients: recipients.then(Ring::new),
        }
    }

    /// Buckets are numbered from 1, so that an empty cell is no bucket's.
    fn number(now: Nanos) -> u64 {
        now / BUCKET + 1
    }

    /// A call was made.
    pub(super) fn record(&self, now: Nanos, recipients: u32) {
        let number = Self::number(now);
        self.calls.add(number, 1);
        if let Some(ring) = &self.recipients {
            ring.add(number, recipients);
        }
    }

    /// Calls of the last `span`, at most a minute, to a tenth of a second.
    pub(super) fn calls(&self, now: Nanos, span: Nanos) -> u64 {
        self.calls.sum(Self::number(now), span)
    }

    /// Recipients of the last `span`, at most a minute, to a tenth of a second.
    pub(super) fn recipients(&self, now: Nanos, span: Nanos) -> u64 {
        self.recipients
            .as_ref()
            .map_or(0, |ring| ring.sum(Self::number(now), span))
    }

    /// The last minute's use, each bucket at its end: never too early.
    pub(super) fn past(&self, now: Nanos) -> Vec<Past> {
        let last = Self::number(now);
        let first = last.saturating_sub(BUCKETS - 1).max(1);
        let past = (first..=last).map(|number| Past {
            at: (number * BUCKET).min(now),
            calls: self.calls.get(number),
            recipients: self.recipients.as_ref().map_or(0, |ring| ring.get(number)),
        });
        past.filter(|past| past.calls > 0 || past.recipients > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_counts_the_last_second_and_the_last_minute_and_forgets_older_rounds() {
        let meter = Meter::new(true);
        for tenth in 0..1_200 {
            meter.record(tenth * BUCKET, 37);
        }
        let now = 1_199 * BUCKET;
        assert_eq!(meter.calls(now, 900_000_000), 10);
        assert_eq!(meter.calls(now, 59_900_000_000), 600);
        assert_eq!(meter.recipients(now, 59_900_000_000), 600 * 37);
        assert_eq!(meter.calls(now + 61_000_000_000, 59_900_000_000), 0);
        let past = meter.past(now);
        assert_eq!(past.len(), 601);
        assert_eq!(
            past[600],
            Past {
                at: now,
                calls: 1,
                recipients: 37
            }
        );
    }
}
