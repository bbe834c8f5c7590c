//! The row that a fleet's workers share, as the budget sees it: asked in one step, answered with slots on another clock.

use std::{error::Error, time::Duration};

use async_trait::async_trait;

use crate::budget::{BudgetKey, Limits};

/// A slot of the ledger: may be used from `from` on and before `until`, microseconds on the ledger's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerSlot {
    /// Not before.
    pub from: i64,
    /// Before. Also the slot's name, when it is given back.
    pub until: i64,
}

/// What a worker gives back and asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerAsk {
    /// The limits as they are configured; at least one is set.
    pub limits: Limits,
    /// How long a slot may be used after it began.
    pub valid: Duration,
    /// How many slots are wanted; with 0 it only gives back.
    pub want: u32,
    /// How many of them for urgent work.
    pub urgent: u32,
    /// Recipients of each call; 0 where they don't count.
    pub weight: u32,
    /// No other worker seems to ask for this key.
    pub alone: bool,
    /// Slots that may still be used, by somebody else.
    pub back: Vec<LedgerSlot>,
    /// The `until` of slots that weren't used and can't be any more.
    pub forfeited: Vec<i64>,
    /// Recipients that a slot was reserved for and that aren't called with it, by its `until`.
    pub fewer: Vec<(i64, u32)>,
    /// Slots count until their calls are answered ([`WindowMode::Answered`](crate::budget::WindowMode::Answered)): `valid` is
    /// how long that takes at most.
    pub answered: bool,
    /// In that mode: slots whose calls were answered, by their `until`, and when, on the ledger's clock.
    pub ended: Vec<(i64, i64)>,
}

/// The ledger's answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LedgerReply {
    /// The ledger's clock: read after it was the asker's turn.
    pub now: i64,
    /// The slots; they are nobody else's.
    pub slots: Vec<LedgerSlot>,
    /// Calls that each slot is good for.
    pub unit: u32,
    /// How often anybody asked for this key.
    pub asked: i64,
    /// No call before, microseconds on the ledger's clock.
    pub paused_until: i64,
    /// More can't be granted sooner than that, unless somebody gives something back.
    pub wait: Duration,
    /// The share of the limits that is in force.
    pub share: f64,
}

/// Why the ledger gave nothing.
pub type LedgerError = Box<dyn Error + Send + Sync>;

/// The row of each key. Whatever it grants to all of its askers together keeps to the limits.
#[async_trait]
pub trait SlotLedger: Send + Sync + 'static {
    /// Gives back and reserves, atomically.
    async fn reserve(&self, key: &BudgetKey, ask: LedgerAsk) -> Result<LedgerReply, LedgerError>;

    /// A throttled answer: no call of the key (or of any command of its app) for `pause`, on any worker.
    async fn throttle(&self, key: &BudgetKey, app_wide: bool, pause: Duration) -> Result<(), LedgerError>;
}
