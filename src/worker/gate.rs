//! May an app be called now? Closed while its credentials are refused or its host is ill; opened again by a probe.
//!
//! A closed gate is a lease: when its time is over one call goes through to try, so no lost signal keeps an app closed.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::Command;

/// Failures in a row after which the host counts as ill. One in a hundred calls fails on a bad day; ten in a row don't
/// happen then by chance.
const TRIP: u32 = 10;
/// The first pause of an ill host.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of an ill host: each probe is one call.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause after refused credentials: "too many bad `UserSig`s: wait a minute" (70050), and a person mends them.
const AUTH_PAUSE: Duration = Duration::from_secs(20);
/// How long after the pause other commands' answers don't open the gate of one that is ill.
const OTHERS_PATIENCE: Duration = Duration::from_secs(10);
/// How long others wait for a probe's outcome.
const PROBE_WAIT: Duration = Duration::from_millis(500);

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Yes.
    Go,
    /// Yes, this one, to try.
    Probe,
    /// Not before that.
    Wait(Duration),
}

/// Why a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Credentials or permissions were refused.
    Auth,
    /// The host doesn't answer, or answers with faults of its own.
    Ill,
}

#[derive(Debug)]
enum State {
    Open {
        /// In a row, by command.
        failures: [u32; Command::ALL.len()],
    },
    Closed {
        why: Closed,
        /// The command that is ill at a host that is there; `None`: no command of the app can go.
        ill: Option<Command>,
        reason: String,
        until: Instant,
        pause: Duration,
        probe_until: Option<Instant>,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Open {
            failures: [0; Command::ALL.len()],
        }
    }
}

/// The gate of one app.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    probe_timeout: Duration,
}

impl Gate {
    /// An open gate. A probe that says nothing for `probe_timeout` is given up, and another may try.
    pub(super) fn new(probe_timeout: Duration) -> Self {
        Self {
            state: Mutex::default(),
            probe_timeout,
        }
    }

    /// Whether a call may be made now.
    pub(super) fn check(&self, now: Instant) -> Pass {
        match &mut *self.state.lock() {
            State::Open { .. } => Pass::Go,
            State::Closed { until, .. } if now < *until => Pass::Wait(*until - now),
            State::Closed {
                probe_until: Some(probe),
                ..
            } if now < *probe => Pass::Wait(PROBE_WAIT),
            State::Closed { probe_until, .. } => {
                *probe_until = Some(now + self.probe_timeout);
                Pass::Probe
            }
        }
    }

    /// Whether it is closed to everything but a probe, without asking for one.
    pub(super) fn closed_for(&self, now: Instant) -> Option<Duration> {
        match &*self.state.lock() {
            State::Open { .. } => None,
            State::Closed { until, probe_until, .. } => {
                if now < *until {
                    Some(*until - now)
                } else {
                    probe_until.filter(|probe| now < *probe).map(|_| PROBE_WAIT)
                }
            }
        }
    }

    /// Whether it is closed to probes too.
    pub(super) fn pauses(&self, now: Instant) -> bool {
        matches!(&*self.state.lock(), State::Closed { until, .. } if now < *until)
    }

    /// Why it is closed, in words.
    pub(super) fn reason(&self) -> Option<(Closed, String)> {
        match &*self.state.lock() {
            State::Open { .. } => None,
            State::Closed { why, reason, .. } => Some((*why, reason.clone())),
        }
    }

    /// A call was answered by the service, with whatever code that isn't about credentials or its own illness.
    /// True: it was closed until now.
    pub(super) fn answered(&self, now: Instant, command: Command) -> bool {
        let mut state = self.state.lock();
        match &mut *state {
            State::Open { failures } => {
                failures[command.index()] = 0;
                false
            }
            // Another command's answer says little of the ill one: were it enough, a history that answers would let a
            // send's failures begin anew, again and again. Nobody may want the ill one any more, though.
            State::Closed {
                ill: Some(ill),
                until,
                probe_until,
                ..
            } if *ill != command && now < *until + OTHERS_PATIENCE => {
                *probe_until = None;
                false
            }
            State::Closed { .. } => {
                *state = State::default();
                true
            }
        }
    }

    /// Credentials were refused. True: it was open until now.
    pub(super) fn refused(&self, now: Instant, reason: &str) -> bool {
        let mut state = self.state.lock();
        let was_open = matches!(*state, State::Open { .. });
        *state = State::Closed {
            why: Closed::Auth,
            ill: None,
            reason: reason.to_owned(),
            until: now + AUTH_PAUSE,
            pause: AUTH_PAUSE,
            probe_until: None,
        };
        was_open
    }

