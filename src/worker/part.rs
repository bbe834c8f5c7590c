//! A part of a batch job: up to 500 recipients, one batchsendmsg call, each recipient's outcome by the book.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use uuid::Uuid;

use super::{
    app::App,
    cache::LoadedJob,
    context::{CallFailure, Context, Errand, Halt},
    due::{give_back, load},
    events::{About, Facts, all_failed},
    judge::{EXHAUSTED, FIRST_LOOK, Judgement, needs_letter},
    pair,
    single::{about, note},
};
use crate::{
    domain::{
        AccountId, Command, ErrorClass, MessageState,
        event::{Outcome, RecipientFailure},
        job::Task,
        message::Message,
        retry::Next,
    },
    im::{BatchReply, ENCODER_VERSION, ImError, Pair, class_in_error_list, encode_batch, lookup},
    store::{
        CALL_WINDOW, CAPPED, Caller, CancelledMembers, CapRule, Member, MemberFailure, OutboxEvent, OutboxLetter,
        PartCall, PartClaim, PartNext, PartOutcome, SuppressedMembers, WorkUnit,
    },
};

/// The event's name of a batch call.
pub(super) fn part_call(part: i32, generation: i32) -> String {
    format!("part/{part}/{generation}")
}

/// A part under way.
struct Part<'a> {
    ctx: &'a Arc<Context>,
    unit: &'a WorkUnit,
    loaded: &'a LoadedJob,
    app: &'a App,
    from: AccountId,
    message: &'a Message,
}

/// Delivers a due part.
pub(super) async fn deliver(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let Task::BatchSend { from, message, .. } = &loaded.job.task else {
        give_back(ctx, unit, Duration::from_mins(1)).await;
        return Ok(());
    };
    let from = from.as_ref().unwrap_or(app.admin()).clone();
    Part {
        ctx,
        unit,
        loaded: &loaded,
        app,
        from,
        message,
    }
    .run()
    .await
}

