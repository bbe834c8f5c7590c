//! A delivery whose id is on record already: a producer's repeat, a redelivery after a crash, a replayed letter, or
//! another job's id.

use std::{sync::Arc, time::Duration};

use super::{
    context::{Context, Halt},
    delivery::{Verdict, conflict, hand_over, parcel, replay, replay_of},
    events::{Facts, single_call},
    judge::FIRST_LOOK,
    single::{Single, about, end_outcome, letter_or_ack},
};
use crate::{
    broker::Delivery,
    domain::{JobId, MessageState, job::Job},
    store::{ExistingJob, ExistingMessage, OutboxEvent, SecondDelivery},
};

/// A delivery whose id is on record: a repeat, a redelivery after a crash, or another job's.
pub(super) async fn existing_job(
    ctx: &Arc<Context>,
    delivery: &Delivery,
    job: &Job,
    single: &Single<'_>,
    existing: ExistingJob,
) -> Result<Verdict, Halt> {
    if !existing.same {
        return Ok(Verdict::DeadLetter(conflict()));
    }
    if existing.loading {
        return hand_over(ctx, delivery, job, Duration::ZERO).await;
    }
    if let Some(generation) = replay_of(delivery) {
        replay(ctx, job, generation, &parcel(delivery)).await?;
        return Ok(Verdict::Ack);
    }
    let Some(message) = existing.message else {
        return Ok(Verdict::Ack);
    };
    if existing.owner == crate::domain::Owner::Table {
        return Ok(Verdict::Ack);
    }
    if !message.state.is_final() {
        return hand_over_live(ctx, delivery, job).await;
    }
    ended(ctx, delivery, job, single, message).await
}

/// A delivery on its way to the table of a job that ended under an earlier delivery.
pub(super) async fn finished(ctx: &Context, delivery: &Delivery, job: &Job) -> Result<Verdict, Halt> {
    let single = ctx.apps.get(&job.app).and_then(|app| Single::of(job, app));
    let (Some(single), true) = (single, delivery.redelivered) else {
        return Ok(Verdict::Ack);
    };
    match on_record(ctx, job).await?.and_then(|existing| existing.message) {
        Some(message) if message.state.is_final() => ended(ctx, delivery, job, &single, message).await,
        _ => Ok(Verdict::Ack),
    }
}

/// A job that ended, and whose worker may have died before the event or the letter.
async fn ended(
    ctx: &Context,
    delivery: &Delivery,
    job: &Job,
    single: &Single<'_>,
    message: ExistingMessage,
) -> Result<Verdict, Halt> {
    if !delivery.redelivered {
        tracing::debug!(job.id = %job.id, state = message.state.as_str(), "a job that has ended was published again");
        return Ok(Verdict::Ack);
    }
    if let Some(event) = repeated_event(ctx, delivery, job, single, &message) {
        ctx.publish_event(&event).await?;
    }
    Ok(match (message.state, message.error) {
        (MessageState::Failed, Some((code, sentence))) => {
            letter_or_ack(ctx, code, sentence, message.attempts, message.generation)
        }
        _ => Verdict::Ack,
    })
}

fn repeated_event(
    ctx: &Context,
    delivery: &Delivery,
    job: &Job,
    single: &Single<'_>,
    message: &ExistingMessage,
) -> Option<OutboxEvent> {
    let outcome = end_outcome(message.state, single.success())?;
    let revocation = (message.state == MessageState::Cancelled)
        .then(|| message.revocation.as_deref().and_then(|id| JobId::parse(id).ok()))
        .flatten();
    let facts = Facts {
        to: Some(single.to.clone()),
        msg_key: message.msg_key.clone(),
        msg_time: message.msg_time,
        attempts: message.attempts,
        error: message.error.clone(),
        revocation,
        ..Facts::default()
    };
    let about = about(job, Some(single.from.clone())).replying(&delivery.properties);
    Some(
        ctx.events
            .build(&about, &single_call(message.generation), outcome, facts),
    )
}

/// What is on record of a job.
async fn on_record(ctx: &Context, job: &Job) -> Result<Option<ExistingJob>, Halt> {
    let digest = job.digest();
    let existing = ctx
        .persist(|| async { ctx.store.existing(false, &[(&job.id, digest.as_slice())]).await })
        .await?;
    Ok(existing.into_iter().next().map(|(_, existing)| existing))
}

/// A second delivery of a job whose first is being carried out, or was when its worker died: the table finds out.
pub(super) async fn hand_over_live(ctx: &Context, delivery: &Delivery, job: &Job) -> Result<Verdict, Halt> {
    let Some(existing) = on_record(ctx, job).await? else {
        return Ok(Verdict::Leave);
    };
    let parcel = parcel(delivery);
    // After a crash the message is mostly in the history already, or never will be; a producer's repeat of a job that
    // is under way has time.
    let after = if delivery.redelivered {
        FIRST_LOOK
    } else {
        ctx.timing.quiet()
    };
    let second = SecondDelivery {
        id: &job.id,
        created_at: existing.created_at,
        lane: delivery.lane,
        app: &job.app,
        group: job.group.as_ref(),
        parcel: &parcel,
    };
    ctx.persist(|| ctx.store.hand_over_live(&second, after)).await?;
    ctx.due.notify_one();
    Ok(Verdict::Ack)
}
