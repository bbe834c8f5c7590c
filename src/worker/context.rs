//! What every part of the worker needs, and the few things that all of them do: wait for a slot, make a call, keep
//! trying to write a record while the database is away, publish an event.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    app::App,
    cache::JobCache,
    coalesce::Coalescer,
    events::Events,
    gate::{Closed, Pass},
    group_commit::{CommitError, GroupCommit, Pace},
    policy::LanePolicies,
};
use crate::{
    broker::{Broker, Publisher},
    budget::{Budget, CallOutcome, Forfeited, Limits, Slot, SlotRequest},
    domain::{
        AppName, Command, ErrorClass, GroupName, Lane,
        pause::{PauseScope, Pauses},
        retry::RetryPolicy,
    },
    im::{ImError, ImErrorKind},
    store::{
        ClaimVerdict, NewClaim, OutboxEvent, Recorded, RepeatRule, RevokeOutcome, SentOutcome, Store, StoreError,
        WorkerRun,
    },
    telemetry::{Metrics, Operation, Traces, Verdict as CallVerdict},
};

/// How long a delivery, or a row of work, waits for a slot before it goes (back) to the table: nothing is held unacked
/// for long.
pub(super) const SLOT_PATIENCE: Duration = Duration::from_secs(30);

/// How many jobs are begun for each call that may be in flight: while calls are under way, the next ones are claimed, and a
/// claim takes about as long as a quick call. A claim that waits longer than its window is given back.
const BEGUN_FOR_EACH_CALL: usize = 2;

/// Which reserve a lane's calls and statements take from: 0 high, 1 the others.
pub(super) const fn reserve(lane: Lane) -> usize {
    match lane {
        Lane::High => 0,
        Lane::Normal | Lane::Bulk => 1,
    }
}

/// Times that the promises rest on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// A call's total time-out.
    pub(super) total_timeout: Duration,
    /// Added to it before an absence in the history counts.
    pub(super) settle: Duration,
    /// How long after it accepted a message the service lists it at the latest (3 minutes).
    pub(super) listed_after: Duration,
    /// How long a UserSig lives, and with it at most a request that was signed and then held up.
    pub(super) usersig_lifetime: Duration,
}

/// How long the service remembers a call by its pair (im-api: MsgSeq, MsgRandom, sender and content, 120 s).
const REMEMBERED: Duration = Duration::from_mins(2);
/// The longest life of a UserSig that is waited for; who lets them live longer accepts what `check` warns of.
const LONGEST_FENCE: Duration = Duration::from_mins(2);
/// What clocks may drift within that.
const DRIFT: Duration = Duration::from_secs(2);

impl Timing {
    /// Before that, counted from the first call, a call may be repeated under its pair: should the repeat freeze in its
    /// write, then its signature ends before the service can have forgotten the first. So no order of late writes makes
    /// two messages.
    pub(super) fn repeat_until(&self) -> Duration {
        REMEMBERED.saturating_sub(self.usersig_lifetime + crate::store::CALL_WINDOW + DRIFT)
    }

    /// When a call may be repeated that may have been accepted.
    pub(super) fn repeats(&self) -> RepeatRule {
        RepeatRule {
            dropped_for: self.repeat_until(),
            listed_after: self.listed(),
        }
    }

    /// After that, counted from the claim of the last call, the history lists whatever was accepted: the service may
    /// accept a call for as long as its signature lives, which is made within the window of the claim, and lists it later
    /// still.
    pub(super) fn listed(&self) -> Duration {
        self.listed_after + crate::store::CALL_WINDOW + self.usersig_lifetime.min(LONGEST_FENCE) + DRIFT
    }

    /// After that long since its claim a call can't still be on its way: the window for its write, the time-out and
    /// the margin.
    pub(super) fn quiet(&self) -> Duration {
        crate::store::CALL_WINDOW + self.total_timeout + self.settle
    }
}

/// Why something could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    /// The worker stops; what is open goes back to its queue or its lease expires.
    #[error("the worker is stopping")]
    Stopping,
    /// The database refuses the statement: waiting doesn't help.
    #[error("the database refuses a statement")]
    Store(#[source] Arc<StoreError>),
}

