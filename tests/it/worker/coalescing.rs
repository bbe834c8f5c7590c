//! Sends that are merged: who shares a call, whom an answer concerns, and what a crash in the middle leaves.

use std::time::Duration;

use chrono::Utc;
use im_dispatcher::{
    domain::Command,
    simulator::{Fault, Limits, SimulatorOptions},
};
use serde_json::{Value, json};

use super::{LONG, counts, delivered_once, group_settled, settled};
use crate::support::{Worker, World, eventually};

/// A world whose budget of singles is scarce and whose budget of batches isn't: what waits is merged.
async fn scarce_singles() -> World {
    scarce_singles_of(SimulatorOptions::default()).await
}

async fn scarce_singles_of(service: SimulatorOptions) -> World {
    let mut world = World::with(SimulatorOptions {
        limits: Limits::none(),
        ..service
    })
    .await;
    // 20 recipients of singles a second, and as many batches with no end of recipients.
    world
        .set("IM_RATE_LIMIT", "20")
        .set("IM_BATCH_RECIPIENTS_PER_MINUTE", "0")
        .set("IM_DISPATCHER__IM__TOTAL_TIMEOUT", "2s")
        .set("IM_DISPATCHER__RECONCILE__SETTLE", "500ms")
        .set("IM_DISPATCHER__RECONCILE__LISTED_AFTER", "6s");
    world
}

/// A send that may be merged.
fn mergeable(id: &str, to: &str, text: &str) -> Value {
    json!({"type": "send", "id": id, "to": to, "group": "campaign", "coalesce": true, "message": {"text": text}})
}

/// Publishes so many of one content, to recipients `u0`, `u1`, ….
async fn publish(world: &World, lane: &str, count: usize, text: &str) {
    for n in 0..count {
        let job = mergeable(&format!("job-{n}"), &format!("u{n}"), text);
        world.broker.publish(lane, &job).await;
    }
}

/// Recipients of the batch calls that the service carried out.
fn batches(world: &World) -> Vec<u32> {
    let arrivals = world.simulator.arrivals(Command::BatchSendMsg);
    let carried_out = arrivals.iter().filter(|arrival| arrival.carried_out);
    carried_out.map(|arrival| arrival.recipients).collect()
}

/// Each job's own record and key are the message that its recipient got.
async fn keys_are_on_record(world: &World, jobs: usize) {
    for n in 0..jobs {
        let messages = world.simulator.messages_to(&format!("u{n}"));
        assert_eq!(messages.len(), 1, "u{n}");
        let status = world.status_json(&format!("job-{n}")).await.unwrap();
        assert_eq!(status["messages"][0]["msg_key"], messages[0].key.as_str(), "job-{n}");
    }
}

/// Publishes a backlog before the worker starts, so that something must wait.
async fn with_backlog(world: &World, jobs: &[Value]) -> Worker {
    declare(world).await;
    for job in jobs {
        world.broker.publish("bulk", job).await;
    }
    Worker::start(world).await
}

/// Makes the queues, as a worker that has been there before would have.
async fn declare(world: &World) {
    let worker = Worker::start(world).await;
    assert!(worker.stop().await.success());
}

fn backlog(count: usize, text: &str) -> Vec<Value> {
    (0..count)
        .map(|n| mergeable(&format!("job-{n}"), &format!("u{n}"), text))
        .collect()
}

#[tokio::test]
async fn a_backlog_of_one_content_goes_in_shared_calls_and_each_job_keeps_its_record_and_its_event() {
    let world = scarce_singles().await;
    declare(&world).await;
    let events = world.broker.tap_events("send.sent").await;
    let _worker = with_backlog(&world, &backlog(400, "to all")).await;
    let status = group_settled(&world, "campaign", 400).await;
    assert_eq!(status["recipients"], counts(400, &[("sent", 400)]));
    assert_eq!(delivered_once(&world), 400);
    let singles = world.simulator.arrivals(Command::SendMsg).len();
    let batches = batches(&world);
    assert!(singles > 0, "the singles' budget is used too");
    assert!(
        !batches.is_empty() && batches.iter().all(|&recipients| recipients >= 2),
        "{batches:?}"
    );
    assert_eq!(singles + batches.iter().sum::<u32>() as usize, 400);
    let told = events.wait_for(400, LONG, "the events", |_| true).await;
    for event in &told {
        let job = event["subject"].as_str().unwrap();
        let to = format!("u{}", job.strip_prefix("job-").unwrap());
        assert_eq!(event["data"]["to"], to.as_str());
        assert_eq!(
            event["data"]["msg_key"],
            world.simulator.messages_to(&to)[0].key.as_str()
        );
    }
    keys_are_on_record(&world, 20).await;
    eventually(LONG, "the queue is empty", || async {
        (world.broker.depth("jobs.bulk").await == Some(0)).then_some(())
    })
    .await;
    assert!(world.broker.drain_dead().await.is_empty());

    let verified = world.cli(&["verify", "--json"]).await;
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stdout)
    );
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(verified["sent"], 400);
    // The recipients of a shared call are told where one of its jobs is explained.
    let pool = world.database.pool().await;
    let (job, members): (String, i32) =
        sqlx::query_as("SELECT jobs[1], cardinality(jobs) FROM calls WHERE jobs IS NOT NULL LIMIT 1")
            .fetch_one(&pool)
            .await
            .unwrap();
    let explained = world.cli(&["explain", &job, "--json"]).await;
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let timeline = explained["timeline"].as_array().unwrap();
    let called: Vec<_> = timeline.iter().filter(|entry| entry["event"] == "called").collect();
    assert_eq!(called.len(), 1, "{explained}");
    assert!(
        called[0]["text"]
            .as_str()
            .unwrap()
            .contains(&format!("{members} recipients")),
        "{explained}"
    );
}

