//! What one worker has of one key's shared slots: reserved, handed out, to be given back; and when to ask for more.
//!
//! Pure: time comes in as a parameter, and asking is somebody else's.

use std::{collections::BTreeMap, time::Duration};

use super::{
    clock_map::ClockMap,
    ledger::{LedgerAsk, LedgerReply, LedgerSlot},
};
use crate::{
    budget::{
        Limits, Nanos,
        options::nanos,
        source::{Ask, Booking, Past, Way},
    },
    domain::Lane,
};

const MS: Nanos = 1_000_000;
/// Between two asks of one worker when it is alone: about a hundred updates a second. With others each asks as much less often
/// as there are others.
const TURN: Nanos = 8 * MS;
/// The longest time between two asks while work waits: what is reserved at most 250 ms ahead must not run out.
const LONGEST_TURN: Nanos = 200 * MS;
/// A lone worker that has slots so far ahead asks again later: nobody else gets fewer for it, and a tenth of a second's slots at
/// once cost the row's write as much as one.
const PLENTY: Nanos = 150 * MS;
/// Fewer workers than that are one.
const ALONE: f64 = 1.3;
/// Between two asks for urgent work.
const URGENT_TURN: Nanos = 5 * MS;
/// Urgent work of a worker that has slots so soon doesn't ask.
const NEAR: Nanos = 20 * MS;
/// What is due sooner than that an urgent call takes rather than ask: an ask takes a round trip, and a claim a commit.
const SOON: Nanos = 6 * MS;
/// How late a slot may be used in the mode `answered`, where lateness costs nothing but the slot's own time.
const LATE: Nanos = 1_000 * MS;
/// How long nothing is asked for after the ledger didn't answer.
const SULK: Nanos = 100 * MS;
/// Slots asked for at once at most.
const MOST: usize = 1_000;
/// Batches asked for at once at most: they are rare, and each has its own size.
const MOST_BATCHES: usize = 24;
/// A slot that begins sooner can't reach another worker in time.
const TOO_LATE_FOR_OTHERS: Nanos = 5 * MS;

/// A slot of the ledger on our clock.
#[derive(Debug, Clone, Copy)]
struct Reserved {
    slot: LedgerSlot,
    /// Used before that, or not at all.
    latest: Nanos,
    /// Recipients that it is good for.
    weight: u32,
}

/// What to do about the ledger.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Ask it this.
    Ask(LedgerAsk),
    /// Nothing before then.
    Wait(Nanos),
    /// Nothing until something changes.
    Rest,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stock {
    limits: Limits,
    guard: Nanos,
    clock: ClockMap,
    /// By when they are due.
    reserved: BTreeMap<Nanos, Reserved>,
    /// Handed out, by when they are due; those that were used stay until they can't be given back any more.
    out: BTreeMap<Nanos, Reserved>,
    back: Vec<LedgerSlot>,
    forfeited: Vec<i64>,
    fewer: Vec<(i64, u32)>,
    /// In the mode `answered`: how long a call takes from its slot to its answer at most, and what the ledger isn't told yet.
    answer_time: Option<Nanos>,
    ended: Vec<(i64, i64)>,
    waiting: [usize; 3],
    /// The recipients of the call that waits first and found no slot.
    weight: u32,
    last_ask: Nanos,
    /// The last one for urgent work.
    last_urgent_ask: Nanos,
    /// What the ask that is on its way, or was last, wants; how much of it for urgent work.
    asked_for: (usize, usize),
    /// An ask for urgent work got nothing that is due soon: the next one waits until then.
    vain_until: Nanos,
    /// The share of the limits that is in force.
    share: f64,
    /// The count of asks in the last answer.
    asked: Option<i64>,
    /// About how many workers ask for this key.
    workers: f64,
    /// Nothing can be granted before.
    blocked_until: Nanos,
    /// The ledger didn't answer: nothing is asked for before.
    sulks_until: Nanos,
    /// Whether an ask is on its way.
    asking: bool,
    /// Nothing is asked for before: calls that nobody counted are still in the window.
    not_before: Nanos,
}

