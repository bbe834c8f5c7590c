//! A single call that the table owns: a scheduled send, a retry, a message that reconciliation found missing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use uuid::Uuid;

use super::{
    app::App,
    cache::LoadedJob,
    coalesce::{self, Answer, Claim, Content, GroupVerdict, Place, Turn},
    context::{CallFailure, Context, Halt},
    due::{give_back, load},
    events::{About, Facts, single_call},
    judge::{FIRST_LOOK, Judgement, needs_letter},
    pair,
    single::{Accepted, Single, about, end_outcome, note},
};
use crate::{
    budget::Slot,
    domain::{AccountId, Command, JobId, MessageState, event::Outcome},
    im::{ENCODER_VERSION, ImError},
    store::{
        CALL_WINDOW, CAPPED, CapRule, DueMember, FinalSingle, Holder, OutboxEvent, OutboxLetter, Recorded, RepeatRule,
        RepeatedMember, Settlement, SingleClaim, SingleOutcome, SuppressedMembers, WorkUnit,
    },
};

/// A single under way.
struct Due<'a> {
    ctx: &'a Arc<Context>,
    unit: &'a WorkUnit,
    loaded: &'a LoadedJob,
    app: &'a App,
    single: Single<'a>,
}

/// Delivers a due single.
pub(super) async fn deliver(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(due) = Due::of(ctx, unit, &loaded) else {
        if ctx.apps.contains_key(&unit.app) {
            give_back(ctx, unit, Duration::from_mins(1)).await;
        }
        return Ok(());
    };
    due.run().await
}

/// Ends a pending single as failed, without a call.
pub(super) async fn end_as(ctx: &Arc<Context>, unit: &WorkUnit, error: (String, String)) -> Result<(), Halt> {
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(due) = Due::of(ctx, unit, &loaded) else {
        return Ok(());
    };
    let mut settlement = due.settlement(None);
    settlement.outcome = SingleOutcome::Failed;
    settlement.error = Some(error);
    due.failed(&mut settlement, unit.generation, unit.attempts);
    due.settle(&settlement).await
}

/// Records what the repeated answer of a shared call is to one of its members.
pub(super) async fn settle_shared(
    ctx: &Arc<Context>,
    member: &RepeatedMember,
    token: Uuid,
    answer: Answer,
) -> Result<(), Halt> {
    let unit = &member.unit;
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(due) = Due::of(ctx, unit, &loaded) else {
        return Ok(());
    };
    let DueMember { attempt, generation } = member.claim;
    let mut settlement = due.shared(token, attempt, generation, Some(answer));
    if let SingleOutcome::Retry { .. } = settlement.outcome {
        // This call wasn't carried out, but whether the first was is as open as before.
        settlement.outcome = SingleOutcome::Doubt { after: FIRST_LOOK };
    }
    due.settle(&settlement).await
}

impl<'a> Due<'a> {
    /// A row of work with what it sends; `None` if it is no single, or of an app that isn't configured here.
    fn of(ctx: &'a Arc<Context>, unit: &'a WorkUnit, loaded: &'a LoadedJob) -> Option<Self> {
        let app = ctx.apps.get(&unit.app)?;
        let single = Single::of(&loaded.job, app)?;
        Some(Self {
            ctx,
            unit,
            loaded,
            app,
            single,
        })
    }
}

