//! Pausing a lane, a group or an app, by command line and API, while a worker runs.

use serde_json::json;

use super::{LONG, counts, delivered_once, group_settled, send, settled};
use crate::support::{Worker, World, eventually};

async fn run(world: &World, arguments: &[&str]) {
    let output = world.cli(arguments).await;
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until the worker knows of a pause, or of none any more.
async fn until_noted(worker: &Worker, what: &str, noted: bool) {
    eventually(LONG, &format!("/readyz notes {what}: {noted}"), || async {
        let (_, body) = worker.readiness().await?;
        (body["notes"].to_string().contains(what) == noted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_paused_lane_is_not_consumed_and_the_others_go_on() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    let api = |action: &str| {
        let url = worker.url(&format!("/api/lanes/bulk/{action}"));
        reqwest::Client::new().post(url).send()
    };
    assert_eq!(api("pause").await.unwrap().status(), 200);
    until_noted(&worker, "lane bulk", true).await;
    for n in 0..5 {
        world.broker.publish("bulk", &send(&format!("bulk-{n}"), "alice")).await;
    }
    world.broker.publish("normal", &send("normal", "bob")).await;
    settled(&world, "normal").await;
    assert_eq!(delivered_once(&world), 1);
    eventually(LONG, "the lane's jobs lie in their queue", || async {
        (world.broker.depth("jobs.bulk").await == Some(5)).then_some(())
    })
    .await;
    assert_eq!(api("resume").await.unwrap().status(), 200);
    for n in 0..5 {
        settled(&world, &format!("bulk-{n}")).await;
    }
    assert_eq!(delivered_once(&world), 6);
    assert_eq!(worker.readiness().await.unwrap().0, 200);
}

#[tokio::test]
async fn a_paused_groups_jobs_wait_in_the_table_until_it_is_resumed_and_can_be_revoked() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    run(&world, &["pause", "--group", "spring"]).await;
    until_noted(&worker, "group spring", true).await;
    for n in 0..4 {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("spring");
        world.broker.publish("normal", &job).await;
    }
    let to: Vec<String> = (0..600).map(|n| format!("member{n}")).collect();
    let batch =
        json!({"type": "batch_send", "id": "batch", "group": "spring", "to": to, "message": {"text": "spring"}});
    world.broker.publish("bulk", &batch).await;
    world.broker.publish("normal", &send("other", "bob")).await;
    settled(&world, "other").await;
    eventually(LONG, "the group's jobs are the table's", || async {
        let output = world.cli(&["status", "--group", "spring", "--json"]).await;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["recipients"]["pending"] == 604).then_some(())
    })
    .await;
    assert_eq!(delivered_once(&world), 1);
    // A revocation isn't paused.
    run(&world, &["revoke", "--job", "job-0", "--wait", "--timeout", "60"]).await;
    assert_eq!(settled(&world, "job-0").await["state"], "cancelled");
    run(&world, &["resume", "--group", "spring"]).await;
    let status = group_settled(&world, "spring", 5).await;
    assert_eq!(status["recipients"], counts(604, &[("sent", 603), ("cancelled", 1)]));
    assert_eq!(delivered_once(&world), 604);
}

#[tokio::test]
async fn a_paused_app_sends_nothing_and_a_pause_ends_by_itself() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    run(&world, &["pause", "--app", "default"]).await;
    // No app is left: the worker can take no job.
    worker.until_unready("app default is paused", LONG).await;
    world.broker.publish("high", &send("waiting", "alice")).await;
    eventually(LONG, "the job is the table's", || async {
        let status = world.status_json("waiting").await?;
        (status["state"] == "pending").then_some(())
    })
    .await;
    assert_eq!(delivered_once(&world), 0);
    let until = chrono::Utc::now() + chrono::Duration::seconds(2);
    run(&world, &["pause", "--app", "default", "--until", &until.to_rfc3339()]).await;
    assert_eq!(settled(&world, "waiting").await["state"], "sent");
    assert!(chrono::Utc::now() >= until);
    assert_eq!(delivered_once(&world), 1);
    assert_eq!(world.cli(&["pause", "--lane", "middle"]).await.status.code(), Some(2));
    assert_eq!(world.cli(&["pause"]).await.status.code(), Some(2));
}
