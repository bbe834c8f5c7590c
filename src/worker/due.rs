//! Work that the table owns: taken when due and when there is room, oldest first for each command, app and lane.
//!
//! A row waits for its slot here only for moments; what can't get one goes back. So the table is the waiting room, and
//! a worker that dies costs no more than the leases that it held.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use tokio_util::task::TaskTracker;

use super::{
    cache::LoadedJob,
    context::{Context, Halt},
    judge::POISON,
};
use crate::{
    broker::Properties,
    domain::{
        AppName, Command, Lane,
        job::{Job, MAX_CALL_RECIPIENTS},
    },
    store::{Room, StoredJob, WorkKind, WorkUnit},
    telemetry::{Active, Operation},
};

/// How long a row is one worker's. Longer than the wait for a slot, the claim's window and a call's time-out together.
pub(super) const LEASE: Duration = Duration::from_mins(1);
/// How often the table is asked when nothing says that something is due: other workers' hand-overs and expired leases.
const POLL: Duration = Duration::from_millis(250);
/// Rows that a worker holds at most for one command, app and lane, whatever the limit.
const MOST_HELD: u32 = 256;
/// Rows that a worker holds at most where they wait to be merged (design: 2,000, as of deliveries).
const MOST_MERGING: u32 = 2_000;
/// How often a row's owner may die with it in its hands before the job counts as poison.
const MOST_TAKEOVERS: u32 = 20;

type Key = (Command, AppName, Lane);

/// Counts what is held for each key.
#[derive(Default)]
struct Held(parking_lot::Mutex<HashMap<Key, Arc<AtomicU32>>>);

impl Held {
    fn counter(&self, key: &Key) -> Arc<AtomicU32> {
        let mut counters = self.0.lock();
        Arc::clone(counters.entry(key.clone()).or_default())
    }
}

/// A row's place among those held; gives it up when dropped.
struct Place(Arc<AtomicU32>, Arc<Context>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.due.notify_one();
    }
}

