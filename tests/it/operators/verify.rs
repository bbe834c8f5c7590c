//! `verify`: green where everything was sent once, red for each way in which it was not.

use std::time::Duration;

use chrono::{Duration as Span, Utc};
use im_dispatcher::{
    domain::{AccountId, AppName, Command, message::Message},
    im::{ClientOptions, ImApp, ImClient, Pair, encode_send},
    simulator::{AccountMatch, Fault, FaultRule, SAMPLE_SDK_APP_ID, SAMPLE_SECRET, When},
};
use serde_json::{Value, json};

use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, send, settled},
};

async fn verified(world: &World, arguments: &[&str]) -> (i32, Value) {
    let arguments: Vec<&str> = ["verify", "--json"].iter().chain(arguments).copied().collect();
    super::json(world, &arguments).await
}

async fn execute(world: &World, statement: &'static str) {
    let pool = world.database.pool().await;
    sqlx::query(statement).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_mixed_load_verifies_and_each_conversation_is_asked_once() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let mut jobs = Vec::new();
    for n in 0..20 {
        let mut job = send(&format!("single-{n}"), &format!("user{}", n % 10));
        job["group"] = json!("load");
        jobs.push(job);
    }
    jobs[3]["message"]["sync_to_sender"] = json!(false);
    jobs[4]["message"]["life_time"] = json!(0);
    jobs[5]["to"] = json!("unknown5");
    let to: Vec<String> = (0..30)
        .map(|n| {
            if n == 7 {
                "unknown7".to_owned()
            } else {
                format!("member{n}")
            }
        })
        .collect();
    jobs.push(json!({"type": "batch_send", "id": "batch", "from": "robot", "to": to, "message": {"text": "to many"}}));
    jobs.push(json!({"type": "import", "id": "import", "from": "carol", "to": "dave",
                     "timestamp": Utc::now().timestamp() - 3_600, "unread": false, "message": {"text": "before"}}));
    for (fault, to) in [
        (Fault::CutAfter, "user0"),
        (Fault::CutAfter, "user1"),
        (Fault::ResetBefore, "user2"),
    ] {
        let once = FaultRule::new(Some(Command::SendMsg), fault, When::Next(1));
        world.simulator.add_fault(once.to(AccountMatch::Exactly(to.to_owned())));
    }
    for job in &jobs {
        world.broker.publish("normal", job).await;
    }
    for job in &jobs {
        settled(&world, job["id"].as_str().unwrap()).await;
    }
    world
        .broker
        .publish(
            "high",
            &json!({"type": "revoke", "id": "r", "target": {"job": "single-9"}}),
        )
        .await;
    settled(&world, "r").await;
    let mut later = send("later", "zoe");
    later["send_at"] = json!((Utc::now() + Span::hours(1)).to_rfc3339());
    world.broker.publish("normal", &later).await;
    eventually(LONG, "the last is on record", || async {
        world.status_json("later").await
    })
    .await;

    let asked = world.simulator.arrivals(Command::GetRoamMsg).len();
    let (code, report) = verified(&world, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["findings"], json!([]), "{report:#}");
    assert_eq!(
        (&report["missing"], &report["sent_twice"], &report["in_doubt"]),
        (&json!(0), &json!(0), &json!(0))
    );
    assert_eq!(report["sent"], 17 + 29 + 1);
    assert_eq!(
        (&report["unverifiable"]["online_only"], &report["failed"]),
        (&json!(1), &json!(2))
    );
    assert_eq!((&report["revoked"], &report["waiting"]), (&json!(1), &json!(1)));
    assert_eq!((&report["ok"], &report["dead_letters"]), (&json!(true), &json!(0)));
    assert_eq!(report["queues"].as_object().unwrap().len(), 3);
    // 10 users, 29 members, one import; unknown accounts aren't asked.
    let calls = world.simulator.arrivals(Command::GetRoamMsg).len() - asked;
    assert_eq!(calls, 10 + 29 + 1, "one call for each conversation");
    assert_eq!(report["calls"], calls);

    let (code, report) = verified(&world, &["--group", "load"]).await;
    assert_eq!((code, &report["sent"]), (0, &json!(17)), "{report:#}");
    let (code, report) = verified(&world, &["--since", "2999-01-01T00:00:00Z"]).await;
    assert_eq!((code, &report["sent"], &report["calls"]), (0, &json!(0), &json!(0)));
    let output = world.cli(&["verify", "--group", "load"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("sent twice"));
}

#[tokio::test]
async fn what_the_service_has_lost_is_missing() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    for (id, to) in [("kept", "alice"), ("cleared", "bob"), ("lost", "carol")] {
        world.broker.publish("normal", &send(id, to)).await;
        settled(&world, id).await;
    }
    // A recipient who cleared the conversation is no loss: the sender's side has it.
    world
        .simulator
        .clear_conversation(SAMPLE_SDK_APP_ID, "bob", "administrator");
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, &report["sent"]), (0, &json!(3)), "{report:#}");
    for (owner, peer) in [("carol", "administrator"), ("administrator", "carol")] {
        world.simulator.clear_conversation(SAMPLE_SDK_APP_ID, owner, peer);
    }
    let (code, report) = verified(&world, &[]).await;
    assert_eq!(
        (code, &report["missing"], &report["sent"]),
        (1, &json!(1), &json!(2)),
        "{report:#}"
    );
    assert_eq!(
        (&report["findings"][0]["finding"], &report["findings"][0]["job"]),
        (&json!("missing"), &json!("lost"))
    );
    // Older than the history: nobody can tell.
    execute(
        &world,
        "UPDATE messages SET last_call_at = now() - interval '8 days' WHERE job_id = 'lost'",
    )
    .await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!(
        (code, &report["unverifiable"]["beyond_retention"]),
        (0, &json!(1)),
        "{report:#}"
    );
    world.simulator.reset();
    let (code, report) = verified(&world, &["--retention", "30d"]).await;
    assert_eq!((code, &report["missing"]), (1, &json!(3)), "{report:#}");
}