#[tokio::test]
async fn a_lone_send_with_a_free_budget_goes_alone() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    for n in 0..5 {
        let id = format!("job-{n}");
        world
            .broker
            .publish("normal", &mergeable(&id, &format!("u{n}"), "hello"))
            .await;
        assert_eq!(settled(&world, &id).await["state"], "sent");
    }
    assert_eq!(world.simulator.arrivals(Command::SendMsg).len(), 5);
    assert!(world.simulator.arrivals(Command::BatchSendMsg).is_empty());
    assert_eq!(delivered_once(&world), 5);
}

#[tokio::test]
async fn other_contents_other_senders_and_those_that_no_batch_can_carry_never_share_a_call() {
    let world = scarce_singles().await;
    let mut jobs = Vec::new();
    for n in 0..120 {
        let mut job = mergeable(&format!("job-{n}"), &format!("u{n}"), ["one", "two"][n % 2]);
        match n % 6 {
            2 | 3 => job["from"] = json!("robot"),
            4 => job["message"]["forbid_callbacks"] = json!(["before"]),
            5 => job["coalesce"] = json!(false),
            _ => {}
        }
        jobs.push(job);
    }
    let _worker = with_backlog(&world, &jobs).await;
    let status = group_settled(&world, "campaign", 120).await;
    assert_eq!(status["recipients"], counts(120, &[("sent", 120)]));
    assert_eq!(delivered_once(&world), 120);
    assert!(!batches(&world).is_empty());
    let pool = world.database.pool().await;
    let shared: Vec<(Vec<String>, String)> = sqlx::query_as("SELECT jobs, sender FROM calls WHERE jobs IS NOT NULL")
        .fetch_all(&pool)
        .await
        .unwrap();
    for (members, sender) in shared {
        let kinds: Vec<usize> = members
            .iter()
            .map(|job| job.strip_prefix("job-").unwrap().parse::<usize>().unwrap() % 6)
            .collect();
        assert!(kinds.iter().all(|kind| *kind == kinds[0] && *kind < 4), "{members:?}");
        assert_eq!(sender == "robot", kinds[0] >= 2);
    }
    for n in 0..120 {
        let message = &world.simulator.messages_to(&format!("u{n}"))[0];
        assert_eq!(message.sender == "robot", matches!(n % 6, 2 | 3), "u{n}");
        assert!(String::clone(&message.body).contains(["one", "two"][n % 2]), "u{n}");
    }
}

#[tokio::test]
async fn a_recipients_failure_falls_on_its_own_job_and_only_what_may_be_retried_is() {
    let world = scarce_singles().await;
    // Until it is cleared, half of a batch's recipients meet an internal time-out of the account server.
    world
        .simulator
        .set_fault_rate(Command::BatchSendMsg, Fault::Recipient(70_169), 0.5);
    let mut jobs = backlog(200, "partly");
    for (n, job) in jobs.iter_mut().enumerate() {
        if n % 20 == 7 {
            job["to"] = json!(format!("unknown{n}"));
        }
    }
    let _worker = with_backlog(&world, &jobs).await;
    eventually(LONG, "some of a batch have been refused", || async {
        let pool = world.database.pool().await;
        let refused: i64 = sqlx::query_scalar("SELECT count(*) FROM attempts WHERE code = 'im-70169'")
            .fetch_one(&pool)
            .await
            .unwrap();
        (refused > 0).then_some(())
    })
    .await;
    world.simulator.clear_faults();
    let status = group_settled(&world, "campaign", 200).await;
    assert_eq!(status["recipients"], counts(200, &[("sent", 190), ("failed", 10)]));
    assert_eq!(delivered_once(&world), 190);
    for n in [7, 27, 187] {
        let status = world.status_json(&format!("job-{n}")).await.unwrap();
        assert_eq!(status["state"], "failed", "job-{n}");
    }
    for n in [0, 6, 199] {
        let messages = world.simulator.messages_to(&format!("u{n}"));
        let status = world.status_json(&format!("job-{n}")).await.unwrap();
        assert_eq!(status["messages"][0]["msg_key"], messages[0].key.as_str(), "job-{n}");
    }
    assert!(
        world.broker.drain_dead().await.is_empty(),
        "unknown recipients are no dead letters"
    );
}

