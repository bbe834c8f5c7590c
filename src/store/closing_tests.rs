//! On a fresh database: a batch that ends while somebody tries it again ends once more, with its letter.

use std::time::Duration;

use sqlx::PgPool;

use super::{
    CallPair, Caller, CapRule, HandedOver, Handover, MemberFailure, OutboxEvent, OutboxLetter, Parcel, PartNext,
    PartOutcome, RepeatRule, RetryFilter, Room, Store, WorkKind, WorkUnit,
};
use crate::domain::{AccountId, AppName, Command, JobId, Lane, MessageState};

fn job() -> JobId {
    JobId::parse("batch").unwrap()
}

async fn hand_over(store: &Store) {
    let to = ["a", "b"].map(|to| AccountId::parse(to).unwrap());
    let parcel = Parcel {
        body: b"{}".to_vec(),
        properties: vec![1, 0, 0],
        queue: "im.jobs.bulk".to_owned(),
    };
    let (id, app) = (job(), AppName::default_app());
    let handover = Handover::of_batch(&id, &app, &to, &parcel);
    assert!(matches!(store.hand_over(&handover).await.unwrap(), HandedOver::Done));
}

async fn take_all(store: &Store) -> Vec<WorkUnit> {
    let room = Room {
        command: Command::BatchSendMsg,
        app: AppName::default_app(),
        lane: Lane::Bulk,
        rows: 10,
    };
    store.take_work(&[room], Duration::from_mins(1)).await.unwrap()
}

async fn take(store: &Store) -> WorkUnit {
    let mut units = take_all(store).await;
    assert_eq!(units.len(), 1, "{units:?}");
    units.remove(0)
}

fn event() -> OutboxEvent {
    OutboxEvent {
        job: job(),
        event_id: "event".to_owned(),
        routing_key: "batch_send.failed".to_owned(),
        body: b"{}".to_vec(),
        reply_to: None,
        correlation_id: None,
    }
}

/// The part's call fails as a whole, for good.
async fn fails(store: &Store, unit: &WorkUnit) {
    assert_eq!(unit.kind, WorkKind::Deliver);
    let token = uuid::Uuid::new_v4();
    let caller = Caller {
        token,
        sender: "administrator",
        encoder: 1,
    };
    let uncapped = CapRule {
        scopes: &[],
        event: &|_| event(),
    };
    let pair = |_| CallPair { seq: 1, random: 2 };
    let claim = store
        .claim_part(unit, caller, RepeatRule::ANY_TIME, uncapped, pair, |_| event())
        .await
        .unwrap();
    let failed = claim.call.unwrap().members.into_iter().map(|member| MemberFailure {
        idx: member.idx,
        state: MessageState::Failed,
        code: "im-90001".to_owned(),
        message: "no".to_owned(),
    });
    let outcome = PartOutcome {
        sent: Vec::new(),
        msg_key: None,
        msg_time: None,
        failed: failed.collect(),
        next: PartNext::End,
        job_error: Some(("im-90001".to_owned(), "no".to_owned())),
        note: None,
        events: Vec::new(),
    };
    store.settle_part(unit, token, &outcome).await.unwrap();
}

/// Closes the job as the worker does; the letter that it left.
async fn close(store: &Store, unit: &WorkUnit) -> Option<i32> {
    assert_eq!(unit.kind, WorkKind::Close);
    let before = letters(store).await;
    store
        .close_job(unit, |closed| {
            let (code, message) = closed.error.clone()?;
            (closed.reached == 0 && closed.failed > 0).then(|| OutboxLetter {
                job: job(),
                code,
                message,
                attempts: closed.attempts,
                generation: closed.generation,
            })
        })
        .await
        .unwrap();
    letters(store).await.into_iter().nth(before.len())
}

async fn letters(store: &Store) -> Vec<i32> {
    sqlx::query_scalar("SELECT generation FROM outbox WHERE kind = 1 ORDER BY id")
        .fetch_all(store.pool())
        .await
        .unwrap()
}

async fn retry(store: &Store) {
    let reopened = store.retry_failed(&job(), RetryFilter::default(), None).await.unwrap();
    assert_eq!(reopened, 2);
}

#[sqlx::test]
async fn a_retry_that_comes_before_a_batchs_close_takes_no_dead_letter_from_it(pool: PgPool) {
    let store = Store::of_pool(pool);
    hand_over(&store).await;
    fails(&store, &take(&store).await).await;
    // The row that closes it waits, and then is in hand, while the retry commits.
    retry(&store).await;
    let rows = take_all(&store).await;
    let closing = rows.iter().find(|unit| unit.kind == WorkKind::Close).unwrap();
    let part = rows.iter().find(|unit| unit.kind == WorkKind::Deliver).unwrap();
    assert_eq!(close(&store, closing).await, None, "it isn't at its end");
    fails(&store, part).await;
    assert_eq!(close(&store, &take(&store).await).await, Some(1));
}

#[sqlx::test]
async fn a_part_that_ends_while_the_old_close_waits_is_closed_by_it(pool: PgPool) {
    let store = Store::of_pool(pool);
    hand_over(&store).await;
    fails(&store, &take(&store).await).await;
    retry(&store).await;
    let rows = take_all(&store).await;
    let closing = rows.iter().find(|unit| unit.kind == WorkKind::Close).unwrap();
    let part = rows.iter().find(|unit| unit.kind == WorkKind::Deliver).unwrap();
    fails(&store, part).await;
    assert_eq!(close(&store, closing).await, Some(1));
    assert_eq!(letters(&store).await, [1]);
}

#[sqlx::test]
async fn a_retry_after_the_close_has_a_letter_of_its_own_again(pool: PgPool) {
    let store = Store::of_pool(pool);
    hand_over(&store).await;
    fails(&store, &take(&store).await).await;
    assert_eq!(close(&store, &take(&store).await).await, Some(0));
    retry(&store).await;
    fails(&store, &take(&store).await).await;
    assert_eq!(close(&store, &take(&store).await).await, Some(1));
    assert_eq!(letters(&store).await, [0, 1]);
}
