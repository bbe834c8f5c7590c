//! Slots of one process by governor alone: what `--no-fleet` asks for.
//!
//! governor is a GCRA: with a burst of one it lets exactly one call through every `window / limit`, so no sliding second
//! ever holds more than the limit. (`Quota::per_second(200)` without that burst lets 399 through in the busiest one.) It
//! is not first come, first served, and it reads the machine's clock, so here it gets neither: the waiting line decides who
//! is next, and the clock is the instant for which a slot is asked. It keeps no log, so it can't take a slot back: one
//! that is released before it is due is kept for the next who asks, one that is late is lost.
//!
//! It paces calls only. A batch of 500 would need a burst of 500, which as a rate and burst that fit the limit leaves
//! 96 % of 12,000: recipients are therefore counted by the exact log here too.
//! It is never put in series with another pacer: two of them beat against each other, and each waits for the other's rest.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference as _},
    middleware::NoOpMiddleware,
    nanos,
    state::{InMemoryState, NotKeyed},
};

use super::{
    Limits, Nanos,
    options::BudgetOptions,
    source::{Ask, Booking, Past, SlotSource, Way},
    window::Window,
    window_pacer::{MINUTE, SECOND},
};

/// A clock that shows the instant for which a slot is asked.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<AtomicU64>);

impl Clock for Asked {
    type Instant = nanos::Nanos;

