//! Sends that asked to be merged (`coalesce`): while they wait for their own slots, those with one content also wait,
//! together, for one of the batches' budget; whichever comes first takes them.
//!
//! So a send never waits for company: with a free budget it goes at once, alone. Under backlog both budgets are used,
//! calls and recipients. What a shared call's claim, answer and failure mean for each member is the member's own business
//! (`queued` for a delivery's job, `single_due` for the table's); here is only who goes with whom, and when.
//!
//! A line is what waits of one app, lane and campaign and of one owner; `line` has its rules, `group` makes the shared calls.

mod group;
mod line;
mod queued;
mod repeat;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use self::line::{Line, Waiting};
pub(super) use self::{
    group::{Answer, GroupVerdict},
    line::Content,
    queued::deliver,
    repeat::repeat,
};
use super::{
    app::App,
    context::{Context, Errand, Halt, SLOT_PATIENCE},
    judge::Judgement,
};
use crate::{
    budget::Slot,
    domain::{
        AccountId, AppName, Command, GroupName, JobId, Lane, job::MAX_CALL_RECIPIENTS, message::Message,
        policy::SendWindow,
    },
    store::{NewClaim, WorkUnit},
    telemetry::SpanContext,
};

/// Slots of sendmsg that a line asks for at a time: more than a fleet's worker is granted in one of its turns.
const MOST_SEEKERS: usize = 64;
/// Slots that all lines ask for, unless there are more lines: each holds room for a call, and others need some too.
const ALL_SEEKERS: usize = 256;
/// The same of the high lane, which has room for 16 calls.
const HIGH_SEEKERS: usize = 8;
/// So many mergeable deliveries in one line are a backlog, for which more are fetched.
const CROWD: usize = 8;
/// How long a lane is fetched widely after its last crowd.
const CROWD_LASTS: Duration = Duration::from_secs(10);
/// What is fetched of a crowded lane: about what the two budgets carry in that time, well below [`SLOT_PATIENCE`].
const FETCHED_AHEAD: Duration = Duration::from_secs(5);
/// The most that is fetched of a lane (design: 2,000).
const WIDEST: u16 = 2_000;

/// What follows for one whose shared call was refused, perhaps for another's sake: at once again, alone. It counts, so that
/// it isn't merged again (only what was never tried is) and ends in any case.
pub(super) const APART: Judgement = Judgement::Retry {
    after: Duration::ZERO,
    counts: true,
};

/// Who has the job while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Its delivery.
    Delivery,
    /// The table.
    Table,
}

/// What a claim for a shared call needs of one member.
pub(super) enum Claim {
    /// A delivery's job; the call's token and pair are filled in.
    Delivery(Box<NewClaim>),
    /// A due row of the table.
    Due(Box<WorkUnit>),
}

impl Claim {
    const fn source(&self) -> Source {
        match self {
            Self::Delivery(_) => Source::Delivery,
            Self::Due(_) => Source::Table,
        }
    }
}

/// How a wait ended.
pub(super) enum Turn {
    /// With a slot of its own.
    Alone {
        /// Room for the call.
        permit: OwnedSemaphorePermit,
        /// The slot.
        slot: Slot,
    },
    /// In a shared call, whose claim has been written.
    Shared {
        /// What the claim said of this member.
        verdict: GroupVerdict,
        /// The call's claim.
        token: Uuid,
        /// The call's answer, for who is called.
        answer: oneshot::Receiver<Answer>,
    },
    /// The shared claim didn't concern it after all: it goes alone.
    Again,
    /// The app isn't called before that has passed.
    Later(Duration),
    /// Nothing came in time, its lane, group or app was paused, or its send window has closed.
    GivenUp,
    /// The worker drains.
    Stopping,
}

/// Where a send waits.
pub(super) struct Place<'a> {
    /// The app.
    pub(super) app: &'a App,
    /// The lane.
    pub(super) lane: Lane,
    /// The campaign.
    pub(super) group: Option<&'a GroupName>,
    /// What it has in common with those that it may go with.
    pub(super) content: Content,
    /// The message.
    pub(super) message: &'a Message,
    /// When it may go out, beside the lane's window.
    pub(super) window: Option<SendWindow>,
    /// The job.
    pub(super) job: &'a JobId,
    /// The recipient.
    pub(super) to: &'a AccountId,
}

