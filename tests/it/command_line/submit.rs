//! `submit` and `revoke`: what they publish, and what they refuse.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{depth_becomes, file, run, run_with, world_without_app};

/// A line with a good job.
fn job(id: &str) -> String {
    json!({"type": "send", "id": id, "to": "user", "message": {"text": "hello"}}).to_string()
}

#[tokio::test]
async fn a_file_with_a_bad_line_publishes_nothing_and_names_each_by_number() {
    let world = world_without_app().await;
    let lines = [
        &job("a"),
        "not json",
        "",
        &job("b"),
        r#"{"type":"send","id":"c","to":""}"#,
    ]
    .join("\n");
    let path = file(&world, "jobs.ndjson", lines.as_bytes());
    let (code, stdout, stderr) = run(&world, &["submit", &path]).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("line 2:") && stderr.contains("line 5: to"), "{stderr}");
    assert_eq!(world.broker.depth("jobs.normal").await.unwrap_or(0), 0);

    let (code, stdout, stderr) = run(&world, &["submit", &path, "--skip-bad", "--json", "--lane", "bulk"]).await;
    assert_eq!(code, 1, "{stderr}");
    let summary: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&summary["published"], &summary["bad"]), (&json!(2), &json!(2)));
    depth_becomes(&world, "jobs.bulk", 2).await;
    // Jobs have no order among each other: they are published side by side, as they are carried out.
    let mut left = HashSet::from(["a", "b"]);
    while !left.is_empty() {
        let published = world.broker.take("jobs.bulk").await.unwrap();
        let id = published.properties.message_id().as_ref().unwrap().as_str();
        assert!(left.remove(id), "{id}");
        assert_eq!(published.body, job(id).into_bytes());
        assert_eq!(*published.properties.delivery_mode(), Some(2));
    }
}

#[tokio::test]
async fn standard_input_is_published_as_it_comes_and_bad_lines_are_left_out() {
    let world = world_without_app().await;
    let lines = [&job("a"), "{", &job("b")].join("\n");
    let (code, _, stderr) = run_with(&world, &["submit", "-"], lines.as_bytes()).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("line 2:") && stderr.contains("2 jobs published"),
        "{stderr}"
    );
    depth_becomes(&world, "jobs.normal", 2).await;
    let (code, _, stderr) = run_with(&world, &["submit", "--lane", "high"], job("c").as_bytes()).await;
    assert_eq!(code, 0, "{stderr}");
    depth_becomes(&world, "jobs.high", 1).await;
    let (code, _, _) = run_with(&world, &["submit", "--unchecked", "--lane", "high"], b"no job at all\n").await;
    assert_eq!(code, 0);
    depth_becomes(&world, "jobs.high", 2).await;
}

#[tokio::test]
async fn thousands_of_jobs_and_a_line_of_megabytes_arrive() {
    let world = world_without_app().await;
    let accounts: Vec<_> = (0..100_000)
        .map(|n| format!("an-account-of-length-32-{n:08}"))
        .collect();
    let long = json!({"type": "batch_send", "id": "long", "to": accounts, "message": {"text": "hello"}}).to_string();
    assert!(long.len() > 3_000_000);
    let mut lines: Vec<_> = (0..5_000).map(|n| job(&format!("j{n}"))).collect();
    lines.push(long);
    let path = file(&world, "many.ndjson", lines.join("\n").as_bytes());
    let (code, stdout, stderr) = run(&world, &["submit", &path, "--json"]).await;
    assert_eq!(code, 0, "{stderr}");
    let summary: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(summary["published"], json!(5_001));
    depth_becomes(&world, "jobs.normal", 5_001).await;
    // 16 MB: too long to be a job, and read all the same.
    let padding = " ".repeat(16_000_000);
    let (code, _, stderr) = run_with(&world, &["submit"], format!("{}{padding}\n", job("wide")).as_bytes()).await;
    assert_eq!(code, 0, "{stderr}");
}