impl Part<'_> {
    async fn run(&self) -> Result<(), Halt> {
        let Self {
            ctx, unit, loaded, app, ..
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
        let errand = Errand {
            app,
            command: Command::BatchSendMsg,
            lane: unit.lane,
            group: unit.group.as_ref(),
            recipients: self.size(),
        };
        let Some(slot) = ctx.slot(errand).await else {
            give_back(ctx, unit, Duration::ZERO).await;
            return Ok(());
        };
        if ctx.stopping.is_cancelled() || ctx.waits_for_window(&loaded.job, unit).await? {
            return Ok(());
        }
        let token = Uuid::new_v4();
        let deadline = Instant::now() + CALL_WINDOW;
        let claim = self.claim(token).await?;
        if claim.lost {
            return Ok(());
        }
        if claim.doubtful {
            ctx.persist(|| ctx.store.postpone(unit, Command::GetRoamMsg, Duration::ZERO, false))
                .await?;
            ctx.due.notify_one();
            return Ok(());
        }
        if claim.cancelled > 0 {
            ctx.metrics
                .outcome(loaded.job.job_type(), Outcome::Cancelled, claim.cancelled as u64);
        }
        if claim.suppressed > 0 {
            ctx.metrics
                .outcome(loaded.job.job_type(), Outcome::Suppressed, claim.suppressed as u64);
        }
        let Some(call) = claim.call else {
            drop(slot);
            return self.settle(Uuid::nil(), &ended()).await;
        };
        let to: Vec<AccountId> = call
            .members
            .iter()
            .filter_map(|member| AccountId::parse(&member.to).ok())
            .collect();
        let pair = Pair {
            seq: call.pair.seq,
            random: call.pair.random,
        };
        let body = encode_batch(Some(&self.from), &to, self.message, pair);
        super::fault::point("part.call.before").await;
        let result = ctx
            .call(errand, slot, deadline, || app.client.batch_send(body, Some(deadline)))
            .await;
        super::fault::point("part.call.after").await;
        let outcome = match result {
            Ok(reply) => self.answered(&call, reply),
            Err(CallFailure::TooLate) => self.again(&call, Duration::ZERO, false, None),
            Err(CallFailure::Im(error)) => self.refused(&call, &error),
        };
        self.settle(token, &outcome).await
    }

    /// Its time is over: what is pending of it ends without a call.
    async fn expire(&self) -> Result<(), Halt> {
        let Self { ctx, unit, loaded, .. } = self;
        let ended = ctx
            .persist(|| {
                ctx.store.end_pending(unit, MessageState::Expired, None, |members| {
                    self.unreached(
                        Outcome::Expired,
                        members.iter().map(|m| m.to.as_str()),
                        "expired",
                        "its time was over",
                        None,
                    )
                })
            })
            .await?;
        ctx.metrics
            .outcome(loaded.job.job_type(), Outcome::Expired, ended as u64);
        self.woken();
        Ok(())
    }

    /// Claims what is pending of the part.
    async fn claim(&self, token: Uuid) -> Result<PartClaim, Halt> {
        let Self { ctx, unit, loaded, .. } = self;
        let caller = Caller {
            token,
            sender: self.from.as_str(),
            encoder: ENCODER_VERSION,
        };
        let caps = CapRule {
            scopes: &ctx.caps(&loaded.job, unit.lane),
            event: &|members| self.suppressed_event(members),
        };
        ctx.persist(|| {
            ctx.store.claim_part(
                unit,
                caller,
                ctx.timing.repeats(),
                caps,
                |generation| pair::derive(&unit.app, &unit.job, unit.part, "", generation, self.message),
                |cancelled| self.cancelled_event(cancelled),
            )
        })
        .await
    }

    /// How many recipients the part's call can have at most: what its slot is booked for.
    fn size(&self) -> u32 {
        let size = crate::domain::job::MAX_CALL_RECIPIENTS as u32;
        let before = self.unit.part.max(0) as u32 * size;
        self.loaded.total.saturating_sub(before).clamp(1, size)
    }

    async fn settle(&self, token: Uuid, outcome: &PartOutcome) -> Result<(), Halt> {
        let Self { ctx, unit, .. } = self;
        super::fault::point("part.outcome.before").await;
        ctx.persist(|| ctx.store.settle_part(unit, token, outcome)).await?;
        super::fault::point("part.outcome.after").await;
        if !outcome.sent.is_empty() {
            ctx.published_to_recorded_by_table(unit, self.loaded);
        }
        self.woken();
        Ok(())
    }

    fn woken(&self) {
        self.ctx.outbox.notify_one();
        self.ctx.due.notify_one();
    }

    /// Who was reached is who was asked for and isn't in the list of failures.
    fn answered(&self, call: &PartCall, reply: BatchReply) -> PartOutcome {
        let Self { ctx, unit, loaded, .. } = self;
        let refused: std::collections::HashMap<String, crate::domain::ErrorCode> = reply
            .failed
            .into_iter()
            .map(|failure| (failure.to.to_string(), failure.code))
            .collect();
        let (mut sent, mut reached, mut failed, mut final_failures) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut retry: Option<(Duration, bool)> = None;
        for member in &call.members {
            let Some(&code) = refused.get(&member.to) else {
                sent.push(member.idx);
                reached.extend(AccountId::parse(&member.to).ok());
                continue;
            };
            let class = class_in_error_list(code);
            let meaning = lookup(code).map_or("a code that isn't documented", |info| info.meaning);
            let counted = unit.attempts + 1;
            let next = ctx.retry.next(class, counted, rand::random());
            match (class, next) {
                (
                    ErrorClass::Transient | ErrorClass::Ambiguous | ErrorClass::Throttled | ErrorClass::Auth,
                    Next::RetryIn(after),
                ) => {
                    let counts = matches!(class, ErrorClass::Transient | ErrorClass::Ambiguous);
                    let (longest, counted) = retry.unwrap_or((Duration::ZERO, false));
                    retry = Some((longest.max(after), counted || counts));
                    failed.push(failure(member, MessageState::Pending, code.word(), meaning.to_owned()));
                }
                (ErrorClass::Transient | ErrorClass::Ambiguous, Next::GiveUp) => {
                    let message = format!(
                        "after {counted} attempts, the last answer was {}: {meaning}",
                        code.word()
                    );
                    final_failures.push((member, EXHAUSTED.to_owned(), message));
                }
                _ => final_failures.push((member, code.word(), meaning.to_owned())),
            }
        }
        ctx.metrics
            .outcome(loaded.job.job_type(), Outcome::Sent, sent.len() as u64);
        ctx.metrics
            .outcome(loaded.job.job_type(), Outcome::Failed, final_failures.len() as u64);
        let told: Vec<RecipientFailure> = final_failures
            .iter()
            .flat_map(|(member, code, message)| all_failed([member.to.as_str()], code, message))
            .collect();
        failed.extend(
            final_failures
                .into_iter()
                .map(|(member, code, message)| failure(member, MessageState::Failed, code, message)),
        );
        let outcome = if reached.is_empty() {
            Outcome::Failed
        } else {
            Outcome::Sent
        };
        let events = if reached.is_empty() && told.is_empty() {
            Vec::new()
        } else {
            let facts = Facts {
                sent: Some(reached),
                failed: Some(told),
                msg_key: Some(reply.msg_key.to_string()),
                attempts: unit.attempts + 1,
                ..Facts::default()
            };
            vec![self.event(call.generation, outcome, facts)]
        };
        PartOutcome {
            sent,
            msg_key: Some(reply.msg_key.to_string()),
            msg_time: time_of(reply.msg_key.as_str()),
            failed,
            next: match retry {
                Some((after, counts)) => PartNext::Retry { after, counts },
                None => PartNext::End,
            },
            job_error: None,
            note: None,
            events,
        }
    }

    fn refused(&self, call: &PartCall, error: &ImError) -> PartOutcome {
        let Self {
            ctx, unit, app, loaded, ..
        } = self;
        let attempt = unit.attempts + 1;
        match ctx.judge(app, error, attempt) {
            Judgement::Retry { after, counts } => self.again(call, after, counts, counts.then_some(error)),
            Judgement::Doubt => PartOutcome {
                next: PartNext::Doubt { after: FIRST_LOOK },
                note: Some(note(error, attempt)),
                ..ended()
            },
            Judgement::Fail {
                code,
                message,
                recipient,
            } => {
                ctx.metrics
                    .outcome(loaded.job.job_type(), Outcome::Failed, call.members.len() as u64);
                let failed = call
                    .members
                    .iter()
                    .map(|member| failure(member, MessageState::Failed, code.clone(), message.clone()))
                    .collect();
                let to = call.members.iter().map(|member| member.to.as_str());
                let facts = Facts {
                    sent: Some(Vec::new()),
                    failed: Some(all_failed(to, &code, &message)),
                    attempts: attempt,
                    error: Some((code.clone(), message.clone())),
                    ..Facts::default()
                };
                PartOutcome {
                    failed,
                    job_error: (!recipient || ctx.recipient_letters).then_some((code, message)),
                    note: Some(note(error, attempt)),
                    events: vec![self.event(call.generation, Outcome::Failed, facts)],
                    ..ended()
                }
            }
        }
    }

    /// Surely not carried out: every member is pending again.
    fn again(&self, call: &PartCall, after: Duration, counts: bool, error: Option<&ImError>) -> PartOutcome {
        let (code, message) = error.map_or_else(Default::default, |error| (error.word(), error.text.clone()));
        PartOutcome {
            failed: call
                .members
                .iter()
                .map(|member| failure(member, MessageState::Pending, code.clone(), message.clone()))
                .collect(),
            next: PartNext::Retry { after, counts },
            note: error.map(|error| note(error, self.unit.attempts + 1)),
            ..ended()
        }
    }

    fn about(&self) -> About {
        about(&self.loaded.job, Some(self.from.clone())).replying(&self.loaded.properties)
    }

    fn event(&self, generation: i32, outcome: Outcome, facts: Facts) -> OutboxEvent {
        self.ctx
            .events
            .build(&self.about(), &part_call(self.unit.part, generation), outcome, facts)
    }

    fn cancelled_event(&self, cancelled: &CancelledMembers) -> OutboxEvent {
        let to = cancelled.to.iter().map(String::as_str);
        self.unreached(
            Outcome::Cancelled,
            to,
            "cancelled",
            "revoked before it was sent",
            Some(&cancelled.revocation),
        )
    }

    fn suppressed_event(&self, suppressed: &SuppressedMembers) -> OutboxEvent {
        let to = suppressed.to.iter().map(String::as_str);
        self.unreached(Outcome::Suppressed, to, CAPPED, &suppressed.why, None)
    }

    /// The event of members that end without a call; named by the first of them, which ends but once.
    fn unreached<'m>(
        &self,
        outcome: Outcome,
        to: impl Iterator<Item = &'m str>,
        code: &str,
        message: &str,
        revocation: Option<&crate::domain::JobId>,
    ) -> OutboxEvent {
        let failed = all_failed(to, code, message);
        let first = failed
            .first()
            .map_or_else(String::new, |failure| failure.to.to_string());
        let facts = Facts {
            sent: Some(Vec::new()),
            failed: Some(failed),
            attempts: self.unit.attempts,
            revocation: revocation.cloned(),
            ..Facts::default()
        };
        self.ctx.events.build(
            &self.about(),
            &format!("part/{}/{first}", self.unit.part),
            outcome,
            facts,
        )
    }
}

