//! One key's budget: who waits, who holds a slot that is not used yet, and what a source, a pause or a limit makes of it.
//!
//! Pure: time comes in as a parameter, nothing waits, and what is to be woken is returned. So the laws of the budget are
//! tested here, with a clock of the test's own; tasks, timers and locks are [`Budget`](super::Budget)'s.

use std::collections::BTreeMap;

use super::{
    BudgetOptions, CallOutcome, Forfeited, Limits, Nanos,
    lanes::{Lanes, Next, Ticket, Waiter},
    source::{Ask, Booking, Past, SlotSource, Way},
    throttle::Throttle,
};
use crate::domain::{GroupName, Lane};

/// The longest lead, where claims are slow. A fleet reserves slots up to 250 ms ahead.
const MOST_LEAD: Nanos = 200_000_000;
/// By which part of what it is longer than configured the lead shrinks with each slot that was used in time: with a late slot
/// making it longer by a quarter, it settles where one in some hundred is late.
const LEAD_DECAY: Nanos = 1_024;

/// Names a slot that was granted and is not used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId(u64);

/// A slot that was granted and is not used yet.
#[derive(Debug, Clone, Copy)]
struct Held {
    due: Nanos,
    lane: Lane,
    /// Urgent work leaves it alone: its lane's floor is a guarantee.
    owed: bool,
    recipients: u32,
}

/// A slot, granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) id: SlotId,
    pub(super) due: Nanos,
    pub(super) recipients: u32,
}

/// A wish for a slot.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    pub(super) lane: Option<Lane>,
    pub(super) group: Option<GroupName>,
    pub(super) recipients: u32,
    pub(super) retry: bool,
}

/// What a turn of the key brought.
#[derive(Debug)]
pub(super) struct Turn<T> {
    /// Who got a slot.
    pub(super) grants: Vec<(T, Grant)>,
    /// When to turn next, if somebody waits for a time that is known.
    pub(super) wake: Option<Nanos>,
}

/// What happened to slots since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// Came too late, and nothing was free.
    pub(super) forfeited: u64,
    /// Came too late, and moved to the present.
    pub(super) renewed: u64,
    /// Handed back unused.
    pub(super) handed_on: u64,
    /// Taken over by urgent work; their holders got later ones.
    pub(super) taken_over: u64,
}

/// See the module. `T` is what a waiter waits with.
pub(super) struct KeyState<T> {
    /// How long before it is due a slot is granted: longer than configured while claims take so long that slots come late.
    lead: Nanos,
    least_lead: Nanos,
    guard: Nanos,
    source: Box<dyn SlotSource>,
    lanes: Lanes<T>,
    /// Slots not used yet, with the instant that they are due.
    held: BTreeMap<SlotId, Held>,
    throttle: Throttle,
    configured: Limits,
    counts: Counts,
    slots: u64,
}

impl<T> KeyState<T> {
    /// A key with this source, which was opened with these limits.
    pub(super) fn new(options: &BudgetOptions, limits: Limits, source: Box<dyn SlotSource>) -> Self {
        Self {
            lead: options.lead_ns(),
            least_lead: options.lead_ns(),
            guard: options.guard_ns(),
            source,
            lanes: Lanes::new(options.floors),
            held: BTreeMap::new(),
            throttle: Throttle::new(options.throttle.clone()),
            configured: limits,
            counts: Counts::default(),
            slots: 0,
        }
    }

    /// The limits as they were set.
    pub(super) fn configured(&self) -> Limits {
        self.configured
    }

    /// The limits in force in this process.
    pub(super) fn effective(&self) -> Limits {
        self.throttle.limits(self.configured)
    }

    /// The limits in force, for all who share them.
    pub(super) fn in_force(&self) -> Limits {
        self.effective().scaled(self.source.share())
    }

    /// How throttled the key is.
    pub(super) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// What happened to slots.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many wait, by lane.
    pub(super) fn waiting(&self) -> [usize; 3] {
        self.lanes.waiting()
    }

    /// How many slots are granted and not used yet.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Since when the one waits who has waited longest, by lane.
    pub(super) fn oldest(&self) -> [Option<Nanos>; 3] {
        self.lanes.oldest()
    }

    /// Whether calls go out uncounted and unheld: no limit, no pause, nobody in front.
    pub(super) fn is_open(&self, now: Nanos) -> bool {
        self.configured.is_none() && self.throttle.paused_until() <= now && self.lanes.is_empty()
    }

    /// A slot that is due now, if the budget is free and nobody as urgent waits.
    pub(super) fn at_once(&mut self, now: Nanos, wish: &Wish) -> Option<Grant> {
        let lane = wish.lane.unwrap_or(Lane::Normal);
        self.recover(now);
        if !self.lanes.is_free(lane) || self.throttle.paused_until() > now {
            return None;
        }
        let ask = Ask {
            now,
            from: now,
            horizon: now,
            since: now,
            lane,
            owed: false,
            waiting: 1,
            recipients: wish.recipients,
            way: Way::AtOnce,
        };
        match self.source.book(&ask) {
            Booking::Booked(due) => {
                self.lanes.count(lane, wish.recipients);
                Some(self.hold(due, lane, false, wish.recipients))
            }
            Booking::NotBefore(_) | Booking::Empty => None,
        }
    }