    /// A call met no service, or an ill one. True: that closed it.
    pub(super) fn failed(&self, now: Instant, command: Command, reached: bool, reason: &str) -> bool {
        let mut state = self.state.lock();
        let (pause, closes) = match &mut *state {
            State::Open { failures } => {
                let failures = &mut failures[command.index()];
                *failures += 1;
                if *failures < TRIP {
                    return false;
                }
                (FIRST_PAUSE, true)
            }
            // Calls that were under way when it closed say nothing new.
            State::Closed { until, .. } if now < *until => return false,
            State::Closed {
                why: Closed::Auth,
                pause,
                ..
            } => (*pause, false),
            State::Closed { pause, .. } => ((*pause * 2).min(LONGEST_PAUSE), false),
        };
        *state = State::Closed {
            why: Closed::Ill,
            ill: reached.then_some(command),
            reason: reason.to_owned(),
            until: now + pause,
            pause,
            probe_until: None,
        };
        closes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: Command = Command::SendMsg;
    const HISTORY: Command = Command::GetRoamMsg;

    fn gate() -> (Gate, Instant) {
        (Gate::new(Duration::from_secs(6)), Instant::now())
    }

    #[test]
    fn ten_failures_in_a_row_close_it_and_an_answer_between_starts_the_count_again() {
        let (gate, now) = gate();
        for _ in 0..9 {
            assert!(!gate.failed(now, SEND, true, "timeout"));
        }
        gate.answered(now, SEND);
        for _ in 0..9 {
            assert!(!gate.failed(now, SEND, true, "timeout"));
        }
        assert_eq!(gate.check(now), Pass::Go);
        assert!(gate.failed(now, SEND, true, "timeout"));
        assert_eq!(gate.check(now), Pass::Wait(FIRST_PAUSE));
    }

    #[test]
    fn one_probe_goes_through_when_the_pause_is_over_and_its_answer_opens_the_gate() {
        let (gate, now) = gate();
        for _ in 0..TRIP {
            gate.failed(now, SEND, false, "connect");
        }
        let later = now + FIRST_PAUSE;
        assert_eq!(gate.check(later), Pass::Probe);
        assert_eq!(gate.check(later), Pass::Wait(PROBE_WAIT));
        assert!(gate.answered(later, SEND));
        assert_eq!(gate.check(later), Pass::Go);
    }

    #[test]
    fn a_failed_probe_doubles_the_pause_up_to_its_bound() {
        let (gate, mut now) = gate();
        for _ in 0..TRIP {
            gate.failed(now, SEND, false, "connect");
        }
        let mut last = FIRST_PAUSE;
        for _ in 0..8 {
            now += last;
            assert_eq!(gate.check(now), Pass::Probe);
            gate.failed(now, SEND, false, "connect");
            let Pass::Wait(pause) = gate.check(now) else {
                panic!("it must be closed")
            };
            assert!(pause >= last && pause <= LONGEST_PAUSE);
            last = pause;
        }
        assert_eq!(last, LONGEST_PAUSE);
    }

    #[test]
    fn a_probe_that_says_nothing_is_followed_by_another() {
        let (gate, now) = gate();
        assert!(gate.refused(now, "im-70009"));
        let later = now + AUTH_PAUSE;
        assert_eq!(gate.check(later), Pass::Probe);
        assert_eq!(gate.check(later + Duration::from_secs(6)), Pass::Probe);
    }

    #[test]
    fn answers_of_another_command_neither_hide_nor_end_the_illness_of_one() {
        let (gate, now) = gate();
        for _ in 1..TRIP {
            gate.failed(now, SEND, true, "http-503");
            gate.answered(now, HISTORY);
        }
        assert!(gate.failed(now, SEND, true, "http-503"));
        let later = now + FIRST_PAUSE;
        assert_eq!(gate.check(later), Pass::Probe);
        assert!(!gate.answered(later, HISTORY));
        assert_eq!(gate.check(later), Pass::Probe, "the next may try at once");
        assert!(gate.answered(later, SEND));
        assert_eq!(gate.check(later), Pass::Go);
    }

    #[test]
    fn a_gate_that_closed_for_a_command_that_nobody_wants_any_more_opens_by_others() {
        let (gate, now) = gate();
        for _ in 0..TRIP {
            gate.failed(now, SEND, true, "http-503");
        }
        let later = now + FIRST_PAUSE + OTHERS_PATIENCE;
        assert_eq!(gate.check(later), Pass::Probe);
        assert!(gate.answered(later, HISTORY));
    }

    #[test]
    fn any_answer_of_a_host_that_could_not_be_reached_opens_the_gate() {
        let (gate, now) = gate();
        for _ in 0..TRIP {
            gate.failed(now, SEND, false, "connect");
        }
        assert!(gate.answered(now + FIRST_PAUSE, HISTORY));
    }
}