/// An outcome that ends the part.
fn ended() -> PartOutcome {
    PartOutcome {
        sent: Vec::new(),
        msg_key: None,
        msg_time: None,
        failed: Vec::new(),
        next: PartNext::End,
        job_error: None,
        note: None,
        events: Vec::new(),
    }
}

fn failure(member: &Member, state: MessageState, code: String, message: String) -> MemberFailure {
    MemberFailure {
        idx: member.idx,
        state,
        code,
        message,
    }
}

/// The time that a MsgKey ends with; the batch reply has no other.
pub(super) fn time_of(msg_key: &str) -> Option<i64> {
    msg_key.rsplit_once('_')?.1.parse().ok()
}

/// Ends a long job: a dead letter where nobody was reached and it wasn't the recipients' own fault.
pub(super) async fn close(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    ctx.persist(|| {
        ctx.store.close_job(unit, |closed| {
            let (code, message) = closed.error.clone()?;
            let buried = closed.reached == 0 && closed.failed > 0 && needs_letter(&code, ctx.recipient_letters);
            buried.then(|| {
                ctx.metrics.dead_letter(unit.lane, &code);
                OutboxLetter {
                    job: unit.job.clone(),
                    code,
                    message,
                    attempts: closed.attempts,
                    generation: closed.generation,
                }
            })
        })
    })
    .await?;
    ctx.outbox.notify_one();
    Ok(())
}

/// Ends what is pending of a part as failed, without a call.
pub(super) async fn end_as(ctx: &Arc<Context>, unit: &WorkUnit, error: &(String, String)) -> Result<(), Halt> {
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let Task::BatchSend { from, message, .. } = &loaded.job.task else {
        return Ok(());
    };
    let from = from.as_ref().unwrap_or(app.admin()).clone();
    let part = Part {
        ctx,
        unit,
        loaded: &loaded,
        app,
        from,
        message,
    };
    ctx.persist(|| {
        ctx.store
            .end_pending(unit, MessageState::Failed, Some(error), |members| {
                let to = members.iter().map(|member| member.to.as_str());
                part.unreached(Outcome::Failed, to, &error.0, &error.1, None)
            })
    })
    .await?;
    part.woken();
    Ok(())
}