    /// Joins the line. A turn must follow.
    pub(super) fn queue(&mut self, now: Nanos, wish: Wish, payload: T) -> Ticket {
        let waiter = Waiter {
            payload,
            recipients: wish.recipients,
            since: now,
        };
        self.lanes
            .push(wish.lane.unwrap_or(Lane::Normal), wish.group, wish.retry, waiter)
    }

    /// Leaves the line. A turn must follow: whoever is next may have waited for it.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        self.lanes.remove(ticket);
    }

    /// Grants what is due within the lead.
    pub(super) fn turn(&mut self, now: Nanos) -> Turn<T> {
        self.recover(now);
        let mut turn = Turn {
            grants: Vec::new(),
            wake: None,
        };
        while let Some(next) = self.lanes.next() {
            let mut served = self.serve(now, next, &mut turn);
            if !served && next.owed {
                // What a floor guarantees keeps to the pace; whoever is urgent doesn't wait for that.
                served = self
                    .lanes
                    .most_urgent()
                    .is_some_and(|next| self.serve(now, next, &mut turn));
            }
            if !served {
                break;
            }
        }
        self.source.demand(now, self.lanes.waiting());
        if self.lanes.is_empty() {
            self.source.forget_released();
        } else {
            turn.wake = turn.wake.into_iter().chain(self.throttle.next_step()).min();
        }
        turn
    }

    /// Serves who is next, if there is a slot within the lead.
    fn serve(&mut self, now: Nanos, next: Next, turn: &mut Turn<T>) -> bool {
        let lead = match next.lane {
            Lane::High => self.lead.min(self.source.urgent_horizon(now)),
            _ => self.lead,
        };
        let ask = Ask {
            now,
            from: now.max(self.throttle.paused_until()),
            horizon: now + lead,
            since: next.since,
            lane: next.lane,
            owed: next.owed,
            waiting: self.lanes.waiting()[next.lane.index()],
            recipients: next.recipients,
            way: Way::Queued,
        };
        let booking = if next.lane == Lane::High {
            self.book_urgent(&ask)
        } else {
            self.source.book(&ask)
        };
        match booking {
            Booking::Booked(due) => {
                let Some(waiter) = self.lanes.pop(next.lane) else {
                    return false;
                };
                self.lanes.count(next.lane, next.recipients);
                let grant = self.hold(due, next.lane, next.owed, next.recipients);
                turn.grants.push((waiter.payload, grant));
                true
            }
            Booking::NotBefore(at) => {
                let wake = at.saturating_sub(lead).max(now + 1);
                turn.wake = Some(turn.wake.map_or(wake, |sooner| sooner.min(wake)));
                false
            }
            Booking::Empty => false,
        }
    }

    /// Books for the urgent lane: the first slot there is, also one that was granted ahead to somebody else.
    fn book_urgent(&mut self, ask: &Ask) -> Booking {
        let others: Vec<SlotId> = {
            let ahead = self.held.iter().filter(|(_, held)| held.due > ask.now);
            let others = ahead.filter(|(_, held)| held.lane != Lane::High && !held.owed);
            others.map(|(id, _)| *id).collect()
        };
        let Some(first) = others.iter().map(|id| self.held[id].due).min() else {
            return self.source.book(ask);
        };
        if first > ask.horizon {
            // Too far ahead to be taken over now; but not for ever.
            return match self.source.book(ask) {
                Booking::NotBefore(at) => Booking::NotBefore(at.min(first)),
                Booking::Empty => Booking::NotBefore(first),
                booked @ Booking::Booked(_) => booked,
            };
        }
        let sooner = Ask {
            horizon: first.saturating_sub(1).min(ask.horizon),
            ..*ask
        };
        if let booked @ Booking::Booked(_) = self.source.book(&sooner) {
            return booked;
        }
        let mut booking = Booking::Empty;
        self.rebook(ask.now, 0, &others, Way::Again, |source| booking = source.book(ask));
        if matches!(booking, Booking::Booked(_)) {
            self.counts.taken_over += 1;
        }
        booking
    }

    /// Takes slots back from their holders and books them anew in the order in which they were due: never sooner than
    /// before, nor before `from`. `between` goes first. A holder for whom there is none any more finds its slot forfeited.
    fn rebook(&mut self, now: Nanos, from: Nanos, ids: &[SlotId], way: Way, between: impl FnOnce(&mut dyn SlotSource)) {
        let mut slots: Vec<(SlotId, Held)> = ids.iter().filter_map(|id| Some((*id, self.held.remove(id)?))).collect();
        slots.sort_by_key(|(id, held)| (held.due, *id));
        for (_, held) in &slots {
            self.source.release(now, held.due, held.recipients);
        }
        between(self.source.as_mut());
        for (id, held) in slots {
            let ask = Ask {
                now,
                from: held.due.max(from).max(now),
                horizon: Nanos::MAX,
                since: now,
                lane: held.lane,
                owed: held.owed,
                waiting: 1,
                recipients: held.recipients,
                way,
            };
            if let Booking::Booked(due) = self.source.book(&ask) {
                self.held.insert(id, Held { due, ..held });
            } else {
                self.counts.forfeited += 1;
            }
        }
    }

    /// Every slot that is not used yet, taken back and booked anew under changed terms.
    fn rebook_all(&mut self, now: Nanos) {
        let ids: Vec<SlotId> = self.held.keys().copied().collect();
        let from = self.throttle.paused_until();
        self.rebook(now, from, &ids, Way::Queued, |source| source.restart());
    }

    fn hold(&mut self, due: Nanos, lane: Lane, owed: bool, recipients: u32) -> Grant {
        self.slots += 1;
        let id = SlotId(self.slots);
        let held = Held {
            due,
            lane,
            owed,
            recipients,
        };
        self.held.insert(id, held);
        Grant { id, due, recipients }
    }

    /// When a slot is due: it may have been moved to later. `None`: it is forfeited.
    pub(super) fn due(&self, id: SlotId) -> Option<Nanos> {
        self.held.get(&id).map(|held| held.due)
    }

    /// Uses a slot. Too early, it stays; too late, it is moved to the present if there is a slot for it there, and
    /// forfeited otherwise. A turn must follow a forfeit.
    ///
    /// The instant is the one by which the source knows it.
    pub(super) fn use_now(&mut self, now: Nanos, id: SlotId) -> Result<Nanos, Forfeited> {
        let Some(held) = self.held.get(&id).copied() else {
            return Err(Forfeited::TakenBack);
        };
        if now < held.due {
            return Err(Forfeited::Early);
        }
        let latest = self.source.latest(held.due, self.guard);
        self.held.remove(&id);
        // Strictly less: two uses of one slot's place, a window apart, are then never exactly a second apart.
        if now < latest {
            self.lead -= (self.lead - self.least_lead) / LEAD_DECAY;
            return Ok(held.due);
        }
        self.lead = (self.lead + self.lead / 4).min(MOST_LEAD.max(self.least_lead));
        if self.source.renew(now, held.due, held.recipients) {
            self.counts.renewed += 1;
            return Ok(now);
        }
        self.counts.forfeited += 1;
        self.still_owed(held);
        Err(Forfeited::Late)
    }

    /// What a floor guarantees are slots that are used.
    fn still_owed(&mut self, held: Held) {
        if held.owed {
            self.lanes.give_back(held.lane, held.recipients);
        }
    }

    /// Hands an unused slot back. A turn must follow: the next gets it at once.
    pub(super) fn hand_on(&mut self, now: Nanos, id: SlotId) {
        if let Some(held) = self.held.remove(&id) {
            self.counts.handed_on += 1;
            self.still_owed(held);
            self.source.release(now, held.due, held.recipients);
        }
    }

    /// The call that used a slot was answered or given up. A turn must follow.
    pub(super) fn answered(&mut self, now: Nanos, due: Nanos, recipients: u32) {
        self.source.answered(now, due, recipients);
    }

    /// What an answer says about the rate; `calls` are those of the last span of [`ThrottleOptions`](super::ThrottleOptions).
    /// A turn must follow a throttled one.
    pub(super) fn outcome(&mut self, now: Nanos, outcome: CallOutcome, calls: u64) {
        if let CallOutcome::Throttled { .. } = outcome {
            if self.throttle.throttled(now, calls) {
                self.source.set_limits(now, self.effective(), &[]);
            }
            self.rebook_all(now);
        }
    }

    /// Tells the source of a throttled answer to a call of this key: a fleet's other workers must know.
    pub(super) fn spread(&mut self, outcome: CallOutcome) {
        if let CallOutcome::Throttled { app_wide } = outcome {
            self.source.throttled(app_wide);
        }
    }

    /// No call is due before then. A turn must follow.
    pub(super) fn pause_until(&mut self, now: Nanos, until: Nanos) {
        if until > self.throttle.paused_until() {
            self.throttle.pause_until(until);
            self.rebook_all(now);
        }
    }

    /// Sets the limits; `past` is what was called lately. A turn must follow.
    pub(super) fn set_limits(&mut self, now: Nanos, limits: Limits, past: &[Past]) {
        let before = self.configured;
        if limits == before {
            return;
        }
        self.configured = limits;
        self.source.set_limits(now, self.effective(), past);
        if limits.lower_than(before) {
            self.rebook_all(now);
        }
    }

    /// Takes the steps back to the full rate that are due.
    fn recover(&mut self, now: Nanos) {
        if self.throttle.recover(now) {
            self.source.set_limits(now, self.effective(), &[]);
        }
    }
}
