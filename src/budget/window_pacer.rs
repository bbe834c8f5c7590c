//! Slots of one process by the exact log: at once while the budget is free, evenly under backlog, never over the limit.
//!
//! Three rules, in this order:
//! 1. **The log** ([`Window`]) of the last second (recipients: minute), longer by the guard, is never overfull. Slots count
//!    from when they are due and are used less than a guard later, so no sliding second of the uses is overfull either.
//! 2. **The reserve**: whoever isn't urgent leaves, for every time to come, a share of the even rate free. So a burst of
//!    bulk work never makes urgent work wait for the second to pass.
//! 3. **The pace**: from the waiting line slots are granted one every `window / limit`. The log alone would let a burst come
//!    back as a burst every second for ever, and bursts are what arrives late in bunches. Who finds no line in front of
//!    it needs no pace. The pace is an ideal that our own stalls don't slow down: it is caught up with at most double speed.

use super::{
    Limits, Nanos, WindowMode,
    options::{BudgetOptions, nanos},
    source::{Ask, Booking, Past, SlotSource, Way},
    window::Window,
};
use crate::domain::Lane;

/// A second, in nanoseconds.
pub(super) const SECOND: Nanos = 1_000_000_000;
/// For how long recipients count: the service's minute, and 100 ms for a call that is slow on its way to it before one that
/// is quick (measured on a busy machine: 12,025 recipients in a minute of the service's without them).
pub(super) const MINUTE: Nanos = 60 * SECOND + SECOND / 10;

/// One limit: its log and its pace.
#[derive(Debug)]
struct Dimension {
    window: Window,
    /// The ideal instant of the next slot from the waiting line.
    next: Nanos,
}

