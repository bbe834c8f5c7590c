//! One key's budget at run time: its state under a lock, the callers that wait for it, and the timer task that turns it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    BudgetKey, BudgetOptions, CallOutcome, Forfeited, Limits, Nanos, Slot, SlotSource,
    key_state::{Grant, KeyState, SlotId, Wish},
    lanes::Ticket,
    meter::Meter,
    options::nanos,
};

/// The budget's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BudgetClock(Instant);

impl BudgetClock {
    /// Starts now.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Nanos {
        nanos(self.0.elapsed())
    }

    pub(super) fn instant(self, at: Nanos) -> Instant {
        self.0 + Duration::from_nanos(at)
    }
}

type Waiting = oneshot::Sender<Slot>;

/// What the lock protects.
struct Locked {
    state: KeyState<Waiting>,
    /// The timer task runs.
    driving: bool,
    /// When the timer task will turn next; `None`: when it is told to.
    wake: Option<Nanos>,
}

/// See the module.
pub(super) struct Key {
    pub(super) name: BudgetKey,
    pub(super) clock: BudgetClock,
    pub(super) meter: Meter,
    span: Nanos,
    /// A slot counts from the answer to its call.
    counts_answers: bool,
    /// No limit, no pause, nobody waiting: calls need neither lock nor turn.
    open: AtomicBool,
    locked: Mutex<Locked>,
    /// Tells the timer task to turn.
    kick: Notify,
}

/// What is to be done after the lock was released.
#[derive(Default)]
struct After {
    grants: Vec<(Waiting, Slot)>,
    drive: bool,
    kick: bool,
}

impl Key {
    pub(super) fn new(
        name: BudgetKey,
        clock: BudgetClock,
        options: &BudgetOptions,
        limits: Limits,
        source: Box<dyn SlotSource>,
    ) -> Self {
        Self {
            meter: Meter::new(name.command == crate::domain::Command::BatchSendMsg),
            name,
            clock,
            span: nanos(options.throttle.span),
            counts_answers: source.counts_from_answer(),
            open: AtomicBool::new(limits.is_none()),
            locked: Mutex::new(Locked {
                state: KeyState::new(options, limits, source),
                driving: false,
                wake: None,
            }),
            kick: Notify::new(),
        }
    }

    /// Changes the state, grants what that made possible, and wakes whoever it concerns, outside of the lock: a slot that
    /// nobody takes any more hands itself on, which needs the lock.
    fn turn<R>(self: &Arc<Self>, change: impl FnOnce(&mut KeyState<Waiting>, Nanos) -> R) -> R {
        let mut after = After::default();
        let result = {
            let mut locked = self.locked.lock();
            let now = self.clock.now();
            let result = change(&mut locked.state, now);
            self.grant(&mut locked, now, &mut after);
            let waiting = locked.state.waiting() != [0; 3];
            if waiting && !locked.driving {
                locked.driving = true;
                after.drive = true;
            }
            result
        };
        self.carry_out(after);
        result
    }

    /// Turns the state, under the lock.
    fn grant(self: &Arc<Self>, locked: &mut Locked, now: Nanos, after: &mut After) {
        let turn = locked.state.turn(now);
        let slots = turn
            .grants
            .into_iter()
            .map(|(sender, grant)| (sender, Slot::held(Arc::clone(self), grant)));
        after.grants.extend(slots);
        let sooner = match (turn.wake, locked.wake) {
            (Some(new), Some(old)) => new < old,
            (Some(_), None) => true,
            (None, _) => false,
        };
        after.kick = sooner && locked.driving;
        locked.wake = turn.wake;
        self.open.store(locked.state.is_open(now), Ordering::Release);
    }

    fn carry_out(self: &Arc<Self>, after: After) {
        for (sender, slot) in after.grants {
            // A caller that left meanwhile hands its slot on by dropping it here.
            drop(sender.send(slot));
        }
        if after.drive {
            tokio::spawn(drive(Arc::clone(self)));
        } else if after.kick {
            self.kick.notify_one();
        }
    }

