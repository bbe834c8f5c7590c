//! On a fresh database each: claims that count against caps.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use super::{
    CallPair, CapRule, HandedOver, Handover, OutboxEvent, Parcel, RepeatRule, Room, SingleClaim, Store,
    SuppressedMembers, WorkUnit,
};
use crate::domain::{
    AccountId, AppName, Command, GroupName, JobId, Lane,
    policy::{Cap, CapScope},
};

fn within_lane(max: u32, period: &str) -> CapScope {
    Cap::parse(&max.to_string(), period, None).unwrap().scope(Lane::Bulk)
}

fn within_group(max: u32, prefix: &str) -> CapScope {
    Cap::parse(&max.to_string(), "1d", Some(prefix))
        .unwrap()
        .scope(Lane::Bulk)
}

/// Hands a send to the table and takes its row.
async fn due(store: &Store, id: &str, to: &str) -> WorkUnit {
    let parcel = Parcel {
        body: Vec::new(),
        properties: Vec::new(),
        queue: "q".to_owned(),
    };
    let group = GroupName::parse("promo-spring").unwrap();
    let (id, app) = (JobId::parse(id).unwrap(), AppName::default_app());
    let to = [AccountId::parse(to).unwrap()];
    let handover = Handover {
        job_type: 0,
        group: Some(&group),
        command: Command::SendMsg,
        ..Handover::of_batch(&id, &app, &to, &parcel)
    };
    let handed = store.hand_over(&handover).await.unwrap();
    assert_eq!(handed, HandedOver::Done);
    take(store).await
}

async fn take(store: &Store) -> WorkUnit {
    let room = Room {
        command: Command::SendMsg,
        app: AppName::default_app(),
        lane: Lane::Bulk,
        rows: 1,
    };
    store
        .take_work(&[room], Duration::from_mins(1))
        .await
        .unwrap()
        .pop()
        .unwrap()
}

fn event(members: &SuppressedMembers) -> OutboxEvent {
    OutboxEvent {
        job: JobId::parse("event").unwrap(),
        event_id: Uuid::new_v4().to_string(),
        routing_key: "send.suppressed".to_owned(),
        body: members.why.clone().into_bytes(),
        reply_to: None,
        correlation_id: None,
    }
}

/// Claims; true: it may be sent.
async fn passes(store: &Store, unit: &WorkUnit, scopes: &[CapScope]) -> bool {
    let rule = CapRule { scopes, event: &event };
    let pair = CallPair { seq: 1, random: 2 };
    let claim = store
        .claim_single(
            unit,
            Uuid::new_v4(),
            1,
            RepeatRule::ANY_TIME,
            rule,
            |_, _| pair,
            |_, _| unreachable!("nothing is revoked"),
        )
        .await
        .unwrap();
    match claim {
        SingleClaim::Call { .. } => true,
        SingleClaim::Suppressed => false,
        other => panic!("{other:?}"),
    }
}

async fn run(pool: &PgPool, statement: &'static str) {
    sqlx::query(statement).execute(pool).await.unwrap();
}

#[sqlx::test]
async fn claims_at_the_same_time_pass_exactly_as_many_as_the_cap_allows(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    let mut units = Vec::new();
    for n in 0..24 {
        units.push(due(&store, &format!("job-{n}"), "alice").await);
    }
    let scopes = [within_lane(5, "1d"), within_group(9, "promo-")];
    let claims = units.iter().map(|unit| passes(&store, unit, &scopes));
    let passed = futures::future::join_all(claims).await;
    assert_eq!(passed.iter().filter(|passed| **passed).count(), 5);
    let states: Vec<(i16, i64)> = sqlx::query_as("SELECT state, count(*) FROM messages GROUP BY state ORDER BY state")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(states, [(1, 5), (9, 19)]);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM cap_uses")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(rows, 10, "one for each message and scope, none for a suppressed one");
}

#[sqlx::test]
async fn all_caps_must_have_a_place_and_the_first_without_one_is_named(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    let first = due(&store, "first", "alice").await;
    assert!(passes(&store, &first, &[within_group(1, "promo-")]).await);
    let second = due(&store, "second", "alice").await;
    assert!(!passes(&store, &second, &[within_lane(9, "1d"), within_group(1, "promo-")]).await);
    let why: String = sqlx::query_scalar("SELECT error_message FROM messages WHERE job_id = 'second'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(why, "at most 1 in 1d within the group prefix promo-");
    // It took no place under the cap that had one; two caps over one scope are one count.
    let third = due(&store, "third", "alice").await;
    assert!(passes(&store, &third, &[within_lane(1, "1d"), within_lane(2, "7d")]).await);
    let fourth = due(&store, "fourth", "alice").await;
    assert!(!passes(&store, &fourth, &[within_lane(2, "1d"), within_lane(1, "7d")]).await);
}

#[sqlx::test]
async fn what_ended_without_being_sent_gives_its_place_back_and_what_is_in_doubt_keeps_it(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    let scopes = [within_lane(1, "1d")];
    let first = due(&store, "first", "alice").await;
    assert!(passes(&store, &first, &scopes).await);
    for (n, state) in ["1", "2", "3", "7", "8", "0"].into_iter().enumerate() {
        let sql = format!("UPDATE messages SET state = {state} WHERE job_id = 'first'");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        let next = due(&store, &format!("kept-{n}"), "alice").await;
        assert!(!passes(&store, &next, &scopes).await, "state {state}");
    }
    run(&pool, "UPDATE messages SET state = 4 WHERE job_id = 'first'").await;
    let next = due(&store, "freed", "alice").await;
    assert!(passes(&store, &next, &scopes).await);
}

#[sqlx::test]
async fn a_retry_keeps_its_place_at_the_time_of_its_last_claim(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    let scopes = [within_lane(1, "1h")];
    let first = due(&store, "first", "alice").await;
    assert!(passes(&store, &first, &scopes).await);
    run(&pool, "UPDATE cap_uses SET at = at - interval '50 minutes'").await;
    run(&pool, "UPDATE messages SET state = 0").await;
    run(&pool, "UPDATE work SET due_at = now()").await;
    let again = take(&store).await;
    assert!(passes(&store, &again, &scopes).await);
    // 20 minutes later the first claim's hour is over, the last one's isn't.
    run(&pool, "UPDATE cap_uses SET at = at - interval '20 minutes'").await;
    let second = due(&store, "second", "alice").await;
    assert!(!passes(&store, &second, &scopes).await);
    let uses: i64 = sqlx::query_scalar("SELECT count(*) FROM cap_uses")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(uses, 1);
}

#[sqlx::test]
async fn counts_older_than_any_period_are_removed(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    for (id, to) in [("old", "alice"), ("young", "bob")] {
        let unit = due(&store, id, to).await;
        assert!(passes(&store, &unit, &[within_lane(1, "31d")]).await);
    }
    run(
        &pool,
        "UPDATE cap_uses SET at = at - interval '32 days' WHERE account = 'alice'",
    )
    .await;
    assert_eq!(store.prune_cap_uses().await.unwrap(), 1);
    assert_eq!(store.prune_cap_uses().await.unwrap(), 0);
}
