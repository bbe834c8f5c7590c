//! When may one more be taken, so that no sliding window ever holds more than its capacity?
//!
//! An exact log of what was booked, by instant and weight. It knows nothing of waiters, lanes or pace: it only ever says
//! no too soon. The window is half open: what was booked exactly one length ago has left it.

use std::collections::VecDeque;

use super::Nanos;

/// Something booked: when, and the running total of weights up to and with it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: Nanos,
    upto: u64,
}

/// The log of one sliding window.
#[derive(Debug)]
pub(super) struct Window {
    length: Nanos,
    capacity: u64,
    /// Sorted by instant; some may lie in the future (slots that were granted ahead).
    entries: VecDeque<Entry>,
    /// The running total before the first entry.
    base: u64,
    /// The weight of what is booked without an end: calls whose answer is awaited, in the mode `answered`.
    open: u64,
}

impl Window {
    /// An empty window of `length` nanoseconds that may hold `capacity`.
    pub(super) fn new(length: Nanos, capacity: u32) -> Self {
        Self {
            length,
            capacity: capacity.max(1).into(),
            entries: VecDeque::new(),
            base: 0,
            open: 0,
        }
    }

    /// The most that the window may hold.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Changes the capacity. What is booked stays, so a lower capacity holds in every window from now on.
    pub(super) fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity.max(1).into();
    }

    /// The even pace of `weight`: the time in which that much comes free, rounded down so that the log has the last word.
    pub(super) fn step(&self, weight: u64) -> Nanos {
        self.length.saturating_mul(weight) / self.capacity
    }

    /// What is free in the window that ends at `at`, counting everything later as taken.
    pub(super) fn free(&self, at: Nanos) -> u64 {
        self.free_after(at.checked_sub(self.length))
    }

    /// Whether `weight` is free at `at` even in a window that is longer by `margin`.
    pub(super) fn has_room(&self, at: Nanos, margin: Nanos, weight: u64) -> bool {
        self.free_after(at.checked_sub(self.length + margin)) >= weight.min(self.capacity)
    }

    fn free_after(&self, start: Option<Nanos>) -> u64 {
        let used = self.total() - start.map_or(self.base, |start| self.upto(start));
        self.capacity.saturating_sub(self.open + used)
    }

    /// The earliest instant from `from` on at which `weight` can be booked; `None` while only an answer can make room.
    ///
    /// More than the capacity counts as the capacity: it goes when the window is empty.
    pub(super) fn earliest(&self, from: Nanos, weight: u64) -> Option<Nanos> {
        let weight = weight.min(self.capacity);
        // The weight that the window may hold already.
        let room = self.capacity.checked_sub(self.open + weight)?;
        let mut at = from;
        loop {
            at = self.leaves_room(at, room);
            // Later entries were booked on the understanding that the windows which end at them are as they were.
            match self.last_crowded(at, room) {
                Some(later) => at = self.leaves_room(later, room),
                None => return Some(at),
            }
        }
    }

    /// The earliest instant from `at` on whose own window holds at most `room`.
    fn leaves_room(&self, mut at: Nanos, room: u64) -> Nanos {
        loop {
            let upto = self.upto(at);
            let Some(over) = upto.checked_sub(room) else { return at };
            // The window must start after the entries that make up what is over.
            let gone = self.entries.partition_point(|entry| entry.upto < over);
            let leaves = match self.entries.get(gone) {
                Some(entry) if over > self.base => entry.at.saturating_add(self.length),
                _ => return at,
            };
            if leaves <= at {
                return at;
            }
            at = leaves;
        }
    }

    /// The last entry after `at` whose window includes `at` and holds more than `room`.
    fn last_crowded(&self, at: Nanos, room: u64) -> Option<Nanos> {
        let first = self.entries.partition_point(|entry| entry.at <= at);
        let end = at.saturating_add(self.length);
        self.entries
            .range(first..)
            .rev()
            .filter(|entry| entry.at < end)
            .find(|entry| {
                let start = entry.at.checked_sub(self.length);
                entry.upto - start.map_or(self.base, |start| self.upto(start)) > room
            })
            .map(|entry| entry.at)
    }

    /// The instant before which a taker that isn't urgent must keep off, so that whoever is urgent finds, at any time to
    /// come, `share` of the window's even rate still free.
    pub(super) fn reserve_until(&self, share: f64) -> Nanos {
        /// How many points of the log are looked at: the log may be long, and its curve is smooth.
        const SAMPLES: usize = 64;
        if share <= 0.0 || self.entries.is_empty() {
            return 0;
        }
        let per_weight = self.length as f64 / (share * self.capacity as f64);
        let stride = self.entries.len().div_ceil(SAMPLES);
        let total = self.total() + self.open;
        let mut until = 0;
        for index in (0..self.entries.len()).step_by(stride) {
            let taken = total - self.before(index);
            let free = self.capacity.saturating_sub(taken);
            let leaves = self.entries[index].at.saturating_add(self.length);
            until = until.max(leaves.saturating_sub((free as f64 * per_weight) as Nanos));
        }
        until
    }

    /// Books `weight` at `at`.
    pub(super) fn insert(&mut self, at: Nanos, weight: u64) {
        let index = self.entries.partition_point(|entry| entry.at <= at);
        let upto = self.before(index) + weight;
        self.entries.insert(index, Entry { at, upto });
        for entry in self.entries.range_mut(index + 1..) {
            entry.upto += weight;
        }
    }

    /// Takes a booking out again.
    pub(super) fn remove(&mut self, at: Nanos, weight: u64) {
        let first = self.entries.partition_point(|entry| entry.at < at);
        let found = (first..self.entries.len())
            .take_while(|&index| self.entries[index].at == at)
            .find(|&index| self.entries[index].upto - self.before(index) == weight);
        if let Some(index) = found {
            self.entries.remove(index);
            for entry in self.entries.range_mut(index..) {
                entry.upto -= weight;
            }
        }
    }

    /// Books `weight` without an end, until [`Window::close`].
    pub(super) fn open(&mut self, weight: u64) {
        self.open += weight;
    }

    /// Ends an open booking: at `Some(at)` it starts to run out, with `None` it never was.
    pub(super) fn close(&mut self, at: Option<Nanos>, weight: u64) {
        self.open = self.open.saturating_sub(weight);
        if let Some(at) = at {
            self.insert(at, weight);
        }
    }

    /// Forgets what no window that ends at `now` less `margin`, or later, can hold.
    pub(super) fn prune(&mut self, now: Nanos, margin: Nanos) {
        let Some(end) = now.checked_sub(self.length + margin) else {
            return;
        };
        while let Some(entry) = self.entries.front().filter(|entry| entry.at <= end) {
            self.base = entry.upto;
            self.entries.pop_front();
        }
    }

    fn total(&self) -> u64 {
        self.entries.back().map_or(self.base, |entry| entry.upto)
    }

    /// The running total before an entry.
    fn before(&self, index: usize) -> u64 {
        match index.checked_sub(1) {
            Some(previous) => self.entries[previous].upto,
            None => self.base,
        }
    }

    /// The running total up to and with `at`.
    fn upto(&self, at: Nanos) -> u64 {
        self.before(self.entries.partition_point(|entry| entry.at <= at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The fullest half-open window of `length` over bookings of any order.
    fn fullest(bookings: &[(Nanos, u64)], length: Nanos) -> u64 {
        bookings
            .iter()
            .map(|&(end, _)| {
                bookings
                    .iter()
                    .filter(|&&(at, _)| at <= end && at + length > end)
                    .map(|&(_, weight)| weight)
                    .sum()
            })
            .max()
            .unwrap_or(0)
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Time passes.
        Wait(Nanos),
        /// Books as early as possible from so long after now.
        Book(Nanos, u64),
        /// Takes one of the bookings back.
        Drop(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                (0..400_u64).prop_map(Step::Wait),
                (0..60_u64, 1..6_u64).prop_map(|(ahead, weight)| Step::Book(ahead, weight)),
                any::<prop::sample::Index>().prop_map(Step::Drop),
            ],
            1..120,
        )
    }

    proptest! {
        #[test]
        fn no_sliding_window_holds_more_than_the_capacity(steps in steps(), capacity in 5..12_u32) {
            let mut window = Window::new(1_000, capacity);
            let (mut now, mut booked) = (0, Vec::new());
            for step in steps {
                match step {
                    Step::Wait(time) => now += time,
                    Step::Book(ahead, weight) => {
                        let at = window.earliest(now + ahead, weight).unwrap();
                        prop_assert!(at >= now + ahead);
                        window.insert(at, weight);
                        booked.push((at, weight));
                    }
                    Step::Drop(index) if !booked.is_empty() => {
                        let (at, weight) = booked.swap_remove(index.index(booked.len()));
                        window.remove(at, weight);
                    }
                    Step::Drop(_) => {}
                }
                window.prune(now, 100);
                prop_assert!(fullest(&booked, 1_000) <= u64::from(capacity));
            }
        }

        #[test]
        fn the_earliest_instant_leaves_nothing_unused(steps in steps(), capacity in 5..12_u32) {
            let mut window = Window::new(1_000, capacity);
            let (mut now, mut booked) = (0, Vec::new());
            for step in steps {
                match step {
                    Step::Wait(time) => now += time,
                    Step::Book(ahead, weight) => {
                        let at = window.earliest(now + ahead, weight).unwrap();
                        // One nanosecond sooner would have been too much, or was not asked for.
                        if at > now + ahead {
                            let mut sooner = booked.clone();
                            sooner.push((at - 1, weight));
                            prop_assert!(fullest(&sooner, 1_000) > u64::from(capacity));
                        }
                        window.insert(at, weight);
                        booked.push((at, weight));
                    }
                    Step::Drop(_) => {}
                }
            }
        }
    }

    #[test]
    fn an_open_booking_takes_room_until_one_length_after_its_end() {
        let mut window = Window::new(1_000, 1);
        window.open(1);
        assert_eq!(window.earliest(0, 1), None);
        window.close(Some(70), 1);
        assert_eq!(window.earliest(80, 1), Some(1_070));
        window.open(1);
        window.close(None, 1);
        assert_eq!(window.earliest(80, 1), Some(1_070));
    }

    #[test]
    fn what_is_heavier_than_the_capacity_waits_for_an_empty_window() {
        let mut window = Window::new(1_000, 10);
        window.insert(5, 1);
        assert_eq!(window.earliest(6, 50), Some(1_005));
    }

    #[test]
    fn the_reserve_keeps_a_share_of_the_rate_for_whoever_is_urgent() {
        let mut window = Window::new(1_000, 8);
        for _ in 0..6 {
            assert!(window.reserve_until(0.25) <= 100);
            window.insert(100, 1);
        }
        // Two of eight are left for a second: the next for others comes in the middle of it.
        window.insert(100, 1);
        assert_eq!(window.reserve_until(0.25), 600);
    }
}