/// What a member waits with.
struct Seat {
    claim: Claim,
    window: Option<SendWindow>,
    turn: oneshot::Sender<Turn>,
    /// The member's span, to which the call's is linked.
    span: Option<SpanContext>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LineKey {
    app: AppName,
    lane: Lane,
    group: Option<GroupName>,
    source: Source,
}

impl LineKey {
    fn errand<'a>(&'a self, app: &'a App, command: Command, recipients: usize) -> Errand<'a> {
        Errand {
            app,
            command,
            lane: self.lane,
            group: self.group.as_ref(),
            recipients: recipients as u32,
        }
    }
}

/// One line, and who works on it.
struct LineState {
    key: LineKey,
    running: Mutex<Running>,
    /// Somebody came or left.
    changed: Notify,
}

#[derive(Default)]
struct Running {
    line: Line<Seat>,
    /// Tasks that seek slots of sendmsg.
    seekers: usize,
    /// A task makes shared calls.
    grouping: bool,
}

/// When a lane was crowded last, and whether it is fetched widely.
#[derive(Debug, Clone, Copy, Default)]
struct Crowd {
    last: Option<Instant>,
    wide: bool,
}

/// Every line of a worker.
#[derive(Default)]
pub(super) struct Coalescer {
    lines: Mutex<HashMap<LineKey, Arc<LineState>>>,
    crowds: Mutex<[Crowd; 3]>,
}

impl Coalescer {
    /// How many due rows of an app's lane wait among others of their content: they need no room of their own.
    pub(super) fn merging(&self, app: &AppName, lane: Lane) -> u32 {
        let lines = self.lines.lock();
        let own = lines
            .values()
            .filter(|state| state.key.source == Source::Table && state.key.lane == lane && state.key.app == *app);
        own.map(|state| state.running.lock().line.mergeable() as u32).sum()
    }

    /// Ends the wide fetching of lanes that are crowded no more.
    pub(super) fn settle_down(&self, ctx: &Context) {
        let mut crowds = self.crowds.lock();
        for lane in Lane::ALL {
            let crowd = &mut crowds[lane.index()];
            if crowd.wide && crowd.last.is_none_or(|last| last.elapsed() >= CROWD_LASTS) {
                crowd.wide = false;
                ctx.broker.set_prefetch(lane, None);
            }
        }
    }

    /// A lane's deliveries wait that could share calls: the more there are, the larger the calls.
    fn crowded(&self, ctx: &Context, app: &App, lane: Lane) {
        // High has a prefetch of its own, small for good reason.
        if lane == Lane::High {
            return;
        }
        let mut crowds = self.crowds.lock();
        let crowd = &mut crowds[lane.index()];
        crowd.last = Some(Instant::now());
        if !std::mem::replace(&mut crowd.wide, true) {
            let (calls, batches) = (
                ctx.budget_limit(app, Command::SendMsg),
                ctx.budget_limit(app, Command::BatchSendMsg),
            );
            ctx.broker.set_prefetch(lane, Some(width(calls, batches)));
        }
    }
}

/// What is fetched of a crowded lane, with so many calls and batches a second; 0: without a limit.
fn width(calls: f64, batches: f64) -> u16 {
    if calls <= 0.0 || batches <= 0.0 {
        return WIDEST;
    }
    let recipients = calls + batches * MAX_CALL_RECIPIENTS as f64;
    (recipients * FETCHED_AHEAD.as_secs_f64()).min(f64::from(WIDEST)) as u16
}

/// A place in a line, which its owner leaves by dropping it.
struct Seated<'a> {
    state: &'a LineState,
    number: u64,
}

