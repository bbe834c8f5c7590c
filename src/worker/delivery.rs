//! One delivery: decoded, routed to what carries its job out, and settled. No path drops a delivery undecided.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use sha2::{Digest, Sha256};

use super::{
    context::{Context, Halt},
    judge::INTERNAL,
};
use crate::{
    broker::{Delivery, Disposition, Letter, Properties},
    domain::{
        AccountId, Command,
        job::{DecodeError, Job, RevokeTarget, Task},
        record,
    },
    store::{HandedOver, Handover, NewRevocation, Opening, Parcel, RetryFilter, RevocationAdded},
    telemetry::{Operation, SpanValue},
};

/// Bodies over this many bytes are decoded one at a time, off the runtime's threads.
const LARGE: usize = 1 << 20;

/// A `send_at` nearer than this isn't worth a hand-over.
const SOON: Duration = Duration::from_millis(20);

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done and recorded, or the table's.
    Ack,
    /// Goes back when its channel closes: another worker finds out.
    Leave,
    /// Published to the dead queue, then acknowledged.
    DeadLetter(Fault),
}

/// Why a job can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The stable word.
    pub(super) code: String,
    /// The sentence.
    pub(super) sentence: String,
    /// Calls made.
    pub(super) attempts: u32,
    /// The generation that failed.
    pub(super) generation: i32,
}

impl Fault {
    /// A fault of a job that made no call.
    pub(super) fn new(code: &str, sentence: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            sentence: sentence.into(),
            attempts: 0,
            generation: 0,
        }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::new(error.word, error.sentence)
    }
}

/// Handles a delivery to its end. A panic in it is a dead letter, not a dead worker.
pub(super) async fn handle(ctx: Arc<Context>, delivery: Delivery) {
    ctx.metrics.delivery(delivery.lane, delivery.redelivered);
    ctx.metrics.published(delivery.lane, delivery.properties.timestamp());
    let span = ctx
        .traces
        .delivery(&delivery.queue, delivery.lane, |name| delivery.properties.header(name));
    let work = span.within(|| route(&ctx, &delivery));
    let (verdict, job) = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        ctx.metrics.operation(Operation::Panic);
        let sentence = "the dispatcher failed on this job: see its log for a panic";
        (Verdict::DeadLetter(Fault::new(INTERNAL, sentence)), None)
    });
    if let Some(job) = &job {
        span.describe(|| described(job));
    }
    if let Verdict::DeadLetter(fault) = &verdict {
        span.failed(|| (fault.code.clone(), "dead_letter"));
    }
    let disposition = match verdict {
        Verdict::Ack => Disposition::Ack,
        Verdict::Leave => Disposition::Leave,
        Verdict::DeadLetter(fault) => {
            let id = job.map(|job| job.id.to_string());
            match Box::pin(bury(&ctx, &delivery, id.as_deref(), fault)).await {
                Ok(()) => Disposition::Ack,
                Err(_) => Disposition::Leave,
            }
        }
    };
    delivery.settle(disposition);
}

