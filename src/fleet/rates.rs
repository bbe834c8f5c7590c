//! How much was done in each of the last seconds, by all workers together.
//!
//! Reports hold counts since a worker's start. What a worker's count grew by between two reports is spread over the seconds
//! between them, so a report that comes late, or a look that was left out, makes no gap and no spike.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

/// Ten minutes of seconds are kept.
const KEPT: usize = 600;

/// Counts by series for each second. A second's are complete once every worker has reported a later one.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// The first second, since 1970.
    first: i64,
    seconds: VecDeque<BTreeMap<String, f64>>,
}

/// A part of the ring, as columns.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rates {
    /// The seconds, since 1970.
    pub seconds: Vec<i64>,
    /// By series: how many in each of these seconds. A series that is 0 throughout is left out.
    pub series: BTreeMap<String, Vec<f64>>,
}

impl Ring {
    /// Spreads what was counted between two times, in microseconds since 1970.
    pub(super) fn add(&mut self, series: &str, from: i64, until: i64, count: u64) {
        const SECOND: i64 = 1_000_000;
        if count == 0 {
            return;
        }
        // The first report after a long silence says nothing of when.
        let from = from.max(until - KEPT as i64 * SECOND);
        let length = (until - from).max(1) as f64;
        let mut at = from;
        while at < until || at == from {
            let second = at.div_euclid(SECOND);
            let end = ((second + 1) * SECOND).min(until.max(at + 1));
            let share = count as f64 * (end - at) as f64 / length;
            if let Some(cell) = self.cell(second) {
                *cell.entry(series.to_owned()).or_default() += share;
            }
            at = end;
        }
    }

    /// Makes room up to a second, also where nothing happened.
    pub(super) fn reach(&mut self, second: i64) {
        self.cell(second);
    }

    fn cell(&mut self, second: i64) -> Option<&mut BTreeMap<String, f64>> {
        if self.seconds.is_empty() {
            self.first = second;
        }
        if second < self.first {
            return None;
        }
        if second - self.first >= 2 * KEPT as i64 {
            self.seconds.clear();
            self.first = second;
        }
        while self.first + self.seconds.len() as i64 <= second {
            self.seconds.push_back(BTreeMap::new());
        }
        while self.seconds.len() > KEPT {
            self.seconds.pop_front();
            self.first += 1;
        }
        self.seconds.get_mut((second - self.first) as usize)
    }

    /// The seconds behind `after` and before `until`.
    pub(super) fn between(&self, after: i64, until: i64) -> Rates {
        let begin = (after + 1).max(self.first);
        let end = until.min(self.first + self.seconds.len() as i64);
        if begin >= end {
            return Rates::default();
        }
        let part = || {
            self.seconds
                .range((begin - self.first) as usize..(end - self.first) as usize)
        };
        let mut series: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for name in part().flat_map(BTreeMap::keys) {
            if !series.contains_key(name) {
                let values = part().map(|cell| {
                    let value = cell.get(name).copied().unwrap_or(0.0);
                    (value * 100.0).round() / 100.0
                });
                series.insert(name.clone(), values.collect());
            }
        }
        Rates {
            seconds: (begin..end).collect(),
            series,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    #[test]
    fn what_was_counted_between_two_reports_is_spread_over_their_seconds() {
        let mut ring = Ring::default();
        ring.reach(10);
        ring.add("sent", 10 * S + S / 2, 12 * S + S / 2, 200);
        let rates = ring.between(9, 13);
        assert_eq!(rates.seconds, [10, 11, 12]);
        assert_eq!(rates.series["sent"], [50.0, 100.0, 50.0]);
        assert_eq!(ring.between(11, 13).series["sent"], [50.0]);
        assert_eq!(ring.between(12, 13), Rates::default());
    }

    #[test]
    fn two_workers_add_up_and_a_second_without_anything_is_zero() {
        let mut ring = Ring::default();
        ring.reach(5);
        ring.add("sent", 5 * S, 6 * S, 3);
        ring.add("sent", 7 * S, 8 * S, 4);
        ring.add("sent", 7 * S, 8 * S, 5);
        assert_eq!(ring.between(0, 100).series["sent"], [3.0, 0.0, 9.0]);
    }

    #[test]
    fn old_seconds_are_forgotten_and_none_is_too_far_ahead() {
        let mut ring = Ring::default();
        for second in 0..2_000 {
            ring.add("sent", second * S, (second + 1) * S, 1);
        }
        let rates = ring.between(-1, i64::MAX);
        assert_eq!((rates.seconds.len(), rates.seconds[0]), (KEPT, 2_000 - KEPT as i64));
        ring.add("sent", 0, S, 1);
        let kept: f64 = ring.between(-1, i64::MAX).series["sent"].iter().sum();
        assert!((kept - KEPT as f64).abs() < 0.5, "{kept}");
        ring.reach(1_000_000);
        assert_eq!(ring.between(-1, i64::MAX).seconds, [1_000_000]);
        // A count without a span of time is that second's.
        ring.add("sent", 1_000_000 * S, 1_000_000 * S, 7);
        assert_eq!(ring.between(-1, i64::MAX).series["sent"], [7.0]);
    }
}
