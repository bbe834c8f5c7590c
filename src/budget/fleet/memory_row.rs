//! The fleet's row in memory, for simulations: what `reserve_slots` of the migration does for calls, line by line.

use super::ledger::{LedgerAsk, LedgerReply, LedgerSlot};

const SECOND: i64 = 1_000_000;
const MS: i64 = 1_000;
const LONE: i64 = 40 * MS;
const SETTLE: i64 = 50 * MS;
const FAR_AHEAD: i64 = 250 * MS;
const NEAR_AHEAD: i64 = 20 * MS;
const NEAR_EXTRA: i64 = 12 * MS;
const URGENT_AHEAD: i64 = 60 * MS;

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
    extra: i64,
    at_once: bool,
}

impl Line {
    fn take(&mut self, take: &Take, granted: &mut Vec<LedgerSlot>, wait: &mut i64) -> usize {
        let Take {
            now,
            capacity,
            valid,
            extra,
            ..
        } = *take;
        if capacity == 0 || take.want == 0 {
            return 0;
        }
        let before = granted.len();
        let left = |granted: &Vec<LedgerSlot>| take.want - (granted.len() - before);
        let step = (SECOND + valid + extra) / i64::try_from(capacity).unwrap();
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
                .max(last - valid - extra + step / 2)
                .max(floor(&self.log).unwrap_or(0));
            let slot = now.max(ideal);
            if slot > now + take.ahead {
                *wait = (*wait).min(slot - now - take.ahead);
                break;
            }
            last = last.max(ideal.max(now - extra / 2) + valid + extra);
            self.log.push(last);
            granted.push(LedgerSlot {
                from: slot,
                until: last,
            });
            self.next = self.next.max(slot - lag) + step;
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
        let spare = self.spare.len().min(want);
        let mut granted: Vec<LedgerSlot> = self.spare.drain(..spare).collect();
        want -= spare;
        let (near_ahead, near_extra) = if ask.alone {
            (FAR_AHEAD, 0)
        } else {
            (NEAR_AHEAD, NEAR_EXTRA)
        };
        let mut near = |ahead, want, at_once, granted: &mut Vec<LedgerSlot>, not_within: &mut i64| {
            let take = Take {
                now,
                ahead,
                capacity: near_capacity,
                want,
                valid,
                extra: near_extra,
                at_once,
            };
            self.near.take(&take, granted, not_within)
        };
        let urgent = (ask.urgent as usize).saturating_sub(spare).min(want);
        want -= near(URGENT_AHEAD, urgent, true, &mut granted, &mut not_within);
        let far = Take {
            now,
            ahead: FAR_AHEAD,
            capacity: far_capacity,
            want,
            valid,
            extra: 0,
            at_once: true,
        };
        want -= self.far.take(&far, &mut granted, &mut not_within);
        near(near_ahead, want, false, &mut granted, &mut not_within);
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
