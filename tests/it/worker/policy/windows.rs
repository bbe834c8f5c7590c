//! Send windows. Those that must be closed open in six hours, so that no test hurries; those that must open do so by a
//! SIGHUP, or at a time before which nothing may arrive however fast or slow the machine is.

use chrono::{DateTime, Duration as Span, SubsecRound as _, Utc};
use im_dispatcher::domain::Command;
use serde_json::{Value, json};

use super::super::{LONG, counts, delivered_once, send, settled};
use crate::support::{Worker, World, eventually};

/// A window of an hour that opens so long from now, and its opening.
fn window(opens_in: Span) -> (Value, DateTime<Utc>) {
    let opening = (Utc::now() + opens_in).trunc_subsecs(0);
    let clock = |at: DateTime<Utc>| at.format("%H:%M:%S").to_string();
    let window = json!({"start": clock(opening), "end": clock(opening + Span::hours(1)), "timezone": "UTC"});
    (window, opening)
}

fn closed() -> (Value, DateTime<Utc>) {
    window(Span::hours(6))
}

/// The configuration file's section of a lane with this window.
fn lane(name: &str, window: &Value) -> String {
    let field = |field: &str| window[field].as_str().unwrap().to_owned();
    format!(
        "[lanes.{name}.send_window]\nstart = \"{}\"\nend = \"{}\"\ntimezone = \"{}\"\n",
        field("start"),
        field("end"),
        field("timezone")
    )
}

fn configure(world: &World, file: &str) {
    std::fs::write(world.directory().join("im-dispatcher.toml"), file).unwrap();
}

/// What `explain` says that a job waits for, once that is its send window.
async fn waits(world: &World, job: &str) -> Value {
    eventually(LONG, &format!("{job} waits for its send window"), || async {
        let output = world.cli(&["explain", job, "--json"]).await;
        let explained: Value = serde_json::from_slice(&output.stdout).ok()?;
        let waiting = &explained["waiting"];
        let all = waiting.as_array()?;
        let so = !all.is_empty() && all.iter().all(|waiting| waiting["for"] == "send-window");
        so.then(|| all[0].clone())
    })
    .await
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_job_outside_its_window_waits_is_pending_and_can_be_revoked() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let (closed, opening) = closed();
    let mut single = send("single", "alice");
    single["send_window"] = closed.clone();
    let to: Vec<String> = (0..600).map(|n| format!("member{n}")).collect();
    let batch = json!({"type": "batch_send", "id": "batch", "to": to, "send_window": closed, "message": {"text": "x"}});
    world.broker.publish("bulk", &batch).await;
    world.broker.publish("normal", &single).await;
    for (job, total) in [("single", 1), ("batch", 600)] {
        let waiting = waits(&world, job).await;
        assert_eq!(time(&waiting["until"]), opening, "{waiting}");
        let text = waiting["text"].as_str().unwrap();
        assert!(text.starts_with("waiting for: send-window until "), "{text}");
        let status = world.status_json(job).await.unwrap();
        assert_eq!(status["state"], "pending");
        assert_eq!(status["recipients"]["pending"], total);
    }
    let revoked = world
        .cli(&["revoke", "--job", "batch", "--wait", "--timeout", "60"])
        .await;
    assert!(revoked.status.success());
    let status = settled(&world, "batch").await;
    assert_eq!(status["recipients"], counts(600, &[("cancelled", 600)]));
    let pool = world.database.pool().await;
    eventually(LONG, "nothing of the batch waits any more", || async {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM work WHERE job_id = 'batch'")
            .fetch_one(&pool)
            .await
            .ok()?;
        (rows == 0).then_some(())
    })
    .await;
    assert_eq!(delivered_once(&world), 0);
    assert!(world.broker.drain_dead().await.is_empty());
}

#[tokio::test]
async fn what_is_revoked_before_it_arrives_outside_its_window_is_cancelled_at_once() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    for target in [["--job", "single"], ["--group", "spring"]] {
        let revoked = world.cli(&["revoke", target[0], target[1]]).await;
        assert!(revoked.status.success());
    }
    let (closed, _) = closed();
    let mut single = send("single", "alice");
    let mut batch = json!({"type": "batch_send", "id": "batch", "group": "spring", "to": ["bob", "carol"],
                           "message": {"text": "x"}});
    for job in [&mut single, &mut batch] {
        job["send_window"] = closed.clone();
        world.broker.publish("normal", job).await;
    }
    assert_eq!(
        settled(&world, "single").await["recipients"],
        counts(1, &[("cancelled", 1)])
    );
    assert_eq!(
        settled(&world, "batch").await["recipients"],
        counts(2, &[("cancelled", 2)])
    );
    assert_eq!(delivered_once(&world), 0);
}

