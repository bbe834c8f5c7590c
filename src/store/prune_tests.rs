//! On a fresh database each: retention takes what is old and over, and nothing else.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool};

use super::{OldWeek, Pruned, Retention, Store};

const DAY: Duration = Duration::from_hours(24);

fn retention() -> Retention {
    Retention {
        messages: 30 * DAY,
        ids: 60 * DAY,
        audit: 90 * DAY,
        cap_uses: 31 * DAY,
    }
}

async fn run(pool: &PgPool, sql: String) {
    sqlx::query(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

/// A finished job of so many days ago, with a sent message, an attempt, a further key and a call.
async fn job(pool: &PgPool, name: &str, days: u32) {
    run(
        pool,
        format!("SELECT ensure_partitions(now() - interval '{days} days')"),
    )
    .await;
    run(
        pool,
        format!(
            "WITH job AS (
                 INSERT INTO jobs (id, created_at, digest, type, app, lane, owner, state, total, body, properties)
                 VALUES ('{name}', now() - interval '{days} days', '\\x00', 0, 'default', 1, 1, 1, 1, '{{}}', '{{}}')
                 RETURNING *
             ), message AS (
                 INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state)
                 SELECT created_at, id, 0, 'shop', 'ada', 3 FROM job
             ), attempt AS (
                 INSERT INTO attempts (created_at, job_id, idx, attempt, command, code, class)
                 SELECT created_at, id, 0, 1, 0, 'im-60008', 'transient' FROM job
             ), key AS (
                 INSERT INTO message_keys (job_id, idx, msg_key, source, at) SELECT id, 0, 'k', 0, created_at FROM job
             )
             INSERT INTO calls (call_id, created_at, job_id, part, generation, app, command, sender, seq, random, encoder,
                                members, first_call_at, last_call_at, call_by, token)
             SELECT gen_random_uuid(), created_at, id, 0, 0, 'default', 1, 'shop', 1, 1, 1, '{{0}}', created_at, created_at,
                    created_at, gen_random_uuid() FROM job"
        ),
    )
    .await;
}

/// Rows of the tables that hold something of a job.
async fn rows(pool: &PgPool, name: &str) -> [i64; 5] {
    let count = async |table: &str, column: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table} WHERE {column} = $1");
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(name)
            .fetch_one(pool)
            .await
            .unwrap()
    };
    [
        count("jobs", "id").await,
        count("messages", "job_id").await,
        count("attempts", "job_id").await,
        count("message_keys", "job_id").await,
        count("calls", "job_id").await,
    ]
}

async fn weeks(store: &Store) -> (Vec<OldWeek>, Vec<OldWeek>) {
    let weeks = store.old_weeks(retention()).await.unwrap();
    weeks.into_iter().partition(|week| !week.open)
}

async fn prune(store: &Store) -> Pruned {
    let weeks = store.old_weeks(retention()).await.unwrap();
    let expected = store.prunable(retention(), &weeks).await.unwrap();
    let mut messages = 0;
    for week in weeks.into_iter().filter(|week| !week.open) {
        messages += store.drop_week(week).await.unwrap().unwrap();
    }
    let rest = store.prune_rest(retention()).await.unwrap();
    let pruned = Pruned { messages, ..rest };
    assert_eq!(pruned, expected, "counted and removed");
    pruned
}

