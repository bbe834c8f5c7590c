//! The way of a job: from a delivery, or a due row of the table, through the budget to the IM API and into the records.
//!
//! Two owners: a job belongs to its delivery (`delivery`, `single`) until it is handed to the table (`due`,
//! `single_due`, `part`, `reconcile`, `revoke`, `operation`), never back. `context` holds what all of them do. The order
//! is always slot, claim, call, outcome, event, ack; each step may be repeated after a crash.

mod app;
mod cache;
mod coalesce;
mod context;
mod delivery;
mod due;
mod events;
mod existing;
mod gate;
mod group_commit;
mod judge;
mod ledger;
mod look;
mod meters;
#[cfg(test)]
mod model_tests;
mod operation;
mod outbox;
mod pair;
mod part;
mod policy;
mod reconcile;
mod revoke;
mod single;
mod single_due;
mod step;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub(crate) use context::{Context, Parts};
pub(crate) use ledger::StoreLedger;
pub(crate) use policy::{LanePolicies, announce_windows};

use crate::{
    broker::{Deliveries, Delivery, Disposition},
    domain::Lane,
    fault,
};

/// How often gauges are refreshed and the database is asked whether it is back.
const PULSE: Duration = Duration::from_millis(500);
/// How often a worker reads what is paused: a pause holds everywhere within a second.
const PAUSES_EVERY: Duration = Duration::from_millis(300);
/// How often the counts of the table are taken; each is bounded, but not free.
const COUNT_EVERY: u32 = 10;
/// How often partitions are made ahead, which reach four weeks, and old counts of caps removed.
const PARTITIONS_EVERY: Duration = Duration::from_hours(6);

/// A worker that has been started.
pub(crate) struct Worker {
    ctx: Arc<Context>,
    tasks: TaskTracker,
    background: TaskTracker,
}

impl Worker {
    /// Starts taking deliveries and due work. Migrations must have been applied.
    pub(crate) fn start(ctx: Arc<Context>, mut deliveries: Deliveries) -> Self {
        let (tasks, background) = (TaskTracker::new(), TaskTracker::new());
        for lane in Lane::ALL {
            background.spawn(consume(Arc::clone(&ctx), deliveries.take(lane), tasks.clone()));
        }
        background.spawn(due::run(Arc::clone(&ctx), tasks.clone()));
        background.spawn(outbox::run(Arc::clone(&ctx)));
        background.spawn(pulse(Arc::clone(&ctx)));
        background.spawn(watch_pauses(Arc::clone(&ctx)));
        Self { ctx, tasks, background }
    }

    /// The worker's insides, for health and revocations.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Drains: nothing new is begun, what was begun is finished within `patience` (or until `stopping` is cancelled),
    /// what is in the outbox is published; then connections close. True: everything was finished.
    pub(crate) async fn drain(self, patience: Duration) -> bool {
        let Self { ctx, tasks, background } = self;
        ctx.draining.cancel();
        ctx.broker.stop_consuming().await;
        tasks.close();
        let finished = tokio::select! {
            () = tasks.wait() => true,
            () = tokio::time::sleep(patience) => false,
            () = ctx.stopping.cancelled() => false,
        };
        if finished
            && !ctx.database_is_away()
            && let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(3), outbox::turn(&ctx)).await
        {
            tracing::debug!(%error, "the outbox is left to other workers");
        }
        ctx.stopping.cancel();
        background.close();
        if tokio::time::timeout(Duration::from_secs(3), background.wait())
            .await
            .is_err()
        {
            tracing::warn!("a background task didn't end in time");
        }
        ctx.broker.close().await;
        if !ctx.database_is_away()
            && let Err(error) = ctx.store.end_run(&ctx.run).await
        {
            tracing::debug!(%error, "the next start will take this end for an unclean one");
        }
        ctx.store.close().await;
        finished
    }
}

/// Starts a task for each delivery of a lane; the lane's prefetch bounds how many there are.
async fn consume(ctx: Arc<Context>, mut deliveries: mpsc::Receiver<Delivery>, tasks: TaskTracker) {
    loop {
        let delivery = tokio::select! {
            biased;
            () = ctx.draining.cancelled() => break,
            delivery = deliveries.recv() => delivery,
        };
        let Some(delivery) = delivery else { return };
        tasks.spawn(delivery::handle(Arc::clone(&ctx), delivery));
    }
    // What has come but wasn't begun goes back with its channel.
    deliveries.close();
    while let Some(delivery) = deliveries.recv().await {
        delivery.settle(Disposition::Leave);
    }
}

/// Follows what operators pause and resume.
async fn watch_pauses(ctx: Arc<Context>) {
    loop {
        tokio::select! {
            () = ctx.stopping.cancelled() => return,
            () = tokio::time::sleep(PAUSES_EVERY) => {}
        }
        if !ctx.database_is_away() {
            ctx.refresh_pauses().await;
        }
    }
}

/// Refreshes gauges, notices that the database is back, makes partitions ahead.
async fn pulse(ctx: Arc<Context>) {
    let mut beats = 0_u32;
    let mut partitions = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = ctx.stopping.cancelled() => return,
            () = tokio::time::sleep(PULSE) => {}
        }
        beats = beats.wrapping_add(1);
        meters::show(&ctx);
        ctx.metrics.set_broker(&ctx.broker.stats().snapshot());
        if ctx.database_is_away() {
            match ctx.store.is_writable().await {
                Ok(true) => {
                    ctx.database_answers();
                    ctx.due.notify_one();
                    ctx.outbox.notify_one();
                }
                Ok(false) => {}
                Err(error) => ctx.database_failed(&error),
            }
            continue;
        }
        ctx.coalescer.settle_down(&ctx);
        if beats.is_multiple_of(COUNT_EVERY) {
            if let Err(error) = ctx.store.keep_run(&ctx.run).await {
                tracing::debug!(%error, "it could not be said that this worker goes on");
            }
            measure(&ctx).await;
        }
        if partitions.elapsed() >= PARTITIONS_EVERY && ctx.store.ensure_partitions().await.is_ok() {
            partitions = tokio::time::Instant::now();
            if let Err(error) = ctx.store.prune_cap_uses().await {
                tracing::debug!(%error, "old counts of caps could not be removed");
            }
        }
    }
}

async fn measure(ctx: &Context) {
    match ctx.store.backlog().await {
        Ok(backlog) => {
            let count = |number: i64| number.max(0) as u64;
            ctx.metrics.set_work("all", count(backlog.work));
            ctx.metrics.set_work("past_due", count(backlog.past_due));
            ctx.metrics.set_doubts(count(backlog.doubts));
            ctx.metrics.set_outbox(count(backlog.outbox));
        }
        Err(error) if error.is_unavailable() => ctx.database_failed(&error),
        Err(error) => tracing::debug!(%error, "the backlog could not be measured"),
    }
    meters::show_waiting(ctx).await;
    for app in ctx.apps.values() {
        ctx.metrics
            .set_circuit_open(app.name.as_str(), app.gate.reason().is_some());
        ctx.metrics.set_app_paused(
            app.name.as_str(),
            app.gate.reason().is_some() || ctx.pauses.borrow().app(&app.name),
        );
    }
}
