//! Revoking: the fan-out of a tombstone, and one `admin_msgwithdraw` call for each message that it covers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    app::App,
    context::{CallFailure, Context, Errand, Halt},
    due::{LEASE, give_back},
    events::{About, Facts, all_failed},
    judge::Judgement,
};
use crate::{
    domain::{
        AccountId, AppName, Command, ErrorClass, GroupName, JobId, MessageState, MsgKey, event::Outcome, job::JobType,
        record::type_name,
    },
    store::{CancelledByFanOut, OutboxEvent, RevocableMessage, RevokeOutcome, WorkUnit},
};

/// How one message's revocation went.
enum End {
    /// Revoked, now or before.
    Revoked,
    /// It can't be: word and sentence.
    Failed(String, String),
    /// Later.
    Retry { after: Duration, counts: bool },
}

/// Revokes one message that is on record, under every key that it has.
pub(super) async fn one(ctx: &Arc<Context>, message: RevocableMessage) -> Result<(), Halt> {
    let unit = &message.unit;
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let _permit = ctx.permit(unit.lane).await?;
    let (mut withdrawn, mut refused, mut error) = (Vec::new(), Vec::new(), None);
    for key in &message.keys {
        match withdraw(ctx, app, unit, &message.from, &message.to, key).await? {
            End::Revoked => withdrawn.push(key.clone()),
            // The others are tried all the same.
            End::Failed(word, sentence) => {
                refused.push(key.clone());
                error.get_or_insert((word, sentence));
            }
            End::Retry { after, counts } => {
                return ctx
                    .persist(|| ctx.store.postpone(unit, Command::MsgWithdraw, after, counts))
                    .await;
            }
        }
    }
    if message.state != MessageState::Sent {
        tracing::warn!(job.id = %unit.job, to = %message.to, state = message.state.as_str(), keys = message.keys.len(),
                       refused = refused.len(), "a message that came to a further key after its end is revoked under it");
    }
    let about = About {
        job: unit.job.clone(),
        job_type: job_type(message.job_type),
        app: unit.app.clone(),
        group: message.group.as_deref().and_then(|group| GroupName::parse(group).ok()),
        from: Some(message.from.clone()),
        reply_to: message.reply_to.clone(),
        correlation_id: message.correlation_id.clone(),
    };
    let call = format!("revoke/{}", unit.part);
    let event = ended(
        ctx,
        &about,
        &call,
        &message.to,
        message.keys.first().cloned(),
        error.as_ref(),
        &message.revocation,
    );
    let outcome = RevokeOutcome {
        unit: unit.clone(),
        withdrawn,
        refused,
        error: error.as_ref().map(as_recorded),
        event,
    };
    ctx.insist(|| ctx.revoked.submit(outcome.clone())).await?;
    if message.state == MessageState::Sent {
        let counted = if error.is_none() {
            Outcome::Revoked
        } else {
            Outcome::RevokeFailed
        };
        ctx.metrics.outcome(about.job_type, counted, 1);
    }
    ctx.outbox.notify_one();
    Ok(())
}

/// Revokes a message that no record of ours owns.
pub(super) async fn raw(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    let Some(message) = ctx.persist(|| ctx.store.raw_message(unit)).await? else {
        return ctx.persist(|| ctx.store.end_work(unit)).await;
    };
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let _permit = ctx.permit(unit.lane).await?;
    let error = match withdraw(ctx, app, unit, &message.from, &message.to, &message.msg_key).await? {
        End::Revoked => None,
        End::Failed(word, sentence) => Some((word, sentence)),
        End::Retry { after, counts } => {
            return ctx
                .persist(|| ctx.store.postpone(unit, Command::MsgWithdraw, after, counts))
                .await;
        }
    };
    // No job of ours sent it: the event is about the revoke job itself.
    let about = About {
        job: unit.job.clone(),
        job_type: JobType::Revoke,
        app: unit.app.clone(),
        group: None,
        from: Some(message.from.clone()),
        reply_to: message.reply_to.clone(),
        correlation_id: message.correlation_id.clone(),
    };
    let key = Some(message.msg_key.clone());
    let event = ended(ctx, &about, "revoke", &message.to, key, error.as_ref(), &unit.job);
    let recorded = error.as_ref().map(as_recorded);
    ctx.persist(|| {
        ctx.store
            .record_raw_revoked(unit, &message, recorded.as_deref(), &event)
    })
    .await?;
    let counted = if error.is_none() {
        Outcome::Revoked
    } else {
        Outcome::RevokeFailed
    };
    ctx.metrics.outcome(JobType::Revoke, counted, 1);
    ctx.outbox.notify_one();
    Ok(())
}

/// A failure as the records keep it: `<word>: <sentence>`, which `status` takes apart again.
fn as_recorded((word, sentence): &(String, String)) -> String {
    format!("{word}: {sentence}")
}