impl Seated<'_> {
    /// Leaves the line. False: the turn has come already.
    fn leave(&self) -> bool {
        let left = self.state.running.lock().line.leave(self.number).is_some();
        if left {
            self.state.changed.notify_one();
        }
        left
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Waits for a slot, alone or in company.
pub(super) async fn turn(ctx: &Arc<Context>, place: Place<'_>, claim: Claim) -> Turn {
    let key = LineKey {
        app: place.app.name.clone(),
        lane: place.lane,
        group: place.group.cloned(),
        source: claim.source(),
    };
    if let Some(turn) = at_once(ctx, &key, place.app) {
        return turn;
    }
    let mut operators = ctx.pauses.subscribe();
    let paused = operators.wait_for(|pauses| pauses.stops(Command::SendMsg, place.lane, &place.app.name, place.group));
    let (sender, mut turn) = oneshot::channel();
    let (state, number) = join(
        ctx,
        key,
        &place,
        Seat {
            claim,
            window: place.window,
            turn: sender,
            span: ctx.traces.here(),
        },
    );
    let seated = Seated { state: &state, number };
    let end = tokio::select! {
        biased;
        turn = &mut turn => return turn.unwrap_or(Turn::Again),
        _ = paused => Turn::GivenUp,
        () = tokio::time::sleep(SLOT_PATIENCE) => Turn::GivenUp,
        () = ctx.draining.cancelled() => Turn::Stopping,
    };
    if seated.leave() {
        return end;
    }
    turn.await.unwrap_or(Turn::Again)
}

/// A slot that is free now, where nobody waits for one.
fn at_once(ctx: &Context, key: &LineKey, app: &App) -> Option<Turn> {
    if ctx.coalescer.lines.lock().contains_key(key) || app.gate.reason().is_some() {
        return None;
    }
    let permit = ctx.permit(key.lane).now_or_never()?.ok()?;
    let slot = ctx.slot(key.errand(app, Command::SendMsg, 1)).now_or_never()??;
    Some(Turn::Alone { permit, slot })
}

/// Joins a line, and sees to it that somebody works on it.
fn join(ctx: &Arc<Context>, key: LineKey, place: &Place<'_>, seat: Seat) -> (Arc<LineState>, u64) {
    let mut lines = ctx.coalescer.lines.lock();
    let most = if key.lane == Lane::High {
        HIGH_SEEKERS
    } else {
        ALL_SEEKERS
    };
    let most = (most / (lines.len() + 1)).clamp(1, MOST_SEEKERS);
    let state = lines.entry(key.clone()).or_insert_with(|| {
        Arc::new(LineState {
            key,
            running: Mutex::default(),
            changed: Notify::new(),
        })
    });
    let state = Arc::clone(state);
    let mut running = state.running.lock();
    // A line ends only with this lock held, so it is still the one in the table.
    drop(lines);
    let waiting = Waiting {
        job: place.job.clone(),
        to: place.to.clone(),
        seat,
    };
    let number = running.line.join(place.content.clone(), place.message, waiting);
    if running.seekers < running.line.len().min(most) {
        running.seekers += 1;
        tokio::spawn(seek(Arc::clone(ctx), Arc::clone(&state)));
    }
    let mergeable = running.line.mergeable();
    if mergeable > 0 && !running.grouping {
        running.grouping = true;
        tokio::spawn(group::run(Arc::clone(ctx), Arc::clone(&state)));
    }
    drop(running);
    state.changed.notify_one();
    if mergeable >= CROWD && state.key.source == Source::Delivery {
        ctx.coalescer.crowded(ctx, place.app, state.key.lane);
    }
    (state, number)
}

/// Ends a task of a line, if there is nothing left to do for it: `done` says so and takes its mark away. The last one takes
/// the line out of the table.
fn ends(ctx: &Context, state: &LineState, done: impl FnOnce(&mut Running) -> bool) -> bool {
    let mut lines = ctx.coalescer.lines.lock();
    let mut running = state.running.lock();
    if !done(&mut running) {
        return false;
    }
    if running.line.len() == 0 && running.seekers == 0 && !running.grouping {
        lines.remove(&state.key);
    }
    true
}

/// Seeks slots of sendmsg for whoever waits longest, until nobody does.
async fn seek(ctx: Arc<Context>, state: Arc<LineState>) {
    let Some(app) = ctx.apps.get(&state.key.app).cloned() else {
        return;
    };
    let leave = |running: &mut Running| {
        running.seekers -= 1;
        true
    };
    loop {
        let idle = |running: &mut Running| running.line.len() == 0 && leave(running);
        if ends(&ctx, &state, idle) {
            return;
        }
        let permit = match ctx.permit(state.key.lane).await {
            Ok(permit) => permit,
            Err(Halt::Stopping | Halt::Store(_)) => {
                ends(&ctx, &state, leave);
                return;
            }
        };
        if let Some(wait) = Context::gate_wait(&app) {
            if let Some(waiting) = state.running.lock().line.take_first() {
                drop(waiting.seat.turn.send(Turn::Later(wait)));
            }
            continue;
        }
        let Some(slot) = ctx.slot(state.key.errand(&app, Command::SendMsg, 1)).await else {
            if ctx.draining.is_cancelled() {
                ends(&ctx, &state, leave);
                return;
            }
            // Paused, or nothing came in time: who waits sees to that by itself.
            drop(permit);
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        hand(&state, Turn::Alone { permit, slot });
    }
}

/// Gives a turn to the first who still waits; dropped if nobody does.
fn hand(state: &LineState, mut turn: Turn) {
    loop {
        let Some(waiting) = state.running.lock().line.take_first() else {
            return;
        };
        match waiting.seat.turn.send(turn) {
            Ok(()) => {
                state.changed.notify_one();
                return;
            }
            Err(unwanted) => turn = unwanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_lane_is_fetched_as_widely_as_its_budgets_carry_it_in_seconds() {
        assert_eq!(width(200.0, 0.4), 2_000);
        assert_eq!(width(20.0, 0.04), 200);
        assert_eq!(width(200.0, 200.0), WIDEST);
        assert_eq!(width(0.0, 0.4), WIDEST);
        assert_eq!(width(200.0, 0.0), WIDEST);
    }
}
