//! Shared calls: when a slot of the batches' budget comes, who goes with it, and what its answer is to each.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    Claim, LineState, Running, Seat, Turn, ends,
    line::{Content, Taken, Waiting, is_shared_fault},
};
use crate::{
    domain::{AccountId, Command, ErrorClass, ErrorCode, Lane, message::Message},
    im::{BatchReply, ENCODER_VERSION, ImError, Pair, encode_batch},
    store::{CALL_WINDOW, ClaimVerdict, DueMember, NewClaim, SharedCall, WorkUnit},
    telemetry::SpanContext,
    worker::{
        app::App,
        context::{CallFailure, Context, Halt},
        fault, pair,
        part::time_of,
        single::Accepted,
    },
};

/// How long before its slot is due a group is taken out of the line: its claim is written by then, and until then its
/// members may still get slots of their own.
const CLAIMED_AHEAD: Duration = Duration::from_millis(30);
/// The part of a shared call, in the derivation of its pair.
const SHARED: i32 = -1;

/// What the claim of a shared call said of one member.
pub(in crate::worker) enum GroupVerdict {
    /// Of a delivery's job.
    Delivery(ClaimVerdict),
    /// Of a due row: it is called.
    Due(DueMember),
}

/// What a shared call's answer is to one member.
#[derive(Debug, Clone)]
pub(in crate::worker) enum Answer {
    /// The service has its message.
    Accepted(Accepted),
    /// The service refused this recipient, and not the call.
    Listed(ErrorCode),
    /// The call failed.
    Failed(Arc<ImError>),
    /// The call was refused, perhaps because of another member or of their number: to be tried alone.
    Apart(Arc<ImError>),
    /// No slot came due before the claim's deadline: nothing was written.
    TooLate,
}

/// A member that is called.
struct Called {
    to: AccountId,
    answer: oneshot::Sender<Answer>,
    span: Option<SpanContext>,
}

/// Makes shared calls for a line while it has members that could share one. One group is formed at a time: meanwhile the
/// next gathers.
pub(super) async fn run(ctx: Arc<Context>, state: Arc<LineState>) {
    let Some(app) = ctx.apps.get(&state.key.app).cloned() else {
        return;
    };
    loop {
        let changed = state.changed.notified();
        let largest = state.running.lock().line.largest();
        let Some((content, size)) = largest else {
            let idle = |running: &mut Running| {
                let idle = running.line.mergeable() == 0;
                running.grouping &= !idle;
                idle
            };
            if ends(&ctx, &state, idle) {
                return;
            }
            // Only of one recipient: the slots of sendmsg will change that.
            drop(tokio::time::timeout(Duration::from_millis(50), changed).await);
            continue;
        };
        if ctx.draining.is_cancelled() {
            ends(&ctx, &state, |running| {
                running.grouping = false;
                true
            });
            return;
        }
        // While the app's calls fail, singles probe.
        if app.gate.reason().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        if form(&ctx, &state, &app, &content, size).await.is_none() {
            tokio::task::yield_now().await;
        }
    }
}