    /// Waits for a slot.
    pub(super) async fn slot(self: &Arc<Self>, wish: Wish) -> Slot {
        let recipients = wish.recipients;
        loop {
            let now = self.clock.now();
            if self.open.load(Ordering::Acquire) {
                return Slot::open(Arc::clone(self), now, recipients);
            }
            if let Some(grant) = self.at_once(&wish) {
                return Slot::held(Arc::clone(self), grant);
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = self.turn(|state, now| state.queue(now, wish.clone(), sender));
            let mut place = Place {
                key: self,
                ticket: Some(ticket),
            };
            let granted = receiver.await;
            place.ticket = None;
            // The sender can't be lost while the key lives; if it were, the place in the line is taken anew.
            if let Ok(slot) = granted {
                return slot;
            }
        }
    }

    fn at_once(&self, wish: &Wish) -> Option<Grant> {
        let mut locked = self.locked.lock();
        let now = self.clock.now();
        // A pause that is over ends here: nobody turns a key for which nobody waits.
        self.open.store(locked.state.is_open(now), Ordering::Release);
        locked.state.at_once(now, wish)
    }

    /// When a slot is due; `None`: it was taken back.
    pub(super) fn due(&self, id: SlotId) -> Option<Nanos> {
        self.locked.lock().state.due(id)
    }

    /// Uses a slot that was granted without a limit.
    pub(super) fn use_open(self: &Arc<Self>, recipients: u32) -> Result<Nanos, Forfeited> {
        if !self.open.load(Ordering::Acquire) {
            // A limit or a pause came between: it needs a slot like any other.
            let wish = Wish {
                recipients,
                ..Wish::default()
            };
            return self.turn(|state, now| {
                let grant = state.at_once(now, &wish).ok_or(Forfeited::TakenBack)?;
                let due = state.use_now(now, grant.id)?;
                self.meter.record(now, recipients);
                Ok(due)
            });
        }
        let now = self.clock.now();
        self.meter.record(now, recipients);
        Ok(now)
    }

    /// Uses a slot; the instant by which its source knows it.
    pub(super) fn use_held(self: &Arc<Self>, id: SlotId, recipients: u32) -> Result<Nanos, Forfeited> {
        let used = {
            let mut locked = self.locked.lock();
            let now = self.clock.now();
            let used = locked.state.use_now(now, id);
            if used.is_ok() {
                self.meter.record(now, recipients);
            }
            used
        };
        if used == Err(Forfeited::Late) {
            self.turn(|_, _| ());
        }
        used
    }

    /// Hands an unused slot on.
    pub(super) fn hand_on(self: &Arc<Self>, id: SlotId) {
        self.turn(|state, now| state.hand_on(now, id));
    }

    /// A call that used a slot was answered or given up.
    pub(super) fn call_answered(self: &Arc<Self>, due: Nanos, recipients: u32) {
        if self.counts_answers {
            self.turn(|state, now| state.answered(now, due, recipients));
        }
    }

    /// What an answer says about the rate; `own`: it was this key's call.
    pub(super) fn outcome(self: &Arc<Self>, outcome: CallOutcome, own: bool) {
        self.turn(|state, now| {
            state.outcome(now, outcome, self.meter.calls(now, self.span));
            if own {
                state.spread(outcome);
            }
        });
    }

    /// No call is due before then.
    pub(super) fn pause_until(self: &Arc<Self>, until: Nanos) {
        self.turn(|state, now| state.pause_until(now, until));
    }

    /// Sets the limits.
    pub(super) fn set_limits(self: &Arc<Self>, limits: Limits) {
        self.turn(|state, now| state.set_limits(now, limits, &self.meter.past(now)));
    }

    /// Turns: the source has slots again.
    pub(super) fn wake(self: &Arc<Self>) {
        self.turn(|_, _| ());
    }

    /// Reads the state.
    pub(super) fn read<R>(&self, read: impl FnOnce(&KeyState<Waiting>) -> R) -> R {
        read(&self.locked.lock().state)
    }
}

/// A place in the line, which its owner leaves by dropping it.
struct Place<'a> {
    key: &'a Arc<Key>,
    /// `None` once served.
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.key.turn(|state, _| state.leave(&ticket));
        }
    }
}

/// Clears the mark of the timer task if its runtime ends before it does.
struct Driving<'a> {
    key: &'a Key,
    cut_off: bool,
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        if self.cut_off {
            self.key.locked.lock().driving = false;
        }
    }
}

/// Turns a key whenever a slot comes within the lead, until nobody waits.
async fn drive(key: Arc<Key>) {
    let mut driving = Driving {
        key: &key,
        cut_off: true,
    };
    loop {
        let mut after = After::default();
        let wake = {
            let mut locked = key.locked.lock();
            let now = key.clock.now();
            key.grant(&mut locked, now, &mut after);
            after.kick = false;
            if locked.state.waiting() == [0; 3] {
                locked.driving = false;
                None
            } else {
                Some(locked.wake)
            }
        };
        key.carry_out(after);
        match wake {
            None => break,
            Some(None) => key.kick.notified().await,
            Some(Some(at)) => {
                // Told to turn or time to: either way it turns.
                drop(tokio::time::timeout_at(key.clock.instant(at), key.kick.notified()).await);
            }
        }
    }
    // It cleared its mark itself, under the lock: another task may have set it since.
    driving.cut_off = false;
}