#[tokio::test]
async fn what_the_service_has_twice_is_sent_twice_until_it_is_revoked() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    world.broker.publish("normal", &send("twice", "alice")).await;
    settled(&world, "twice").await;
    assert_eq!(verified(&world, &[]).await.0, 0);
    // Another second, another key.
    world.simulator.advance_clock(Duration::from_secs(2));
    let first = world.simulator.messages_to("alice")[0].clone();
    let client = ImClient::new(
        ImApp {
            name: AppName::default_app(),
            sdk_app_id: SAMPLE_SDK_APP_ID,
            admin: AccountId::parse("administrator").unwrap(),
            base_url: world.simulator.base_url().parse().unwrap(),
            secret: SAMPLE_SECRET.into(),
        },
        ClientOptions::default(),
    )
    .unwrap();
    let body = encode_send(
        Some(&AccountId::parse("administrator").unwrap()),
        &AccountId::parse("alice").unwrap(),
        &Message::from_text("text of twice"),
        Pair {
            seq: first.seq,
            random: first.random,
        },
    );
    let second = client.send(body, None).await.unwrap();
    assert_ne!(second.msg_key.as_str(), first.key);
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, &report["sent_twice"]), (1, &json!(1)), "{report:#}");
    let keys = report["findings"][0]["msg_keys"].as_array().unwrap();
    assert!(
        keys.contains(&json!(first.key)) && keys.contains(&json!(second.msg_key)),
        "{report:#}"
    );
    client
        .revoke(
            &AccountId::parse("administrator").unwrap(),
            &AccountId::parse("alice").unwrap(),
            &second.msg_key,
            None,
        )
        .await
        .unwrap();
    assert_eq!(verified(&world, &[]).await.0, 0);
    // A further key on record is enough.
    execute(
        &world,
        "INSERT INTO message_keys (job_id, idx, msg_key, source) VALUES ('twice', 0, '1_2_3', 0)",
    )
    .await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, &report["sent_twice"]), (1, &json!(1)), "{report:#}");
}

