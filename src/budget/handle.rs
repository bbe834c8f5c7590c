//! The budget of a process: every key's, by name.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::{
    BudgetKey, BudgetOptions, CallOutcome, Limits, Nanos, Pacer, Slot, SlotRequest, SlotSource, SlotSources, Waker,
    governor_pacer::GovernorPacer,
    key::{BudgetClock, Key},
    key_state::Wish,
    options::nanos,
    window_pacer::{SECOND, WindowPacer},
};
use crate::domain::Command;

type LimitsOf = Box<dyn Fn(&BudgetKey) -> Limits + Send + Sync>;

/// Grants slots: see the module. Cheap to clone; all clones are one budget.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    options: BudgetOptions,
    clock: BudgetClock,
    limits: LimitsOf,
    sources: Box<dyn SlotSources>,
    keys: RwLock<HashMap<BudgetKey, Arc<Key>>>,
    /// Until when an app's answer stops keys that nobody asked for yet; the key is any one of the app's.
    app_pauses: Mutex<Vec<(BudgetKey, Nanos)>>,
}

/// The slots of one process.
struct Local(BudgetOptions);

impl SlotSources for Local {
    fn open(&self, _key: &BudgetKey, limits: Limits, _waker: Waker) -> Box<dyn SlotSource> {
        match self.0.pacer {
            Pacer::Window => Box::new(WindowPacer::new(&self.0, limits)),
            Pacer::Governor => Box::new(GovernorPacer::new(&self.0, limits)),
        }
    }
}

/// A key's meter reading.
#[derive(Debug, Clone)]
pub struct KeySnapshot {
    /// Whose.
    pub key: BudgetKey,
    /// The limits as they were set.
    pub limits: Limits,
    /// The limits in force: lower while throttled, in a fleet for all workers.
    pub effective: Limits,
    /// Calls of the last second, to a tenth of one.
    pub calls_last_second: u64,
    /// Calls of the last minute.
    pub calls_last_minute: u64,
    /// Recipients of the last minute; counted for batchsendmsg only.
    pub recipients_last_minute: u64,
    /// How many wait for a slot, by [`Lane::index`](crate::domain::Lane::index).
    pub waiting: [usize; 3],
    /// Slots that are granted and not used yet.
    pub held: usize,
    /// How long the one has waited that has waited longest, by [`Lane::index`](crate::domain::Lane::index).
    pub oldest_wait: [Option<Duration>; 3],
    /// Until when a throttled answer stops it.
    pub paused_until: Option<Instant>,
    /// Throttled answers since the start.
    pub throttled: u64,
    /// Slots since the start that came too late while nothing was free.
    pub forfeited: u64,
    /// Slots since the start that came too late and counted from their use instead.
    pub renewed: u64,
    /// Slots since the start that were handed back unused.
    pub handed_on: u64,
    /// Slots since the start that urgent work took over from holders, who got later ones.
    pub taken_over: u64,
}

impl Budget {
    /// The budget of one process. `limits` is asked for each key when it is first used, and by [`Budget::reload`].
    pub fn new(options: BudgetOptions, limits: impl Fn(&BudgetKey) -> Limits + Send + Sync + 'static) -> Self {
        let sources = Local(options.clone());
        Self::with_sources(options, limits, sources)
    }

