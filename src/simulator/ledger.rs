//! What came in, when, and what was it answered? The record of one app's calls of one command, kept in the order of
//! their arrival, with the limits that are counted on it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;

use super::{
    codes::{self, Refusal},
    limits::{Busiest, Meter},
    store::Account,
};
use crate::domain::Command;

/// The code of a call that was neither carried out nor answered with a code.
pub(super) const NO_CODE: i32 = -1;

/// One call that passed authentication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// Microseconds since the simulator started, on its monotonic clock.
    pub at: u64,
    /// The app.
    pub sdk_app_id: u64,
    /// The command's name.
    pub command: &'static str,
    /// Recipients: those of the request for a send, else 0.
    pub recipients: u32,
    /// The code that was decided on; 0 also where the answer was then withheld or spoilt by a fault; -1 if a fault kept
    /// it from being carried out and from being answered with a code.
    pub code: i32,
    /// Whether it was carried out, wholly or in part.
    pub carried_out: bool,
    /// Whether an answer with that code was sent off.
    pub answered: bool,
    /// The fault that it met, as the fault is spelled in rules.
    pub fault: Option<String>,
    /// The first recipient, or the account that the command is about.
    pub first_recipient: Option<String>,
    /// The URL's `random`, by which a client can find its own call.
    pub random: u32,
}

/// A call as it is kept: [`Arrival`] without what its ledger knows, and with nothing copied.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) at: u64,
    pub(super) recipients: u32,
    pub(super) random: u32,
    pub(super) code: i32,
    pub(super) carried_out: bool,
    pub(super) answered: bool,
    pub(super) fault: Option<Box<str>>,
    pub(super) account: Option<Arc<Account>>,
}

/// The record of one app's calls of one command.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Every call that passed authentication.
    arrived: Meter,
    /// Those of them that were within the limits.
    admitted: Meter,
    calls: u64,
    carried_out: u64,
    unanswered: u64,
    codes: BTreeMap<i32, u64>,
    recent: VecDeque<Call>,
}

/// The figures of one app's calls of one command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CommandReport {
    /// Calls that passed authentication.
    pub calls: u64,
    /// Of them, those that were carried out, wholly or in part.
    pub carried_out: u64,
    /// Of them, those that a fault left without an answer, or with one that carries no code.
    pub unanswered: u64,
    /// Calls by the code that was decided on.
    pub codes: BTreeMap<i32, u64>,
    /// Calls answered with a throttling code: 60007, 60011, 60018 or 60019.
    pub throttled: u64,
    /// The busiest windows over every call that arrived.
    pub busiest: Busiest,
    /// The same over those that the limits let through.
    pub busiest_admitted: Busiest,
}

/// The codes by which the service asks for less.
const THROTTLING: [i32; 4] = [60007, 60011, 60018, 60019];

impl Ledger {
    /// Counts a call that arrives `now`, and says whether it is within the limits (0: none). A call beyond them counts
    /// as arrived only: it takes nothing from the window.
    pub(super) fn admit(
        &mut self,
        now: u64,
        recipients: u32,
        calls_limit: u32,
        recipients_limit: u32,
    ) -> Result<(), Refusal> {
        self.calls += 1;
        self.arrived.push(now, recipients);
        self.admitted.advance(now);
        let over = |limit: u32, count: u64| limit != 0 && count > u64::from(limit);
        if over(calls_limit, self.admitted.calls_in_second() + 1)
            || over(
                recipients_limit,
                self.admitted.recipients_in_minute() + u64::from(recipients),
            )
        {
            return Err(codes::THROTTLED);
        }
        self.admitted.push(now, recipients);
        Ok(())
    }

    /// Counts a call that another limit already refused.
    pub(super) fn refuse(&mut self, now: u64, recipients: u32) {
        self.calls += 1;
        self.arrived.push(now, recipients);
    }

    /// Keeps how a call ended; at most `keep` are kept.
    pub(super) fn record(&mut self, call: Call, keep: Option<usize>) {
        if call.code != NO_CODE {
            *self.codes.entry(call.code).or_default() += 1;
        }
        self.carried_out += u64::from(call.carried_out);
        self.unanswered += u64::from(!call.answered);
        self.recent.push_back(call);
        if keep.is_some_and(|keep| self.recent.len() > keep) {
            self.recent.pop_front();
        }
    }

    pub(super) fn report(&self) -> CommandReport {
        CommandReport {
            calls: self.calls,
            carried_out: self.carried_out,
            unanswered: self.unanswered,
            codes: self.codes.clone(),
            throttled: THROTTLING.iter().filter_map(|code| self.codes.get(code)).sum(),
            busiest: self.arrived.busiest(),
            busiest_admitted: self.admitted.busiest(),
        }
    }

    /// The last `limit` calls, in the order in which they ended.
    pub(super) fn arrivals(&self, sdk_app_id: u64, command: Command, limit: usize) -> Vec<Arrival> {
        self.recent
            .iter()
            .skip(self.recent.len().saturating_sub(limit))
            .map(|call| Arrival {
                at: call.at,
                sdk_app_id,
                command: command.as_str(),
                recipients: call.recipients,
                code: call.code,
                carried_out: call.carried_out,
                answered: call.answered,
                fault: call.fault.as_deref().map(str::to_owned),
                first_recipient: call.account.as_deref().map(|account| account.name().to_owned()),
                random: call.random,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_beyond_the_limit_takes_nothing_from_the_window() {
        let mut ledger = Ledger::default();
        assert!(ledger.admit(0, 1, 2, 0).is_ok());
        assert!(ledger.admit(400_000, 1, 2, 0).is_ok());
        assert_eq!(ledger.admit(999_999, 1, 2, 0), Err(codes::THROTTLED));
        assert!(
            ledger.admit(1_000_000, 1, 2, 0).is_ok(),
            "the first has left the window"
        );
        assert!(ledger.admit(1_000_001, 1, 0, 0).is_ok(), "0 is no limit");
        let report = ledger.report();
        assert_eq!(
            (report.busiest.calls_second, report.busiest_admitted.calls_second),
            (4, 3)
        );
    }

    #[test]
    fn recipients_are_limited_over_a_minute_and_a_whole_call_is_refused() {
        let mut ledger = Ledger::default();
        assert!(ledger.admit(0, 500, 0, 1_000).is_ok());
        assert!(ledger.admit(1, 400, 0, 1_000).is_ok());
        assert!(ledger.admit(2, 101, 0, 1_000).is_err());
        assert!(ledger.admit(3, 100, 0, 1_000).is_ok());
        assert!(ledger.admit(60_000_000, 500, 0, 1_000).is_ok());
    }
}