/// Waits for a slot for so many, takes them, claims them and lets their call go. `None`: it came to nothing.
async fn form(
    ctx: &Arc<Context>,
    state: &Arc<LineState>,
    app: &Arc<App>,
    content: &Content,
    size: usize,
) -> Option<()> {
    let most = ctx
        .budget
        .most_recipients(app.key(Command::BatchSendMsg))
        .map_or(size, |most| size.min(most as usize));
    let errand = state.key.errand(app, Command::BatchSendMsg, most);
    let permit = ctx.permit(state.key.lane).await.ok()?;
    let slot = tokio::select! {
        slot = ctx.slot(errand) => slot,
        () = outgrown(state, most) => return None,
    };
    let Some(slot) = slot else {
        // Paused or draining: who waits sees to that by itself.
        tokio::time::sleep(Duration::from_millis(10)).await;
        return None;
    };
    let due = slot.due();
    tokio::time::sleep_until(due.checked_sub(CLAIMED_AHEAD).unwrap_or(due)).await;
    let Taken { message, members } = state.running.lock().line.take(content, most)?;
    state.changed.notify_one();
    let members = in_their_windows(ctx, state, members);
    let mut group = Group {
        ctx,
        state,
        app,
        content,
        message: &message,
        token: Uuid::new_v4(),
        call_id: Uuid::new_v4(),
    };
    // From before the statement was sent: the database's own three seconds begin later.
    let deadline = Instant::now() + CALL_WINDOW;
    let (call, called) = group.claim(members).await?;
    let to: Vec<AccountId> = called.iter().map(|called| called.to.clone()).collect();
    let pair = Pair {
        seq: call.pair.seq,
        random: call.pair.random,
    };
    let body = encode_batch(Some(content.from()), &to, &message, pair);
    let (ctx, state, app) = (Arc::clone(ctx), Arc::clone(state), Arc::clone(app));
    tokio::spawn(async move {
        let _permit = permit;
        fault::point("group.call.before").await;
        let errand = state.key.errand(&app, Command::BatchSendMsg, most);
        let links = called.iter().filter_map(|called| called.span.clone());
        let span = ctx.traces.shared_call(app.name.as_str(), links);
        let call = ctx.call(errand, slot, deadline, || app.client.batch_send(body, Some(deadline)));
        let result = span.within(|| call).await;
        drop(span);
        fault::point("group.call.after").await;
        answer(called, result);
    });
    Some(())
}

/// Sends those away whose window has closed while they waited.
fn in_their_windows(ctx: &Context, state: &LineState, members: Vec<(u64, Waiting<Seat>)>) -> Vec<(u64, Waiting<Seat>)> {
    let (open, closed): (Vec<_>, Vec<_>) = members
        .into_iter()
        .partition(|(_, waiting)| ctx.window_is_open(waiting.seat.window.as_ref(), state.key.lane));
    for (_, Waiting { seat, .. }) in closed {
        drop(seat.turn.send(Turn::GivenUp));
    }
    open
}

/// Waits until a slot for so many is much too large, or much too small.
async fn outgrown(state: &LineState, asked: usize) {
    loop {
        let changed = state.changed.notified();
        let now = state.running.lock().line.largest().map_or(0, |(_, size)| size);
        if now * 4 <= asked * 3 || now >= asked * 2 {
            return;
        }
        changed.await;
    }
}

/// A group that is being claimed.
struct Group<'a> {
    ctx: &'a Arc<Context>,
    state: &'a LineState,
    app: &'a App,
    content: &'a Content,
    message: &'a Message,
    token: Uuid,
    call_id: Uuid,
}

