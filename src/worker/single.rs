//! The way of a job that its delivery owns and that needs one call: slot, claim, call, outcome, event, ack.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::{
    app::App,
    coalesce::{self, Answer, Content},
    context::{CallFailure, Context, Errand, Halt, reserve},
    delivery::{Fault, Verdict, hand_over, hand_over_until, parcel},
    events::{About, Facts, single_call},
    existing::existing_job,
    judge::{FIRST_LOOK, Judgement, needs_letter},
    pair,
};
use crate::{
    broker::Delivery,
    budget::Slot,
    domain::{
        AccountId, Command, MessageState,
        event::Outcome,
        job::{Job, Task},
        message::Message,
        record,
    },
    im::{ENCODER_VERSION, ImError, Pair, encode_import, encode_send},
    store::{
        AttemptNote, CALL_WINDOW, CallPair, ClaimVerdict, ExistingJob, Holder, NewClaim, OutboxEvent, Recorded,
        SentOutcome, Settlement, SingleOutcome,
    },
    telemetry::Operation,
};

/// What a single call needs of its job.
pub(super) struct Single<'a> {
    /// sendmsg or importmsg.
    pub(super) command: Command,
    /// The account that the API uses as the sender.
    pub(super) from: AccountId,
    /// The recipient.
    pub(super) to: &'a AccountId,
    /// The message.
    pub(super) message: &'a Message,
    /// An import's time, Unix seconds, and whether it counts as unread.
    import: Option<(u64, bool)>,
}

/// The answer of a single call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The message's key.
    pub(super) msg_key: String,
    /// The service's time, Unix seconds.
    pub(super) msg_time: Option<i64>,
}

impl<'a> Single<'a> {
    /// The call of a `send` or an `import`; `None` for any other job.
    pub(super) fn of(job: &'a Job, app: &App) -> Option<Self> {
        match &job.task {
            Task::Send { from, to, message } => Some(Self {
                command: Command::SendMsg,
                from: from.as_ref().unwrap_or(app.admin()).clone(),
                to,
                message,
                import: None,
            }),
            Task::Import {
                from,
                to,
                message,
                timestamp,
                unread,
            } => Some(Self {
                command: Command::ImportMsg,
                from: from.clone(),
                to,
                message,
                import: Some((*timestamp, *unread)),
            }),
            _ => None,
        }
    }

    /// The outcome's name of a success.
    pub(super) const fn success(&self) -> Outcome {
        if self.import.is_some() {
            Outcome::Imported
        } else {
            Outcome::Sent
        }
    }

    /// What decides its slot.
    pub(super) const fn errand<'e>(
        &self,
        app: &'e App,
        lane: crate::domain::Lane,
        group: Option<&'e crate::domain::GroupName>,
    ) -> Errand<'e> {
        Errand {
            app,
            command: self.command,
            lane,
            group,
            recipients: 1,
        }
    }

    /// Makes the call with a slot.
    pub(super) async fn call(
        &self,
        ctx: &Context,
        app: &App,
        lane: crate::domain::Lane,
        slot: Slot,
        pair: CallPair,
        deadline: Instant,
    ) -> Result<Accepted, CallFailure> {
        let errand = self.errand(app, lane, None);
        let pair = Pair {
            seq: pair.seq,
            random: pair.random,
        };
        ctx.call(errand, slot, deadline, || async move {
            match self.import {
                None => {
                    let body = encode_send(Some(&self.from), self.to, self.message, pair);
                    let reply = app.client.send(body, Some(deadline)).await?;
                    Ok(Accepted {
                        msg_key: reply.msg_key.to_string(),
                        msg_time: reply.msg_time,
                    })
                }
                Some((timestamp, unread)) => {
                    let word = if unread { ctx.import_words.0 } else { ctx.import_words.1 };
                    let body = encode_import(&self.from, self.to, self.message, pair, timestamp, word);
                    app.client.import(body, Some(deadline)).await?;
                    // The service answers none; it is made of the three numbers that an import gives.
                    let msg_key = format!("{}_{}_{timestamp}", pair.seq, pair.random);
                    Ok(Accepted {
                        msg_key,
                        msg_time: i64::try_from(timestamp).ok(),
                    })
                }
            }
        })
        .await
    }
}