/// Takes due work until the worker drains.
pub(super) async fn run(ctx: Arc<Context>, tasks: TaskTracker) {
    let held = Held::default();
    while !ctx.draining.is_cancelled() {
        // Subscribed before looking: what becomes due meanwhile wakes us.
        let woken = ctx.due.notified();
        let rooms = rooms(&ctx, &held);
        let taken = if rooms.is_empty() || ctx.database_is_away() {
            Ok(Vec::new())
        } else {
            ctx.store.take_work(&rooms, LEASE).await
        };
        let full = match taken {
            Ok(units) => {
                let full = rooms.iter().any(|room| {
                    let taken = units
                        .iter()
                        .filter(|u| u.command == room.command && u.app == room.app && u.lane == room.lane);
                    taken.count() == room.rows as usize
                });
                start(&ctx, &held, &tasks, units);
                full
            }
            Err(error) => {
                if error.is_unavailable() {
                    ctx.database_failed(&error);
                } else if !error.is_retryable_now() {
                    tracing::error!(error = &error as &dyn std::error::Error, "due work could not be taken");
                }
                false
            }
        };
        if full {
            // More may be due: at once if there is room left, else when a place is given up.
            tokio::task::yield_now().await;
        }
        tokio::select! {
            () = ctx.draining.cancelled() => {}
            () = woken => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// How many rows there is room for, by command, app and lane.
fn rooms(ctx: &Context, held: &Held) -> Vec<Room> {
    let now = Instant::now();
    let pauses = ctx.pauses.borrow().clone();
    let mut rooms = Vec::new();
    for app in ctx.apps.values() {
        // A closed gate lets a probe through when its pause is over: one row is enough for that.
        let closed = app.gate.reason().is_some();
        if app.gate.closed_for(now).is_some() {
            continue;
        }
        for command in Command::ALL {
            let most = if closed {
                1
            } else {
                most_held(ctx.budget_limit(app, command))
            };
            for lane in Lane::ALL {
                if pauses.stops(command, lane, &app.name, None) {
                    continue;
                }
                let holding = held.counter(&(command, app.name.clone(), lane)).load(Ordering::Relaxed);
                let merging = if command == Command::SendMsg {
                    ctx.coalescer.merging(&app.name, lane)
                } else {
                    0
                };
                let rows = room(most, holding, merging);
                if worth_taking(most, rows) {
                    rooms.push(Room {
                        command,
                        app: app.name.clone(),
                        lane,
                        rows,
                    });
                }
            }
        }
    }
    rooms
}

/// What a quarter of a second's budget uses, and a little: more would wait here instead of in the table.
fn most_held(calls_per_second: f64) -> u32 {
    if calls_per_second <= 0.0 {
        return MOST_HELD;
    }
    ((calls_per_second / 4.0).ceil() as u32)
        .saturating_add(1)
        .clamp(2, MOST_HELD)
}

/// How many rows more: sends that wait to be merged don't count, and where there are many, a whole call's worth more may
/// be like them.
fn room(most: u32, holding: u32, merging: u32) -> u32 {
    let more = if merging > most / 2 {
        MAX_CALL_RECIPIENTS as u32
    } else {
        0
    };
    (most + more)
        .saturating_sub(holding.saturating_sub(merging))
        .min(MOST_MERGING.max(most).saturating_sub(holding))
}

/// Whether there is room for so much that a statement is worth it: every place that is given up would take one row
/// otherwise, and what is held is enough for the time that three quarters of it take.
const fn worth_taking(most: u32, rows: u32) -> bool {
    rows > 0 && rows.saturating_mul(4) >= most
}

fn start(ctx: &Arc<Context>, held: &Held, tasks: &TaskTracker, units: Vec<WorkUnit>) {
    let mut revocations = Vec::new();
    for unit in units {
        let counter = held.counter(&(unit.command, unit.app.clone(), unit.lane));
        counter.fetch_add(1, Ordering::Relaxed);
        let place = Place(counter, Arc::clone(ctx));
        if unit.kind == WorkKind::Revoke {
            revocations.push((unit, place));
            continue;
        }
        let ctx = Arc::clone(ctx);
        tasks.spawn(async move {
            let _place = place;
            handle(&ctx, &unit).await;
        });
    }
    if !revocations.is_empty() {
        let (ctx, tasks) = (Arc::clone(ctx), tasks.clone());
        let spawner = tasks.clone();
        tasks.spawn(async move {
            let (units, places): (Vec<WorkUnit>, Vec<Place>) = revocations.into_iter().unzip();
            match ctx.persist(|| ctx.store.revocable(&units)).await {
                Ok(messages) => {
                    let mut places: HashMap<(String, i32), Place> = units
                        .iter()
                        .map(|unit| (unit.job.to_string(), unit.part))
                        .zip(places)
                        .collect();
                    for message in messages {
                        let place = places.remove(&(message.unit.job.to_string(), message.unit.part));
                        let ctx = Arc::clone(&ctx);
                        spawner.spawn(async move {
                            let _place = place;
                            let unit = message.unit.clone();
                            guard(&ctx, &unit, super::revoke::one(&ctx, message)).await;
                        });
                    }
                }
                Err(halt) => tracing::debug!(%halt, "revocations stay in the table"),
            }
        });
    }
}

/// Carries one row out. Whatever goes wrong, its lease ends and another worker takes it.
async fn handle(ctx: &Arc<Context>, unit: &WorkUnit) {
    if unit.kind == WorkKind::Deliver && put_off(ctx, unit).await {
        return;
    }
    // Boxed: the ways of all kinds in one future are some 20 KB.
    let work = Box::pin(async {
        // A doubt isn't failed unasked, and revocations go on for ever: only what delivers can be poison.
        let delivers = unit.kind == WorkKind::Deliver && unit.command != Command::GetRoamMsg;
        if unit.takeovers >= MOST_TAKEOVERS && delivers {
            tracing::error!(job.id = %unit.job, part = unit.part, takeovers = unit.takeovers, "a job is poison");
            return poison(ctx, unit).await;
        }
        match unit.kind {
            WorkKind::Deliver if unit.command == Command::GetRoamMsg => super::reconcile::run(ctx, unit).await,
            WorkKind::Deliver if unit.command == Command::BatchSendMsg => super::part::deliver(ctx, unit).await,
            WorkKind::Deliver => super::single_due::deliver(ctx, unit).await,
            WorkKind::FanOut => super::revoke::fan_out(ctx, unit).await,
            WorkKind::Close => super::part::close(ctx, unit).await,
            WorkKind::Operation => super::operation::run(ctx, unit).await,
            WorkKind::RevokeRaw => super::revoke::raw(ctx, unit).await,
            WorkKind::Revoke => Ok(()),
        }
    });
    guard(ctx, unit, work).await;
}

/// Gives a row back that is paused: one of a paused group until the pause ends, since nobody leaves a group's rows lying
/// as a paused lane's or app's.
async fn put_off(ctx: &Context, unit: &WorkUnit) -> bool {
    let (stopped, group) = {
        let pauses = ctx.pauses.borrow();
        let group = unit.group.as_ref().filter(|group| pauses.group(Some(group)));
        let stopped = pauses.stops(unit.command, unit.lane, &unit.app, unit.group.as_ref());
        (stopped, group)
    };
    if !stopped {
        return false;
    }
    match group {
        Some(group) => {
            if let Err(error) = ctx.store.park(unit, group).await {
                tracing::debug!(%error, job.id = %unit.job, "a paused row of work could not be put off: its lease will expire");
            }
        }
        None => give_back(ctx, unit, Duration::ZERO).await,
    }
    true
}

/// Ends a row in whose hands worker after worker died: failed, with its dead letter.
async fn poison(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    let error = (
        POISON.to_owned(),
        format!("{} workers died with it in hand", unit.takeovers),
    );
    if unit.command == Command::BatchSendMsg {
        super::part::end_as(ctx, unit, &error).await
    } else {
        super::single_due::end_as(ctx, unit, error).await
    }
}

/// A row's span, in the trace of its job; only where there are traces.
async fn span(ctx: &Context, unit: &WorkUnit) -> Active {
    let properties = match ctx.cache.get(&unit.job) {
        Some(loaded) => Some(loaded.properties.clone()),
        // A revoke job's target has none of its own here: then it begins a trace.
        None => match ctx.store.stored_job(&unit.job).await {
            Ok(Some(stored)) => Properties::from_bytes(&stored.properties).ok(),
            _ => None,
        },
    };
    let header = |name: &str| properties.as_ref()?.header(name);
    ctx.traces
        .work(unit.command.as_str(), unit.job.as_ref(), unit.lane, header)
}

async fn guard(ctx: &Context, unit: &WorkUnit, work: impl Future<Output = Result<(), Halt>>) {
    let span = if ctx.traces.is_on() {
        Box::pin(span(ctx, unit)).await
    } else {
        Active::default()
    };
    let work = span.within(|| work);
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(()) | Err(Halt::Stopping)) => {}
        Ok(Err(Halt::Store(error))) => {
            tracing::error!(job.id = %unit.job, kind = ?unit.kind, error = &*error as &dyn std::error::Error,
                            "a row of work could not be carried out; it is tried again");
            give_back(ctx, unit, Duration::from_secs(30)).await;
        }
        // The lease stays: when it expires that counts as a takeover, and twenty of them as poison.
        Err(_) => {
            ctx.metrics.operation(Operation::Panic);
            tracing::error!(job.id = %unit.job, kind = ?unit.kind, "a row of work panicked");
        }
    }
}

/// Gives a row back, as well as possible: if that fails its lease expires.
pub(super) async fn give_back(ctx: &Context, unit: &WorkUnit, after: Duration) {
    if let Err(error) = ctx.store.give_back(unit, after).await {
        tracing::debug!(%error, job.id = %unit.job, "a row of work could not be given back: its lease will expire");
    }
}

/// Why a row's job isn't there.
enum NotLoaded {
    /// It has no record.
    Missing,
    /// This version can't decode it.
    Unreadable,
    Halt(Halt),
}

/// The job of a row, decoded; `None` where it can't be read, which then ends it.
pub(super) async fn load(ctx: &Context, unit: &WorkUnit) -> Result<Option<Arc<LoadedJob>>, Halt> {
    let cell = ctx.cache.cell(&unit.job);
    match cell.get_or_try_init(|| read(ctx, unit)).await {
        Ok(loaded) => Ok(Some(Arc::clone(loaded))),
        Err(NotLoaded::Missing) => {
            tracing::error!(job.id = %unit.job, "a row of work has no job");
            ctx.persist(|| ctx.store.end_work(unit)).await?;
            Ok(None)
        }
        Err(NotLoaded::Unreadable) => {
            tracing::error!(job.id = %unit.job, "a stored job can't be decoded by this version");
            give_back(ctx, unit, Duration::from_mins(1)).await;
            Ok(None)
        }
        Err(NotLoaded::Halt(halt)) => Err(halt),
    }
}

async fn read(ctx: &Context, unit: &WorkUnit) -> Result<Arc<LoadedJob>, NotLoaded> {
    let stored = ctx.persist(|| ctx.store.stored_job(&unit.job)).await;
    let StoredJob {
        body,
        properties,
        total,
        ..
    } = stored.map_err(NotLoaded::Halt)?.ok_or(NotLoaded::Missing)?;
    let properties = Properties::from_bytes(&properties).unwrap_or_default();
    let message_id = properties.message_id().map(str::to_owned);
    let decoded = if body.len() > 1 << 20 {
        let _turn = ctx.large.acquire().await;
        tokio::task::spawn_blocking(move || Job::decode(&body, message_id.as_deref()))
            .await
            .ok()
    } else {
        Some(Job::decode(&body, message_id.as_deref()))
    };
    let Some(Ok(job)) = decoded else {
        return Err(NotLoaded::Unreadable);
    };
    Ok(Arc::new(LoadedJob::new(job, properties, total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_holds_about_a_quarter_second_of_a_budget() {
        assert_eq!(most_held(200.0), 51);
        assert_eq!(most_held(0.4), 2);
        assert_eq!(most_held(0.0), MOST_HELD);
        assert_eq!(most_held(1e6), MOST_HELD);
    }

    #[test]
    fn what_waits_to_be_merged_needs_no_room_of_its_own_up_to_a_bound() {
        assert_eq!(room(51, 20, 0), 31);
        assert_eq!(room(51, 51, 0), 0);
        assert_eq!(room(51, 51, 40), 51 + 500 - 11);
        assert_eq!(room(51, 1_900, 1_850), 100);
        assert_eq!(room(51, 2_000, 1_950), 0);
        assert_eq!(room(256, 300, 0), 0);
    }

    #[test]
    fn work_is_taken_a_quarter_of_what_is_held_at_a_time() {
        assert!(!worth_taking(51, 0));
        assert!(!worth_taking(51, 12));
        assert!(worth_taking(51, 13));
        assert!(worth_taking(2, 1));
        assert!(worth_taking(1, 1));
        assert!(!worth_taking(2, 0));
    }
}