impl From<CommitError> for Halt {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Stopped => Self::Stopping,
            CommitError::Store(error) => Self::Store(error),
        }
    }
}

/// A call on its way to the budget: what decides its slot.
#[derive(Clone, Copy)]
pub(super) struct Errand<'a> {
    /// The app.
    pub(super) app: &'a App,
    /// The command.
    pub(super) command: Command,
    /// The lane.
    pub(super) lane: Lane,
    /// The group, by which a lane's slots go in turns.
    pub(super) group: Option<&'a GroupName>,
    /// Recipients of the call.
    pub(super) recipients: u32,
}

impl Errand<'_> {
    fn request(&self, retry_of: bool) -> SlotRequest {
        SlotRequest {
            lane: self.lane,
            group: self.group.cloned(),
            recipients: self.recipients,
            retry_of,
        }
    }
}

/// A call that didn't give its answer.
#[derive(Debug)]
pub(super) enum CallFailure {
    /// No slot came due before the claim's deadline, or the app's calls pause since: nothing was written.
    TooLate,
    /// The call failed.
    Im(Box<ImError>),
}

/// Everything that the parts of a worker share.
pub(crate) struct Context {
    pub(super) store: Store,
    pub(super) apps: HashMap<AppName, Arc<App>>,
    pub(super) budget: Budget,
    pub(super) broker: Broker,
    pub(super) publisher: Publisher,
    pub(super) retry: RetryPolicy,
    pub(super) timing: Timing,
    /// `SyncFromOldSystem` of an import that counts as unread, and of one that is history.
    pub(super) import_words: (u8, u8),
    /// Whether a recipient's own failure makes a dead letter.
    pub(super) recipient_letters: bool,
    /// By urgency: high, others.
    pub(super) claims: [GroupCommit<NewClaim, ClaimVerdict>; 2],
    /// By urgency: high, others.
    pub(super) sent: [GroupCommit<SentOutcome, Recorded>; 2],
    pub(super) revoked: GroupCommit<RevokeOutcome, ()>,
    limits: Arc<Mutex<HashMap<(u64, Command), Limits>>>,
    /// Windows and caps of the lanes.
    pub(super) policies: LanePolicies,
    /// What an operator paused, a fraction of a second ago at most.
    pub(super) pauses: watch::Sender<Pauses>,
    /// Jobs that were begun and not called for yet, calls in flight included, by urgency: high has its own reserve.
    begun: [Arc<Semaphore>; 2],
    /// Calls in flight.
    calls: [Semaphore; 2],
    /// Bodies over 1 MB are decoded one at a time.
    pub(super) large: Semaphore,
    pub(super) cache: JobCache,
    /// Sends that wait, alone or for company.
    pub(super) coalescer: Coalescer,
    pub(super) events: Events,
    pub(super) metrics: Arc<Metrics>,
    pub(super) traces: Traces,
    /// Something is due, or will be soon.
    pub(super) due: Notify,
    /// Something is in the outbox.
    pub(super) outbox: Notify,
    /// No new work: what was begun is finished.
    pub(super) draining: CancellationToken,
    /// What isn't finished now goes back.
    pub(super) stopping: CancellationToken,
    database_away: AtomicBool,
    /// Why no connection with TLS to the database could be made at the last try.
    distrust: Mutex<Option<String>>,
    /// This process, as the records know it.
    pub(super) run: WorkerRun,
}