/// Whose event a job's is.
pub(super) fn about(job: &Job, from: Option<AccountId>) -> About {
    About {
        job: job.id.clone(),
        job_type: job.job_type(),
        app: job.app.clone(),
        group: job.group.clone(),
        from,
        reply_to: None,
        correlation_id: None,
    }
}

/// A claim under way: everything that its outcome needs.
pub(super) struct Claimed<'a> {
    ctx: &'a Arc<Context>,
    delivery: &'a Delivery,
    job: &'a Job,
    app: &'a App,
    single: Single<'a>,
    token: Uuid,
    created_at: chrono::DateTime<Utc>,
}

/// Carries a `send` or an `import` out.
pub(super) async fn deliver(ctx: &Arc<Context>, delivery: &Delivery, job: &Job) -> Result<Verdict, Halt> {
    let Some(app) = ctx.apps.get(&job.app) else {
        return Ok(Verdict::DeadLetter(Fault::new("unknown-app", "app: not configured")));
    };
    let Some(single) = Single::of(job, app) else {
        return hand_over(ctx, delivery, job, Duration::ZERO).await;
    };
    if ctx
        .pauses
        .borrow()
        .stops(single.command, delivery.lane, &job.app, job.group.as_ref())
    {
        return hand_over(ctx, delivery, job, Duration::ZERO).await;
    }
    match Content::of(job, &single.from) {
        Some(content) => Box::pin(coalesce::deliver(ctx, delivery, job, app, single, content)).await,
        None => alone(ctx, delivery, job, app, single).await,
    }
}

/// Carries it out with a call of its own.
pub(super) async fn alone(
    ctx: &Arc<Context>,
    delivery: &Delivery,
    job: &Job,
    app: &App,
    single: Single<'_>,
) -> Result<Verdict, Halt> {
    let permit = ctx.permit(delivery.lane).await?;
    if let Some(wait) = Context::gate_wait(app) {
        return hand_over(ctx, delivery, job, wait).await;
    }
    let Some(slot) = ctx.slot(single.errand(app, delivery.lane, job.group.as_ref())).await else {
        if ctx.draining.is_cancelled() {
            return Ok(Verdict::Leave);
        }
        return hand_over(ctx, delivery, job, Duration::ZERO).await;
    };
    with_slot(ctx, delivery, job, app, single, permit, slot).await
}

/// The claim of a job for its first call, still without that call's token and pair.
pub(super) fn new_claim(delivery: &Delivery, job: &Job, single: &Single<'_>) -> NewClaim {
    NewClaim {
        id: job.id.clone(),
        digest: job.digest(),
        job_type: record::type_number(&job.task),
        app: job.app.clone(),
        group: job.group.clone(),
        lane: delivery.lane,
        from: single.from.clone(),
        to: single.to.clone(),
        send_at: job.send_at,
        expires_at: job.expires_at,
        on_unknown: record::on_unknown_number(job.on_unknown),
        seq: 0,
        random: 0,
        encoder: ENCODER_VERSION,
        token: Uuid::nil(),
        expired: job.expires_at.is_some_and(|at| at <= Utc::now()),
        online_only: job.is_online_only(),
    }
}