impl Stock {
    /// Nothing reserved.
    pub(super) fn new(limits: Limits, guard: Nanos) -> Self {
        Self {
            limits,
            guard,
            clock: ClockMap::default(),
            reserved: BTreeMap::new(),
            out: BTreeMap::new(),
            back: Vec::new(),
            forfeited: Vec::new(),
            fewer: Vec::new(),
            answer_time: None,
            ended: Vec::new(),
            waiting: [0; 3],
            weight: 0,
            last_ask: 0,
            last_urgent_ask: 0,
            asked_for: (0, 0),
            vain_until: 0,
            share: 1.0,
            asked: None,
            workers: 1.0,
            blocked_until: 0,
            sulks_until: 0,
            asking: false,
            not_before: 0,
        }
    }

    /// The same where slots count until their calls are answered, which takes so long at most.
    pub(super) fn answered_within(mut self, answer_time: Option<Nanos>) -> Self {
        self.answer_time = answer_time;
        self
    }

    /// The call that used a slot was answered, or given up.
    pub(super) fn call_answered(&mut self, now: Nanos, due: Nanos) {
        let Some(bounds) = self.clock.bounds(now).filter(|_| self.answer_time.is_some()) else {
            return;
        };
        if let Some(reserved) = self.out.remove(&due) {
            self.ended.push((reserved.slot.until, bounds.latest_there(now)));
        }
    }

    /// Books a slot out of what is reserved.
    pub(super) fn book(&mut self, ask: &Ask) -> Booking {
        if self.limits.is_none() {
            return Booking::Booked(ask.from);
        }
        self.tidy(ask.now);
        let recipients = self.counted(ask.recipients);
        let horizon = if ask.way == Way::AtOnce { ask.from } else { ask.horizon };
        let first = self
            .reserved
            .iter()
            .find(|&(&due, reserved)| (due >= ask.from || ask.from <= ask.now) && reserved.weight >= recipients)
            .map(|(&due, _)| due);
        match first {
            Some(due) if due <= horizon => {
                self.take(due, recipients, true);
                Booking::Booked(due)
            }
            Some(due) => Booking::NotBefore(due),
            None => {
                self.weight = recipients;
                Booking::Empty
            }
        }
    }

    /// A call's recipients, where they count.
    fn counted(&self, recipients: u32) -> u32 {
        if self.limits.recipients_per_minute > 0 {
            recipients
        } else {
            0
        }
    }

    fn take(&mut self, due: Nanos, recipients: u32, out: bool) {
        if let Some(mut reserved) = self.reserved.remove(&due) {
            if reserved.weight > recipients {
                self.fewer.push((reserved.slot.until, reserved.weight - recipients));
                reserved.weight = recipients;
            }
            if out {
                self.out.insert(due, reserved);
            }
        }
    }

    /// A slot that nobody used comes back.
    pub(super) fn release(&mut self, now: Nanos, due: Nanos) {
        if let Some(reserved) = self.out.remove(&due) {
            if reserved.latest > now {
                self.reserved.insert(due, reserved);
            } else {
                self.forfeit(reserved);
            }
        }
    }

    /// A late slot is given up for another that can be used now.
    pub(super) fn renew(&mut self, now: Nanos, due: Nanos, recipients: u32) -> bool {
        if let Some(reserved) = self.out.remove(&due) {
            self.forfeit(reserved);
        }
        self.tidy(now);
        let recipients = self.counted(recipients);
        let mut usable = self.reserved.range(..=now);
        let other = usable
            .find(|(_, reserved)| reserved.weight >= recipients)
            .map(|(&due, _)| due);
        if let Some(due) = other {
            // In the mode `answered` nobody could say when its call was answered: it counts to its end.
            self.take(due, recipients, false);
        }
        other.is_some()
    }

    /// Before when a slot that was handed out must be used.
    pub(super) fn latest(&self, due: Nanos) -> Nanos {
        if self.limits.is_none() {
            return due + self.guard;
        }
        self.out.get(&due).map_or(due, |reserved| reserved.latest)
    }

    /// Limits changed. `past` is what was called without being counted.
    pub(super) fn set_limits(&mut self, now: Nanos, limits: Limits, past: &[Past]) {
        if self.limits.is_none()
            && let Some(last) = past.last()
        {
            let window = if limits.recipients_per_minute > 0 {
                60_000
            } else {
                1_000
            };
            self.not_before = last.at + window * MS + self.guard;
        }
        if limits.lower_than(self.limits) {
            self.give_all_back(now);
        }
        self.limits = limits;
    }