/// What a context is made of.
pub(crate) struct Parts {
    pub(crate) namespace: String,
    pub(crate) store: Store,
    pub(crate) clients: Vec<crate::im::ImClient>,
    pub(crate) budget: Budget,
    pub(crate) broker: Broker,
    pub(crate) retry: RetryPolicy,
    pub(crate) total_timeout: Duration,
    pub(crate) settle: Duration,
    pub(crate) listed_after: Duration,
    pub(crate) usersig_lifetime: Duration,
    pub(crate) import_words: (u8, u8),
    pub(crate) recipient_letters: bool,
    pub(crate) max_in_flight: u32,
    pub(crate) high_in_flight: u32,
    /// By app and command; they may change at any time.
    pub(crate) limits: Arc<Mutex<HashMap<(u64, Command), Limits>>>,
    /// Windows and caps of the lanes; they may change at any time.
    pub(crate) policies: LanePolicies,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Traces,
    pub(crate) draining: CancellationToken,
    pub(crate) stopping: CancellationToken,
    pub(crate) run: WorkerRun,
}

impl Context {
    /// Starts the committing tasks. Must be called inside a runtime.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let apps = parts
            .clients
            .into_iter()
            .map(|client| {
                (
                    client.app().name.clone(),
                    Arc::new(App::new(client, parts.total_timeout)),
                )
            })
            .collect();
        let claims = [true, false].map(|high| {
            let store = parts.store.clone();
            GroupCommit::start(
                Pace::SHORT,
                move |claims: Arc<Vec<NewClaim>>| {
                    let store = store.clone();
                    async move { store.claim_new(high, &claims).await }
                },
                |item| (item.id.clone(), 0),
            )
        });
        let sent = [true, false].map(|high| {
            let store = parts.store.clone();
            GroupCommit::start(
                if high { Pace::SHORT } else { Pace::LONG },
                move |outcomes: Arc<Vec<SentOutcome>>| {
                    let store = store.clone();
                    async move { store.record_sent(high, &outcomes).await }
                },
                |item| (item.id.clone(), 0),
            )
        });
        let revoked = {
            let store = parts.store.clone();
            GroupCommit::start(
                Pace::LONG,
                move |outcomes: Arc<Vec<RevokeOutcome>>| {
                    let store = store.clone();
                    async move {
                        store.record_revoked(&outcomes).await?;
                        Ok(vec![(); outcomes.len()])
                    }
                },
                |item| (item.unit.job.clone(), item.unit.part),
            )
        };
        let in_flight = [parts.high_in_flight as usize, parts.max_in_flight as usize];
        Arc::new(Self {
            events: Events::new(&parts.namespace),
            store: parts.store,
            apps,
            budget: parts.budget,
            publisher: parts.broker.publisher(),
            broker: parts.broker,
            retry: parts.retry,
            timing: Timing {
                total_timeout: parts.total_timeout,
                settle: parts.settle,
                listed_after: parts.listed_after,
                usersig_lifetime: parts.usersig_lifetime,
            },
            import_words: parts.import_words,
            recipient_letters: parts.recipient_letters,
            claims,
            sent,
            revoked,
            limits: parts.limits,
            policies: parts.policies,
            pauses: watch::Sender::default(),
            begun: in_flight.map(|calls| Arc::new(Semaphore::new(calls * BEGUN_FOR_EACH_CALL))),
            calls: in_flight.map(Semaphore::new),
            large: Semaphore::new(1),
            cache: JobCache::default(),
            coalescer: Coalescer::default(),
            metrics: parts.metrics,
            traces: parts.traces,
            due: Notify::new(),
            outbox: Notify::new(),
            draining: parts.draining,
            stopping: parts.stopping,
            database_away: AtomicBool::new(false),
            distrust: Mutex::default(),
            run: parts.run,
        })
    }

    /// Whether the last statement found the database away.
    pub(crate) fn database_is_away(&self) -> bool {
        self.database_away.load(Ordering::Relaxed)
    }

    /// A statement failed since the database is away.
    pub(super) fn database_failed(&self, error: &StoreError) {
        let distrust = error.distrust();
        let why = distrust.as_deref();
        if !self.database_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "Postgres is away: no new work is taken until it is back"
            );
            self.broker.pause_consuming(true);
        } else if why.is_some() && *self.distrust.lock() != distrust {
            tracing::warn!(
                why,
                "no connection with TLS to Postgres can be made: `im-dispatcher check` tells more"
            );
        }
        *self.distrust.lock() = distrust;
    }

    /// It answers and takes writes.
    pub(super) fn database_answers(&self) {
        if self.database_away.swap(false, Ordering::Relaxed) {
            *self.distrust.lock() = None;
            tracing::info!("Postgres is back");
            self.broker.pause_consuming(false);
        }
    }

    /// Room for a job on its way to its call: given up once the call was answered. Taken before its slot, so that slots are
    /// not asked for by more jobs than could call.
    pub(super) async fn permit(&self, lane: Lane) -> Result<OwnedSemaphorePermit, Halt> {
        let begun = Arc::clone(&self.begun[reserve(lane)]);
        tokio::select! {
            permit = begun.acquire_owned() => permit.map_err(|_| Halt::Stopping),
            () = self.draining.cancelled() => Err(Halt::Stopping),
        }
    }

    /// A slot that is due soon; `None` if none came within [`SLOT_PATIENCE`], or before the call was paused.
    pub(super) async fn slot(&self, errand: Errand<'_>) -> Option<Slot> {
        #[cfg(feature = "fault-points")]
        if super::fault::off("budget") {
            return Some(Slot::bare());
        }
        let asked = Instant::now();
        let mut operators = self.pauses.subscribe();
        let paused =
            operators.wait_for(|pauses| pauses.stops(errand.command, errand.lane, &errand.app.name, errand.group));
        let slot = tokio::select! {
            biased;
            _ = paused => return None,
            slot = self.budget.slot(errand.app.key(errand.command), errand.request(false)) => slot,
            () = tokio::time::sleep(SLOT_PATIENCE) => return None,
            () = self.draining.cancelled() => return None,
        };
        self.metrics.budget_wait(errand.lane, asked.elapsed());
        // It may have closed while the call waited for its slot.
        (!errand.app.gate.pauses(Instant::now())).then_some(slot)
    }

    /// Reads what is paused, and tells everybody whom it concerns.
    pub(crate) async fn refresh_pauses(&self) {
        let now = match self.store.pauses().await {
            Ok(pauses) => pauses,
            // What was paused stays so until it is known that it isn't.
            Err(error) => {
                tracing::debug!(%error, "what is paused could not be read");
                return;
            }
        };
        let changed = self.pauses.send_if_modified(|before| {
            let changed = *before != now;
            before.clone_from(&now);
            changed
        });
        if changed {
            let mut names: Vec<String> = now.iter().map(|(scope, _)| scope.to_string()).collect();
            names.sort();
            tracing::info!(paused = names.join(", "), "what is paused has changed");
            for lane in Lane::ALL {
                self.broker.pause_lane(lane, now.lane(lane));
            }
            self.due.notify_one();
        }
    }

    /// Makes a call with a granted slot: waits until it is due, asks for another where it came too late to be used, and
    /// tells budget, gate and metrics what came of it. `deadline` is the claim's: nothing is written after it.
    pub(super) async fn call<T, F, Fut>(
        &self,
        errand: Errand<'_>,
        mut slot: Slot,
        deadline: Instant,
        make: F,
    ) -> Result<T, CallFailure>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, ImError>>,
    {
        let Errand { app, command, lane, .. } = errand;
        let _call = loop {
            slot.wait_due().await;
            let until = tokio::time::Instant::from_std(deadline);
            let Ok(Ok(call)) = tokio::time::timeout_at(until, self.calls[reserve(lane)].acquire()).await else {
                return Err(self.too_late());
            };
            if app.gate.pauses(Instant::now()) {
                // It closed since this job passed it.
                return Err(CallFailure::TooLate);
            }
            match slot.use_now() {
                Ok(()) => break call,
                // It was moved to later: by urgent work, a throttled answer or a lower limit.
                Err(Forfeited::Early) if Instant::now() < deadline => continue,
                Err(Forfeited::Early) => return Err(self.too_late()),
                Err(_) => self.metrics.operation(Operation::SlotForfeited),
            }
            drop(call);
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.budget.slot(app.key(command), errand.request(true))).await {
                Ok(another) => slot = another,
                Err(_) => return Err(self.too_late()),
            }
        };
        let attempt = self.traces.attempt(command, app.name.as_str(), lane, errand.recipients);
        let began = Instant::now();
        let result = {
            let _in_flight = self.metrics.begin_call();
            make().await
        };
        if let Err(error) = &result {
            attempt.failed(|| (error.word(), error.class.as_str()));
        }
        drop(attempt);
        self.metrics.call(command, began.elapsed());
        slot.answered();
        self.learn(app, command, result.as_ref().err());
        result.map_err(|error| CallFailure::Im(Box::new(error)))
    }

    fn too_late(&self) -> CallFailure {
        self.metrics.operation(Operation::ClaimTooLate);
        CallFailure::TooLate
    }

    /// Tells budget, gate and metrics what a call taught.
    fn learn(&self, app: &App, command: Command, error: Option<&ImError>) {
        let key = app.key(command);
        let Some(error) = error else {
            self.budget.answered(key, CallOutcome::Ok);
            self.metrics.attempt(command, CallVerdict::Ok);
            self.answered(app, command);
            return;
        };
        self.metrics.attempt(command, CallVerdict::Error(error.class));
        self.metrics.error_code(command, &error.word());
        tracing::debug!(app = %app.name, command = %command, class = %error.class, code = %error.word(),
                        url_random = error.url_random, "a call failed");
        match error.class {
            ErrorClass::Throttled => {
                let app_wide = error.code.is_some_and(|code| code.0 == 60_011);
                self.budget.answered(key, CallOutcome::Throttled { app_wide });
                self.answered(app, command);
                return;
            }
            ErrorClass::Auth => {
                if app
                    .gate
                    .refused(Instant::now(), &format!("{}: {}", error.word(), error.text))
                {
                    self.metrics.set_circuit_open(app.name.as_str(), true);
                    tracing::error!(app = %app.name, code = %error.word(), text = %error.text,
                                    "the IM service refuses the app's credentials: its calls pause");
                }
            }
            ErrorClass::Transient | ErrorClass::Ambiguous => match error.kind {
                // Nothing was written, or the service is there and said so: a callback that failed, a new signature.
                ImErrorKind::Deadline | ImErrorKind::Request => {}
                ImErrorKind::Refused if error.class == ErrorClass::Transient => {}
                _ => {
                    let reached = error.kind != ImErrorKind::Connect;
                    if app.gate.failed(Instant::now(), command, reached, &error.word()) {
                        self.metrics.set_circuit_open(app.name.as_str(), true);
                        tracing::warn!(app = %app.name, code = %error.word(),
                                       "the IM service doesn't answer: calls pause until a probe succeeds");
                    }
                }
            },
            _ => self.answered(app, command),
        }
        self.budget.answered(key, CallOutcome::Ok);
    }

    /// The service answers an app's calls.
    fn answered(&self, app: &App, command: Command) {
        if app.gate.answered(Instant::now(), command) {
            self.metrics.set_circuit_open(app.name.as_str(), false);
            tracing::info!(app = %app.name, "calls work again");
        }
    }

    /// Calls a second that a command's budget allows, both dimensions considered; 0: no limit.
    pub(super) fn budget_limit(&self, app: &App, command: Command) -> f64 {
        let limits = self
            .limits
            .lock()
            .get(&(app.client.app().sdk_app_id.0, command))
            .copied()
            .unwrap_or(Limits::NONE);
        let calls = f64::from(limits.calls_per_second);
        let batches = f64::from(limits.recipients_per_minute) / 60.0 / crate::domain::job::MAX_CALL_RECIPIENTS as f64;
        match (limits.calls_per_second, limits.recipients_per_minute) {
            (_, 0) => calls,
            (0, _) => batches,
            _ => calls.min(batches),
        }
    }

    /// What `/readyz` says of the worker: reasons that stop all work, and notes.
    pub(crate) fn readiness(&self) -> (Vec<String>, Vec<String>) {
        let (mut reasons, mut notes) = (Vec::new(), Vec::new());
        if self.database_is_away() {
            reasons.push(match &*self.distrust.lock() {
                Some(why) => format!("Postgres is away: no connection with TLS: {why}"),
                None => "Postgres is away: no job can be recorded".to_owned(),
            });
        }
        let closed = self.closed_apps();
        let pauses = self.pauses.borrow().clone();
        let idle = self
            .apps
            .keys()
            .filter(|app| pauses.app(app) || closed.iter().any(|(name, ..)| name == *app));
        let all = idle.count() == self.apps.len() && !self.apps.is_empty();
        for (scope, until) in pauses.iter() {
            let end = until.map_or_else(
                || "until it is resumed".to_owned(),
                |until| format!("until {}", until.to_rfc3339()),
            );
            let sentence = format!("{scope} is paused by an operator {end}");
            if all && matches!(scope, PauseScope::App(_)) {
                reasons.push(sentence);
            } else {
                notes.push(sentence);
            }
        }
        for (app, why, reason) in closed {
            let sentence = match why {
                Closed::Auth => format!("app {app} is paused: the IM service refuses its credentials ({reason})"),
                Closed::Ill => format!("app {app} is paused: the IM service doesn't answer ({reason})"),
            };
            if all {
                reasons.push(sentence);
            } else {
                notes.push(sentence);
            }
        }
        (reasons, notes)
    }

    /// How long an app's calls have to wait; `None`: they may be made.
    pub(super) fn gate_wait(app: &App) -> Option<Duration> {
        match app.gate.check(Instant::now()) {
            Pass::Go | Pass::Probe => None,
            Pass::Wait(wait) => Some(wait),
        }
    }

    /// The apps whose gates are closed: name, cause and reason.
    pub(super) fn closed_apps(&self) -> Vec<(AppName, Closed, String)> {
        let mut closed: Vec<_> = self
            .apps
            .values()
            .filter_map(|app| app.gate.reason().map(|(why, reason)| (app.name.clone(), why, reason)))
            .collect();
        closed.sort_by(|a, b| a.0.cmp(&b.0));
        closed
    }

    /// Runs a statement until it succeeds: while the database is away it waits, and what is held stays held.
    pub(super) async fn persist<T, F, Fut>(&self, mut statement: F) -> Result<T, Halt>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        self.insist(|| {
            // Boxed: a transaction's future has 8 KB, which every job's task would carry for what most never run.
            let statement = Box::pin(statement());
            async move { statement.await.map_err(|error| CommitError::Store(Arc::new(error))) }
        })
        .await
    }

    /// The same for a group commit.
    pub(super) async fn insist<T, F, Fut>(&self, mut statement: F) -> Result<T, Halt>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, CommitError>>,
    {
        let mut pause = Duration::from_millis(20);
        loop {
            let error = match statement().await {
                Ok(value) => return Ok(value),
                Err(CommitError::Stopped) => return Err(Halt::Stopping),
                Err(CommitError::Store(error)) => error,
            };
            if !error.is_unavailable() && !error.is_retryable_now() {
                tracing::error!(error = &*error as &dyn std::error::Error, "a statement failed");
                return Err(Halt::Store(error));
            }
            self.metrics.operation(Operation::StatementRetry);
            if error.is_unavailable() {
                self.database_failed(&error);
            }
            tokio::select! {
                () = self.stopping.cancelled() => return Err(Halt::Stopping),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Publishes an event with its confirm; where that takes too long, the outbox takes it over.
    pub(super) async fn publish_event(&self, event: &OutboxEvent) -> Result<(), Halt> {
        let reply_to = event
            .reply_to
            .clone()
            .map(|queue| (queue, event.correlation_id.clone()));
        match self
            .publisher
            .event(&event.routing_key, &event.event_id, event.body.clone().into(), reply_to)
            .await
        {
            Ok(()) => {
                self.metrics.events_published(1);
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%error, "an event goes to the outbox");
                self.persist(|| self.store.add_event(event)).await?;
                self.outbox.notify_one();
                Ok(())
            }
        }
    }
}