fn ended(
    ctx: &Context,
    about: &About,
    call: &str,
    to: &AccountId,
    msg_key: Option<String>,
    error: Option<&(String, String)>,
    revocation: &JobId,
) -> OutboxEvent {
    let outcome = if error.is_none() {
        Outcome::Revoked
    } else {
        Outcome::RevokeFailed
    };
    let facts = Facts {
        to: Some(to.clone()),
        msg_key,
        attempts: 1,
        error: error.cloned(),
        revocation: Some(revocation.clone()),
        ..Facts::default()
    };
    ctx.events.build(about, call, outcome, facts)
}

/// One call of `admin_msgwithdraw`, which may be repeated without harm.
async fn withdraw(
    ctx: &Arc<Context>,
    app: &App,
    unit: &WorkUnit,
    from: &AccountId,
    to: &AccountId,
    key: &str,
) -> Result<End, Halt> {
    let Ok(key) = MsgKey::parse(key) else {
        return Ok(End::Failed("im-90054".to_owned(), "MsgKey malformed".to_owned()));
    };
    if let Some(wait) = Context::gate_wait(app) {
        return Ok(End::Retry {
            after: wait,
            counts: false,
        });
    }
    let errand = Errand {
        app,
        command: Command::MsgWithdraw,
        lane: unit.lane,
        group: None,
        recipients: 1,
    };
    let Some(slot) = ctx.slot(errand).await else {
        return Ok(End::Retry {
            after: Duration::ZERO,
            counts: false,
        });
    };
    if ctx.stopping.is_cancelled() {
        return Err(Halt::Stopping);
    }
    let deadline = Instant::now() + LEASE / 4;
    super::fault::point("revoke.call.before").await;
    let result = ctx
        .call(errand, slot, deadline, || {
            app.client.revoke(from, to, &key, Some(deadline))
        })
        .await;
    super::fault::point("revoke.call.after").await;
    Ok(match result {
        Ok(()) => End::Revoked,
        Err(CallFailure::TooLate) => End::Retry {
            after: Duration::ZERO,
            counts: false,
        },
        Err(CallFailure::Im(error)) if error.class == ErrorClass::AlreadyDone => End::Revoked,
        Err(CallFailure::Im(error)) => match ctx.judge(app, &error, unit.attempts + 1) {
            Judgement::Retry { after, counts } => End::Retry { after, counts },
            // Revoking twice is success, so a lost answer is simply asked for again.
            Judgement::Doubt => End::Retry {
                after: Duration::from_secs(1),
                counts: true,
            },
            Judgement::Fail { code, message, .. } => End::Failed(code, message),
        },
    })
}

/// Spreads a revocation over its target, step by step; a crash between two steps goes on at the cursor.
pub(super) async fn fan_out(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    let mut steps = 0_u32;
    loop {
        super::fault::point("fanout.step").await;
        let ended = ctx
            .persist(|| {
                ctx.store
                    .fan_out(unit, |cancelled| cancelled_event(ctx, unit, cancelled))
            })
            .await?;
        ctx.due.notify_one();
        ctx.outbox.notify_one();
        if ended {
            return Ok(());
        }
        steps += 1;
        if ctx.draining.is_cancelled() {
            give_back(ctx, unit, Duration::ZERO).await;
            return Ok(());
        }
        if steps.is_multiple_of(20) && !ctx.persist(|| ctx.store.keep_lease(unit, LEASE)).await? {
            return Ok(());
        }
    }
}

fn cancelled_event(ctx: &Context, unit: &WorkUnit, cancelled: &CancelledByFanOut) -> OutboxEvent {
    let about = About {
        job: cancelled.job.clone(),
        job_type: job_type(cancelled.job_type),
        app: AppName::parse(&cancelled.app).unwrap_or_else(|_| AppName::default_app()),
        group: cancelled
            .group
            .as_deref()
            .and_then(|group| GroupName::parse(group).ok()),
        from: AccountId::parse(&cancelled.from).ok(),
        reply_to: None,
        correlation_id: None,
    };
    let first = cancelled.to.first().cloned().unwrap_or_default();
    let facts = if about.job_type == JobType::BatchSend {
        let to = cancelled.to.iter().map(String::as_str);
        Facts {
            sent: Some(Vec::new()),
            failed: Some(all_failed(to, "cancelled", "revoked before it was sent")),
            revocation: Some(unit.job.clone()),
            ..Facts::default()
        }
    } else {
        Facts {
            to: AccountId::parse(&first).ok(),
            revocation: Some(unit.job.clone()),
            ..Facts::default()
        }
    };
    let call = if about.job_type == JobType::BatchSend {
        format!("cancelled/{first}")
    } else {
        super::events::single_call(0)
    };
    ctx.metrics
        .outcome(about.job_type, Outcome::Cancelled, cancelled.to.len() as u64);
    ctx.events.build(&about, &call, Outcome::Cancelled, facts)
}

fn job_type(number: i16) -> JobType {
    JobType::parse(type_name(number)).unwrap_or(JobType::Send)
}