#[tokio::test]
async fn a_dry_run_publishes_nothing_and_jobs_that_need_an_answer_need_a_queue_for_it() {
    let mut world = world_without_app().await;
    let unread = r#"{"type":"unread","id":"q","user":"a","peers":["b"]}"#;
    let path = file(&world, "jobs.ndjson", unread.as_bytes());
    let (code, _, stderr) = run(&world, &["submit", &path]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("--reply-to"), "{stderr}");
    let (code, _, stderr) = run(&world, &["submit", &path, "--reply-to", "answers", "--dry-run"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(world.broker.depth("jobs.normal").await.unwrap_or(0), 0);
    assert_eq!(run(&world, &["submit", &path, "--reply-to", "answers"]).await.0, 0);
    let letter = world.broker.take("jobs.normal").await.unwrap();
    assert_eq!(letter.properties.reply_to().as_ref().unwrap().as_str(), "answers");

    world.set("IM_SDK_APP_ID", "14").set("IM_SECRET_KEY", "k");
    let other = r#"{"type":"send","id":"o","app":"shop","to":"u","message":{"text":"x"}}"#;
    let (code, _, stderr) = run_with(&world, &["submit"], other.as_bytes()).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("no app named shop"), "{stderr}");
    assert_eq!(run_with(&world, &["submit", "--any-app"], other.as_bytes()).await.0, 0);
}

#[tokio::test]
async fn revoke_writes_its_tombstone_at_once_and_publishes_to_high() {
    let world = world_without_app().await;
    assert_eq!(run(&world, &["migrate"]).await.0, 0);
    let (code, stdout, stderr) = run(
        &world,
        &["revoke", "--job", "j", "--to", "a", "--to", "b", "--id", "r1"],
    )
    .await;
    assert_eq!((code, stdout.as_str()), (0, "r1\n"), "{stderr}");
    let pool = world.database.pool().await;
    let covered: Vec<String> = sqlx::query_scalar("SELECT unnest(to_accounts) FROM revocations WHERE target_job = 'j'")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(covered, ["a", "b"]);
    let published = world.broker.take("jobs.high").await.unwrap().json();
    assert_eq!(
        published,
        json!({"type": "revoke", "id": "r1", "target": {"job": "j", "to": ["a", "b"]}})
    );
    // The same again is success, another target under the same id is not.
    assert_eq!(
        run(
            &world,
            &["revoke", "--job", "j", "--to", "a", "--to", "b", "--id", "r1"]
        )
        .await
        .0,
        0
    );
    let (code, _, stderr) = run(&world, &["revoke", "--group", "g", "--id", "r1"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("names another job"), "{stderr}");
    let (code, stdout, _) = run(&world, &["revoke", "--from", "a", "--to", "b", "--msg-key", "1_2_3"]).await;
    assert_eq!((code, stdout.trim().len()), (0, 36), "a random id");
    let (code, stdout, _) = run(&world, &["status", "r1", "--json"]).await;
    let status: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &status["type"], &status["state"]),
        (0, &json!("revoke"), &json!("pending"))
    );
}

#[tokio::test]
async fn revoke_publishes_where_there_is_no_database_and_is_in_force_where_there_is_no_broker() {
    let mut world = world_without_app().await;
    assert_eq!(run(&world, &["migrate"]).await.0, 0);
    let database = world.environment()["DATABASE_URL"].clone();
    world.set("DATABASE_URL", "");
    let (code, _, stderr) = run(&world, &["revoke", "--job", "j", "--id", "without-database"]).await;
    assert_eq!(code, 0, "{stderr}");
    depth_becomes(&world, "jobs.high", 1).await;
    world
        .set("DATABASE_URL", database)
        .set("AMQP_URL", "amqp://127.0.0.1:1/%2f");
    let (code, stdout, stderr) = run(&world, &["revoke", "--job", "j", "--id", "without-broker"]).await;
    assert_eq!((code, stdout.as_str()), (0, "without-broker\n"), "{stderr}");
    assert!(stderr.contains("in force"), "{stderr}");
    world.set("DATABASE_URL", "");
    let (code, stdout, stderr) = run(&world, &["revoke", "--job", "j"]).await;
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
}