/// Claims it and makes its call with a slot.
pub(super) async fn with_slot(
    ctx: &Arc<Context>,
    delivery: &Delivery,
    job: &Job,
    app: &App,
    single: Single<'_>,
    permit: OwnedSemaphorePermit,
    slot: Slot,
) -> Result<Verdict, Halt> {
    if ctx.stopping.is_cancelled() {
        return Ok(Verdict::Leave);
    }
    if let Some(opening) = ctx.closed_window(job, delivery.lane) {
        drop(slot);
        return hand_over_until(ctx, delivery, job, opening).await;
    }
    let pair = pair::derive(&job.app, &job.id, 0, single.to.as_str(), 0, single.message);
    let token = Uuid::new_v4();
    let claim = NewClaim {
        seq: pair.seq,
        random: pair.random,
        token,
        ..new_claim(delivery, job, &single)
    };
    // From before the statement was sent: the database's own three seconds begin later.
    let deadline = Instant::now() + CALL_WINDOW;
    let reserve = reserve(delivery.lane);
    let by = claim_by(Instant::now(), slot.due().into_std());
    super::fault::point("claim.before").await;
    let verdict = ctx
        .insist(|| ctx.claims[reserve].submit_by(claim.clone(), by.into()))
        .await?;
    super::fault::point("claim.after").await;
    match decided(ctx, delivery, job, app, single, verdict, token).await? {
        Decision::Call(claimed) => claimed.call(permit, slot, pair, deadline).await,
        Decision::Existing(single, existing) => {
            drop(slot);
            Box::pin(existing_job(ctx, delivery, job, &single, *existing)).await
        }
        Decision::Done(verdict) => Ok(verdict),
    }
}

/// When a claim is written at the latest: half of the time until its slot is due, beyond what a commit may take, is left to
/// others that may join it.
fn claim_by(now: Instant, due: Instant) -> Instant {
    /// What a commit may take where sixteen workers and their services share two cores: of slots at most 40 ms ahead, whose
    /// claims waited up to 17 ms, one in seven was used too late there.
    const COMMIT: Duration = Duration::from_millis(50);
    now + due.saturating_duration_since(now + COMMIT) / 2
}

/// What follows a claim.
pub(super) enum Decision<'a> {
    /// The call.
    Call(Claimed<'a>),
    /// The id is on record already.
    Existing(Single<'a>, Box<ExistingJob>),
    /// Nothing: it has ended.
    Done(Verdict),
}

/// Reads a claim's verdict; what it ended is told at once.
pub(super) async fn decided<'a>(
    ctx: &'a Arc<Context>,
    delivery: &'a Delivery,
    job: &'a Job,
    app: &'a App,
    single: Single<'a>,
    verdict: ClaimVerdict,
    token: Uuid,
) -> Result<Decision<'a>, Halt> {
    let facts = || Facts {
        to: Some(single.to.clone()),
        ..Facts::default()
    };
    let claimed = |single, created_at| {
        Decision::Call(Claimed {
            ctx,
            delivery,
            job,
            app,
            single,
            token,
            created_at,
        })
    };
    let (outcome, facts) = match verdict {
        ClaimVerdict::Claimed { created_at } => return Ok(claimed(single, created_at)),
        ClaimVerdict::Existing(existing) => return Ok(Decision::Existing(single, existing)),
        ClaimVerdict::Cancelled { revocation } => {
            let facts = Facts {
                revocation: Some(revocation),
                ..facts()
            };
            (Outcome::Cancelled, facts)
        }
        ClaimVerdict::Expired => (Outcome::Expired, facts()),
    };
    let about = about(job, Some(single.from.clone())).replying(&delivery.properties);
    let event = ctx.events.build(&about, &single_call(0), outcome, facts);
    Ok(Decision::Done(Box::pin(finish(ctx, job, outcome, &event)).await?))
}

