//! Where slots come from: the seam between who gets the next slot (lanes, groups) and when there is one.
//!
//! One process takes them from its own log ([`WindowPacer`](super::window_pacer::WindowPacer)) or from governor
//! ([`GovernorPacer`](super::governor_pacer::GovernorPacer)); a fleet takes them from what it reserved in the row that
//! all its workers share. A source is asked under the key's lock and answers at once: it never waits, and does its I/O,
//! if any, elsewhere. Time comes in as a parameter.

use std::{fmt, sync::Weak};

use tokio::time::Instant;

use super::{
    BudgetKey, Limits, Nanos,
    key::{BudgetClock, Key},
};
use crate::domain::Lane;

/// On what terms a slot is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nobody as urgent waits: now, if the budget is free.
    AtOnce,
    /// From the waiting line, at the even pace.
    Queued,
    /// In place of a slot that was taken back from its holder: as soon as there is one, whatever the pace.
    Again,
}

/// A wish for one slot.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The present.
    pub now: Nanos,
    /// Not before.
    pub from: Nanos,
    /// Not after; otherwise it isn't booked.
    pub horizon: Nanos,
    /// Since when it has been waited for: what could have been granted since then isn't lost.
    pub since: Nanos,
    /// The lane that asks.
    pub lane: Lane,
    /// The lane is behind its guaranteed floor: it may take what is kept for urgent work.
    pub owed: bool,
    /// How many wait in this lane, itself included.
    pub waiting: usize,
    /// How many recipients the call has; 0 where they don't count.
    pub recipients: u32,
    /// On what terms.
    pub way: Way,
}

impl Ask {
    /// Whether it may take what is kept for urgent work.
    pub fn is_urgent(&self) -> bool {
        self.lane == Lane::High || self.owed
    }
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booking {
    /// A slot that is due then.
    Booked(Nanos),
    /// Nothing is booked: not before then.
    NotBefore(Nanos),
    /// Nothing is booked, and nobody knows when: the source wakes the key when it has more (an answer came, a
    /// reservation arrived).
    Empty,
}

/// Calls that were made while nobody counted them: what a source starts from when a limit appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// When, or a little later.
    pub at: Nanos,
    /// How many calls.
    pub calls: u32,
    /// How many recipients.
    pub recipients: u32,
}

/// Grants the slots of one key. Never more than the limits in any sliding window of the instants it books.
pub trait SlotSource: Send {
    /// Books a slot within the asked time, or says when to ask again.
    fn book(&mut self, ask: &Ask) -> Booking;

    /// Takes back a slot that nobody used, early or late: whoever asks next gets what that leaves free.
    fn release(&mut self, now: Nanos, due: Nanos, recipients: u32);

    /// Moves an unused slot that is late to `now`, if there is one free now. If not, it is released.
    fn renew(&mut self, now: Nanos, due: Nanos, recipients: u32) -> bool;

    /// Before when a slot that was booked for `due` must be used.
    fn latest(&self, due: Nanos, guard: Nanos) -> Nanos {
        due + guard
    }

    /// A call of this key was answered with a throttling code, which may be about the whole app: others must know.
    fn throttled(&mut self, _app_wide: bool) {}

    /// The call that used a slot was answered, or given up; `due` is when the slot was.
    fn answered(&mut self, now: Nanos, due: Nanos, recipients: u32);

    /// Whether a slot counts from the answer to its call.
    fn counts_from_answer(&self) -> bool {
        false
    }

    /// The limits in force changed. `past` is what was called lately, for limits that weren't counted before.
    fn set_limits(&mut self, now: Nanos, limits: Limits, past: &[Past]);

    /// Nobody waits: what was released is owed to nobody any more.
    fn forget_released(&mut self);

    /// Every slot that is not used yet was released, to be booked anew under changed terms: the pace starts anew too.
    fn restart(&mut self);

    /// How far ahead an urgent call takes a slot that is there, rather than wait for what the source may get it sooner.
    fn urgent_horizon(&self, _now: Nanos) -> Nanos {
        Nanos::MAX
    }

    /// The share of the limits that the source itself has in force: a fleet's is halved for all workers at once.
    fn share(&self) -> f64 {
        1.0
    }

    /// So many wait now, by lane; a fleet's source reserves by it. Called after each turn.
    fn demand(&mut self, _now: Nanos, _waiting: [usize; 3]) {}
}

/// A key as its source sees it: the clock that it counts by, and a hand on its shoulder.
#[derive(Clone)]
pub struct Waker {
    key: Weak<Key>,
    clock: BudgetClock,
}

impl Waker {
    pub(super) fn new(key: Weak<Key>, clock: BudgetClock) -> Self {
        Self { key, clock }
    }

    /// The present.
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// An instant of the key's clock.
    pub fn instant(&self, at: Nanos) -> Instant {
        self.clock.instant(at)
    }

    /// The source has slots again. Not to be called while a lock is held that the source takes.
    pub fn wake(&self) {
        if let Some(key) = self.key.upgrade() {
            key.wake();
        }
    }

    /// No call is due before then: what another worker was answered. The same holds as for [`Waker::wake`].
    pub fn pause_until(&self, until: Nanos) {
        if let Some(key) = self.key.upgrade() {
            key.pause_until(until);
        }
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

/// Makes the source of a key, the first time that somebody asks for a slot of it.
pub trait SlotSources: Send + Sync {
    /// A source with these limits. It uses `waker` when it can grant again after having answered [`Booking::Empty`].
    fn open(&self, key: &BudgetKey, limits: Limits, waker: Waker) -> Box<dyn SlotSource>;
}