    /// So many wait. True: it is time to look at the plan.
    pub(super) fn demand(&mut self, now: Nanos, waiting: [usize; 3]) -> bool {
        self.waiting = waiting;
        if waiting == [0; 3] {
            self.weight = 0;
            self.give_all_back(now);
        }
        let wanted = self.wanted() > 0 || self.urgently_wanted(now) > 0;
        !self.limits.is_none() && !self.asking && (wanted || self.has_returns())
    }

    /// The share of the limits that is in force.
    pub(super) fn share(&self) -> f64 {
        self.share
    }

    /// How far ahead an urgent call takes what is here, rather than wait for what an ask may get it sooner.
    pub(super) fn urgent_horizon(&self, now: Nanos) -> Nanos {
        if self.asks_for_urgent(now) { SOON } else { Nanos::MAX }
    }

    /// Whether asking gets urgent work its slot sooner. Who asks alone has the slots of the next quarter second already.
    fn asks_for_urgent(&self, now: Nanos) -> bool {
        self.workers >= ALONE
            && self.answer_time.is_none()
            && self.limits.recipients_per_minute == 0
            && !self.limits.is_none()
            && now >= self.vain_until
    }

    /// How many urgent calls wait that find nothing that is due soon.
    fn urgently_wanted(&self, now: Nanos) -> usize {
        let urgent = self.waiting[Lane::High.index()];
        if urgent == 0 {
            return 0;
        }
        let (span, most) = if self.asks_for_urgent(now) {
            (SOON, MOST)
        } else {
            (NEAR, self.wanted())
        };
        urgent
            .saturating_sub(self.reserved.range(..=now + span).count())
            .min(most)
    }

    /// Everything that isn't handed out goes back: others can use it.
    fn give_all_back(&mut self, now: Nanos) {
        for (due, reserved) in std::mem::take(&mut self.reserved) {
            if due > now + TOO_LATE_FOR_OTHERS && reserved.weight == 0 {
                self.back.push(reserved.slot);
            } else {
                self.forfeit(reserved);
            }
        }
    }

    fn forfeit(&mut self, reserved: Reserved) {
        self.forfeited.push(reserved.slot.until);
        if reserved.weight > 0 {
            self.fewer.push((reserved.slot.until, reserved.weight));
        }
    }

    fn tidy(&mut self, now: Nanos) {
        let late: Vec<Nanos> = self
            .reserved
            .range(..now)
            .filter(|(_, reserved)| reserved.latest <= now)
            .map(|(&due, _)| due)
            .collect();
        for due in late {
            if let Some(reserved) = self.reserved.remove(&due) {
                self.forfeit(reserved);
            }
        }
        // After a second it makes no difference any more, or once its call must have been answered.
        let kept = self.answer_time.unwrap_or(1_000 * MS);
        let recent = self.out.split_off(&now.saturating_sub(kept));
        self.out = recent;
    }

    fn has_returns(&self) -> bool {
        !(self.back.is_empty() && self.forfeited.is_empty() && self.fewer.is_empty() && self.ended.is_empty())
    }

    /// How many slots are wanted beyond what is reserved.
    fn wanted(&self) -> usize {
        let waiting: usize = self.waiting.iter().sum();
        let have = self
            .reserved
            .values()
            .filter(|reserved| reserved.weight >= self.weight)
            .count();
        let most = if self.weight > 0 { MOST_BATCHES } else { MOST };
        waiting.saturating_sub(have).min(most)
    }