#[tokio::test]
async fn nobody_fails_for_anothers_fault_where_a_whole_call_is_refused() {
    let world = scarce_singles().await;
    // "Account not existing", in answer to everybody: each is asked again alone.
    world
        .simulator
        .set_fault_rate(Command::BatchSendMsg, Fault::Code(90_048), 1.0);
    let mut jobs = backlog(60, "one of us doesn't exist");
    jobs[30]["to"] = json!("unknown30");
    let _worker = with_backlog(&world, &jobs).await;
    let status = group_settled(&world, "campaign", 60).await;
    assert_eq!(status["recipients"], counts(60, &[("sent", 59), ("failed", 1)]));
    assert_eq!(world.status_json("job-30").await.unwrap()["state"], "failed");
    assert_eq!(delivered_once(&world), 59);
    assert!(!world.simulator.arrivals(Command::BatchSendMsg).is_empty());
    assert!(batches(&world).is_empty());
}

#[tokio::test]
async fn a_content_that_the_service_refuses_fails_each_job_and_each_is_a_dead_letter() {
    let world = scarce_singles().await;
    for command in [Command::SendMsg, Command::BatchSendMsg] {
        world.simulator.set_fault_rate(command, Fault::Code(90_001), 1.0);
    }
    let _worker = with_backlog(&world, &backlog(60, "refused")).await;
    let status = group_settled(&world, "campaign", 60).await;
    assert_eq!(status["recipients"], counts(60, &[("failed", 60)]));
    assert!(!world.simulator.arrivals(Command::BatchSendMsg).is_empty());
    let letters = world.broker.dead_letters(60, LONG).await;
    assert!(
        letters
            .iter()
            .all(|letter| letter.word().as_deref() == Some("im-90001"))
    );
    // One call each, alone or shared.
    let status = world.status_json("job-59").await.unwrap();
    assert_eq!(status["messages"][0]["attempts"], 1);
}

#[tokio::test]
async fn throttled_and_lost_answers_of_shared_calls_end_with_one_message_for_each() {
    let world = scarce_singles().await;
    world.simulator.inject(Command::BatchSendMsg, Fault::Code(60_007), 1);
    world.simulator.inject(Command::BatchSendMsg, Fault::CutAfter, 1);
    world.simulator.inject(Command::BatchSendMsg, Fault::PartialCut(3), 1);
    let _worker = with_backlog(&world, &backlog(150, "again")).await;
    let status = group_settled(&world, "campaign", 150).await;
    assert_eq!(status["recipients"], counts(150, &[("sent", 150)]));
    assert_eq!(delivered_once(&world), 150);
    keys_are_on_record(&world, 150).await;
    // Whoever a call left out went under a pair of its own.
    let pool = world.database.pool().await;
    let repeated: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM messages m JOIN calls c ON c.call_id = m.call_id AND c.token <> m.token
         WHERE c.seq = m.seq AND c.random = m.random",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(repeated, 0);
}

