//! What can be set: limits, the guard, the window's mode, the lanes' floors, and how a throttled answer slows a key down.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Nanos;
use crate::domain::{Command, SdkAppId};

/// What has a budget of its own: the service limits each command of each app (im-api 3.0), on each host by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BudgetKey {
    /// The IM REST host, which is the region.
    pub host: Arc<str>,
    /// The app.
    pub sdk_app_id: SdkAppId,
    /// The command.
    pub command: Command,
}

impl BudgetKey {
    /// Whether another key belongs to the same app on the same host: a 60011 slows all of them.
    pub(super) fn same_app(&self, other: &Self) -> bool {
        self.sdk_app_id == other.sdk_app_id && self.host == other.host
    }
}

/// What the service grants a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Calls in any sliding second; 0: no limit. The service's default is 200 (im-api 3.0).
    pub calls_per_second: u32,
    /// Recipients in any sliding minute, of batchsendmsg only; 0: no limit. The service's default is 12,000 (im-api 3.0).
    pub recipients_per_minute: u32,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self {
        calls_per_second: 0,
        recipients_per_minute: 0,
    };

    /// Whether neither limit is set.
    pub const fn is_none(self) -> bool {
        self.calls_per_second == 0 && self.recipients_per_minute == 0
    }

    /// A share of each limit, of which at least 1 remains.
    pub(super) fn scaled(self, share: f64) -> Self {
        let scale = |limit: u32| match limit {
            0 => 0,
            limit => ((f64::from(limit) * share).round() as u32).max(1),
        };
        Self {
            calls_per_second: scale(self.calls_per_second),
            recipients_per_minute: scale(self.recipients_per_minute),
        }
    }

    /// Whether any limit is lower than before.
    pub(super) fn lower_than(self, before: Self) -> bool {
        let lower = |new: u32, old: u32| new != 0 && (old == 0 || new < old);
        lower(self.calls_per_second, before.calls_per_second)
            || lower(self.recipients_per_minute, before.recipients_per_minute)
    }

    /// The limits that hold for a command: only batchsendmsg counts recipients.
    pub(super) fn of(self, command: Command) -> Self {
        match command {
            Command::BatchSendMsg => self,
            _ => Self {
                recipients_per_minute: 0,
                ..self
            },
        }
    }
}

/// From when on a call's slot counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowMode {
    /// From when the call was due. Exact at our wire, and at the service while calls a second apart drift by less than
    /// the guard.
    #[default]
    Sent,
    /// From when its answer came: a slot reopens one second (recipients: one minute) after that. Exact at the service
    /// whatever the network does; costs the latency's share of the rate.
    Answered,
}

impl WindowMode {
    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Answered => "answered",
        }
    }
}

impl fmt::Display for WindowMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WindowMode {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Sent, Self::Answered]
            .into_iter()
            .find(|mode| mode.as_str() == s)
            .ok_or_else(|| format!("unknown window {s:?}: use sent or answered"))
    }
}

/// Who paces the calls of one process where no fleet shares the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pacer {
    /// The exact log of the last second: an idle second answers at once, a slot that is handed back is used again.
    #[default]
    Window,
    /// [`governor`] alone (`--no-fleet`): even pacing, always. Exact too, but a lone call waits for its beat, and a slot
    /// that wasn't used in time is lost. Knows no mode `answered`: an answer changes nothing.
    Governor,
}

/// How the budget works; [`BudgetOptions::default`] is what im-dispatcher ships with.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetOptions {
    /// How late a slot may be used, and by how much calls a second apart may drift on their way: the window is longer by
    /// it, and a slot that is later is forfeited. 4 ms cost 0.4 % of the rate; 50 ms would leave 190 of 200 a second.
    pub guard: Duration,
    /// From when on a slot counts.
    pub window: WindowMode,
    /// Who paces where no fleet does.
    pub pacer: Pacer,
    /// How long before it is due a slot is granted: time to commit a claim. Urgent work doesn't wait for it: it takes
    /// over slots that were granted ahead to others.
    pub lead: Duration,
    /// How much longer than its window a slot must have been free to be given out at once rather than at the even pace:
    /// a burst straight after a burst would otherwise be too much wherever the first one was slow on its way.
    pub settle: Duration,
    /// The share of the rate that work in other lanes always leaves free for `high`: an idle second answers a burst of
    /// bulk work with three quarters of its slots, and `high` finds one within four times the even pace also after that
    /// (give or take what was granted ahead, within the lead, before it came).
    pub urgent_share: f64,
    /// The share of a key's slots that each lane is guaranteed while it waits, by [`Lane::index`](crate::domain::Lane::index).
    /// `high` needs none, it goes first; what a lane doesn't use goes to the others.
    pub floors: [f64; 3],
    /// What a throttled answer does.
    pub throttle: ThrottleOptions,
}