#[tokio::test]
async fn nothing_goes_out_before_the_opening_and_everything_after_it() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let (soon, opening) = window(Span::seconds(4));
    let mut jobs = vec![send("single", "alice")];
    jobs.push(json!({"type": "batch_send", "id": "batch", "to": ["bob", "carol"], "message": {"text": "x"}}));
    jobs.push(send("scheduled", "dave"));
    jobs[2]["send_at"] = json!(Utc::now() + Span::seconds(1));
    for job in &mut jobs {
        job["send_window"] = soon.clone();
        world.broker.publish("high", job).await;
    }
    for job in ["single", "batch", "scheduled"] {
        assert_eq!(settled(&world, job).await["state"], "sent", "{job}");
    }
    assert_eq!(delivered_once(&world), 4);
    for to in ["alice", "bob", "carol", "dave"] {
        let message = &world.simulator.messages_to(to)[0];
        assert!(i64::from(message.time) >= opening.timestamp(), "{to} got it too early");
    }
}

#[tokio::test]
async fn jobs_that_wait_for_their_slots_when_the_window_closes_wait_for_the_next_opening() {
    let mut world = World::new().await;
    // Two calls a second: most of them wait when the settings change.
    world
        .set("IM_BATCH_RECIPIENTS_PER_MINUTE", "1")
        .set("IM_RATE_LIMIT", "2");
    let worker = Worker::start(&world).await;
    for n in 0..60 {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        job["message"]["text"] = json!("one text for all");
        job["coalesce"] = json!(n % 2 == 0);
        world.broker.publish("bulk", &job).await;
    }
    eventually(LONG, "the first is out", || async {
        (world.simulator.delivered_total() > 0).then_some(())
    })
    .await;
    configure(&world, &lane("bulk", &closed().0));
    worker.process.hang_up();
    let pool = world.database.pool().await;
    eventually(LONG, "the rest waits for the window", || async {
        let (waiting, open): (i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE w.opens_at IS NOT NULL), count(*) FILTER (WHERE w.opens_at IS NULL)
             FROM messages m LEFT JOIN work w ON w.job_id = m.job_id WHERE m.state IN (0, 1, 2)",
        )
        .fetch_one(&pool)
        .await
        .ok()?;
        let all = i64::try_from(world.simulator.delivered_total()).ok()? + waiting;
        (waiting > 0 && open == 0 && all == 60).then_some(())
    })
    .await;
    let sent = world.simulator.delivered_total();
    assert!(sent < 60, "{sent}");
    configure(&world, "");
    worker.process.hang_up();
    let status = super::super::group_settled(&world, "load", 60).await;
    assert_eq!(status["recipients"], counts(60, &[("sent", 60)]));
    assert_eq!(world.simulator.delivered_total(), 60);
}

#[tokio::test]
async fn a_job_whose_time_is_over_before_the_opening_expires() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let events = world.broker.tap_events("#").await;
    let mut job = send("job", "alice");
    job["send_window"] = closed().0;
    job["expires_at"] = json!(Utc::now() + Span::seconds(2));
    world.broker.publish("normal", &job).await;
    assert_eq!(settled(&world, "job").await["recipients"], counts(1, &[("expired", 1)]));
    events
        .wait_for(1, LONG, "the event", |event| event["type"] == "im.message.expired")
        .await;
    assert_eq!(delivered_once(&world), 0);
}