#[tokio::test]
async fn one_member_is_revoked_before_during_and_after_its_shared_call() {
    let world = scarce_singles().await;
    world.simulator.set_latency(Duration::from_millis(300));
    declare(&world).await;
    let revoke = |job: &str| json!({"type": "revoke", "id": format!("revoke-{job}"), "target": {"job": job}});
    publish(&world, "bulk", 100, "some of us").await;
    // Before: its tombstone is there before the worker is.
    world.broker.publish("high", &revoke("job-90")).await;
    let worker = Worker::start(&world).await;
    let pool = world.database.pool().await;
    // During: a member of a call that isn't answered yet.
    let member = eventually(LONG, "a shared call is under way", || async {
        let job: Option<String> = sqlx::query_scalar(
            "SELECT m.job_id FROM calls c JOIN messages m ON m.call_id = c.call_id
             WHERE c.jobs IS NOT NULL AND m.state = 1 AND m.job_id <> 'job-90' LIMIT 1",
        )
        .fetch_optional(&pool)
        .await
        .unwrap();
        job
    })
    .await;
    world.broker.publish("high", &revoke(&member)).await;
    group_settled(&world, "campaign", 100).await;
    // After.
    let later = if member == "job-50" { "job-51" } else { "job-50" };
    world.broker.publish("high", &revoke(later)).await;
    for job in ["job-90", &member, later] {
        let state = if job == "job-90" {
            ["cancelled", "revoked"]
        } else {
            ["revoked"; 2]
        };
        eventually(LONG, "it is revoked", || async {
            let status = world.status_json(job).await?;
            state.contains(&status["state"].as_str()?).then_some(())
        })
        .await;
    }
    let status = group_settled(&world, "campaign", 100).await;
    assert_eq!(status["recipients"]["sent"], 97);
    for n in 0..100 {
        let job = format!("job-{n}");
        let revoked = ["job-90", &member, later].contains(&job.as_str());
        let live = world.simulator.messages_to(&format!("u{n}"));
        let live = live.iter().filter(|message| !message.revoked).count();
        assert_eq!(live, usize::from(!revoked), "{job}");
    }
    drop(worker);
}

#[tokio::test]
async fn two_sends_to_one_recipient_and_two_deliveries_of_one_job_don_t_share_a_call() {
    let world = scarce_singles().await;
    let mut jobs = Vec::new();
    for n in 0..60 {
        // Two jobs for each recipient, the second of which is published twice.
        jobs.push(mergeable(&format!("first-{n}"), &format!("u{n}"), "twice"));
        jobs.push(mergeable(&format!("second-{n}"), &format!("u{n}"), "twice"));
        jobs.push(mergeable(&format!("second-{n}"), &format!("u{n}"), "twice"));
    }
    let _worker = with_backlog(&world, &jobs).await;
    let status = group_settled(&world, "campaign", 120).await;
    assert_eq!(status["recipients"], counts(120, &[("sent", 120)]));
    let pool = world.database.pool().await;
    let shared: Vec<Vec<String>> = sqlx::query_scalar("SELECT jobs FROM calls WHERE jobs IS NOT NULL")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert!(!shared.is_empty());
    for members in shared {
        let mut recipients: Vec<&str> = members.iter().map(|job| job.split_once('-').unwrap().1).collect();
        recipients.sort_unstable();
        recipients.dedup();
        assert_eq!(recipients.len(), members.len(), "{members:?}");
    }
    for n in 0..60 {
        let messages = world.simulator.messages_to(&format!("u{n}"));
        assert_eq!(messages.len(), 2, "u{n}");
        assert_ne!(messages[0].key, messages[1].key);
    }
}