/// How throttled answers (60007, 60011, 60018, 60019) slow a key down, and how it comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct ThrottleOptions {
    /// How long one throttled answer stops the key. The service counts by the second, so a second.
    pub pause: Duration,
    /// The time over which throttled answers are compared with calls; also the time between two steps back up.
    pub span: Duration,
    /// The share of throttled answers over which the rate is halved. A single answer never halves it.
    pub share: f64,
    /// The share of the full limit that comes back with each step.
    pub step: f64,
    /// The least share of the limit that remains, however often it is halved.
    pub least: f64,
}

impl Default for ThrottleOptions {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(1),
            span: Duration::from_secs(5),
            share: 0.01,
            step: 0.125,
            least: 0.0625,
        }
    }
}

impl Default for BudgetOptions {
    fn default() -> Self {
        Self {
            guard: Duration::from_millis(4),
            window: WindowMode::Sent,
            pacer: Pacer::Window,
            lead: Duration::from_millis(50),
            settle: Duration::from_millis(50),
            urgent_share: 0.25,
            floors: [0.0, 0.2, 0.1],
            throttle: ThrottleOptions::default(),
        }
    }
}

/// Why options can't work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// The guard must cover the timer's own grain of a millisecond and stay well under a second.
    #[error("guard must be from 2 ms to 200 ms, not {0:?}")]
    Guard(Duration),
    /// A slot can't be granted further ahead than a part of its window.
    #[error("lead must be at most 250 ms, not {0:?}")]
    Lead(Duration),
    /// Shares lie between 0 and 1, and all floors together leave something to the lane that goes first.
    #[error("{name} must be {range}, not {value}")]
    Share {
        /// Which.
        name: &'static str,
        /// What would be right.
        range: &'static str,
        /// What was given.
        value: f64,
    },
}

impl BudgetOptions {
    /// Checks every field.
    pub fn check(&self) -> Result<(), OptionsError> {
        let share = |name, range, value: f64, good: bool| {
            if good {
                Ok(())
            } else {
                Err(OptionsError::Share { name, range, value })
            }
        };
        if !(Duration::from_millis(2)..=Duration::from_millis(200)).contains(&self.guard) {
            return Err(OptionsError::Guard(self.guard));
        }
        if self.lead > Duration::from_millis(250) {
            return Err(OptionsError::Lead(self.lead));
        }
        for floor in self.floors {
            share("floor", "from 0 to 1", floor, (0.0..=1.0).contains(&floor))?;
        }
        let floors = self.floors.iter().sum();
        share("the sum of all floors", "at most 0.95", floors, floors <= 0.95)?;
        let urgent = self.urgent_share;
        share("urgent_share", "from 0 to 0.9", urgent, (0.0..=0.9).contains(&urgent))?;
        let throttle = &self.throttle;
        let parts = [
            ("share", throttle.share),
            ("step", throttle.step),
            ("least", throttle.least),
        ];
        for (name, value) in parts {
            share(name, "over 0 and at most 1", value, value > 0.0 && value <= 1.0)?;
        }
        Ok(())
    }

    /// [`BudgetOptions::lead`] in nanoseconds.
    pub(super) fn lead_ns(&self) -> Nanos {
        nanos(self.lead)
    }

    /// [`BudgetOptions::guard`] in nanoseconds.
    pub(super) fn guard_ns(&self) -> Nanos {
        nanos(self.guard)
    }
}

/// A duration as the pure core counts it; 584 years at most.
pub(super) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_bad_options_are_named() {
        assert_eq!(BudgetOptions::default().check(), Ok(()));
        let bad = BudgetOptions {
            guard: Duration::ZERO,
            ..BudgetOptions::default()
        };
        assert_eq!(bad.check(), Err(OptionsError::Guard(Duration::ZERO)));
        let bad = BudgetOptions {
            floors: [0.0, 0.6, 0.6],
            ..BudgetOptions::default()
        };
        assert!(bad.check().unwrap_err().to_string().contains("sum of all floors"));
    }

    #[test]
    fn a_limit_that_appears_or_falls_is_lower_and_one_that_goes_is_not() {
        let limits = |calls_per_second, recipients_per_minute| Limits {
            calls_per_second,
            recipients_per_minute,
        };
        assert!(limits(200, 0).lower_than(Limits::NONE));
        assert!(limits(200, 100).lower_than(limits(200, 200)));
        assert!(!limits(0, 200).lower_than(limits(200, 200)));
        assert!(!limits(300, 200).lower_than(limits(200, 200)));
    }
}