    fn now(&self) -> nanos::Nanos {
        nanos::Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

type Calls = RateLimiter<NotKeyed, InMemoryState, Asked, NoOpMiddleware<nanos::Nanos>>;

/// See the module.
pub(super) struct GovernorPacer {
    guard: Nanos,
    clock: Asked,
    calls: Option<(u32, Calls)>,
    recipients: Option<Window>,
    /// Slots that were taken back before they were due.
    spare: BTreeMap<Nanos, u32>,
    /// The last slot booked.
    last: Nanos,
    /// A changed limit starts with a clean second.
    not_before: Nanos,
}

impl GovernorPacer {
    /// A pacer without a past.
    pub(super) fn new(options: &BudgetOptions, limits: Limits) -> Self {
        let mut pacer = Self {
            guard: options.guard_ns(),
            clock: Asked::default(),
            calls: None,
            recipients: None,
            spare: BTreeMap::new(),
            last: 0,
            not_before: 0,
        };
        pacer.set_limits(0, limits, &[]);
        pacer
    }

    /// The earliest instant from `from` on that the recipients' log allows.
    fn recipients_allow(&self, from: Nanos, recipients: u32) -> Nanos {
        let at = self
            .recipients
            .as_ref()
            .map(|log| log.earliest(from, recipients.into()));
        at.flatten().unwrap_or(from)
    }

    /// A slot that was taken back and is due in time.
    fn take_spare(&mut self, from: Nanos, horizon: Nanos, recipients: u32) -> Option<Nanos> {
        self.spare.retain(|&due, _| due >= from);
        let mut due = self.spare.range(from..=horizon).map(|(&due, _)| due);
        let due = due.find(|&due| self.recipients_allow(due, recipients) == due)?;
        if let Some(count) = self.spare.get_mut(&due) {
            *count -= 1;
            if *count == 0 {
                self.spare.remove(&due);
            }
        }
        Some(due)
    }

    /// Asks governor for a call at `at`: yes, or not before then.
    fn check(&self, at: Nanos) -> Result<(), Nanos> {
        let Some((_, calls)) = &self.calls else { return Ok(()) };
        self.clock.0.store(at, Ordering::Relaxed);
        calls.check().map_err(|not_until| {
            let earliest = not_until.earliest_possible();
            earliest.duration_since(nanos::Nanos::new(0)).as_u64().max(at + 1)
        })
    }

    fn log_recipients(&mut self, at: Nanos, recipients: u32) {
        if let Some(log) = &mut self.recipients {
            log.insert(at, recipients.into());
        }
    }

    fn unlog_recipients(&mut self, at: Nanos, recipients: u32) {
        if let Some(log) = &mut self.recipients {
            log.remove(at, recipients.into());
        }
    }
}

impl SlotSource for GovernorPacer {
    fn book(&mut self, ask: &Ask) -> Booking {
        if let Some(log) = &mut self.recipients {
            log.prune(ask.now, 0);
        }
        let horizon = if ask.way == Way::AtOnce { ask.from } else { ask.horizon };
        if horizon < ask.from {
            return Booking::NotBefore(ask.from);
        }
        if let Some(due) = self.take_spare(ask.from, horizon, ask.recipients) {
            self.log_recipients(due, ask.recipients);
            return Booking::Booked(due);
        }
        let mut at = ask.from.max(self.not_before);
        loop {
            at = self.recipients_allow(at, ask.recipients);
            if at > horizon {
                return Booking::NotBefore(at);
            }
            match self.check(at) {
                Ok(()) => break,
                Err(earliest) => at = earliest,
            }
        }
        self.last = self.last.max(at);
        self.log_recipients(at, ask.recipients);
        Booking::Booked(at)
    }

    fn release(&mut self, now: Nanos, due: Nanos, recipients: u32) {
        self.unlog_recipients(due, recipients);
        if due >= now && self.calls.is_some() {
            *self.spare.entry(due).or_default() += 1;
        }
    }

    fn renew(&mut self, now: Nanos, due: Nanos, recipients: u32) -> bool {
        self.unlog_recipients(due, recipients);
        if now >= self.not_before && self.recipients_allow(now, recipients) == now && self.check(now).is_ok() {
            self.last = self.last.max(now);
            self.log_recipients(now, recipients);
            return true;
        }
        false
    }

    fn answered(&mut self, _now: Nanos, _due: Nanos, _recipients: u32) {}

    fn set_limits(&mut self, now: Nanos, limits: Limits, past: &[Past]) {
        let limit = limits.calls_per_second;
        let before = self.calls.as_ref().map(|(limit, _)| *limit);
        if before != Some(limit) {
            self.spare.clear();
            self.calls = NonZeroU32::new(limit).and_then(|per_window| {
                // Rounded up: governor has no log that would have the last word.
                let period = (SECOND + self.guard).div_ceil(per_window.get().into());
                let quota = Quota::with_period(Duration::from_nanos(period))?.allow_burst(NonZeroU32::MIN);
                self.clock.0.store(0, Ordering::Relaxed);
                Some((limit, RateLimiter::direct_with_clock(quota, self.clock.clone())))
            });
            // The old pace's slots and the new one's never share a second.
            let used = self.last.max(past.last().map_or(0, |past| past.at));
            if used > 0 {
                self.not_before = used.max(now.saturating_sub(SECOND)) + SECOND + self.guard;
            }
        }
        self.recipients = NonZeroU32::new(limits.recipients_per_minute).map(|limit| {
            let mut log = self.recipients.take().unwrap_or_else(|| {
                let mut log = Window::new(MINUTE + self.guard, limit.get());
                for past in past.iter().filter(|past| past.recipients > 0) {
                    log.insert(past.at, past.recipients.into());
                }
                log
            });
            log.set_capacity(limit.get());
            log
        });
    }

    fn forget_released(&mut self) {}

    fn restart(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Lane;

    fn ask(from: Nanos, horizon: Nanos) -> Ask {
        Ask {
            now: from,
            from,
            horizon,
            since: from,
            lane: Lane::Normal,
            owed: false,
            waiting: 1,
            recipients: 0,
            way: Way::Queued,
        }
    }

    fn limits(calls_per_second: u32) -> Limits {
        Limits {
            calls_per_second,
            recipients_per_minute: 0,
        }
    }

    #[test]
    fn governor_grants_one_call_per_beat_and_names_the_next_beat() {
        let mut pacer = GovernorPacer::new(&BudgetOptions::default(), limits(200));
        let beat = 5_020_000;
        assert_eq!(pacer.book(&ask(7, 7)), Booking::Booked(7));
        assert_eq!(pacer.book(&ask(8, 8)), Booking::NotBefore(7 + beat));
        assert_eq!(pacer.book(&ask(8, SECOND)), Booking::Booked(7 + beat));
        // Taken back in time: the next one gets it. Taken back too late: it is lost.
        pacer.release(9, 7 + beat, 0);
        assert_eq!(pacer.book(&ask(9, SECOND)), Booking::Booked(7 + beat));
        pacer.release(SECOND, 7 + beat, 0);
        assert_eq!(pacer.book(&ask(SECOND, SECOND)), Booking::Booked(SECOND));
        assert!(!pacer.renew(SECOND + 1, SECOND, 0));
    }

    #[test]
    fn a_changed_limit_starts_with_a_clean_second() {
        let mut pacer = GovernorPacer::new(&BudgetOptions::default(), limits(200));
        assert_eq!(pacer.book(&ask(SECOND, SECOND)), Booking::Booked(SECOND));
        pacer.set_limits(SECOND, limits(100), &[]);
        assert_eq!(
            pacer.book(&ask(SECOND, SECOND)),
            Booking::NotBefore(2 * SECOND + 4_000_000)
        );
    }
}
