//! Which fault does this call meet? The rules in force, each with its own count of matching calls, so that whether the
//! n-th of them meets a fault depends on the seed and on n only, whatever thread it comes on.
//!
//! Rules are asked in the order in which they were set, and the first that fires wins; so several rules of `next:N` are
//! a queue. Every matching call is counted by every rule, also where an earlier one fired.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;

use super::fault_rule::{Fault, FaultRule, When};
use crate::domain::Command;

/// How much of a call is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carry {
    Nothing,
    Everything,
    /// For the first so many recipients.
    First(usize),
}

/// What becomes of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is sent as it is.
    Answer,
    Code(i32),
    Http(u16),
    Garbage,
    /// OK without MsgKey.
    NoMsgKey,
    Reset,
    Cut,
    /// Half of it, then the connection is closed.
    Midway,
    /// Nothing until the client goes.
    Hold,
}

/// What a fault comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) carry: Carry,
    pub(super) ending: Ending,
    /// Before the answer, after it was carried out.
    pub(super) late: Duration,
    /// Before it is carried out.
    pub(super) accept_late: Duration,
}

impl Effect {
    /// Of no fault at all.
    pub(super) const NONE: Self = Self::new(Carry::Everything, Ending::Answer);

    const fn new(carry: Carry, ending: Ending) -> Self {
        Self {
            carry,
            ending,
            late: Duration::ZERO,
            accept_late: Duration::ZERO,
        }
    }

    /// Whether the client gets an answer with the call's code.
    pub(super) const fn answers(self) -> bool {
        matches!(self.ending, Ending::Answer | Ending::Code(_) | Ending::NoMsgKey)
    }
}

impl Fault {
    /// What it comes to; `None` for a fault of single recipients.
    const fn effect(self) -> Option<Effect> {
        Some(match self {
            Self::Code(code) => Effect::new(Carry::Nothing, Ending::Code(code)),
            Self::CodeAfter(code) => Effect::new(Carry::Everything, Ending::Code(code)),
            Self::Http(status) => Effect::new(Carry::Nothing, Ending::Http(status)),
            Self::HttpAfter(status) => Effect::new(Carry::Everything, Ending::Http(status)),
            Self::Garbage => Effect::new(Carry::Nothing, Ending::Garbage),
            Self::GarbageAfter => Effect::new(Carry::Everything, Ending::Garbage),
            Self::NoMsgKey => Effect::new(Carry::Everything, Ending::NoMsgKey),
            Self::ResetBefore => Effect::new(Carry::Nothing, Ending::Reset),
            Self::ResetAfter => Effect::new(Carry::Everything, Ending::Reset),
            Self::CutAfter => Effect::new(Carry::Everything, Ending::Cut),
            Self::CutMidway => Effect::new(Carry::Everything, Ending::Midway),
            Self::Late(late) => Effect { late, ..Effect::NONE },
            Self::AcceptLate(accept_late) => Effect {
                accept_late,
                ..Effect::NONE
            },
            Self::Never => Effect::new(Carry::Everything, Ending::Hold),
            Self::NeverBefore => Effect::new(Carry::Nothing, Ending::Hold),
            Self::Recipient(_) => return None,
            Self::PartialCut(count) => Effect::new(Carry::First(count as usize), Ending::Cut),
        })
    }
}

/// A rule in force.
#[derive(Debug)]
struct Active {
    rule: FaultRule,
    /// Which rule it is, for the draw.
    number: u64,
    /// When it was set, in microseconds of the simulator's clock.
    since: u64,
    matched: AtomicU64,
    fired: AtomicU64,
}

/// How often a rule matched and fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultReport {
    /// The rule as it is written.
    pub rule: String,
    /// Calls (for `recipient:N`: recipients) that it was about.
    pub matched: u64,
    /// Those that met its fault.
    pub fired: u64,
}

