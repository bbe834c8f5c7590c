//! Slots of a fleet: reserved ahead from a row that all workers share.
//!
//! - [`SlotLedger`] is that row, as a trait: how it is kept is not known here.
//! - `stock` has what this worker reserved, and says when to ask for more: pure.
//! - `clock_map` says when an instant of the ledger's clock is, here. A slot is used only when it is surely due.
//! - This module: one task per key that asks, while somebody waits.
//!
//! A worker that is idle reserves nothing; one that dies costs what it had reserved, a quarter of a second's worth at most.
//! While the ledger doesn't answer nothing is granted: the budget is the last thing to go over.

mod clock_map;
mod ledger;
#[cfg(test)]
mod memory_row;
#[cfg(test)]
mod simulation;
mod stock;

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify};

pub use ledger::{LedgerAsk, LedgerError, LedgerReply, LedgerSlot, SlotLedger};
use stock::{Plan, Stock};

use super::{
    BudgetKey, BudgetOptions, Limits, Nanos, WindowMode,
    options::nanos,
    source::{Ask, Booking, Past, SlotSource, SlotSources, Waker},
};

/// How long the ledger may take to answer. What it grants later is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes the sources of a fleet's keys.
pub struct Fleet {
    ledger: Arc<dyn SlotLedger>,
    guard: Nanos,
    /// In the mode `answered`: how long a call takes at most.
    answer_time: Option<Nanos>,
    pause: Duration,
    runtime: Handle,
}

impl Fleet {
    /// Slots out of this ledger. Must be called inside a runtime, in which the asking tasks then run. `call_time` is how long
    /// a call takes at most until it is answered or given up, which the mode `answered` must know.
    pub fn new(ledger: impl SlotLedger, options: &BudgetOptions, call_time: Duration) -> Self {
        Self {
            answer_time: (options.window == WindowMode::Answered).then(|| nanos(call_time)),
            ledger: Arc::new(ledger),
            guard: options.guard_ns(),
            pause: options.throttle.pause,
            runtime: Handle::current(),
        }
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl SlotSources for Fleet {
    fn open(&self, key: &BudgetKey, limits: Limits, waker: Waker) -> Box<dyn SlotSource> {
        let shared = Arc::new(Shared {
            key: key.clone(),
            ledger: Arc::clone(&self.ledger),
            pause: self.pause,
            waker,
            stock: Mutex::new(Stock::new(limits, self.guard).answered_within(self.answer_time)),
            state: Mutex::default(),
            kick: Notify::new(),
        });
        Box::new(FleetSource {
            counts_answers: self.answer_time.is_some(),
            shared,
            runtime: self.runtime.clone(),
        })
    }
}

/// What a source has in common with its task.
struct Shared {
    key: BudgetKey,
    ledger: Arc<dyn SlotLedger>,
    pause: Duration,
    waker: Waker,
    stock: Mutex<Stock>,
    state: Mutex<State>,
    kick: Notify,
}

#[derive(Default)]
struct State {
    /// The task runs.
    running: bool,
    /// The key is no more.
    closed: bool,
    /// A throttled answer that the ledger doesn't know of yet; true: it was about the whole app.
    throttled: Option<bool>,
}

/// The source of one key.
struct FleetSource {
    counts_answers: bool,
    shared: Arc<Shared>,
    runtime: Handle,
}

impl FleetSource {
    /// Tells the task to look; starts it where this is the first time.
    fn kick(&self) {
        let mut state = self.shared.state.lock();
        if !state.running {
            state.running = true;
            drop(self.runtime.spawn(ask_for_slots(Arc::clone(&self.shared))));
        }
        drop(state);
        self.shared.kick.notify_one();
    }
}

impl Drop for FleetSource {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.kick.notify_one();
    }
}

impl SlotSource for FleetSource {
    fn book(&mut self, ask: &Ask) -> Booking {
        self.shared.stock.lock().book(ask)
    }

    fn release(&mut self, now: Nanos, due: Nanos, _recipients: u32) {
        self.shared.stock.lock().release(now, due);
    }

    fn renew(&mut self, now: Nanos, due: Nanos, recipients: u32) -> bool {
        self.shared.stock.lock().renew(now, due, recipients)
    }

    fn latest(&self, due: Nanos, _guard: Nanos) -> Nanos {
        self.shared.stock.lock().latest(due)
    }

    fn answered(&mut self, now: Nanos, due: Nanos, _recipients: u32) {
        self.shared.stock.lock().call_answered(now, due);
    }

    fn counts_from_answer(&self) -> bool {
        self.counts_answers
    }

    fn set_limits(&mut self, now: Nanos, limits: Limits, past: &[Past]) {
        self.shared.stock.lock().set_limits(now, limits, past);
    }

    fn throttled(&mut self, app_wide: bool) {
        let mut state = self.shared.state.lock();
        state.throttled = Some(app_wide || state.throttled == Some(true));
        drop(state);
        self.kick();
    }

    fn forget_released(&mut self) {}

    fn restart(&mut self) {}

    fn urgent_horizon(&self, now: Nanos) -> Nanos {
        self.shared.stock.lock().urgent_horizon(now)
    }

    fn share(&self) -> f64 {
        self.shared.stock.lock().share()
    }

    fn demand(&mut self, now: Nanos, waiting: [usize; 3]) {
        let look = self.shared.stock.lock().demand(now, waiting);
        if look {
            self.kick();
        }
    }
}

/// Asks the ledger whenever there is something to ask for, until the key is no more.
async fn ask_for_slots(shared: Arc<Shared>) {
    let mut away = false;
    loop {
        let throttled = {
            let mut state = shared.state.lock();
            if state.closed {
                return;
            }
            state.throttled.take()
        };
        if let Some(app_wide) = throttled {
            let told = shared.ledger.throttle(&shared.key, app_wide, shared.pause);
            if !matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(()))) {
                tracing::debug!("the fleet couldn't be told of a throttled answer");
            }
        }
        let plan = {
            let now = shared.waker.now();
            shared.stock.lock().plan(now)
        };
        match plan {
            Plan::Rest => shared.kick.notified().await,
            Plan::Wait(at) => {
                // Told to look or time to: either way it looks.
                drop(tokio::time::timeout_at(shared.waker.instant(at), shared.kick.notified()).await);
            }
            Plan::Ask(ask) => {
                let answered = reserve(&shared, ask).await;
                if away == answered {
                    away = !answered;
                    if away {
                        tracing::warn!(command = %shared.key.command,
                                       "the fleet's budget can't be reached: no slot is granted until it is back");
                    } else {
                        tracing::info!(command = %shared.key.command, "the fleet's budget is back");
                    }
                }
            }
        }
    }
}

/// One ask. False: it wasn't answered.
async fn reserve(shared: &Shared, ask: LedgerAsk) -> bool {
    let weight = ask.weight;
    let sent = shared.waker.now();
    let reply = tokio::time::timeout(PATIENCE, shared.ledger.reserve(&shared.key, ask)).await;
    let now = shared.waker.now();
    let reply = match reply {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            tracing::debug!(error = &*error as &dyn std::error::Error, "a reservation failed");
            shared.stock.lock().failed(now);
            return false;
        }
        Err(_) => {
            shared.stock.lock().failed(now);
            return false;
        }
    };
    let paused = shared.stock.lock().answered(sent, now, weight, &reply);
    match paused {
        Some(until) => shared.waker.pause_until(until),
        None if reply.slots.is_empty() => {}
        None => shared.waker.wake(),
    }
    true
}