/// What a span says of a job: no account, and nothing of its message.
fn described(job: &Job) -> [(&'static str, SpanValue); 4] {
    let group = job.group.as_ref().map_or("", AsRef::as_ref);
    [
        ("im.job.id", job.id.to_string().into()),
        ("im.job.type", job.job_type().as_str().into()),
        ("im.app", job.app.to_string().into()),
        ("im.group", group.to_owned().into()),
    ]
}

/// Publishes a dead letter until the broker has confirmed it.
async fn bury(ctx: &Context, delivery: &Delivery, id: Option<&str>, fault: Fault) -> Result<(), Halt> {
    ctx.metrics.dead_letter(delivery.lane, &fault.code);
    tracing::info!(job.id = id, lane = %delivery.lane, code = %fault.code, reason = %fault.sentence, "a job becomes a dead letter");
    let letter = Letter {
        letter_id: letter_id(id, &delivery.body, fault.generation),
        body: delivery.body.clone(),
        properties: delivery.properties.clone(),
        queue: delivery.queue.to_string(),
        code: fault.code,
        sentence: fault.sentence,
        attempts: fault.attempts,
        generation: fault.generation.max(0) as u32,
    };
    publish_letter(ctx, letter).await
}

/// Publishes a letter until it is confirmed; gives up only when the worker stops.
pub(super) async fn publish_letter(ctx: &Context, letter: Letter) -> Result<(), Halt> {
    let mut pause = Duration::from_millis(50);
    while let Err(error) = ctx.publisher.dead_letter(letter.clone()).await {
        tracing::warn!(%error, "a dead letter could not be published yet");
        tokio::select! {
            () = ctx.stopping.cancelled() => return Err(Halt::Stopping),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    Ok(())
}

/// The letter's own name: the same for two letters of one failure, so that a replay of both acts once.
pub(super) fn letter_id(job: Option<&str>, body: &Bytes, generation: i32) -> String {
    match job {
        Some(job) => format!("{job}/{generation}"),
        None => hex::encode(&Sha256::digest(body)[..16]),
    }
}

/// The generation that a replayed letter names.
fn replayed_generation(properties: &Properties) -> Option<i32> {
    properties.header("x-im-replay")?.rsplit_once('/')?.1.parse().ok()
}

async fn route(ctx: &Arc<Context>, delivery: &Delivery) -> (Verdict, Option<Job>) {
    let job = match decode(ctx, delivery).await {
        Ok(job) => job,
        Err(fault) => return (Verdict::DeadLetter(fault), None),
    };
    let verdict = match carry_out(ctx, delivery, &job).await {
        Ok(verdict) => verdict,
        Err(Halt::Stopping) => Verdict::Leave,
        Err(Halt::Store(error)) => {
            tracing::error!(job.id = %job.id, error = &*error as &dyn std::error::Error, "the database refuses a job");
            Verdict::DeadLetter(Fault::new(INTERNAL, format!("the database refuses this job: {error}")))
        }
    };
    (verdict, Some(job))
}

async fn decode(ctx: &Context, delivery: &Delivery) -> Result<Job, Fault> {
    let illegible = delivery.properties.illegible();
    if !illegible.is_empty() {
        // An id or a reply queue with a wrong letter in it is another id, another queue.
        return Err(Fault::new(
            "invalid-job",
            format!(
                "AMQP properties: not UTF-8, or more than a frame holds: {}",
                illegible.join(", ")
            ),
        ));
    }
    let job = if delivery.body.len() > LARGE {
        let _turn = ctx.large.acquire().await;
        let (body, message_id) = (
            delivery.body.clone(),
            delivery.properties.message_id().map(str::to_owned),
        );
        tokio::task::spawn_blocking(move || Job::decode(&body, message_id.as_deref()))
            .await
            .map_err(|_| {
                Fault::new(
                    INTERNAL,
                    "the dispatcher failed to decode this job: see its log for a panic",
                )
            })??
    } else {
        Job::decode(&delivery.body, delivery.properties.message_id())?
    };
    if !ctx.apps.contains_key(&job.app) {
        return Err(Fault::new(
            "unknown-app",
            format!("app: no app is configured under the name \"{}\"", job.app),
        ));
    }
    job.check_reply(delivery.properties.reply_to().is_some())?;
    Ok(job)
}

async fn carry_out(ctx: &Arc<Context>, delivery: &Delivery, job: &Job) -> Result<Verdict, Halt> {
    match &job.task {
        Task::Revoke(target) => revoke(ctx, delivery, job, target).await,
        _ if is_later(job) => hand_over(ctx, delivery, job, Duration::ZERO).await,
        task => {
            if let Some(opening) = ctx.closed_window(job, delivery.lane) {
                return hand_over_until(ctx, delivery, job, opening).await;
            }
            match task {
                Task::Send { .. } | Task::Import { .. } if ctx.caps(job, delivery.lane).is_empty() => {
                    super::single::deliver(ctx, delivery, job).await
                }
                _ => hand_over(ctx, delivery, job, Duration::ZERO).await,
            }
        }
    }
}

fn is_later(job: &Job) -> bool {
    job.send_at
        .is_some_and(|at| (at - Utc::now()).to_std().is_ok_and(|ahead| ahead > SOON))
}

/// A revoke job: its tombstone, committed; the rest is the table's.
async fn revoke(ctx: &Context, delivery: &Delivery, job: &Job, target: &RevokeTarget) -> Result<Verdict, Halt> {
    let revocation = NewRevocation {
        id: &job.id,
        digest: job.digest(),
        app: &job.app,
        group: job.group.as_ref().map(AsRef::as_ref),
        lane: delivery.lane,
        target,
        reply_to: delivery.properties.reply_to(),
        correlation_id: delivery.properties.correlation_id(),
    };
    Ok(match ctx.persist(|| ctx.store.add_revocation(&revocation)).await? {
        RevocationAdded::Added => {
            ctx.due.notify_one();
            Verdict::Ack
        }
        RevocationAdded::Repeated => Verdict::Ack,
        RevocationAdded::Conflict => Verdict::DeadLetter(conflict()),
    })
}

/// The fault of an id that belongs to another content.
pub(super) fn conflict() -> Fault {
    Fault::new(
        "id-conflict",
        "id: belongs to another job whose type, target or content differs",
    )
}

/// Gives a job that has made no call to the table.
pub(super) async fn hand_over(ctx: &Context, delivery: &Delivery, job: &Job, delay: Duration) -> Result<Verdict, Halt> {
    Box::pin(hand_over_for(ctx, delivery, job, delay, None)).await
}

/// Gives a job to the table that waits for its send window. One that a tombstone waits for is due at once: its claim
/// cancels it.
pub(super) async fn hand_over_until(
    ctx: &Context,
    delivery: &Delivery,
    job: &Job,
    opening: Opening,
) -> Result<Verdict, Halt> {
    Box::pin(hand_over_for(ctx, delivery, job, opening.after, Some(opening.at))).await
}

async fn hand_over_for(
    ctx: &Context,
    delivery: &Delivery,
    job: &Job,
    delay: Duration,
    opens_at: Option<DateTime<Utc>>,
) -> Result<Verdict, Halt> {
    let Some(app) = ctx.apps.get(&job.app) else {
        return Ok(Verdict::DeadLetter(Fault::new("unknown-app", "app: not configured")));
    };
    let admin = app.admin();
    let one;
    let (from, to, command): (&str, &[AccountId], Command) = match &job.task {
        Task::Send { from, to, .. } => {
            one = [to.clone()];
            (from.as_ref().unwrap_or(admin).as_str(), &one, Command::SendMsg)
        }
        Task::Import { from, to, .. } => {
            one = [to.clone()];
            (from.as_str(), &one, Command::ImportMsg)
        }
        Task::BatchSend { from, to, .. } => (
            from.as_ref().unwrap_or(admin).as_str(),
            to.as_slice(),
            Command::BatchSendMsg,
        ),
        Task::MarkRead { .. } => ("", &[], Command::SetMsgRead),
        Task::Unread { .. } => ("", &[], Command::GetUnreadNum),
        Task::History { .. } | Task::Revoke(_) => ("", &[], Command::GetRoamMsg),
    };
    let parcel = parcel(delivery);
    let handover = Handover {
        id: &job.id,
        digest: job.digest(),
        job_type: record::type_number(&job.task),
        app: &job.app,
        group: job.group.as_ref(),
        lane: delivery.lane,
        from,
        to,
        send_at: job.send_at,
        expires_at: job.expires_at,
        on_unknown: record::on_unknown_number(job.on_unknown),
        online_only: job.is_online_only(),
        command,
        parcel: &parcel,
        delay,
        opens_at,
    };
    let handed = ctx.persist(|| ctx.store.hand_over(&handover)).await?;
    if matches!(handed, HandedOver::Done | HandedOver::Finished)
        && let Some(generation) = replayed_generation(&delivery.properties)
    {
        replay(ctx, job, generation, &parcel).await?;
    }
    Ok(match handed {
        HandedOver::Done => {
            ctx.due.notify_one();
            Verdict::Ack
        }
        HandedOver::Finished => super::existing::finished(ctx, delivery, job).await?,
        HandedOver::Conflict => Verdict::DeadLetter(conflict()),
        HandedOver::Live => super::existing::hand_over_live(ctx, delivery, job).await?,
    })
}

/// A replayed letter: the job's failed recipients are tried again, once for each generation that failed.
pub(super) async fn replay(ctx: &Context, job: &Job, generation: i32, parcel: &Parcel) -> Result<(), Halt> {
    let filter = RetryFilter {
        generation: Some(generation),
        code: None,
    };
    let count = ctx
        .persist(|| ctx.store.retry_failed(&job.id, filter, Some(parcel)))
        .await?;
    tracing::info!(job.id = %job.id, recipients = count, generation, "a dead letter is replayed");
    if count > 0 {
        ctx.due.notify_one();
    }
    Ok(())
}

/// The delivery's side of a replayed letter, if it is one.
pub(super) fn replay_of(delivery: &Delivery) -> Option<i32> {
    replayed_generation(&delivery.properties)
}

/// What the table needs of a delivery.
pub(super) fn parcel(delivery: &Delivery) -> Parcel {
    Parcel {
        body: delivery.body.to_vec(),
        properties: delivery.properties.to_bytes(),
        queue: delivery.queue.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letters_name_tells_its_generation_to_the_replay() {
        let id = letter_id(Some("order/1"), &Bytes::new(), 3);
        let properties = Properties::new().with_header("x-im-replay", &id);
        assert_eq!(replayed_generation(&properties), Some(3));
        assert_eq!(replayed_generation(&Properties::new()), None);
    }

    #[test]
    fn letters_without_a_job_are_named_by_their_body() {
        let (a, b) = (Bytes::from_static(b"{"), Bytes::from_static(b"["));
        assert_eq!(letter_id(None, &a, 0), letter_id(None, &a, 0));
        assert_ne!(letter_id(None, &a, 0), letter_id(None, &b, 0));
    }
}