impl Dimension {
    fn new(length: Nanos, capacity: u32) -> Self {
        Self {
            window: Window::new(length, capacity),
            next: 0,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct WindowPacer {
    mode: WindowMode,
    guard: Nanos,
    settle: Nanos,
    urgent_share: f64,
    calls: Option<Dimension>,
    recipients: Option<Dimension>,
    /// Slots that were released and not granted again yet: they go without a pace.
    released: u32,
    /// The last slot from the waiting line.
    last: Nanos,
    /// The last one of the urgent lane.
    last_urgent: Nanos,
}

impl WindowPacer {
    /// How far the pace may lie behind: what a longer stall of ours missed is lost.
    const MOST_BEHIND: Nanos = SECOND / 4;

    /// A pacer without a past.
    pub(super) fn new(options: &BudgetOptions, limits: Limits) -> Self {
        let mut pacer = Self {
            mode: options.window,
            guard: options.guard_ns(),
            settle: nanos(options.settle),
            urgent_share: options.urgent_share,
            calls: None,
            recipients: None,
            released: 0,
            last: 0,
            last_urgent: 0,
        };
        pacer.set_limits(0, limits, &[]);
        pacer
    }

    /// What counts, with how much of each a call takes.
    fn dimensions(&self, recipients: u32) -> impl Iterator<Item = (&Dimension, u64)> {
        let calls = self.calls.iter().map(|dimension| (dimension, 1));
        calls.chain(
            self.recipients
                .iter()
                .map(move |dimension| (dimension, recipients.into())),
        )
    }

    fn dimensions_mut(&mut self, recipients: u32) -> impl Iterator<Item = (&mut Dimension, u64)> {
        let calls = self.calls.iter_mut().map(|dimension| (dimension, 1));
        let recipients = self
            .recipients
            .iter_mut()
            .map(move |dimension| (dimension, recipients.into()));
        calls.chain(recipients)
    }

    /// How long the windows remember more than they must: for the settling time, and for pace that is caught up.
    fn margin(&self) -> Nanos {
        self.settle.max(Self::MOST_BEHIND)
    }

    /// The earliest instant from `from` on that every window allows.
    fn earliest(&self, from: Nanos, recipients: u32) -> Option<Nanos> {
        let mut at = from;
        loop {
            let mut later = at;
            for (dimension, weight) in self.dimensions(recipients) {
                later = dimension.window.earliest(later, weight)?;
            }
            if later == at {
                return Some(at);
            }
            at = later;
        }
    }

    /// Before when whoever isn't urgent must keep off.
    fn reserved_until(&self) -> Nanos {
        let of = |dimension: &Dimension| dimension.window.reserve_until(self.urgent_share);
        self.dimensions(0)
            .map(|(dimension, _)| of(dimension))
            .max()
            .unwrap_or(0)
    }

    fn insert(&mut self, at: Nanos, recipients: u32) {
        let mode = self.mode;
        for (dimension, weight) in self.dimensions_mut(recipients) {
            match mode {
                WindowMode::Sent => dimension.window.insert(at, weight),
                WindowMode::Answered => dimension.window.open(weight),
            }
        }
    }

    fn remove(&mut self, at: Nanos, recipients: u32) {
        let mode = self.mode;
        for (dimension, weight) in self.dimensions_mut(recipients) {
            match mode {
                WindowMode::Sent => dimension.window.remove(at, weight),
                WindowMode::Answered => dimension.window.close(None, weight),
            }
        }
    }

    /// Moves the pace on from a slot whose ideal instant was `ideal`.
    fn step_from(&mut self, ideal: Nanos, recipients: u32) {
        for (dimension, weight) in self.dimensions_mut(recipients) {
            dimension.next = dimension.next.max(ideal + dimension.window.step(weight));
        }
    }

    /// The least distance of two slots from the waiting line: double speed.
    fn least_distance(&self) -> Nanos {
        self.calls.as_ref().map_or(0, |calls| calls.window.step(1) / 2)
    }

    fn book_at_once(&mut self, ask: &Ask) -> Booking {
        let at = ask.from;
        let roomy = self
            .dimensions(ask.recipients)
            .all(|(dimension, weight)| dimension.window.has_room(at, self.settle, weight));
        if !roomy || (!ask.is_urgent() && self.reserved_until() > at) {
            return Booking::NotBefore(at);
        }
        self.insert(at, ask.recipients);
        self.step_from(at, ask.recipients);
        Booking::Booked(at)
    }

    fn book_again(&mut self, ask: &Ask) -> Booking {
        let Some(at) = self.earliest(ask.from, ask.recipients) else {
            return Booking::Empty;
        };
        if at > ask.horizon {
            return Booking::NotBefore(at);
        }
        self.insert(at, ask.recipients);
        match self.released.checked_sub(1) {
            // In the place of one for which the pace was moved on already.
            Some(left) => self.released = left,
            None => self.step_from(at.saturating_sub(self.settle), ask.recipients),
        }
        self.last = self.last.max(at);
        Booking::Booked(at)
    }

    /// Whether an urgent call need not keep to the even pace: as many are free as wait for them.
    fn needs_no_pace(&self, ask: &Ask) -> bool {
        ask.lane == Lane::High
            && self
                .dimensions(ask.recipients)
                .all(|(dimension, weight)| dimension.window.free(ask.from) >= weight.saturating_mul(ask.waiting as u64))
    }

    fn book_queued(&mut self, ask: &Ask) -> Booking {
        let distance = self.least_distance();
        let urgent = ask.lane == Lane::High;
        let (pace, reserved, soonest) = if self.needs_no_pace(ask) {
            (ask.from, 0, ask.from.max(self.last_urgent + distance))
        } else {
            let behind = if ask.from > ask.now {
                ask.from
            } else {
                ask.since.max(ask.now.saturating_sub(Self::MOST_BEHIND))
            };
            let next = self
                .dimensions(0)
                .map(|(dimension, _)| dimension.next)
                .max()
                .unwrap_or(0);
            let reserved = if ask.is_urgent() { 0 } else { self.reserved_until() };
            (behind.max(next), reserved, ask.from.max(self.last + distance))
        };
        let Some(allowed) = self.earliest(pace, ask.recipients) else {
            return Booking::Empty;
        };
        let (ideal, step_from) = if reserved > allowed {
            // What was kept for urgent work is not caught up with.
            let Some(later) = self.earliest(reserved, ask.recipients) else {
                return Booking::Empty;
            };
            (later, later)
        } else {
            // One slot that the log put off a little doesn't put off all that follow.
            (allowed, pace.max(allowed.saturating_sub(self.settle)))
        };
        let at = if ideal >= soonest {
            ideal
        } else {
            match self.earliest(soonest, ask.recipients) {
                Some(at) => at,
                None => return Booking::Empty,
            }
        };
        if at > ask.horizon {
            return Booking::NotBefore(at);
        }
        self.insert(at, ask.recipients);
        self.step_from(step_from, ask.recipients);
        self.last = self.last.max(at);
        if urgent {
            self.last_urgent = at;
        }
        Booking::Booked(at)
    }
}

impl SlotSource for WindowPacer {
    fn book(&mut self, ask: &Ask) -> Booking {
        let margin = self.margin();
        for (dimension, _) in self.dimensions_mut(0) {
            dimension.window.prune(ask.now, margin);
        }
        match ask.way {
            Way::AtOnce => self.book_at_once(ask),
            Way::Again => self.book_again(ask),
            Way::Queued if self.released > 0 => self.book_again(ask),
            Way::Queued => self.book_queued(ask),
        }
    }

    fn release(&mut self, _now: Nanos, due: Nanos, recipients: u32) {
        self.remove(due, recipients);
        self.released += 1;
    }

    fn renew(&mut self, now: Nanos, due: Nanos, recipients: u32) -> bool {
        self.remove(due, recipients);
        if self.earliest(now, recipients) == Some(now) {
            self.insert(now, recipients);
            return true;
        }
        self.released += 1;
        false
    }

    fn answered(&mut self, now: Nanos, _due: Nanos, recipients: u32) {
        if self.mode == WindowMode::Answered {
            for (dimension, weight) in self.dimensions_mut(recipients) {
                dimension.window.close(Some(now), weight);
            }
        }
    }

    fn latest(&self, due: Nanos, guard: Nanos) -> Nanos {
        match self.mode {
            WindowMode::Sent => due + guard,
            // It counts from then on, however late it is used.
            WindowMode::Answered => Nanos::MAX,
        }
    }

    fn counts_from_answer(&self) -> bool {
        self.mode == WindowMode::Answered
    }

    fn set_limits(&mut self, now: Nanos, limits: Limits, past: &[Past]) {
        let guard = match self.mode {
            WindowMode::Sent => self.guard,
            WindowMode::Answered => 0,
        };
        let change = |dimension: Option<Dimension>, limit: u32, length: Nanos, weight: fn(&Past) -> u32| {
            let mut dimension = match (dimension, limit) {
                (_, 0) => return None,
                (Some(dimension), _) => dimension,
                (None, _) => {
                    let mut fresh = Dimension::new(length + guard, limit);
                    for past in past.iter().filter(|past| weight(past) > 0) {
                        fresh.window.insert(past.at, weight(past).into());
                    }
                    fresh
                }
            };
            // What is left of the pace's wait shrinks or grows with the limit.
            let left = u128::from(dimension.next.saturating_sub(now));
            let left = left * u128::from(dimension.window.capacity()) / u128::from(limit);
            dimension.next = now + Nanos::try_from(left).unwrap_or(SECOND);
            dimension.window.set_capacity(limit);
            Some(dimension)
        };
        self.calls = change(self.calls.take(), limits.calls_per_second, SECOND, |past| past.calls);
        let recipients = self.recipients.take();
        self.recipients = change(recipients, limits.recipients_per_minute, MINUTE, |past| past.recipients);
    }

    fn forget_released(&mut self) {
        self.released = 0;
    }

    fn restart(&mut self) {
        (self.released, self.last, self.last_urgent) = (0, 0, 0);
        for (dimension, _) in self.dimensions_mut(0) {
            dimension.next = 0;
        }
    }
}