    /// What to do about the ledger now.
    pub(super) fn plan(&mut self, now: Nanos) -> Plan {
        self.tidy(now);
        if self.asking || self.limits.is_none() {
            return Plan::Rest;
        }
        let urgent = self.urgently_wanted(now);
        let want = self.wanted().max(urgent);
        if want == 0 && !self.has_returns() {
            return Plan::Rest;
        }
        // The first one only learns the ledger's clock: slots that it reserved would be too short to be used.
        let first = self.asked.is_none();
        let at = if first {
            0
        } else if urgent > 0 {
            self.last_urgent_ask + URGENT_TURN
        } else {
            let turn = ((self.workers * TURN as f64) as Nanos).clamp(TURN, LONGEST_TURN);
            let blocked = if want > 0 { self.blocked_until } else { 0 };
            (self.last_ask + turn).max(blocked).max(self.well_stocked_until())
        };
        let at = at.max(self.not_before).max(self.sulks_until);
        if at > now {
            return Plan::Wait(at);
        }
        self.asking = true;
        if !first {
            self.last_ask = now;
        }
        if urgent > 0 && !first {
            self.last_urgent_ask = now;
        }
        let (want, urgent) = if first { (0, 0) } else { (want, urgent) };
        self.asked_for = (want, urgent);
        Plan::Ask(LedgerAsk {
            limits: self.limits,
            valid: Duration::from_nanos(self.valid(now)),
            want: want as u32,
            urgent: urgent as u32,
            weight: self.counted(self.weight),
            alone: self.workers < ALONE,
            back: std::mem::take(&mut self.back),
            forfeited: std::mem::take(&mut self.forfeited),
            fewer: std::mem::take(&mut self.fewer),
            answered: self.answer_time.is_some(),
            ended: std::mem::take(&mut self.ended),
        })
    }

    /// Before when a lone worker needs no more slots.
    fn well_stocked_until(&self) -> Nanos {
        if self.workers >= ALONE || self.weight > 0 || self.answer_time.is_some() {
            return 0;
        }
        let last = self.reserved.last_key_value();
        last.map_or(0, |(&due, _)| due.saturating_sub(PLENTY))
    }

    /// How long a slot may be used: the guard, of which what isn't known about the ledger's clock must leave the most.
    fn valid(&self, now: Nanos) -> Nanos {
        let unknown = self.clock.bounds(now).map_or(0, super::clock_map::Bounds::width);
        if let Some(answer_time) = self.answer_time {
            return LATE + answer_time + unknown;
        }
        self.guard + unknown.saturating_sub(self.guard / 4)
    }

    /// The ledger answered an ask that was sent then. The instant until which it stops all calls, if it does.
    pub(super) fn answered(&mut self, sent: Nanos, now: Nanos, weight: u32, reply: &LedgerReply) -> Option<Nanos> {
        self.asking = false;
        self.clock.observe(sent, now, reply.now);
        let bounds = self.clock.bounds(now)?;
        let (want, urgent) = self.asked_for;
        // Asks for urgent work come out of turn, so they say nothing about how many take turns.
        if urgent == 0
            && let Some(before) = self.asked.replace(reply.asked)
            && reply.asked - before < 1_000
        {
            self.workers = (self.workers * 3.0 + (reply.asked - before) as f64) / 4.0;
        }
        if want > 0 {
            // Who got all that was wanted may ask for more in its next turn.
            let granted = reply.slots.len() * reply.unit.max(1) as usize;
            self.blocked_until = if granted < want { now + nanos(reply.wait) } else { 0 };
        }
        self.share = reply.share;
        for &slot in &reply.slots {
            for _ in 0..reply.unit.max(1) {
                let reserved = Reserved {
                    slot,
                    latest: bounds.soonest(slot.until).saturating_sub(self.answer_time.unwrap_or(0)),
                    weight,
                };
                let mut due = bounds.surely(slot.from);
                while self.reserved.contains_key(&due) || self.out.contains_key(&due) {
                    due += 1;
                }
                if reserved.latest > due.max(now) {
                    self.reserved.insert(due, reserved);
                } else {
                    self.forfeit(reserved);
                }
            }
        }
        if urgent > 0 && self.reserved.range(..=now + SOON).next().is_none() {
            // Where more urgent work waits than there is room for, asking for it at once helps nobody.
            let turn = (self.workers * TURN as f64) as Nanos;
            self.vain_until = now + turn.clamp(NEAR, LONGEST_TURN);
        }
        if self.waiting == [0; 3] {
            self.give_all_back(now);
        }
        let paused = bounds.surely(reply.paused_until);
        if reply.paused_until == 0 || paused <= now {
            return None;
        }
        let later = self.reserved.split_off(&paused);
        for (_, reserved) in std::mem::replace(&mut self.reserved, later) {
            self.forfeit(reserved);
        }
        Some(paused)
    }

    /// The ledger didn't answer: nothing is granted, and what was given back is lost.
    pub(super) fn failed(&mut self, now: Nanos) {
        self.asking = false;
        self.sulks_until = now + SULK;
        self.vain_until = now + SULK;
    }
}
