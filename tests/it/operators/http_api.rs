//! What the dashboard shows and does, over HTTP, while workers run.

use std::time::Duration;

use im_dispatcher::{domain::Command, simulator::Fault};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, counts, group_settled, send, settled},
};

/// Asks a worker.
async fn get(worker: &Worker, path: &str) -> (StatusCode, Value) {
    let response = reqwest::get(worker.url(path)).await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn post(worker: &Worker, path: &str, body: &Value) -> (StatusCode, Value) {
    let request = reqwest::Client::new().post(worker.url(path)).json(body);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// Waits until the overview says so.
async fn overview(worker: &Worker, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(LONG, &format!("/api/overview shows {what}"), || async {
        let response = reqwest::get(worker.url("/api/overview")).await.ok()?;
        let overview: Value = response.json().await.ok()?;
        holds(&overview).then_some(overview)
    })
    .await
}

fn states(overview: &Value) -> Vec<&str> {
    let workers = overview["workers"].as_array().unwrap().iter();
    let mut states: Vec<&str> = workers.map(|worker| worker["state"].as_str().unwrap()).collect();
    states.sort_unstable();
    states
}

#[tokio::test]
async fn the_overview_adds_the_fleet_up_and_shows_who_is_gone() {
    let world = World::new().await;
    world.simulator.inject(Command::SendMsg, Fault::Code(60_007), 1);
    let first = Worker::start(&world).await;
    let mut second = Worker::start(&world).await;
    // Rates begin with the first look: what was done before is none.
    overview(&first, "both workers", |overview| {
        states(overview) == ["ready", "ready"]
    })
    .await;
    for n in 0..20 {
        world
            .broker
            .publish("normal", &send(&format!("job-{n}"), &format!("user{n}")))
            .await;
    }
    for n in 0..20 {
        settled(&world, &format!("job-{n}")).await;
    }
    let shown = overview(&first, "two workers and an error", |overview| {
        states(overview) == ["ready", "ready"] && overview["errors"].as_array().is_some_and(|errors| !errors.is_empty())
    })
    .await;
    let budget = &shown["budgets"][0];
    assert_eq!(
        (&budget["app"], &budget["command"], &budget["limit"]),
        (&json!("default"), &json!("sendmsg"), &json!(200))
    );
    let error = &shown["errors"][0];
    assert_eq!((&error["code"], &error["count"]), (&json!("im-60007"), &json!(1)));
    assert!(error["advice"].is_string());
    let shown = overview(&first, "the depths", |overview| overview["lanes"][1]["ready"] == 0).await;
    assert_eq!(shown["lanes"][1]["queues"][0]["consumers"], 2);
    assert_eq!((&shown["broker"], &shown["database"]), (&json!(true), &json!(true)));
    assert_eq!(shown["dead_letters"], 0);
    // Every recipient's message is in the rates, whichever worker sent it.
    eventually(LONG, "/api/rates has every message", || async {
        let (_, rates) = get(&first, "/api/rates").await;
        let sent: f64 = rates["series"]["sent"]
            .as_array()?
            .iter()
            .filter_map(Value::as_f64)
            .sum();
        (sent.round() as i64 == 20).then_some(())
    })
    .await;
    second.process.kill();
    overview(&first, "that one is gone", |overview| {
        states(overview) == ["gone", "ready"]
    })
    .await;
    let third = Worker::start(&world).await;
    overview(&third, "a third", |overview| {
        states(overview) == ["gone", "ready", "ready"]
    })
    .await;
    assert!(third.stop().await.success());
    overview(&first, "that it left", |overview| states(overview) == ["gone", "ready"]).await;
}

#[tokio::test]
async fn jobs_are_found_by_id_recipient_and_group_and_explained() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    for n in 0..3 {
        let mut job = send(&format!("spring-{n}"), "alice");
        job["group"] = json!("spring sale");
        world.broker.publish("normal", &job).await;
    }
    world.broker.publish("normal", &send("other/1", "bob")).await;
    let batch = json!({"type": "batch_send", "id": "batch", "to": ["alice", "carol"], "message": {"text": "b"}});
    world.broker.publish("bulk", &batch).await;
    for id in ["spring-0", "spring-1", "spring-2", "other/1", "batch"] {
        settled(&world, id).await;
    }
    let ids = |found: &Value| -> Vec<String> {
        let jobs = found.as_array().unwrap().iter();
        let mut ids: Vec<String> = jobs.map(|job| job["job"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let (_, found) = get(&worker, "/api/search?q=spring").await;
    assert_eq!(ids(&found["by_id"]), ["spring-0", "spring-1", "spring-2"]);
    assert_eq!(found["groups"], json!(["spring sale"]));
    assert_eq!(ids(&found["by_group"]), Vec::<String>::new());
    let (_, found) = get(&worker, "/api/search?q=alice&by=recipient").await;
    assert_eq!(
        ids(&found["by_recipient"]),
        ["batch", "spring-0", "spring-1", "spring-2"]
    );
    assert_eq!(found["by_recipient"][0]["state"], "sent");
    let last = found["by_recipient"][1]["created_at"].as_str().unwrap();
    let page = format!("/api/search?q=alice&by=recipient&before={last}");
    assert_eq!(ids(&get(&worker, &page).await.1["by_recipient"]).len(), 2);
    let (_, found) = get(&worker, "/api/search?q=spring%20sale&by=group&after=spring-0").await;
    assert_eq!(ids(&found["by_group"]), ["spring-1", "spring-2"]);
    let (status, told) = get(&worker, "/api/jobs/other%2F1/explain").await;
    assert_eq!(
        (status.as_u16(), &told["state"], &told["to"]),
        (200, &json!("sent"), &json!("bob"))
    );
    let (_, told) = get(&worker, "/api/jobs/batch/explain?to=carol").await;
    assert_eq!(told["to"], "carol");
    for path in ["/api/jobs/nobody/explain", "/api/jobs/batch/explain?to=bob"] {
        assert_eq!(get(&worker, path).await.0, 404, "{path}");
    }
    for path in ["/api/search?q=", "/api/search?q=x&by=text", "/api/search"] {
        assert_eq!(get(&worker, path).await.0, 422, "{path}");
    }
}

#[tokio::test]
async fn what_is_in_doubt_or_waits_for_its_time_is_listed() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    world
        .simulator
        .set_fault_rate(Command::GetRoamMsg, Fault::Code(60_007), 1.0);
    world.broker.publish("normal", &send("doubtful", "alice")).await;
    let mut later = send("later", "bob");
    later["send_at"] = json!(chrono::Utc::now() + chrono::Duration::hours(2));
    world.broker.publish("bulk", &later).await;
    let doubt = eventually(LONG, "a doubt is listed", || async {
        let (_, doubts) = get(&worker, "/api/doubts").await;
        doubts["doubts"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(
        (&doubt["job"], &doubt["code"]),
        (&json!("doubtful"), &json!("connection-lost"))
    );
    assert!(doubt["meaning"].is_string());
    let parked = eventually(LONG, "what waits is listed", || async {
        let (_, parked) = get(&worker, "/api/parked").await;
        let rows = parked["parked"].as_array()?.clone();
        rows.into_iter().find(|row| row["job"] == "later")
    })
    .await;
    assert_eq!(
        (&parked["lane"], &parked["command"]),
        (&json!("bulk"), &json!("sendmsg"))
    );
    let shown = overview(&worker, "what waits by its time", |overview| {
        overview["parked"][3]["rows"] == 1
    })
    .await;
    assert_eq!(shown["parked"][3]["within_seconds"], 21_600);
}

#[tokio::test]
async fn dead_letters_are_counted_then_replayed_or_discarded_and_the_log_says_by_whom() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    for n in 0..3 {
        let mut job = send(&format!("lost-{n}"), "alice");
        job["app"] = json!("nobody");
        world.broker.publish("normal", &job).await;
    }
    world
        .broker
        .publish("normal", &json!({"type": "send", "id": "wrong"}))
        .await;
    eventually(LONG, "four letters lie there", || async {
        (world.broker.depth("jobs.dead").await == Some(4)).then_some(())
    })
    .await;
    let (status, list) = get(&worker, "/api/dead-letters").await;
    assert_eq!(status, 200);
    assert_eq!(list["letters"].as_array().unwrap().len(), 4);
    assert!(
        !list.to_string().contains("\"text\""),
        "what was to be sent isn't shown"
    );
    let codes: Vec<_> = list["codes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|code| (&code["code"], &code["count"]))
        .collect();
    assert_eq!(
        codes,
        [(&json!("invalid-job"), &json!(1)), (&json!("unknown-app"), &json!(3))]
    );
    let (status, count) = post(
        &worker,
        "/api/dead-letters/replay",
        &json!({"code": "unknown-app", "dry_run": true}),
    )
    .await;
    assert_eq!(
        (status.as_u16(), &count["matched"], &count["done"]),
        (200, &json!(3), &json!(0))
    );
    assert_eq!(world.broker.depth("jobs.dead").await, Some(4));
    let (status, run) = post(&worker, "/api/dead-letters/discard", &json!({"job": "wrong"})).await;
    assert_eq!(
        (status.as_u16(), &run["done"], &run["running"]),
        (200, &json!(1), &json!(false))
    );
    // They come back, since the app is still not there.
    let (_, run) = post(
        &worker,
        "/api/dead-letters/replay",
        &json!({"all": true, "lane": "high"}),
    )
    .await;
    assert_eq!((&run["done"], &run["failures"]), (&json!(3), &json!(0)));
    assert_eq!(get(&worker, "/api/dead-letters/run").await.1["run"], run);
    eventually(LONG, "they are back", || async {
        let (_, list) = get(&worker, "/api/dead-letters?code=unknown-app").await;
        let letters = list["letters"].as_array()?;
        (letters.len() == 3
            && letters
                .iter()
                .all(|letter| letter["queue"].as_str().is_some_and(|queue| queue.ends_with("high"))))
        .then_some(())
    })
    .await;
    for (body, path) in [
        (json!({}), "replay"),
        (json!({"all": true, "job": "x"}), "replay"),
        (json!({"all": true, "lane": "middle"}), "replay"),
        (json!({"all": true, "lane": "high"}), "discard"),
        (json!({"everything": true}), "discard"),
    ] {
        let (status, _) = post(&worker, &format!("/api/dead-letters/{path}"), &body).await;
        assert_eq!(status, 422, "{path} {body}");
    }
    let (_, log) = get(&worker, "/api/audit").await;
    let entries: Vec<_> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["action"].as_str().unwrap(),
                entry["target"].as_str().unwrap(),
                entry["detail"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        entries,
        [
            ("replay", "all letters", "3 of 3 letters"),
            ("discard", "letters of job wrong", "1 of 1 letters"),
        ]
    );
}

#[tokio::test]
async fn a_group_is_paused_revoked_with_progress_and_resumed_over_http() {
    let world = World::new().await;
    let worker = Worker::start(&world).await;
    assert_eq!(post(&worker, "/api/groups/spring/pause", &json!({})).await.0, 200);
    assert_eq!(post(&worker, "/api/apps/nobody/pause", &json!({})).await.0, 404);
    assert_eq!(post(&worker, "/api/queues/spring/pause", &json!({})).await.0, 404);
    overview(&worker, "the pause", |overview| {
        overview["pauses"] == json!([{"kind": "group", "name": "spring", "until": null}])
            && overview["notes"].to_string().contains("group spring")
    })
    .await;
    let to: Vec<String> = (0..700).map(|n| format!("member{n}")).collect();
    let batch =
        json!({"type": "batch_send", "id": "batch", "group": "spring", "to": to, "message": {"text": "spring"}});
    world.broker.publish("bulk", &batch).await;
    overview(&worker, "what the pause holds", |overview| {
        overview["held_by_pauses"] == 2
    })
    .await;
    let (status, revoked) = post(&worker, "/api/revocations?id=undo", &json!({"group": "spring"})).await;
    assert_eq!((status.as_u16(), revoked), (202, json!({"revocation": "undo"})));
    let undone = eventually(LONG, "nothing of it is pending", || async {
        let (status, job) = get(&worker, "/api/jobs/undo?limit=0").await;
        (status == 200 && job["state"] != "pending").then_some(job)
    })
    .await;
    assert_eq!(undone["recipients"], counts(700, &[("cancelled", 700)]));
    let (status, resumed) = post(&worker, "/api/groups/spring/resume", &json!({})).await;
    assert_eq!(
        (status.as_u16(), resumed),
        (200, json!({"group": "spring", "paused": false}))
    );
    assert_eq!(group_settled(&world, "spring", 1).await["recipients"]["cancelled"], 700);
    let until = chrono::Utc::now() + Duration::from_hours(1);
    let path = format!("/api/apps/default/pause?until={}", until.format("%Y-%m-%dT%H:%M:%SZ"));
    assert_eq!(post(&worker, &path, &json!({})).await.1["app"], "default");
    worker.until_unready("app default is paused", LONG).await;
    assert_eq!(post(&worker, "/api/apps/default/resume", &json!({})).await.0, 200);
}
