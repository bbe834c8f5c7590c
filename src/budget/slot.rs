//! A slot in a caller's hands, and the wish for one.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use super::{
    Nanos,
    key::Key,
    key_state::{Grant, SlotId},
};
use crate::domain::{GroupName, Lane};

/// A wish for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRequest {
    /// The lane that the job came in.
    pub lane: Lane,
    /// The job's group; jobs without one share a turn.
    pub group: Option<GroupName>,
    /// How many recipients the call has. Counts for batchsendmsg only. More than the limit of a minute goes when a whole
    /// minute is free, which is over the limit: cut calls by [`Budget::most_recipients`](super::Budget::most_recipients).
    pub recipients: u32,
    /// It had a slot that it forfeited: it goes first in its lane.
    pub retry_of: bool,
}

impl SlotRequest {
    /// A call to one recipient, in no group, for the first time.
    pub fn new(lane: Lane) -> Self {
        Self {
            lane,
            group: None,
            recipients: 1,
            retry_of: false,
        }
    }
}

/// What a call's answer says about the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// It wasn't throttled: any other answer, or none.
    Ok,
    /// The service asked for less.
    Throttled {
        /// Code 60011, the limit of the whole app: it slows every command of the app. Otherwise (60007, 60018, 60019)
        /// only this command.
        app_wide: bool,
    },
}

/// Why a slot can't be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forfeited {
    /// It came later than the guard allows, and nothing is free at the moment. Ask again with `retry_of`.
    #[error("the slot was used too late, and no other is free")]
    Late,
    /// It is not due yet, or not any more: urgent work, a throttled answer or a lower limit moved it to later. It is kept:
    /// wait for it again, or drop it.
    #[error("the slot is not due yet")]
    Early,
    /// It was taken back, or used before. Ask again with `retry_of`.
    #[error("the slot was taken back")]
    TakenBack,
}

/// How far a slot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Without a limit: nothing is held for it.
    Open,
    /// Granted.
    Held(SlotId),
    /// Used; its answer may still count.
    Used,
    /// Nothing more to say.
    Done,
    /// Of no budget.
    #[cfg(feature = "fault-points")]
    Bare,
}

/// The right to one call. Dropped unused, it goes to the next at once.
///
/// When it is due can move to later while it isn't used: [`Slot::wait_due`] follows that.
#[must_use = "a slot that is dropped unused is handed on"]
pub struct Slot {
    key: Arc<Key>,
    stage: Stage,
    granted: Nanos,
    recipients: u32,
}

impl Slot {
    pub(super) fn open(key: Arc<Key>, now: Nanos, recipients: u32) -> Self {
        Self {
            key,
            stage: Stage::Open,
            granted: now,
            recipients,
        }
    }

    pub(super) fn held(key: Arc<Key>, grant: Grant) -> Self {
        Self {
            key,
            stage: Stage::Held(grant.id),
            granted: grant.due,
            recipients: grant.recipients,
        }
    }

    /// When it is due, as things stand.
    pub fn due(&self) -> Instant {
        let moved = match self.stage {
            Stage::Held(id) => self.key.due(id),
            _ => None,
        };
        self.key.clock.instant(moved.unwrap_or(self.granted))
    }

    /// Waits until it is due; returns at once if it was taken back, which [`Slot::use_now`] then says.
    ///
    /// # Cancel safety
    /// The slot is kept.
    pub async fn wait_due(&self) {
        if let Stage::Held(id) = self.stage {
            while let Some(due) = self.key.due(id).filter(|&due| due > self.key.clock.now()) {
                tokio::time::sleep_until(self.key.clock.instant(due)).await;
            }
        }
    }

    /// Uses it: to be called right before the write, and never without it.
    ///
    /// A slot is never used late. One that is later than the guard counts from the present instead, if the budget has
    /// room for it there, and is forfeited if it hasn't.
    pub fn use_now(&mut self) -> Result<(), Forfeited> {
        let used = match self.stage {
            Stage::Open => self.key.use_open(self.recipients),
            Stage::Held(id) => self.key.use_held(id, self.recipients),
            Stage::Used | Stage::Done => Err(Forfeited::TakenBack),
            #[cfg(feature = "fault-points")]
            Stage::Bare => return Ok(()),
        };
        match used {
            Ok(due) => {
                self.stage = Stage::Used;
                self.granted = due;
                // What the benchmark compares with the moment of the write.
                tracing::trace!(target: "im_dispatcher::slots", command = %self.key.name.command, "a slot is used");
            }
            Err(Forfeited::Early) => {}
            Err(Forfeited::Late | Forfeited::TakenBack) => self.stage = Stage::Done,
        }
        used.map(drop)
    }

    /// The call was answered, or given up: in the mode `answered` the slot reopens one second (recipients: one minute)
    /// after that. Dropping a used slot says the same.
    pub fn answered(&mut self) {
        if self.stage == Stage::Used {
            self.stage = Stage::Done;
            self.key.call_answered(self.granted, self.recipients);
        }
    }
}

#[cfg(feature = "fault-points")]
impl Slot {
    /// A slot of no budget, which is always due and counts nowhere: what the benchmark compares the budget's cost with.
    pub fn bare() -> Self {
        static NOBODYS: std::sync::OnceLock<Arc<Key>> = std::sync::OnceLock::new();
        let key = NOBODYS.get_or_init(|| {
            let name = super::BudgetKey {
                host: "".into(),
                sdk_app_id: crate::domain::SdkAppId(0),
                command: crate::domain::Command::SendMsg,
            };
            let options = super::BudgetOptions::default();
            let source = super::window_pacer::WindowPacer::new(&options, super::Limits::NONE);
            let clock = super::key::BudgetClock::start();
            Arc::new(Key::new(name, clock, &options, super::Limits::NONE, Box::new(source)))
        });
        Self {
            key: Arc::clone(key),
            stage: Stage::Bare,
            granted: 0,
            recipients: 0,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Stage::Held(id) = self.stage {
            self.key.hand_on(id);
        }
        self.answered();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("key", &self.key.name)
            .field("stage", &self.stage)
            .field("recipients", &self.recipients)
            .finish_non_exhaustive()
    }
}