/// A well mixed number of a number (`SplitMix64`'s finaliser).
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Active {
    fn is_about(&self, call: &Call<'_>) -> bool {
        let rule = &self.rule;
        if rule.command.is_some_and(|command| command != call.command)
            || rule.sdk_app_id.is_some_and(|app| app != call.sdk_app_id)
            || rule
                .to
                .as_ref()
                .is_some_and(|to| !call.recipients.iter().any(|recipient| to.matches(recipient)))
        {
            return false;
        }
        let Some(age) = Duration::from_micros(call.now.saturating_sub(self.since)).checked_sub(rule.after) else {
            return false;
        };
        let age = rule
            .every
            .and_then(|every| age.as_nanos().checked_rem(every.as_nanos()))
            .map_or(age, |nanos| Duration::from_nanos(nanos as u64));
        rule.lasting.is_none_or(|lasting| age < lasting)
    }

    /// Counts a matching call, and says which it is, from 1.
    fn count(&self) -> u64 {
        self.matched.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether its fault happens at the so-manyth matching call.
    fn fires(&self, nth: u64, seed: u64) -> bool {
        match self.rule.when {
            When::Probability(probability) => {
                let drawn = mix(mix(seed ^ mix(self.number)) ^ nth) >> 11;
                let fires = (drawn as f64) < probability * (1_u64 << 53) as f64;
                self.fired.fetch_add(u64::from(fires), Ordering::Relaxed);
                fires
            }
            When::Nth(wanted) => {
                let fires = nth == wanted;
                self.fired.fetch_add(u64::from(fires), Ordering::Relaxed);
                fires
            }
            When::Next(count) => {
                let take = |fired| (fired < count).then_some(fired + 1);
                self.fired
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
            }
        }
    }
}

/// The call that a rule is asked about.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) sdk_app_id: u64,
    pub(super) command: Command,
    pub(super) recipients: &'a [Cow<'a, str>],
    /// Microseconds of the simulator's clock.
    pub(super) now: u64,
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Faults {
    rules: ArcSwap<Vec<Arc<Active>>>,
    /// Held while the rules are changed; the number of the next one.
    next: Mutex<u64>,
    seed: u64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rules: ArcSwap::default(),
            next: Mutex::new(0),
            seed,
        }
    }

    /// Adds a rule after the others.
    pub(super) fn add(&self, rule: FaultRule, now: u64) {
        let mut next = self.next.lock();
        let active = Active {
            rule,
            number: *next,
            since: now,
            matched: AtomicU64::new(0),
            fired: AtomicU64::new(0),
        };
        *next += 1;
        let mut rules = Vec::clone(&self.rules.load());
        rules.push(Arc::new(active));
        self.rules.store(Arc::new(rules));
    }

    /// Removes the rules that satisfy a condition.
    pub(super) fn remove(&self, condition: impl Fn(&FaultRule) -> bool) {
        let _held = self.next.lock();
        let mut rules = Vec::clone(&self.rules.load());
        rules.retain(|active| !condition(&active.rule));
        self.rules.store(Arc::new(rules));
    }

    /// The fault that a call meets as a whole, with what it comes to.
    pub(super) fn of_call(&self, call: &Call<'_>) -> Option<(Fault, Effect)> {
        let mut met = None;
        for active in self.rules.load().iter() {
            let Some(effect) = active.rule.fault.effect() else {
                continue;
            };
            if active.is_about(call) {
                let nth = active.count();
                if met.is_none() && active.fires(nth, self.seed) {
                    met = Some((active.rule.fault, effect));
                }
            }
        }
        met
    }

    /// The code by which a recipient of a call fails; the call's own recipients aren't looked at.
    pub(super) fn of_recipient(&self, call: &Call<'_>, recipient: &str) -> Option<i32> {
        let rules = self.rules.load();
        if rules.is_empty() {
            return None;
        }
        let recipients = [Cow::Borrowed(recipient)];
        let call = Call {
            recipients: &recipients,
            ..*call
        };
        let mut met = None;
        for active in rules.iter() {
            let Fault::Recipient(code) = active.rule.fault else {
                continue;
            };
            if active.is_about(&call) {
                let nth = active.count();
                if met.is_none() && active.fires(nth, self.seed) {
                    met = Some(code);
                }
            }
        }
        met
    }

    pub(super) fn report(&self) -> Vec<FaultReport> {
        let report = |active: &Arc<Active>| FaultReport {
            rule: active.rule.to_string(),
            matched: active.matched.load(Ordering::Relaxed),
            fired: active.fired.load(Ordering::Relaxed),
        };
        self.rules.load().iter().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(command: Command, recipients: &'a [Cow<'a, str>], now: u64) -> Call<'a> {
        Call {
            sdk_app_id: 1,
            command,
            recipients,
            now,
        }
    }

    fn fired(faults: &Faults, command: Command, to: &str, now: u64) -> Option<Fault> {
        faults
            .of_call(&call(command, &[to.into()], now))
            .map(|(fault, _)| fault)
    }

    fn with(rules: &[&str], seed: u64) -> Faults {
        let faults = Faults::new(seed);
        for rule in rules {
            faults.add(rule.parse().unwrap(), 0);
        }
        faults
    }

    #[test]
    fn a_queue_of_faults_is_met_in_its_order_and_then_no_more() {
        let faults = with(&["sendmsg:never=next:1", "sendmsg:cut_after=next:2"], 1);
        let met: Vec<_> = (0..4).map(|_| fired(&faults, Command::SendMsg, "a", 0)).collect();
        assert_eq!(
            met,
            [Some(Fault::Never), Some(Fault::CutAfter), Some(Fault::CutAfter), None]
        );
        assert_eq!(fired(&faults, Command::ImportMsg, "a", 0), None);
    }

    #[test]
    fn the_nth_matching_call_meets_it_and_only_matching_calls_count() {
        let faults = with(&["sendmsg:never=nth:2,to=bob"], 1);
        let names = ["alice", "bob", "alice", "bob", "bob"];
        let met: Vec<_> = names
            .iter()
            .map(|to| fired(&faults, Command::SendMsg, to, 0).is_some())
            .collect();
        assert_eq!(met, [false, false, false, true, false]);
        assert_eq!((faults.report()[0].matched, faults.report()[0].fired), (3, 1));
    }

    #[test]
    fn a_probability_is_kept_and_the_seed_alone_decides_which_calls() {
        let draw = |seed| -> Vec<bool> {
            let faults = with(&["sendmsg:never=0.02"], seed);
            (0..50_000)
                .map(|_| fired(&faults, Command::SendMsg, "a", 0).is_some())
                .collect()
        };
        let (one, again, other) = (draw(1), draw(1), draw(2));
        assert_eq!(one, again);
        assert_ne!(one, other);
        let count = one.iter().filter(|fired| **fired).count();
        assert!((850..1150).contains(&count), "{count} of 50,000 at 2 %");
        assert_eq!(fired(&with(&["sendmsg:never=0"], 1), Command::SendMsg, "a", 0), None);
        assert!(fired(&with(&["sendmsg:never=1"], 1), Command::SendMsg, "a", 0).is_some());
    }

    #[test]
    fn a_window_opens_closes_and_comes_back() {
        let faults = with(&["*:code:60007=1,after=10s,for=5s,every=60s"], 1);
        let at = |seconds: u64| fired(&faults, Command::SendMsg, "a", seconds * 1_000_000).is_some();
        assert_eq!(
            [9, 10, 14, 15, 69, 70, 74, 75].map(at),
            [false, true, true, false, false, true, true, false]
        );
    }

    #[test]
    fn recipients_fail_one_by_one_and_calls_do_not_meet_their_rules() {
        let faults = with(&["batchsendmsg:recipient:70169=1,to=bad_*"], 1);
        let call = call(Command::BatchSendMsg, &[], 0);
        assert_eq!(faults.of_recipient(&call, "bad_1"), Some(70169));
        assert_eq!(faults.of_recipient(&call, "good"), None);
        assert_eq!(fired(&faults, Command::BatchSendMsg, "bad_1", 0), None);
    }
}
