//! On a fresh database each: what is erased, and what is left because something still needs it.

use std::time::Duration;

use sqlx::PgPool;

use super::{EraseScope, JobErased, StillLive, Store};
use crate::domain::{AccountId, AppName, JobId};

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

fn account(text: &str) -> AccountId {
    AccountId::parse(text).unwrap()
}

/// A job of a type and state with a message to `ada` in a state.
async fn job(pool: &PgPool, name: &str, job_type: i16, state: i16, message: i16) {
    sqlx::query(
        "INSERT INTO jobs (id, digest, type, app, lane, owner, state, total, body)
         VALUES ($1, '\\x00', $2, 'default', 1, 1, $3, 1, convert_to('{\"to\":[\"ada\",\"bob\"]}', 'UTF8'))",
    )
    .bind(name)
    .bind(job_type)
    .bind(state)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state)
         SELECT created_at, id, 0, 'shop', 'ada', $2 FROM jobs WHERE id = $1",
    )
    .bind(name)
    .bind(message)
    .execute(pool)
    .await
    .unwrap();
}

async fn run(pool: &PgPool, sql: &'static str) {
    sqlx::query(sql).execute(pool).await.unwrap();
}

async fn erase(pool: &PgPool, who: &str, job: &str) -> JobErased {
    let account = account(who);
    let scope = EraseScope {
        account: &account,
        app: None,
        settled_for: Duration::ZERO,
    };
    Store::of_pool(pool.clone()).erase_job(scope, &id(job)).await.unwrap()
}

const DONE: JobErased = JobErased::Done {
    messages: 1,
    as_sender: 0,
};

#[sqlx::test]
async fn every_state_that_isnt_an_end_keeps_its_job(pool: PgPool) {
    for (name, job_type, job_state, message, expected) in [
        ("loading", 0, 0, 0, StillLive::Loading),
        ("pending", 0, 1, 0, StillLive::Pending),
        ("calling", 0, 1, 1, StillLive::Doubt),
        ("doubt", 0, 1, 2, StillLive::Doubt),
        // Ended for this recipient, and not for the others.
        ("open-batch", 1, 1, 3, StillLive::Work),
    ] {
        job(&pool, name, job_type, job_state, message).await;
        assert_eq!(erase(&pool, "ada", name).await, JobErased::Live(expected), "{name}");
    }
    job(&pool, "revoking", 0, 1, 3).await;
    run(
        &pool,
        "UPDATE messages SET revoke_state = 1, revoke_id = 'r' WHERE job_id = 'revoking'",
    )
    .await;
    assert_eq!(
        erase(&pool, "ada", "revoking").await,
        JobErased::Live(StillLive::Revoking)
    );
    job(&pool, "event", 0, 1, 3).await;
    run(
        &pool,
        "INSERT INTO outbox (kind, job_id, event_id, routing_key, body) VALUES (0, 'event', 'e', 'send.sent', '')",
    )
    .await;
    assert_eq!(erase(&pool, "ada", "event").await, JobErased::Live(StillLive::Event));
    let (rows, bodies): (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM jobs WHERE body IS NOT NULL)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((rows, bodies), (7, 7), "nothing was changed");
    for (name, state) in [
        ("sent", 3),
        ("failed", 4),
        ("cancelled", 5),
        ("expired", 6),
        ("revoked", 7),
        ("unknown", 8),
    ] {
        job(&pool, name, 0, 1, state).await;
        assert_eq!(erase(&pool, "ada", name).await, DONE, "{name}");
        assert_eq!(erase(&pool, "ada", name).await, JobErased::Nothing, "{name}");
    }
}

#[sqlx::test]
async fn a_call_that_jobs_share_goes_with_its_last_member(pool: PgPool) {
    for name in ["one", "two"] {
        job(&pool, name, 0, 1, 3).await;
    }
    run(
        &pool,
        "WITH call AS (
             INSERT INTO calls (call_id, created_at, job_id, part, generation, app, command, sender, seq, random, encoder,
                                members, jobs, first_call_at, last_call_at, call_by, token)
             VALUES (gen_random_uuid(), now(), 'one', -1, 0, 'default', 1, 'shop', 1, 1, 1, '{}', '{one,two}', now(), now(),
                     now(), gen_random_uuid()) RETURNING call_id)
         UPDATE messages SET call_id = call.call_id FROM call",
    )
    .await;
    let as_sender = JobErased::Done {
        messages: 1,
        as_sender: 1,
    };
    let calls = || async {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM calls")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    assert_eq!(erase(&pool, "shop", "one").await, as_sender);
    assert_eq!(calls().await, 1, "the other member's doubts would be settled by it");
    assert_eq!(erase(&pool, "shop", "two").await, as_sender);
    assert_eq!(calls().await, 0);
}

#[sqlx::test]
async fn pages_find_the_account_of_one_app_only(pool: PgPool) {
    job(&pool, "ours", 0, 1, 3).await;
    job(&pool, "ada-theirs", 0, 1, 3).await;
    run(&pool, "UPDATE jobs SET app = 'other' WHERE id = 'ada-theirs'").await;
    let store = Store::of_pool(pool.clone());
    let (ada, other) = (account("ada"), AppName::parse("other").unwrap());
    let mut scope = EraseScope {
        account: &ada,
        app: None,
        settled_for: Duration::from_mins(10),
    };
    let page = store.jobs_of_account(scope, None).await.unwrap();
    let found: Vec<_> = page
        .jobs
        .iter()
        .map(|job| (job.id.as_str(), job.named, job.live))
        .collect();
    let recent = Some(StillLive::Recent);
    assert_eq!(found, [("ada-theirs", true, recent), ("ours", false, recent)]);
    assert_eq!(page.next, None);
    scope.app = Some(&other);
    let page = store.jobs_of_account(scope, None).await.unwrap();
    assert_eq!(page.jobs.len(), 1);
    assert_eq!(page.jobs[0].id, id("ada-theirs"));
    let page = store.jobs_of_account(scope, Some(&id("ada-theirs"))).await.unwrap();
    assert_eq!(page.jobs, []);
}