#[tokio::test]
async fn a_lanes_window_holds_its_jobs_back_but_the_high_lane_asks_for_its_own() {
    let world = World::new().await;
    let (closed, opening) = closed();
    configure(&world, &format!("{}{}", lane("normal", &closed), lane("bulk", &closed)));
    let worker = Worker::start(&world).await;
    world.broker.publish("bulk", &send("bulk", "alice")).await;
    world.broker.publish("normal", &send("normal", "bob")).await;
    world.broker.publish("high", &send("high", "carol")).await;
    let mut asks = send("asks", "dave");
    asks["send_window"] = closed;
    world.broker.publish("high", &asks).await;
    let import = json!({"type": "import", "id": "import", "from": "erin", "to": "frank", "timestamp": 1_700_000_000,
                        "unread": false, "message": {"text": "from before"}});
    world.broker.publish("bulk", &import).await;
    assert_eq!(settled(&world, "high").await["state"], "sent");
    assert_eq!(
        settled(&world, "import").await["state"],
        "sent",
        "an import is no new message"
    );
    for job in ["bulk", "normal", "asks"] {
        assert_eq!(time(&waits(&world, job).await["until"]), opening, "{job}");
    }
    assert_eq!(delivered_once(&world), 1);

    // The settings change: what waits for the old window goes out, what asked for its own waits on.
    configure(&world, "");
    worker.process.hang_up();
    assert_eq!(settled(&world, "bulk").await["state"], "sent");
    assert_eq!(settled(&world, "normal").await["state"], "sent");
    waits(&world, "asks").await;
    assert_eq!(delivered_once(&world), 3);
}

#[tokio::test]
async fn a_worker_that_starts_with_another_window_wakes_what_waited_for_the_old_one() {
    let world = World::new().await;
    configure(&world, &lane("bulk", &closed().0));
    let first = Worker::start(&world).await;
    world.broker.publish("bulk", &send("job", "alice")).await;
    waits(&world, "job").await;
    assert!(first.stop().await.success());
    configure(&world, "");
    let _second = Worker::start(&world).await;
    assert_eq!(settled(&world, "job").await["state"], "sent");
}

#[tokio::test]
async fn a_batch_that_is_under_way_when_the_window_closes_stops_and_goes_on_later() {
    let world = World::new().await;
    // Parts of 500 at 600 recipients a minute: the five of them take more than three minutes.
    let slow = "[im]\nrecipients_per_minute = 600\n";
    configure(&world, slow);
    let worker = Worker::start(&world).await;
    let to: Vec<String> = (0..2_500).map(|n| format!("member{n}")).collect();
    let batch = json!({"type": "batch_send", "id": "batch", "to": to, "message": {"text": "x"}});
    world.broker.publish("bulk", &batch).await;
    eventually(LONG, "a part is out", || async {
        (world.simulator.delivered_total() >= 500).then_some(())
    })
    .await;
    configure(&world, &format!("{slow}{}", lane("bulk", &closed().0)));
    worker.process.hang_up();
    // Whatever waited for a slot looks at the clock again with the slot in hand.
    waits(&world, "batch").await;
    let sent = world.simulator.delivered_total();
    assert!(sent < 2_500, "{sent}");
    let status = world.status_json("batch").await.unwrap();
    assert_eq!(status["recipients"]["pending"], 2_500 - sent);
    assert_eq!(status["recipients"]["sent"], sent);
    configure(&world, "[im]\nrecipients_per_minute = 0\n");
    worker.process.hang_up();
    assert_eq!(
        settled(&world, "batch").await["recipients"],
        counts(2_500, &[("sent", 2_500)])
    );
    assert_eq!(delivered_once(&world), 2_500);
}

#[tokio::test]
async fn a_retry_that_falls_outside_the_window_waits_for_the_opening() {
    let mut world = World::new().await;
    world.set("IM_DISPATCHER__RETRY__INITIAL", "3s");
    let worker = Worker::start(&world).await;
    // 80003: surely not delivered, tried again.
    world
        .simulator
        .inject(Command::SendMsg, im_dispatcher::simulator::Fault::Code(80_003), 1);
    world.broker.publish("bulk", &send("job", "alice")).await;
    let pool = world.database.pool().await;
    eventually(LONG, "the first attempt has failed", || async {
        let failed: i64 = sqlx::query_scalar("SELECT count(*) FROM attempts WHERE job_id = 'job'")
            .fetch_one(&pool)
            .await
            .ok()?;
        (failed == 1).then_some(())
    })
    .await;
    // However soon the retry comes: the service refuses until the window is closed.
    world
        .simulator
        .set_fault_rate(Command::SendMsg, im_dispatcher::simulator::Fault::Code(80_003), 1.0);
    configure(&world, &lane("bulk", &closed().0));
    worker.process.hang_up();
    let waiting = waits(&world, "job").await;
    assert!(
        waiting["text"].as_str().unwrap().contains("attempts failed before"),
        "{waiting}"
    );
    world.simulator.clear_faults();
    assert_eq!(delivered_once(&world), 0);
    configure(&world, "");
    worker.process.hang_up();
    assert_eq!(settled(&world, "job").await["state"], "sent");
    assert_eq!(delivered_once(&world), 1);
}
