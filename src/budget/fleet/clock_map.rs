//! When is an instant of the ledger's clock, here? Two bounds, from round trips.
//!
//! The ledger read its clock at some time between our question and its answer, so each round trip bounds the difference of
//! the clocks from both sides. What recent round trips have in common is tighter than any of them: the fastest decides.
//! Clocks drift, so older bounds are wider. A step of a clock leaves nothing in common: then only the latest counts.

use std::collections::VecDeque;

use crate::budget::Nanos;

/// How long a round trip counts.
const MEMORY: Nanos = 2_000_000_000;
/// By which part of the time passed clocks drift apart at most: 200 ppm. Quartz drifts by 50, NTP slews by less than 500
/// only while it corrects a clock that is off.
const DRIFT: Nanos = 5_000;
/// The grain of the ledger's clock: a microsecond, in nanoseconds.
const GRAIN: i64 = 1_000;

/// One round trip's bounds on ours minus theirs, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Nanos,
    least: i64,
    most: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ClockMap(VecDeque<Sample>);

/// The bounds on an instant of the ledger's clock, here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    least: i64,
    most: i64,
}

fn signed(nanos: Nanos) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

impl ClockMap {
    /// A round trip: sent and answered here, and what the ledger's clock showed in between, in microseconds.
    pub(super) fn observe(&mut self, sent: Nanos, answered: Nanos, theirs: i64) {
        let theirs = theirs.saturating_mul(1_000);
        let sample = Sample {
            at: answered,
            least: signed(sent) - theirs - GRAIN,
            most: signed(answered) - theirs + GRAIN,
        };
        let in_common = self
            .bounds(answered)
            .is_none_or(|bounds| bounds.least.max(sample.least) <= bounds.most.min(sample.most));
        if !in_common {
            self.0.clear();
        }
        self.0.retain(|old| old.at + MEMORY > answered);
        self.0.push_back(sample);
    }

    /// What is known now; `None` before the first round trip.
    pub(super) fn bounds(&self, now: Nanos) -> Option<Bounds> {
        let wider = |sample: &Sample| {
            let drift = signed(now.saturating_sub(sample.at) / DRIFT);
            (sample.least - drift, sample.most + drift)
        };
        let mut bounds = self.0.iter().map(wider);
        let (mut least, mut most) = bounds.next()?;
        for (other_least, other_most) in bounds {
            least = least.max(other_least);
            most = most.min(other_most);
        }
        Some(Bounds { least, most })
    }
}

impl Bounds {
    /// When an instant of the ledger's clock is surely there.
    pub(super) fn surely(self, theirs: i64) -> Nanos {
        Nanos::try_from(theirs.saturating_mul(1_000).saturating_add(self.most)).unwrap_or(0)
    }

    /// Before when it surely isn't there yet.
    pub(super) fn soonest(self, theirs: i64) -> Nanos {
        Nanos::try_from(theirs.saturating_mul(1_000).saturating_add(self.least)).unwrap_or(0)
    }

    /// What the ledger's clock shows at most at an instant of ours.
    pub(super) fn latest_there(self, ours: Nanos) -> i64 {
        (signed(ours) - self.least) / 1_000 + 1
    }

    /// How much isn't known.
    pub(super) fn width(self) -> Nanos {
        Nanos::try_from(self.most - self.least).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    /// Their clock, in microseconds, when ours shows 0.
    const EPOCH: i64 = 1_700_000_000_000_000;

    fn theirs(ours: Nanos) -> i64 {
        EPOCH + signed(ours) / 1_000
    }

    #[test]
    fn the_fastest_recent_round_trip_decides_and_the_truth_always_lies_between_the_bounds() {
        let mut map = ClockMap::default();
        assert_eq!(map.bounds(0), None);
        map.observe(10 * MS, 40 * MS, theirs(12 * MS));
        assert!(map.bounds(40 * MS).unwrap().width() >= 30 * MS);
        map.observe(50 * MS, 51 * MS, theirs(50 * MS + 300_000));
        map.observe(60 * MS, 90 * MS, theirs(89 * MS));
        let bounds = map.bounds(90 * MS).unwrap();
        assert!(bounds.width() <= MS + 20_000, "{bounds:?}");
        let instant = theirs(200 * MS);
        assert!((bounds.soonest(instant)..=bounds.surely(instant)).contains(&(200 * MS)));
        assert!(bounds.latest_there(200 * MS) >= instant);
        assert!(bounds.latest_there(200 * MS) <= instant + i64::try_from(bounds.width() / 1_000).unwrap() + 2);
    }

    #[test]
    fn bounds_grow_wider_with_time_and_a_step_of_the_clock_leaves_the_latest_round_trip() {
        let mut map = ClockMap::default();
        map.observe(0, MS, theirs(MS / 2));
        assert_eq!(
            map.bounds(1_001 * MS).unwrap().width() - map.bounds(MS).unwrap().width(),
            2 * MS / 5
        );
        // Their clock was set back by an hour.
        let back = theirs(1_100 * MS) - 3_600_000_000;
        map.observe(1_099 * MS, 1_105 * MS, back);
        let bounds = map.bounds(1_105 * MS).unwrap();
        assert!((bounds.soonest(back)..=bounds.surely(back)).contains(&(1_100 * MS)));
        assert!(bounds.width() <= 6 * MS + 2_000);
    }
}