#[tokio::test]
async fn scheduled_sends_that_fall_due_together_share_calls() {
    let world = scarce_singles().await;
    let worker = Worker::start(&world).await;
    let at = Utc::now() + chrono::Duration::seconds(5);
    for mut job in backlog(300, "at nine") {
        job["send_at"] = json!(at.to_rfc3339());
        world.broker.publish("bulk", &job).await;
    }
    let status = group_settled(&world, "campaign", 300).await;
    assert_eq!(status["recipients"], counts(300, &[("sent", 300)]));
    assert_eq!(delivered_once(&world), 300);
    assert!(!batches(&world).is_empty());
    keys_are_on_record(&world, 20).await;
    let pool = world.database.pool().await;
    let (early, work): (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM messages WHERE first_call_at < $1), (SELECT count(*) FROM work)")
            .bind(at)
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((early, work), (0, 0));
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_paused_campaign_shares_no_calls_until_it_is_resumed() {
    let world = scarce_singles().await;
    declare(&world).await;
    let paused = world.cli(&["pause", "--group", "campaign"]).await;
    assert!(paused.status.success());
    publish(&world, "bulk", 80, "not yet").await;
    let _worker = Worker::start(&world).await;
    eventually(LONG, "the table has them", || async {
        (world.broker.depth("jobs.bulk").await == Some(0)).then_some(())
    })
    .await;
    assert_eq!(world.simulator.delivered_total(), 0);
    let resumed = world.cli(&["resume", "--group", "campaign"]).await;
    assert!(resumed.status.success());
    let status = group_settled(&world, "campaign", 80).await;
    assert_eq!(status["recipients"], counts(80, &[("sent", 80)]));
    assert_eq!(delivered_once(&world), 80);
}

#[tokio::test]
async fn without_a_fleet_and_with_an_urgent_lane_everything_is_sent_once() {
    let mut world = scarce_singles().await;
    world.set("IM_DISPATCHER__BUDGET__FLEET", "false");
    declare(&world).await;
    publish(&world, "bulk", 200, "many").await;
    for n in 0..10 {
        let job = mergeable(&format!("high-{n}"), &format!("h{n}"), "urgent");
        world.broker.publish("high", &job).await;
    }
    let worker = Worker::start(&world).await;
    let status = group_settled(&world, "campaign", 210).await;
    assert_eq!(status["recipients"], counts(210, &[("sent", 210)]));
    assert_eq!(delivered_once(&world), 210);
    assert!(worker.stop().await.success());
}

/// Lets a worker die at a fault point of a shared call, then lets another go on: nobody gets it twice although the
/// service drops no repeat.
#[cfg(feature = "fault-points")]
async fn dies_at(point: &str, more: &str) {
    let world = scarce_singles_of(SimulatorOptions {
        dedup: Duration::ZERO,
        ..SimulatorOptions::default()
    })
    .await;
    declare(&world).await;
    publish(&world, "bulk", 80, "survivors").await;
    let mut first = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", &format!("{point}=abort{more}"))]);
    first.process.exit(LONG).await;
    let _second = Worker::start(&world).await;
    let status = group_settled(&world, "campaign", 80).await;
    assert_eq!(status["recipients"], counts(80, &[("sent", 80)]), "{point}");
    assert_eq!(delivered_once(&world), 80, "{point}");
    keys_are_on_record(&world, 80).await;
    let pool = world.database.pool().await;
    // No two calls share a pair.
    let shared: i64 =
        sqlx::query_scalar("SELECT count(*) FROM (SELECT seq, random FROM calls GROUP BY 1, 2 HAVING count(*) > 1) c")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(shared, 0, "{point}");
    eventually(LONG, "the queue is empty", || async {
        (world.broker.depth("jobs.bulk").await == Some(0)).then_some(())
    })
    .await;
    assert!(world.broker.drain_dead().await.is_empty(), "{point}");
}

/// Nobody got a shared call whose worker died before it: it is made again as it was, long before the history would surely
/// list it.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_shared_call_that_reached_nobody_is_made_again_byte_for_byte() {
    let mut world = scarce_singles().await;
    world.set("IM_DISPATCHER__RECONCILE__LISTED_AFTER", "3m");
    declare(&world).await;
    publish(&world, "bulk", 60, "once more").await;
    let mut first = Worker::spawn(&world, &[("IM_DISPATCHER_FAULT", "group.call.before=abort")]);
    first.process.exit(LONG).await;
    let pool = world.database.pool().await;
    let (call, jobs, seq, random): (uuid::Uuid, Vec<String>, i64, i64) =
        sqlx::query_as("SELECT call_id, jobs, seq, random FROM calls WHERE jobs IS NOT NULL")
            .fetch_one(&pool)
            .await
            .unwrap();
    let _second = Worker::start(&world).await;
    let status = group_settled(&world, "campaign", 60).await;
    assert_eq!(status["recipients"], counts(60, &[("sent", 60)]));
    assert_eq!(delivered_once(&world), 60);
    keys_are_on_record(&world, 60).await;
    for job in &jobs {
        let message = &world
            .simulator
            .messages_to(&format!("u{}", job.strip_prefix("job-").unwrap()))[0];
        assert!(message.batch, "{job}");
        assert_eq!(
            (i64::from(message.seq), i64::from(message.random)),
            (seq, random),
            "{job}"
        );
    }
    let members: i32 = sqlx::query_scalar("SELECT cardinality(jobs) FROM calls WHERE call_id = $1")
        .bind(call)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(members as usize, jobs.len());
}

macro_rules! deaths {
    ($($name:ident: $point:literal $more:literal,)+) => {
        $(
            #[cfg(feature = "fault-points")]
            #[tokio::test]
            async fn $name() {
                dies_at($point, $more).await;
            }
        )+
    };
}

deaths! {
    a_worker_that_dies_before_a_shared_claim_leaves_nothing_behind: "group.claim.before" "",
    a_worker_that_dies_between_a_shared_claim_and_its_call_has_sent_nothing: "group.claim.after" "",
    a_worker_that_dies_right_before_a_shared_call_has_sent_nothing: "group.call.before" "",
    a_worker_that_dies_before_it_reads_a_shared_answer_has_sent_to_all: "group.call.after" "",
    a_worker_that_dies_in_the_middle_of_the_outcomes_has_sent_to_all: "outcome.after" "@30",
}