impl Due<'_> {
    async fn run(&self) -> Result<(), Halt> {
        let Self {
            ctx,
            unit,
            loaded,
            single,
            ..
        } = self;
        if loaded.job.expires_at.is_some_and(|at| at <= Utc::now()) {
            return self.expire().await;
        }
        if ctx.waits_for_window(&loaded.job, unit).await? {
            return Ok(());
        }
        // What failed once, is in doubt, or is capped goes alone.
        let fresh =
            unit.attempts == 0 && single.command == Command::SendMsg && ctx.caps(&loaded.job, unit.lane).is_empty();
        if let Some(content) = fresh.then(|| Content::of(&loaded.job, &single.from)).flatten() {
            return self.coalesced(content).await;
        }
        self.alone().await
    }

    /// Delivers it alone or in company.
    async fn coalesced(&self, content: Content) -> Result<(), Halt> {
        let Self {
            ctx,
            unit,
            loaded,
            app,
            single,
        } = self;
        let place = Place {
            app,
            lane: unit.lane,
            group: unit.group.as_ref(),
            content,
            message: single.message,
            window: loaded.job.send_window,
            job: &loaded.job.id,
            to: single.to,
        };
        match coalesce::turn(ctx, place, Claim::Due(Box::new((*unit).clone()))).await {
            Turn::Alone { permit, slot } => {
                let _permit = permit;
                self.with_slot(slot).await
            }
            Turn::Shared {
                verdict: GroupVerdict::Due(member),
                token,
                answer,
            } => {
                let answer = answer.await.ok();
                let settlement = self.shared(token, member.attempt, member.generation, answer);
                self.settle(&settlement).await
            }
            Turn::Again | Turn::Shared { .. } => self.alone().await,
            Turn::Later(wait) => {
                give_back(ctx, unit, wait).await;
                Ok(())
            }
            Turn::GivenUp | Turn::Stopping => {
                give_back(ctx, unit, Duration::ZERO).await;
                Ok(())
            }
        }
    }

    /// Delivers it with a call of its own.
    async fn alone(&self) -> Result<(), Halt> {
        let Self {
            ctx, unit, app, single, ..
        } = self;
        let _permit = ctx.permit(unit.lane).await?;
        if let Some(wait) = Context::gate_wait(app) {
            give_back(ctx, unit, wait).await;
            return Ok(());
        }
        let Some(slot) = ctx.slot(single.errand(app, unit.lane, unit.group.as_ref())).await else {
            give_back(ctx, unit, Duration::ZERO).await;
            return Ok(());
        };
        self.with_slot(slot).await
    }

    /// Claims it and makes its call with a slot.
    async fn with_slot(&self, slot: Slot) -> Result<(), Halt> {
        let Self {
            ctx,
            unit,
            loaded,
            app,
            single,
        } = self;
        if ctx.stopping.is_cancelled() || ctx.waits_for_window(&loaded.job, unit).await? {
            return Ok(());
        }
        let token = Uuid::new_v4();
        let caps = CapRule {
            scopes: &ctx.caps(&loaded.job, unit.lane),
            event: &|members| self.suppressed_event(members),
        };
        let repeats = match single.command {
            Command::ImportMsg => RepeatRule::ANY_TIME,
            _ => ctx.timing.repeats(),
        };
        let deadline = Instant::now() + CALL_WINDOW;
        let claim = ctx
            .persist(|| {
                ctx.store.claim_single(
                    unit,
                    token,
                    ENCODER_VERSION,
                    repeats,
                    caps,
                    |generation, to| pair::derive(&unit.app, &unit.job, 0, to, generation, single.message),
                    |revocation, to| self.cancelled_event(revocation, to),
                )
            })
            .await?;
        let (pair, attempt, generation) = match claim {
            SingleClaim::Call {
                pair,
                attempt,
                generation,
                ..
            } => (pair, attempt, generation),
            SingleClaim::Cancelled => {
                ctx.metrics.outcome(loaded.job.job_type(), Outcome::Cancelled, 1);
                ctx.outbox.notify_one();
                return Ok(());
            }
            SingleClaim::Suppressed => {
                ctx.metrics.outcome(loaded.job.job_type(), Outcome::Suppressed, 1);
                ctx.outbox.notify_one();
                return Ok(());
            }
            SingleClaim::Doubtful => {
                ctx.persist(|| ctx.store.postpone(unit, Command::GetRoamMsg, Duration::ZERO, false))
                    .await?;
                ctx.due.notify_one();
                return Ok(());
            }
            SingleClaim::Final(end) => return end_final(ctx, unit, loaded, app, &end).await,
            SingleClaim::Lost => return Ok(()),
        };
        super::fault::point("due.call.before").await;
        let result = single.call(ctx, app, unit.lane, slot, pair, deadline).await;
        super::fault::point("due.call.after").await;
        let settlement = self.judged(token, attempt, generation, result);
        self.settle(&settlement).await
    }

    /// What a call's result writes.
    fn judged(&self, token: Uuid, attempt: u32, generation: i32, result: Result<Accepted, CallFailure>) -> Settlement {
        match result {
            Ok(accepted) => self.accepted(token, attempt, generation, accepted),
            Err(CallFailure::TooLate) => self.not_called(token),
            Err(CallFailure::Im(error)) => {
                let judgement = self.ctx.judge(self.app, &error, self.unit.attempts + 1);
                self.refused(token, attempt, generation, judgement, &error)
            }
        }
    }

    /// What a shared call's answer writes; `None`: nobody knows.
    fn shared(&self, token: Uuid, attempt: u32, generation: i32, answer: Option<Answer>) -> Settlement {
        let judge = |error: &ImError| self.ctx.judge(self.app, error, self.unit.attempts + 1);
        let (judgement, error) = match answer {
            Some(Answer::Accepted(accepted)) => return self.accepted(token, attempt, generation, accepted),
            Some(Answer::TooLate) => return self.not_called(token),
            None => {
                let mut settlement = self.settlement(Some(token));
                settlement.outcome = SingleOutcome::Doubt {
                    after: self.ctx.timing.quiet(),
                };
                return settlement;
            }
            Some(Answer::Failed(error)) => (judge(&error), error),
            Some(Answer::Apart(error)) => (coalesce::APART, error),
            Some(Answer::Listed(code)) => {
                let error = Arc::new(ImError::listed(code));
                (judge(&error), error)
            }
        };
        self.refused(token, attempt, generation, judgement, &error)
    }

    fn accepted(&self, token: Uuid, attempt: u32, generation: i32, accepted: Accepted) -> Settlement {
        let Self {
            ctx, loaded, single, ..
        } = self;
        let mut settlement = self.settlement(Some(token));
        let facts = Facts {
            to: Some(single.to.clone()),
            msg_key: Some(accepted.msg_key.clone()),
            msg_time: accepted.msg_time,
            attempts: attempt,
            ..Facts::default()
        };
        settlement.event = Some(self.event(generation, single.success(), facts));
        settlement.outcome = SingleOutcome::Sent {
            msg_key: accepted.msg_key,
            msg_time: accepted.msg_time,
        };
        ctx.metrics.outcome(loaded.job.job_type(), single.success(), 1);
        settlement
    }

    /// Its slot came too late: nothing was written.
    fn not_called(&self, token: Uuid) -> Settlement {
        let mut settlement = self.settlement(Some(token));
        settlement.outcome = SingleOutcome::Retry {
            after: Duration::ZERO,
            counts: false,
        };
        settlement
    }

    fn refused(&self, token: Uuid, attempt: u32, generation: i32, judgement: Judgement, error: &ImError) -> Settlement {
        let mut settlement = self.settlement(Some(token));
        settlement.error = Some((error.word(), error.text.clone()));
        settlement.note = Some(note(error, attempt));
        match judgement {
            Judgement::Retry { after, counts } => {
                settlement.outcome = SingleOutcome::Retry { after, counts };
                settlement.note = settlement.note.filter(|_| counts);
            }
            Judgement::Doubt => settlement.outcome = SingleOutcome::Doubt { after: FIRST_LOOK },
            Judgement::Fail { code, message, .. } => {
                settlement.outcome = SingleOutcome::Failed;
                settlement.error = Some((code, message));
                self.failed(&mut settlement, generation, attempt);
            }
        }
        settlement
    }

    /// Adds the event, and where it is due the letter, of a failure.
    fn failed(&self, settlement: &mut Settlement, generation: i32, attempts: u32) {
        let facts = Facts {
            to: Some(self.single.to.clone()),
            attempts,
            error: settlement.error.clone(),
            ..Facts::default()
        };
        settlement.event = Some(self.event(generation, Outcome::Failed, facts));
        if let Some((code, message)) = &settlement.error
            && needs_letter(code, self.ctx.recipient_letters)
        {
            self.ctx.metrics.dead_letter(self.unit.lane, code);
            settlement.letter = Some(OutboxLetter {
                job: self.unit.job.clone(),
                code: code.clone(),
                message: message.clone(),
                attempts,
                generation,
            });
        }
        self.ctx.metrics.outcome(self.loaded.job.job_type(), Outcome::Failed, 1);
    }

    /// Its time is over before a call of this try: only a pending message expires.
    async fn expire(&self) -> Result<(), Halt> {
        let Self { ctx, unit, single, .. } = self;
        let mut settlement = self.settlement(None);
        settlement.outcome = SingleOutcome::Expired;
        let facts = Facts {
            to: Some(single.to.clone()),
            ..Facts::default()
        };
        settlement.event = Some(self.event(0, Outcome::Expired, facts));
        match ctx.persist(|| ctx.store.settle(false, &settlement)).await? {
            Recorded::Applied { .. } => {
                ctx.metrics.outcome(self.loaded.job.job_type(), Outcome::Expired, 1);
                ctx.outbox.notify_one();
                Ok(())
            }
            // In doubt, or ended: the claim's way tells which.
            Recorded::Superseded { state } if !state.is_final() => {
                ctx.persist(|| ctx.store.postpone(unit, Command::GetRoamMsg, Duration::ZERO, false))
                    .await
            }
            Recorded::Superseded { .. } => ctx.persist(|| ctx.store.end_single(unit, None)).await,
        }
    }

    fn settlement(&self, token: Option<Uuid>) -> Settlement {
        let unit = self.unit;
        Settlement {
            id: unit.job.clone(),
            created_at: unit.created_at,
            app: unit.app.clone(),
            group: unit.group.clone(),
            lane: unit.lane,
            command: self.single.command,
            token,
            holder: Holder::Work { lease: unit.lease },
            outcome: SingleOutcome::Failed,
            error: None,
            note: None,
            event: None,
            letter: None,
        }
    }

    async fn settle(&self, settlement: &Settlement) -> Result<(), Halt> {
        let ctx = self.ctx;
        super::fault::point("due.outcome.before").await;
        let high = self.unit.lane == crate::domain::Lane::High;
        ctx.persist(|| ctx.store.settle(high, settlement)).await?;
        super::fault::point("due.outcome.after").await;
        if matches!(settlement.outcome, SingleOutcome::Sent { .. }) {
            ctx.published_to_recorded_by_table(self.unit, self.loaded);
        }
        ctx.outbox.notify_one();
        ctx.due.notify_one();
        Ok(())
    }

    fn about(&self) -> About {
        about(&self.loaded.job, Some(self.single.from.clone())).replying(&self.loaded.properties)
    }

    fn event(&self, generation: i32, outcome: Outcome, facts: Facts) -> OutboxEvent {
        self.ctx
            .events
            .build(&self.about(), &single_call(generation), outcome, facts)
    }

    fn cancelled_event(&self, revocation: &JobId, to: &str) -> OutboxEvent {
        let facts = Facts {
            to: AccountId::parse(to).ok(),
            revocation: Some(revocation.clone()),
            ..Facts::default()
        };
        self.event(0, Outcome::Cancelled, facts)
    }

    fn suppressed_event(&self, suppressed: &SuppressedMembers) -> OutboxEvent {
        let facts = Facts {
            to: Some(self.single.to.clone()),
            attempts: self.unit.attempts,
            error: Some((CAPPED.to_owned(), suppressed.why.clone())),
            ..Facts::default()
        };
        self.event(self.unit.generation, Outcome::Suppressed, facts)
    }
}

/// Ends the row of a single that ended elsewhere: its event once more, since whoever ended it may have died before it.
pub(super) async fn end_final(
    ctx: &Context,
    unit: &WorkUnit,
    loaded: &LoadedJob,
    app: &App,
    end: &FinalSingle,
) -> Result<(), Halt> {
    let event = Single::of(&loaded.job, app).and_then(|single| {
        let outcome = end_outcome(end.state, single.success())?;
        let facts = Facts {
            to: AccountId::parse(&end.to).ok(),
            msg_key: end.msg_key.clone(),
            msg_time: end.msg_time,
            attempts: end.attempts,
            error: end.error.clone(),
            revocation: (end.state == MessageState::Cancelled)
                .then(|| end.revocation.as_deref().and_then(|id| JobId::parse(id).ok()))
                .flatten(),
            ..Facts::default()
        };
        let about = about(&loaded.job, AccountId::parse(&end.from).ok()).replying(&loaded.properties);
        Some(ctx.events.build(&about, &single_call(end.generation), outcome, facts))
    });
    ctx.persist(|| ctx.store.end_single(unit, event.as_ref())).await?;
    ctx.outbox.notify_one();
    Ok(())
}
