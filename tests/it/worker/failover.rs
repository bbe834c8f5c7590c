//! Postgres that is there and doesn't serve: read-only after a failover, locked, slow at its commits, or gone right at one.

use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{LONG, counts, delivered_once, group_settled, send, settled};
use crate::support::{Relay, Worker, World, eventually};

/// One job of a load.
async fn publish(world: &World, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        world.broker.publish(["high", "normal", "bulk"][n % 3], &job).await;
    }
}

async fn under_way(world: &World) {
    eventually(LONG, "it is under way", || async {
        (world.simulator.delivered_total() > 10).then_some(())
    })
    .await;
}

async fn all_sent_once(world: &World, jobs: u64) {
    let status = group_settled(world, "load", jobs).await;
    assert_eq!(status["recipients"], counts(jobs, &[("sent", jobs)]));
    assert_eq!(delivered_once(world), jobs);
    assert!(world.broker.drain_dead().await.is_empty());
}

#[tokio::test]
async fn connections_that_are_reset_and_a_database_that_is_read_only_for_a_while_lose_nothing() {
    let world = World::new().await;
    let mut worker = Worker::start(&world).await;
    publish(&world, 0..100).await;
    under_way(&world).await;
    let name = world.database.url().rsplit('/').next().unwrap().to_owned();
    let mut admin = PgConnection::connect(&world.services.database_url).await.unwrap();
    let mut ask = async |statement: String| {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    };
    ask(format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let reset = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    ask(reset.clone()).await;
    publish(&world, 100..150).await;
    worker.until_unready("Postgres", LONG).await;
    // As an old primary that stays as a replica: sessions that began there never take writes.
    ask(format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    worker.until_ready().await;
    all_sent_once(&world, 150).await;
    ask(reset).await;
    publish(&world, 150..200).await;
    all_sent_once(&world, 200).await;
}

#[tokio::test]
async fn tables_that_are_locked_until_every_connection_waits_delay_everything_and_break_nothing() {
    let world = World::new().await;
    let mut worker = Worker::start(&world).await;
    publish(&world, 0..100).await;
    under_way(&world).await;
    let pool = world.database.pool().await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE jobs, messages, work, outbox IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    publish(&world, 100..200).await;
    // Longer than a statement waits for a connection, 5 s.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(worker.process.is_running());
    let before = world.simulator.delivered_total();
    lock.rollback().await.unwrap();
    assert!(before < 200, "nothing new is called while nothing can be recorded");
    worker.until_ready().await;
    all_sent_once(&world, 200).await;
}

#[tokio::test]
async fn slow_commits_slow_everything_down_and_break_nothing() {
    let mut world = World::new().await;
    let worker = Worker::start(&world).await;
    let pool = world.database.pool().await;
    // At the commit, for each row: a group of twenty takes as long as a storage that hangs for half a second.
    for statement in [
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep(0.025); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION slow()",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON messages DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION slow()",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    world.set("IM_DISPATCHER_MAX_IN_FLIGHT", "100");
    publish(&world, 0..200).await;
    all_sent_once(&world, 200).await;
    assert!(worker.stop().await.success());
}

/// The statement behind a fault point is carried out, and its answer is lost with the connection.
#[cfg(feature = "fault-points")]
async fn loses_the_answer_behind(point: &str, scheduled: bool, requests: &[&str], committed: &'static str) {
    let mut world = World::new().await;
    let relay = Relay::in_front_of(world.database.url()).await;
    let direct = world.database.url().to_owned();
    world.set("DATABASE_URL", relay.route(&direct));
    let mut worker = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", &format!("{point}=freeze"))]);
    worker.until_ready().await;
    world.set("DATABASE_URL", direct);
    let events = world.broker.tap_events("send.sent").await;
    let mut job = send("job", "alice");
    if scheduled {
        job["send_at"] = json!((chrono::Utc::now() + chrono::Duration::seconds(2)).to_rfc3339());
    }
    world.broker.publish("normal", &job).await;
    eventually(LONG, "the worker is frozen", || async {
        worker.process.is_stopped().then_some(())
    })
    .await;
    // The key is what only the outcome's statement holds, the recipient what the claim's does.
    let key = world
        .simulator
        .messages_to("alice")
        .first()
        .map(|message| message.key.clone());
    let requests = requests.iter().map(|&request| match (request, &key) {
        ("KEY", Some(key)) => key.as_str(),
        _ => request,
    });
    relay.lose_answers_to(&requests.collect::<Vec<_>>());
    worker.process.thaw();
    let pool = world.database.pool().await;
    eventually(LONG, "it is committed", || async {
        let done: i64 = sqlx::query_scalar(committed).fetch_one(&pool).await.ok()?;
        (done == 1).then_some(())
    })
    .await;
    relay.lose_answers_to(&[]);
    relay.cut();
    tokio::time::sleep(Duration::from_millis(300)).await;
    relay.restore();
    let status = settled(&world, "job").await;
    assert_eq!(status["recipients"], counts(1, &[("sent", 1)]), "{point}");
    assert_eq!(delivered_once(&world), 1, "{point}");
    let message = &world.simulator.messages_to("alice")[0];
    assert_eq!(status["messages"][0]["msg_key"], message.key.as_str(), "{point}");
    let told = events
        .wait_for(1, LONG, "the event", |event| event["subject"] == "job")
        .await;
    assert!(told.iter().all(|event| event["id"] == told[0]["id"]), "{point}");
    worker.until_ready().await;
    let further: i64 = sqlx::query_scalar("SELECT count(*) FROM message_keys")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(further, 0, "{point}: its own key is no second one");
    eventually(LONG, "nothing is left of it", || async {
        let rows: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM work) + (SELECT count(*) FROM outbox)")
            .fetch_one(&pool)
            .await
            .ok()?;
        (rows == 0 && world.broker.depth("jobs.normal").await == Some(0)).then_some(())
    })
    .await;
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_claim_whose_commits_answer_was_lost_is_known_by_its_token() {
    loses_the_answer_behind("claim.before", false, &["alice"], "SELECT count(*) FROM messages").await;
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn an_outcome_whose_commits_answer_was_lost_is_known_by_its_token() {
    loses_the_answer_behind(
        "outcome.before",
        false,
        &["KEY"],
        "SELECT count(*) FROM messages WHERE state = 3",
    )
    .await;
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn an_outcome_of_the_tables_own_work_whose_commits_answer_was_lost_is_known_by_its_token() {
    loses_the_answer_behind(
        "due.outcome.before",
        true,
        &["KEY", "COMMIT"],
        "SELECT count(*) FROM messages WHERE state = 3",
    )
    .await;
}