#[tokio::test]
async fn what_nobody_knows_is_in_doubt() {
    let world = World::careless().await;
    let worker = Worker::start(&world).await;
    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    let mut job = send("unknown", "alice");
    job["message"]["life_time"] = json!(0);
    world.broker.publish("normal", &job).await;
    assert_eq!(settled(&world, "unknown").await["state"], "unknown");
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, &report["in_doubt"]), (1, &json!(1)), "{report:#}");
    assert_eq!(report["findings"][0]["job"], "unknown");
    // The operator settles it: sent again, but only where that is asked for by name.
    let (_, retried) = super::json(&world, &["retry", "--job", "unknown", "--json"]).await;
    assert_eq!(retried["retried"], 0);
    let arguments = ["retry", "--job", "unknown", "--code", "outcome-unknown", "--json"];
    assert_eq!(super::json(&world, &arguments).await.1["retried"], 1);
    assert_eq!(settled(&world, "unknown").await["state"], "sent");
    assert_eq!(verified(&world, &[]).await.0, 0);
    execute(&world, "UPDATE messages SET state = 8, error_code = 'outcome-unknown'").await;

    // A call without an outcome: under way at first, in doubt once it can't be.
    world.broker.publish("normal", &send("stuck", "bob")).await;
    settled(&world, "stuck").await;
    worker.stop().await;
    execute(
        &world,
        "UPDATE messages SET state = 1, last_call_at = now() + interval '1 hour' WHERE job_id = 'stuck'",
    )
    .await;
    let (_, report) = verified(&world, &[]).await;
    assert_eq!(
        (&report["in_doubt"], &report["waiting"]),
        (&json!(1), &json!(1)),
        "{report:#}"
    );
    execute(
        &world,
        "UPDATE messages SET last_call_at = now() - interval '1 minute' WHERE job_id = 'stuck'",
    )
    .await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!(
        (code, &report["in_doubt"], &report["waiting"]),
        (1, &json!(2), &json!(0)),
        "{report:#}"
    );
}

#[tokio::test]
async fn a_pending_message_whose_work_is_gone_is_missing_and_a_sent_one_on_record_as_failed_is_told() {
    let world = World::careless().await;
    let worker = Worker::start(&world).await;
    let mut later = send("later", "zoe");
    later["send_at"] = json!((Utc::now() + Span::hours(1)).to_rfc3339());
    world.broker.publish("normal", &later).await;
    world.broker.publish("normal", &send("sent", "alice")).await;
    settled(&world, "sent").await;
    eventually(LONG, "it is on record", || async { world.status_json("later").await }).await;
    worker.stop().await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, &report["waiting"]), (0, &json!(1)), "{report:#}");
    execute(&world, "DELETE FROM work").await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!(
        (code, &report["missing"], &report["waiting"]),
        (1, &json!(1), &json!(0)),
        "{report:#}"
    );
    assert_eq!(
        (&report["findings"][0]["job"], &report["findings"][0]["to"]),
        (&json!("later"), &json!("zoe"))
    );

    execute(&world, "UPDATE messages SET state = 5 WHERE job_id = 'later'").await;
    execute(
        &world,
        "UPDATE messages SET state = 4, error_code = 'retries-exhausted' WHERE job_id = 'sent'",
    )
    .await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, &report["unrecorded"]), (1, &json!(1)), "{report:#}");
}

#[tokio::test]
async fn a_history_that_cannot_be_asked_proves_nothing() {
    let mut world = World::careless().await;
    let worker = Worker::start(&world).await;
    world.broker.publish("normal", &send("sent", "alice")).await;
    settled(&world, "sent").await;
    worker.stop().await;
    world.simulator.inject(Command::GetRoamMsg, Fault::Code(60_007), 1);
    world.simulator.inject(Command::GetRoamMsg, Fault::Http(502), 2);
    let (code, report) = verified(&world, &[]).await;
    assert_eq!(
        (code, &report["calls"]),
        (0, &json!(4)),
        "a throttled or ill service is asked again: {report:#}"
    );
    world.simulator.inject(Command::GetRoamMsg, Fault::Http(502), 100);
    let (code, report) = verified(&world, &[]).await;
    assert_eq!(
        (code, &report["unasked"], &report["missing"]),
        (1, &json!(1), &json!(0)),
        "{report:#}"
    );
    world.simulator.clear_faults();
    world.set("IM_SECRET_KEY", "wrong");
    let output = world.cli(&["verify"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refuses the credentials of app default"));
}
