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
    context::{CallFailure, Context, Halt},
    due::{give_back, load},
    events::{About, Facts, single_call},
    judge::{FIRST_LOOK, Judgement, needs_letter},
    pair,
    single::{Accepted, Single, about, end_outcome, note},
};
use crate::{
    domain::{AccountId, Command, JobId, MessageState, event::Outcome},
    im::ENCODER_VERSION,
    store::{
        CALL_WINDOW, CAPPED, CapRule, FinalSingle, Holder, OutboxEvent, OutboxLetter, Recorded, Settlement,
        SingleClaim, SingleOutcome, SuppressedMembers, WorkUnit,
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
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let Some(single) = Single::of(&loaded.job, app) else {
        give_back(ctx, unit, Duration::from_mins(1)).await;
        return Ok(());
    };
    Due {
        ctx,
        unit,
        loaded: &loaded,
        app,
        single,
    }
    .run()
    .await
}

/// Ends a pending single as failed, without a call.
pub(super) async fn end_as(ctx: &Arc<Context>, unit: &WorkUnit, error: (String, String)) -> Result<(), Halt> {
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let Some(single) = Single::of(&loaded.job, app) else {
        return Ok(());
    };
    let due = Due {
        ctx,
        unit,
        loaded: &loaded,
        app,
        single,
    };
    let mut settlement = due.settlement(None);
    settlement.outcome = SingleOutcome::Failed;
    settlement.error = Some(error);
    due.failed(&mut settlement, unit.generation, unit.attempts);
    due.settle(&settlement).await
}

impl Due<'_> {
    async fn run(&self) -> Result<(), Halt> {
        let Self {
            ctx,
            unit,
            loaded,
            app,
            single,
        } = self;
        if loaded.job.expires_at.is_some_and(|at| at <= Utc::now()) {
            return self.expire().await;
        }
        if ctx.waits_for_window(&loaded.job, unit).await? {
            return Ok(());
        }
        let _permit = ctx.permit(unit.lane).await?;
        if let Some(wait) = Context::gate_wait(app) {
            give_back(ctx, unit, wait).await;
            return Ok(());
        }
        let Some(slot) = ctx.slot(single.errand(app, unit.lane, unit.group.as_ref())).await else {
            give_back(ctx, unit, Duration::ZERO).await;
            return Ok(());
        };
        if ctx.stopping.is_cancelled() || ctx.waits_for_window(&loaded.job, unit).await? {
            return Ok(());
        }
        let token = Uuid::new_v4();
        let caps = CapRule {
            scopes: &ctx.caps(&loaded.job, unit.lane),
            event: &|members| self.suppressed_event(members),
        };
        let deadline = Instant::now() + CALL_WINDOW;
        let claim = ctx
            .persist(|| {
                ctx.store.claim_single(
                    unit,
                    token,
                    ENCODER_VERSION,
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
        let Self {
            ctx,
            unit,
            loaded,
            app,
            single,
        } = self;
        let mut settlement = self.settlement(Some(token));
        let counted = unit.attempts + 1;
        match result {
            Ok(accepted) => {
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
            }
            Err(CallFailure::TooLate) => {
                settlement.outcome = SingleOutcome::Retry {
                    after: Duration::ZERO,
                    counts: false,
                };
            }
            Err(CallFailure::Im(error)) => match ctx.judge(app, &error, counted) {
                Judgement::Retry { after, counts } => {
                    settlement.outcome = SingleOutcome::Retry { after, counts };
                    settlement.error = Some((error.word(), error.text.clone()));
                    settlement.note = counts.then(|| note(&error, attempt));
                }
                Judgement::Doubt => {
                    settlement.outcome = SingleOutcome::Doubt { after: FIRST_LOOK };
                    settlement.error = Some((error.word(), error.text.clone()));
                    settlement.note = Some(note(&error, attempt));
                }
                Judgement::Fail { code, message, .. } => {
                    settlement.outcome = SingleOutcome::Failed;
                    settlement.error = Some((code, message));
                    settlement.note = Some(note(&error, attempt));
                    self.failed(&mut settlement, generation, attempt);
                }
            },
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