    /// A budget whose slots come from elsewhere: from what a fleet reserves.
    pub fn with_sources(
        options: BudgetOptions,
        limits: impl Fn(&BudgetKey) -> Limits + Send + Sync + 'static,
        sources: impl SlotSources + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            options,
            clock: BudgetClock::start(),
            limits: Box::new(limits),
            sources: Box::new(sources),
            keys: RwLock::default(),
            app_pauses: Mutex::default(),
        }))
    }

    /// Waits for its turn; returns with a slot that is due within the lead. Without a limit it returns at once.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the line up; a slot that was granted meanwhile goes to the next.
    pub async fn slot(&self, key: &BudgetKey, request: SlotRequest) -> Slot {
        let key = self.key(key);
        let recipients = match key.name.command {
            Command::BatchSendMsg => request.recipients,
            _ => 0,
        };
        let wish = Wish {
            lane: Some(request.lane),
            group: request.group,
            recipients,
            retry: request.retry_of,
        };
        key.slot(wish).await
    }

    /// The most recipients that one call of a key can have without ever being over its limit; `None`: no limit.
    pub fn most_recipients(&self, key: &BudgetKey) -> Option<u32> {
        let limit = self.key(key).read(|state| state.configured().recipients_per_minute);
        (limit > 0).then_some(limit)
    }

    /// What the service said about the rate.
    pub fn answered(&self, key: &BudgetKey, outcome: CallOutcome) {
        match outcome {
            CallOutcome::Ok => {}
            CallOutcome::Throttled { app_wide: false } => self.key(key).outcome(outcome, true),
            CallOutcome::Throttled { app_wide: true } => {
                let own = self.key(key);
                let until = self.0.clock.now() + nanos(self.0.options.throttle.pause);
                {
                    let mut pauses = self.0.app_pauses.lock();
                    pauses.retain(|(paused, _)| !paused.same_app(key));
                    pauses.push((own.name.clone(), until));
                }
                for other in self.keys().into_iter().filter(|other| other.name.same_app(key)) {
                    other.outcome(outcome, other.name == *key);
                }
            }
        }
    }

    /// No call of a key is due before then: what another worker of the fleet was answered.
    pub fn pause_until(&self, key: &BudgetKey, until: Instant) {
        let from_now = until.saturating_duration_since(Instant::now());
        self.key(key).pause_until(self.0.clock.now() + nanos(from_now));
    }

    /// Sets the limits of a key, until [`Budget::reload`]. Slots that are granted already keep to a lower limit, too.
    pub fn set_limits(&self, key: &BudgetKey, limits: Limits) {
        self.key(key).set_limits(limits.of(key.command));
    }

    /// Asks for the limits of every key anew.
    pub fn reload(&self) {
        for key in self.keys() {
            key.set_limits((self.0.limits)(&key.name).of(key.name.command));
        }
    }

    /// The meter, in the order of app, host and command.
    pub fn snapshot(&self) -> Vec<KeySnapshot> {
        let mut snapshots: Vec<_> = self.keys().iter().map(|key| self.read(key)).collect();
        snapshots.sort_by(|a, b| {
            let order = |key: &BudgetKey| (key.sdk_app_id, key.command.index());
            order(&a.key)
                .cmp(&order(&b.key))
                .then_with(|| a.key.host.cmp(&b.key.host))
        });
        snapshots
    }

    fn read(&self, key: &Key) -> KeySnapshot {
        let clock = self.0.clock;
        let now = clock.now();
        // The bucket that is being filled counts as well.
        let just_under = |span: Nanos| span - 1;
        let (minute, second) = (just_under(60 * SECOND), just_under(SECOND));
        key.read(|state| KeySnapshot {
            key: key.name.clone(),
            limits: state.configured(),
            effective: state.in_force(),
            calls_last_second: key.meter.calls(now, second),
            calls_last_minute: key.meter.calls(now, minute),
            recipients_last_minute: key.meter.recipients(now, minute),
            waiting: state.waiting(),
            held: state.held(),
            oldest_wait: state
                .oldest()
                .map(|since| since.map(|since| Duration::from_nanos(now.saturating_sub(since)))),
            paused_until: Some(state.throttle().paused_until())
                .filter(|&until| until > now)
                .map(|until| clock.instant(until)),
            throttled: state.throttle().total(),
            forfeited: state.counts().forfeited,
            renewed: state.counts().renewed,
            handed_on: state.counts().handed_on,
            taken_over: state.counts().taken_over,
        })
    }

    fn keys(&self) -> Vec<Arc<Key>> {
        self.0.keys.read().values().cloned().collect()
    }

    fn key(&self, name: &BudgetKey) -> Arc<Key> {
        if let Some(key) = self.0.keys.read().get(name) {
            return Arc::clone(key);
        }
        let mut keys = self.0.keys.write();
        if let Some(key) = keys.get(name) {
            return Arc::clone(key);
        }
        let limits = (self.0.limits)(name).of(name.command);
        let key = Arc::new_cyclic(|weak: &std::sync::Weak<Key>| {
            let waker = Waker::new(weak.clone(), self.0.clock);
            let source = self.0.sources.open(name, limits, waker);
            Key::new(name.clone(), self.0.clock, &self.0.options, limits, source)
        });
        keys.insert(name.clone(), Arc::clone(&key));
        drop(keys);
        let mut pauses = self.0.app_pauses.lock().clone().into_iter();
        if let Some((_, until)) = pauses.find(|(paused, _)| paused.same_app(name)) {
            key.pause_until(until);
        }
        key
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}