impl Group<'_> {
    /// Writes the claim and tells each member what it said. `None`: nobody is to be called.
    async fn claim(&mut self, members: Vec<(u64, Waiting<Seat>)>) -> Option<(SharedCall, Vec<Called>)> {
        let first = members.first()?.1.job.clone();
        // By its own name, which no other call has: the first member may be in another group later.
        let name = self.call_id.to_string();
        let call = SharedCall {
            call_id: self.call_id,
            token: self.token,
            app: self.app.name.clone(),
            from: self.content.from().clone(),
            pair: pair::derive(&self.app.name, &first, SHARED, &name, 0, self.message),
            encoder: ENCODER_VERSION,
        };
        let mut seats = Vec::with_capacity(members.len());
        let (mut claims, mut units) = (Vec::new(), Vec::new());
        for (_, Waiting { job, to, seat }) in members {
            match seat.claim {
                Claim::Delivery(claim) => claims.push(NewClaim {
                    seq: call.pair.seq,
                    random: call.pair.random,
                    encoder: call.encoder,
                    token: call.token,
                    ..*claim
                }),
                Claim::Due(unit) => units.push(*unit),
            }
            seats.push((job, to, seat.turn, seat.span));
        }
        fault::point("group.claim.before").await;
        let verdicts = self.verdicts(&call, &claims, &units).await;
        fault::point("group.claim.after").await;
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            // One with bad data fails the whole statement; alone, only the culprit fails.
            Err(Halt::Store(_)) => {
                for (_, _, turn, _) in seats {
                    drop(turn.send(Turn::Again));
                }
                return None;
            }
            Err(Halt::Stopping) => {
                for (_, _, turn, _) in seats {
                    drop(turn.send(Turn::Stopping));
                }
                return None;
            }
        };
        let mut called = Vec::with_capacity(seats.len());
        for ((job, to, turn, span), verdict) in seats.into_iter().zip(verdicts) {
            let Some(verdict) = verdict else {
                drop(turn.send(Turn::Again));
                continue;
            };
            let (sender, answer) = oneshot::channel();
            if matches!(
                verdict,
                GroupVerdict::Due(_) | GroupVerdict::Delivery(ClaimVerdict::Claimed { .. })
            ) {
                let member = Called {
                    to,
                    answer: sender,
                    span,
                };
                called.push((job, member));
            }
            let token = call.token;
            drop(turn.send(Turn::Shared { verdict, token, answer }));
        }
        // In the order in which the call's row names them.
        called.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let called: Vec<Called> = called.into_iter().map(|(_, called)| called).collect();
        tracing::debug!(app = %call.app, lane = %self.state.key.lane, call = %call.call_id, members = called.len(), "sends share a call");
        if called.is_empty() {
            return None;
        }
        self.ctx.metrics.shared_call(called.len());
        Some((call, called))
    }

    async fn verdicts(
        &self,
        call: &SharedCall,
        claims: &[NewClaim],
        units: &[WorkUnit],
    ) -> Result<Vec<Option<GroupVerdict>>, Halt> {
        let store = &self.ctx.store;
        let high = self.state.key.lane == Lane::High;
        if units.is_empty() {
            let verdicts = self.ctx.persist(|| store.claim_group(high, call, claims)).await?;
            Ok(verdicts
                .into_iter()
                .map(|verdict| verdict.map(GroupVerdict::Delivery))
                .collect())
        } else {
            let verdicts = self.ctx.persist(|| store.claim_due_group(high, call, units)).await?;
            Ok(verdicts
                .into_iter()
                .map(|member| member.map(GroupVerdict::Due))
                .collect())
        }
    }
}

/// Tells each member what the answer is to it.
fn answer(called: Vec<Called>, result: Result<BatchReply, CallFailure>) {
    let (to, senders): (Vec<AccountId>, Vec<_>) = called.into_iter().map(|called| (called.to, called.answer)).unzip();
    for (sender, answer) in senders.into_iter().zip(answers(&to, result)) {
        // Who has gone left its claim behind: its job's next delivery, or its lease's end, is reconciled.
        drop(sender.send(answer));
    }
}

/// What the result of a shared call is to each of its recipients.
pub(super) fn answers(to: &[AccountId], result: Result<BatchReply, CallFailure>) -> Vec<Answer> {
    let reply = match result {
        Ok(reply) => reply,
        Err(failure) => return vec![failed(failure, to.len()); to.len()],
    };
    let refused: HashMap<&str, ErrorCode> = reply
        .failed
        .iter()
        .map(|failure| (failure.to.as_str(), failure.code))
        .collect();
    let accepted = Accepted {
        msg_time: time_of(reply.msg_key.as_str()),
        msg_key: reply.msg_key.to_string(),
    };
    to.iter()
        .map(|to| {
            refused
                .get(to.as_str())
                .map_or_else(|| Answer::Accepted(accepted.clone()), |&code| Answer::Listed(code))
        })
        .collect()
}

fn failed(failure: CallFailure, members: usize) -> Answer {
    let error = match failure {
        CallFailure::TooLate => return Answer::TooLate,
        CallFailure::Im(error) => Arc::new(*error),
    };
    let definite = matches!(
        error.class,
        ErrorClass::Recipient | ErrorClass::Blocked | ErrorClass::Permanent | ErrorClass::AlreadyDone
    );
    if definite && members > 1 && !error.code.is_some_and(is_shared_fault) {
        Answer::Apart(error)
    } else {
        Answer::Failed(error)
    }
}