impl Claimed<'_> {
    async fn call(
        &self,
        permit: OwnedSemaphorePermit,
        slot: Slot,
        pair: CallPair,
        deadline: Instant,
    ) -> Result<Verdict, Halt> {
        let Self {
            ctx,
            delivery,
            app,
            single,
            ..
        } = self;
        super::fault::point("call.before").await;
        let result = single.call(ctx, app, delivery.lane, slot, pair, deadline).await;
        // The next job may begin: what is left of this one needs no call.
        drop(permit);
        super::fault::point("call.after").await;
        self.left_open(match result {
            Ok(accepted) => self.accepted(accepted).await,
            Err(CallFailure::TooLate) => self.not_called().await,
            Err(CallFailure::Im(error)) => Box::pin(self.judged(ctx.judge(app, &error, 1), &error)).await,
        })
    }

    /// Records what a shared call's answer is to this job; `None`: nobody knows.
    pub(super) async fn shared(&self, answer: Option<Answer>) -> Result<Verdict, Halt> {
        let (ctx, app) = (self.ctx, self.app);
        self.left_open(match answer {
            Some(Answer::Accepted(accepted)) => self.accepted(accepted).await,
            Some(Answer::TooLate) => self.not_called().await,
            Some(Answer::Failed(error)) => self.judged(ctx.judge(app, &error, 1), &error).await,
            Some(Answer::Listed(code)) => {
                let error = ImError::listed(code);
                self.judged(ctx.judge(app, &error, 1), &error).await
            }
            Some(Answer::Apart(error)) => self.judged(coalesce::APART, &error).await,
            None => {
                let after = ctx.timing.quiet();
                self.settle(SingleOutcome::Doubt { after }, None, None).await
            }
        })
    }

    /// From its call on a refusal of the database leaves the delivery unacknowledged: its next one is reconciled.
    fn left_open(&self, recorded: Result<Verdict, Halt>) -> Result<Verdict, Halt> {
        match recorded {
            Err(Halt::Store(error)) => {
                tracing::error!(job.id = %self.job.id, error = &*error as &dyn std::error::Error,
                                "an outcome could not be recorded: its next delivery is reconciled");
                Ok(Verdict::Leave)
            }
            other => other,
        }
    }

    /// Its slot came too late: nothing was written.
    async fn not_called(&self) -> Result<Verdict, Halt> {
        let again = SingleOutcome::Retry {
            after: Duration::ZERO,
            counts: false,
        };
        self.settle(again, None, None).await
    }

    async fn accepted(&self, accepted: Accepted) -> Result<Verdict, Halt> {
        let Self {
            ctx,
            delivery,
            job,
            single,
            ..
        } = self;
        let outcome = SentOutcome {
            id: job.id.clone(),
            created_at: self.created_at,
            app: job.app.clone(),
            group: job.group.clone(),
            token: self.token,
            msg_key: accepted.msg_key.clone(),
            msg_time: accepted.msg_time,
        };
        let reserve = reserve(delivery.lane);
        super::fault::point("outcome.before").await;
        let recorded = ctx.insist(|| ctx.sent[reserve].submit(outcome.clone())).await?;
        super::fault::point("outcome.after").await;
        match recorded {
            Recorded::Applied { revocation } => {
                if revocation.is_some() {
                    ctx.due.notify_one();
                }
                let facts = Facts {
                    to: Some(single.to.clone()),
                    msg_key: Some(accepted.msg_key),
                    msg_time: accepted.msg_time,
                    attempts: 1,
                    ..Facts::default()
                };
                let known_for = delivery.received_at.elapsed();
                ctx.published_to_recorded(delivery.lane, job, &delivery.properties, known_for);
                let event = self.event(single.success(), facts);
                finish(ctx, job, single.success(), &event).await
            }
            Recorded::Superseded { state } => {
                ctx.metrics.operation(Operation::LateKey);
                tracing::warn!(job.id = %job.id, ?state, "an answer came after its claim had been replaced; its MsgKey is kept");
                Ok(Verdict::Ack)
            }
        }
    }

    async fn judged(&self, judgement: Judgement, error: &ImError) -> Result<Verdict, Halt> {
        let Self { ctx, job, single, .. } = self;
        match judgement {
            Judgement::Retry { after, counts } => {
                let note = counts.then(|| note(error, 1));
                self.settle(
                    SingleOutcome::Retry { after, counts },
                    Some((error.word(), error.text.clone())),
                    note,
                )
                .await
            }
            Judgement::Doubt => {
                let error_pair = Some((error.word(), error.text.clone()));
                self.settle(
                    SingleOutcome::Doubt { after: FIRST_LOOK },
                    error_pair,
                    Some(note(error, 1)),
                )
                .await
            }
            Judgement::Fail { code, message, .. } => {
                let failure = Some((code.clone(), message.clone()));
                self.settle(SingleOutcome::Failed, failure.clone(), Some(note(error, 1)))
                    .await?;
                let facts = Facts {
                    to: Some(single.to.clone()),
                    attempts: 1,
                    error: failure,
                    ..Facts::default()
                };
                let event = self.event(Outcome::Failed, facts);
                finish(ctx, job, Outcome::Failed, &event).await?;
                Ok(letter_or_ack(ctx, code, message, 1, 0))
            }
        }
    }

    fn event(&self, outcome: Outcome, facts: Facts) -> OutboxEvent {
        let about = about(self.job, Some(self.single.from.clone())).replying(&self.delivery.properties);
        self.ctx.events.build(&about, &single_call(0), outcome, facts)
    }

    /// Records what isn't a plain success; a retry or a doubt hands the job to the table.
    async fn settle(
        &self,
        outcome: SingleOutcome,
        error: Option<(String, String)>,
        note: Option<AttemptNote>,
    ) -> Result<Verdict, Halt> {
        let Self { ctx, delivery, job, .. } = self;
        let settlement = Settlement {
            id: job.id.clone(),
            created_at: self.created_at,
            app: job.app.clone(),
            group: job.group.clone(),
            lane: delivery.lane,
            command: self.single.command,
            token: Some(self.token),
            holder: Holder::Delivery(parcel(delivery)),
            outcome,
            error,
            note,
            event: None,
            letter: None,
        };
        super::fault::point("outcome.before").await;
        ctx.persist(|| {
            ctx.store
                .settle(delivery.lane == crate::domain::Lane::High, &settlement)
        })
        .await?;
        super::fault::point("outcome.after").await;
        ctx.due.notify_one();
        Ok(Verdict::Ack)
    }
}