#[sqlx::test]
async fn messages_go_by_weeks_contents_with_them_and_ids_later(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    job(&pool, "young", 3).await;
    job(&pool, "old", 50).await;
    job(&pool, "older", 75).await;
    let pruned = prune(&store).await;
    assert_eq!(
        pruned,
        Pruned {
            messages: 2,
            contents: 2,
            ids: 1,
            ..Pruned::default()
        }
    );
    assert_eq!(rows(&pool, "young").await, [1, 1, 1, 1, 1]);
    assert_eq!(rows(&pool, "old").await, [1, 0, 0, 0, 0], "its id still stops a repeat");
    assert_eq!(rows(&pool, "older").await, [0; 5]);
    let (body, digest): (Option<Vec<u8>>, Vec<u8>) = sqlx::query_as("SELECT body, digest FROM jobs WHERE id = 'old'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((body, digest), (None, vec![0]));
    assert_eq!(weeks(&store).await, (Vec::new(), Vec::new()));
    assert_eq!(prune(&store).await, Pruned::default(), "nothing is left to do");
}

#[sqlx::test]
async fn a_week_with_anything_open_stays_whole(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    for (nth, (open, close)) in [
        (
            "UPDATE messages SET state = 2 WHERE job_id = 'a'",
            "UPDATE messages SET state = 3",
        ),
        (
            "UPDATE messages SET revoke_state = 1 WHERE job_id = 'a'",
            "UPDATE messages SET revoke_state = 2",
        ),
        (
            "INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
             SELECT 0, id, 0, created_at, 1, app, 0, now() FROM jobs WHERE id = 'a'",
            "DELETE FROM work",
        ),
        (
            "INSERT INTO outbox (kind, job_id, event_id, routing_key, body) VALUES (0, 'a', 'e', 'send.sent', '')",
            "DELETE FROM outbox",
        ),
        ("UPDATE jobs SET state = 0 WHERE id = 'a'", "UPDATE jobs SET state = 1"),
    ]
    .into_iter()
    .enumerate()
    {
        job(&pool, "a", 75).await;
        job(&pool, "b", 75).await;
        let (free, _) = weeks(&store).await;
        run(&pool, open.to_owned()).await;
        let (_, kept) = weeks(&store).await;
        assert_eq!(kept.len(), 1, "{nth}");
        // It was looked at before it became open.
        let week = free.into_iter().find(|week| week.monday == kept[0].monday).unwrap();
        assert_eq!(store.drop_week(week).await.unwrap(), None, "{nth}");
        assert_eq!(prune(&store).await, Pruned::default(), "{nth}");
        assert_eq!(rows(&pool, "b").await, [1; 5], "{nth}");
        run(&pool, close.to_owned()).await;
        assert_eq!(prune(&store).await.ids, 2, "{nth}");
    }
}

#[sqlx::test]
async fn revocations_the_audit_log_and_counts_of_caps_go_by_their_own_times(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    for (name, days, columns, values) in [
        ("done", 75, "fanned_out", "true"),
        ("open", 75, "fanned_out", "false"),
        ("raw", 75, "fanned_out, raw_state", "true, 1"),
        ("group", 75, "fanned_out, expires_at", "true, now() + interval '1 day'"),
        ("young", 50, "fanned_out", "true"),
    ] {
        run(
            &pool,
            format!(
                "WITH job AS (INSERT INTO jobs (id, created_at, digest, type, app, lane, owner, state, total)
                              VALUES ('{name}', now() - interval '{days} days', '\\x00', 2, 'default', 0, 1, 1, 0)
                              RETURNING id, created_at)
                 INSERT INTO revocations (id, created_at, app, lane, target_job, {columns})
                 SELECT id, created_at, 'default', 0, 'x', {values} FROM job"
            ),
        )
        .await;
    }
    for days in [1, 89, 91] {
        run(
            &pool,
            format!(
                "INSERT INTO audit (at, role, via, action, target)
                 VALUES (now() - interval '{days} days', 'operator', 'bearer', 'pause', 'lane bulk')"
            ),
        )
        .await;
    }
    for days in [1, 30, 32, 33] {
        run(
            &pool,
            format!(
                "INSERT INTO cap_uses (app, scope, account, job_id, idx, created_at, at)
                 VALUES ('default', 'lane:bulk', 'ada', 'j{days}', 0, now(), now() - interval '{days} days')"
            ),
        )
        .await;
    }
    assert_eq!(
        prune(&store).await,
        Pruned {
            ids: 1,
            revocations: 1,
            audit: 1,
            cap_uses: 2,
            ..Pruned::default()
        }
    );
    let left: Vec<String> = sqlx::query_scalar("SELECT id FROM revocations ORDER BY id")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(left, ["group", "open", "raw", "young"]);
}

#[sqlx::test]
async fn a_statement_that_holds_the_table_is_waited_for(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    job(&pool, "old", 50).await;
    let (free, _) = weeks(&store).await;
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM messages")
        .execute(&mut *reader)
        .await
        .unwrap();
    let drop_all = tokio::spawn(async move {
        let mut dropped = 0;
        for week in free {
            dropped += store.drop_week(week).await.unwrap().unwrap();
        }
        dropped
    });
    // Longer than one try.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(!drop_all.is_finished());
    reader.commit().await.unwrap();
    assert_eq!(drop_all.await.unwrap(), 1);
}
