//! The fleet's row in memory, for simulations: what `reserve_slots` of the migration does for calls, line by line.

use super::ledger::{LedgerAsk, LedgerReply, LedgerSlot};

const SECOND: i64 = 1_000_000;
const MS: i64 = 1_000;
const LONE: i64 = 40 * MS;
const SETTLE: i64 = 50 * MS;
const FAR_AHEAD: i64 = 250 * MS;
const NEAR_AHEAD: i64 = 40 * MS;
const URGENT_AHEAD: i64 = 60 * MS;
const SOON: i64 = 6 * MS;
const URGENT_MEMORY: i64 = 5 * SECOND;

/// A log of the last second's slots by their ends, and the ideal instant of the next.
#[derive(Debug, Default)]
struct Line {
    log: Vec<i64>,
    next: i64,
}

/// What is asked of a line.
struct Take {
    now: i64,
    ahead: i64,
    capacity: usize,
    want: usize,
    valid: i64,
    at_once: bool,
}

impl Line {
    fn take(&mut self, take: &Take, granted: &mut Vec<LedgerSlot>, wait: &mut i64) -> usize {
        let Take {
            now, capacity, valid, ..
        } = *take;
        if capacity == 0 || take.want == 0 {
            return 0;
        }
        let before = granted.len();
        let left = |granted: &Vec<LedgerSlot>| take.want - (granted.len() - before);
        let step = (SECOND + valid) / i64::try_from(capacity).unwrap();
        let lag = step.max(20 * MS);
        let mut last = self.log.last().copied().unwrap_or(0);
        let floor = |log: &[i64]| log.len().checked_sub(capacity).map(|index| log[index] + SECOND);
        if take.at_once && self.next < now - lag {
            while left(granted) > 0 && floor(&self.log).is_none_or(|floor| floor + SETTLE <= now) {
                last = last.max(now + valid + LONE);
                self.log.push(last);
                granted.push(LedgerSlot { from: now, until: last });
                self.next = now + step;
            }
        }
        self.next = self.next.max(now - lag);
        while left(granted) > 0 {
            let ideal = self
                .next
                .max(last - valid + step / 2)
                .max(floor(&self.log).unwrap_or(0));
            let slot = now.max(ideal);
            if slot > now + take.ahead {
                *wait = (*wait).min(slot - now - take.ahead);
                break;
            }
            last = last.max(ideal.max(now) + valid);
            self.log.push(last);
            granted.push(LedgerSlot {
                from: slot,
                until: last,
            });
            self.next = self.next.max(slot - lag) + step;
        }
        granted.len() - before
    }

    /// Takes slots that may be used at once out of what is kept for urgent work.
    fn take_kept(
        &mut self,
        now: i64,
        capacity: usize,
        want: usize,
        valid: i64,
        granted: &mut Vec<LedgerSlot>,
    ) -> usize {
        let before = granted.len();
        while capacity > 0 && granted.len() - before < want {
            let full = self
                .log
                .len()
                .checked_sub(capacity)
                .map(|index| self.log[index] + SECOND);
            if full.is_some_and(|free| free > now) {
                break;
            }
            let until = self.log.last().copied().unwrap_or(0).max(now + valid + LONE);
            self.log.push(until);
            granted.push(LedgerSlot { from: now, until });
            self.next = self.next.max(now - 20 * MS) + (SECOND + valid) / i64::try_from(capacity).unwrap();
        }
        granted.len() - before
    }

    /// Takes a slot out that nobody used.
    fn forfeit(&mut self, until: i64, valid: i64, capacity: usize) -> bool {
        let found = self.log.iter().position(|&end| end == until);
        if let Some(index) = found {
            self.log.remove(index);
            self.next -= (SECOND + valid) / i64::try_from(capacity.max(1)).unwrap();
        }
        found.is_some()
    }
}

/// The row of one key.
#[derive(Debug, Default)]
pub(super) struct MemoryRow {
    far: Line,
    near: Line,
    spare: Vec<LedgerSlot>,
    /// When urgent work was last asked for.
    urgent_seen: Option<i64>,
    pub(super) asked: i64,
}

impl MemoryRow {
    pub(super) fn reserve(&mut self, now: i64, ask: &LedgerAsk) -> LedgerReply {
        let limit = ask.limits.calls_per_second as usize;
        assert!(
            limit > 0 && limit <= 1_000 && ask.limits.recipients_per_minute == 0,
            "calls only"
        );
        let valid = i64::try_from(ask.valid.as_micros()).unwrap();
        let near_capacity = limit / 4;
        let far_capacity = limit - near_capacity;
        self.spare.extend_from_slice(&ask.back);
        let mut forfeited = ask.forfeited.clone();
        self.spare.retain(|slot| {
            if slot.from < now {
                forfeited.push(slot.until);
            }
            slot.from >= now
        });
        for until in forfeited {
            if !self.far.forfeit(until, valid, far_capacity) {
                self.near.forfeit(until, valid, near_capacity);
            }
        }
        for line in [&mut self.far, &mut self.near] {
            line.log.retain(|&until| until > now - SECOND - SETTLE);
        }
        let mut not_within = FAR_AHEAD;
        let mut want = ask.want as usize;
        let mut urgent = (ask.urgent as usize).min(want);
        if urgent > 0 {
            self.urgent_seen = Some(now);
        }
        let kept = match self.urgent_seen {
            Some(seen) if seen > now - URGENT_MEMORY && near_capacity >= 10 => 1 + near_capacity / 25,
            _ => 0,
        };
        let mut granted: Vec<LedgerSlot> = Vec::new();
        let soon = self
            .spare
            .iter()
            .filter(|slot| slot.from <= now + SOON)
            .count()
            .min(urgent);
        for _ in 0..soon {
            let first = self.spare.iter().position(|slot| slot.from <= now + SOON);
            granted.push(self.spare.remove(first.unwrap()));
        }
        (want, urgent) = (want - soon, urgent - soon);
        let taken = self.near.take_kept(now, near_capacity, urgent, valid, &mut granted);
        (want, urgent) = (want - taken, urgent - taken);
        let spare = self.spare.len().min(want);
        granted.extend(self.spare.drain(..spare));
        want -= spare;
        let near_ahead = if ask.alone { FAR_AHEAD } else { NEAR_AHEAD };
        let mut near = |ahead, capacity, want, at_once, granted: &mut Vec<LedgerSlot>, not_within: &mut i64| {
            let take = Take {
                now,
                ahead,
                capacity,
                want,
                valid,
                at_once,
            };
            self.near.take(&take, granted, not_within)
        };
        let urgent = urgent.min(want);
        want -= near(URGENT_AHEAD, near_capacity, urgent, true, &mut granted, &mut not_within);
        let far = Take {
            now,
            ahead: FAR_AHEAD,
            capacity: far_capacity,
            want,
            valid,
            at_once: true,
        };
        want -= self.far.take(&far, &mut granted, &mut not_within);
        near(
            near_ahead,
            near_capacity - kept,
            want,
            false,
            &mut granted,
            &mut not_within,
        );
        self.asked += 1;
        LedgerReply {
            now,
            slots: granted,
            unit: 1,
            asked: self.asked,
            paused_until: 0,
            wait: std::time::Duration::from_micros(u64::try_from(not_within).unwrap()),
            share: 1.0,
        }
    }
}