/// An attempt that failed, as the table keeps it.
pub(super) fn note(error: &ImError, attempt: u32) -> AttemptNote {
    AttemptNote {
        attempt,
        command: error.command,
        code: error.word(),
        class: error.class.as_str(),
        message: error.text.clone(),
        url_random: error.url_random,
    }
}

/// Publishes the event of an end.
async fn finish(ctx: &Context, job: &Job, outcome: Outcome, event: &OutboxEvent) -> Result<Verdict, Halt> {
    ctx.metrics.outcome(job.job_type(), outcome, 1);
    super::fault::point("event.before").await;
    ctx.publish_event(event).await?;
    super::fault::point("event.after").await;
    Ok(Verdict::Ack)
}

pub(super) fn letter_or_ack(ctx: &Context, code: String, sentence: String, attempts: u32, generation: i32) -> Verdict {
    if needs_letter(&code, ctx.recipient_letters) {
        Verdict::DeadLetter(Fault {
            code,
            sentence,
            attempts,
            generation,
        })
    } else {
        Verdict::Ack
    }
}

/// The event's outcome of a message that has ended; `None` while it hasn't.
pub(super) const fn end_outcome(state: MessageState, success: Outcome) -> Option<Outcome> {
    Some(match state {
        // What was revoked since had been sent first.
        MessageState::Sent | MessageState::Revoked => success,
        MessageState::Failed => Outcome::Failed,
        MessageState::Cancelled => Outcome::Cancelled,
        MessageState::Expired => Outcome::Expired,
        MessageState::Unknown => Outcome::Unknown,
        MessageState::Suppressed => Outcome::Suppressed,
        MessageState::Pending | MessageState::Calling | MessageState::Doubt => return None,
    })
}
