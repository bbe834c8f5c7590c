//! Calls whose answer was lost: the history knows, and only it.

use std::time::Duration;

use im_dispatcher::{domain::Command, simulator::Fault};
use serde_json::json;

use super::{LONG, counts, delivered_once, send, settled};
use crate::support::{Worker, World, eventually};

#[tokio::test]
async fn a_lost_answer_is_found_in_the_history_and_its_key_recorded() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let events = world.broker.tap_events("send.sent").await;
    let lost = [
        ("cut", Fault::CutAfter),
        ("reset", Fault::ResetAfter),
        ("half", Fault::CutMidway),
        ("never", Fault::Never),
        ("no-key", Fault::NoMsgKey),
        ("garbage", Fault::GarbageAfter),
        ("gateway", Fault::HttpAfter(502)),
        ("code", Fault::CodeAfter(60_008)),
    ];
    for (id, fault) in lost {
        world.simulator.inject(Command::SendMsg, fault, 1);
        world.broker.publish("normal", &send(id, &format!("to-{id}"))).await;
        let status = settled(&world, id).await;
        assert_eq!(status["recipients"], counts(1, &[("sent", 1)]), "{id}");
        let message = &world.simulator.messages_to(&format!("to-{id}"))[0];
        assert_eq!(status["messages"][0]["msg_key"], message.key.as_str(), "{id}");
    }
    assert_eq!(delivered_once(&world), lost.len() as u64);
    events.wait_for(lost.len(), LONG, "the events", |_| true).await;
    assert!(world.broker.drain_dead().await.is_empty());
}

#[tokio::test]
async fn a_call_that_was_never_carried_out_is_sent_again_after_two_looks() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    for (id, fault) in [
        ("reset", Fault::ResetBefore),
        ("code", Fault::Code(60_008)),
        ("gateway", Fault::Http(502)),
    ] {
        world.simulator.inject(Command::SendMsg, fault, 1);
        world.broker.publish("normal", &send(id, &format!("to-{id}"))).await;
        let status = settled(&world, id).await;
        assert_eq!(status["recipients"], counts(1, &[("sent", 1)]), "{id}");
        assert_eq!(status["messages"][0]["attempts"], 2, "{id}");
    }
    assert_eq!(delivered_once(&world), 3);
}

#[tokio::test]
async fn only_the_recipients_side_shows_a_message_that_was_not_synced_to_its_sender() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    let mut job = send("unsynced", "alice");
    job["message"]["sync_to_sender"] = json!(false);
    world.broker.publish("normal", &job).await;
    assert_eq!(
        settled(&world, "unsynced").await["recipients"],
        counts(1, &[("sent", 1)])
    );
    assert_eq!(delivered_once(&world), 1);
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_found_member_by_member() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    world.simulator.inject(Command::BatchSendMsg, Fault::CutAfter, 1);
    let to: Vec<String> = (0..30).map(|n| format!("u{n}")).collect();
    world
        .broker
        .publish(
            "bulk",
            &json!({"type": "batch_send", "id": "found", "to": to, "message": {"text": "f"}}),
        )
        .await;
    assert_eq!(
        settled(&world, "found").await["recipients"],
        counts(30, &[("sent", 30)])
    );
    world.simulator.inject(Command::BatchSendMsg, Fault::ResetBefore, 1);
    world
        .broker
        .publish(
            "bulk",
            &json!({"type": "batch_send", "id": "lost", "to": to, "message": {"text": "l"}}),
        )
        .await;
    assert_eq!(settled(&world, "lost").await["recipients"], counts(30, &[("sent", 30)]));
    assert_eq!(delivered_once(&world), 60);
}

#[tokio::test]
async fn a_doubtful_message_that_is_revoked_is_not_given_up_while_the_history_may_still_list_it() {
    let mut world = World::careless().await;
    // Both looks come before the message is listed: 0.3 s and 4.5 s after the call.
    world.set("IM_DISPATCHER__RECONCILE__LISTED_AFTER", "10s");
    world.simulator.set_roam_lag(Duration::from_secs(8));
    let _worker = Worker::start(&world).await;
    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    world.broker.publish("normal", &send("listed-late", "alice")).await;
    eventually(LONG, "it is at the service", || async {
        (world.simulator.delivered_total() == 1).then_some(())
    })
    .await;
    let revoke = json!({"type": "revoke", "id": "r", "target": {"job": "listed-late"}});
    world.broker.publish("high", &revoke).await;
    assert_eq!(
        settled(&world, "listed-late").await["recipients"]["cancelled"],
        0,
        "it had been sent"
    );
    eventually(LONG, "it is revoked", || async {
        (world.simulator.report().revoked == 1).then_some(())
    })
    .await;
}

/// A batch to these recipients, and what became of them.
async fn batch(world: &World, id: &str, to: &[String]) -> serde_json::Value {
    let job = json!({"type": "batch_send", "id": id, "to": to, "message": {"text": id}});
    world.broker.publish("bulk", &job).await;
    settled(world, id).await["recipients"].clone()
}

#[tokio::test]
async fn recipients_that_do_not_exist_are_no_doubt_and_strand_nobody_of_a_lost_batch_call() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    // The history of an account that doesn't exist is refused, and the call's answer that would have named it is lost.
    let to: Vec<String> = (0..20)
        .map(|n| format!("u{n}"))
        .chain(["unknown_1".to_owned(), "unknown_2".to_owned()])
        .collect();
    for (id, fault) in [
        ("not-carried-out", Fault::ResetBefore),
        ("carried-out", Fault::CutAfter),
    ] {
        world.simulator.inject(Command::BatchSendMsg, fault, 1);
        let ends = batch(&world, id, &to).await;
        assert_eq!(ends, counts(22, &[("sent", 20), ("failed", 2)]), "{id}");
    }
    world.simulator.inject(Command::SendMsg, Fault::ResetBefore, 1);
    world.broker.publish("normal", &send("single", "unknown_1")).await;
    assert_eq!(
        settled(&world, "single").await["recipients"],
        counts(1, &[("failed", 1)])
    );
    assert_eq!(delivered_once(&world), 40);
    assert!(world.broker.drain_dead().await.is_empty());
}

#[tokio::test]
async fn members_whose_history_can_not_be_read_strand_nobody_else_of_a_lost_batch_call() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    // A rule looks at the peer: the recipients' side is refused to all, the sender's for two of them.
    for peer in ["administrator", "blind*"] {
        let rule = format!("admin_getroammsg:code:90001=1,to={peer}");
        world.simulator.add_fault(rule.parse().unwrap());
    }
    world.simulator.inject(Command::BatchSendMsg, Fault::ResetBefore, 1);
    let to: Vec<String> = ["blind_1", "u1", "u2", "blind_2"].map(str::to_owned).into();
    let ends = batch(&world, "blind", &to).await;
    assert_eq!(ends, counts(4, &[("sent", 2), ("unknown", 2)]));
    assert_eq!(delivered_once(&world), 2);
}

#[tokio::test]
async fn a_history_that_fails_now_and_then_keeps_no_large_batch_in_doubt() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    // Of the 400 questions of one look about 20 aren't answered.
    let rule = "admin_getroammsg:code:60007=0.05";
    world.simulator.add_fault(rule.parse().unwrap());
    world.simulator.inject(Command::BatchSendMsg, Fault::ResetBefore, 1);
    let to: Vec<String> = (0..200).map(|n| format!("u{n}")).collect();
    assert_eq!(batch(&world, "large", &to).await, counts(200, &[("sent", 200)]));
    assert_eq!(delivered_once(&world), 200);
}

#[tokio::test]
async fn an_online_only_message_whose_answer_was_lost_follows_on_unknown() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    for (id, policy, state) in [
        ("keep", "reconcile", "unknown"),
        ("fail", "fail", "failed"),
        ("again", "resend", "sent"),
    ] {
        world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
        let mut job = send(id, id);
        job["message"]["life_time"] = json!(0);
        job["on_unknown"] = json!(policy);
        world.broker.publish("normal", &job).await;
        assert_eq!(
            settled(&world, id).await["recipients"],
            counts(1, &[(state, 1)]),
            "{id}"
        );
    }
    let letters = world.broker.dead_letters(1, LONG).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].word().as_deref(), Some("outcome-unknown"));
    assert_eq!(letters[0].json()["id"], "fail");
}

#[tokio::test]
async fn a_message_in_doubt_that_is_revoked_is_revoked_once_its_key_is_known() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    // The history doesn't show it for a while.
    world.simulator.set_roam_lag(Duration::from_secs(2));
    world.simulator.inject(Command::SendMsg, Fault::CutAfter, 1);
    world.broker.publish("normal", &send("doubtful", "alice")).await;
    eventually(LONG, "it is at the service", || async {
        (world.simulator.delivered_total() == 1).then_some(())
    })
    .await;
    world
        .broker
        .publish(
            "high",
            &json!({"type": "revoke", "id": "r", "target": {"job": "doubtful"}}),
        )
        .await;
    eventually(LONG, "it is revoked", || async {
        let status = world.status_json("doubtful").await?;
        (status["state"] == "revoked").then_some(())
    })
    .await;
    assert_eq!(world.simulator.report().revoked, 1);
    assert_eq!(delivered_once(&world), 1);
}

#[tokio::test]
async fn a_repeat_that_is_lost_too_is_repeated_soon_though_the_first_call_is_long_ago() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let pool = world.database.pool().await;
    let to: Vec<String> = (0..3).map(|n| format!("u{n}")).collect();
    // The second call is as lost as the first.
    world.simulator.inject(Command::SendMsg, Fault::ResetBefore, 2);
    world.simulator.inject(Command::BatchSendMsg, Fault::ResetBefore, 2);
    world.broker.publish("normal", &send("old", "alice")).await;
    let job = json!({"type": "batch_send", "id": "older", "to": to, "message": {"text": "o"}});
    world.broker.publish("normal", &job).await;
    eventually(LONG, "both calls are in doubt", || async {
        let sql = "SELECT count(*) FROM messages WHERE state = 2 AND attempts = 1";
        let doubts: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.ok()?;
        (doubts == 4).then_some(())
    })
    .await;
    // Four minutes have passed: every call would have been listed by now.
    for sql in [
        "UPDATE messages SET first_call_at = first_call_at - interval '4 min', last_call_at = last_call_at - interval '4 min'",
        "UPDATE calls SET first_call_at = first_call_at - interval '4 min', last_call_at = last_call_at - interval '4 min'",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    // Less than the three minutes of `reconcile.listed_after`.
    for (id, recipients) in [("old", 1), ("older", 3)] {
        let status = settled(&world, id).await;
        assert_eq!(
            status["recipients"],
            counts(recipients, &[("sent", recipients)]),
            "{id}"
        );
        assert_eq!(status["messages"][0]["attempts"], 3, "{id}");
    }
    assert_eq!(delivered_once(&world), 4);
}

#[tokio::test]
async fn a_call_that_was_refused_for_minutes_before_its_answer_was_lost_is_repeated_soon() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let pool = world.database.pool().await;
    for (command, job) in [
        (Command::SendMsg, send("refused", "alice")),
        (
            Command::BatchSendMsg,
            json!({"type": "batch_send", "id": "refused-batch", "to": ["bob", "carol"], "message": {"text": "r"}}),
        ),
    ] {
        world.simulator.inject(command, Fault::Code(60_007), 1);
        world.simulator.inject(command, Fault::ResetBefore, 1);
        world.broker.publish("normal", &job).await;
    }
    eventually(LONG, "both calls are in doubt", || async {
        let sql = "SELECT count(*) FROM messages WHERE state = 2";
        let doubts: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.ok()?;
        (doubts == 3).then_some(())
    })
    .await;
    // The service had been throttling for four minutes.
    for sql in [
        "UPDATE messages SET first_call_at = first_call_at - interval '4 min'",
        "UPDATE calls SET first_call_at = first_call_at - interval '4 min'",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    // Less than the three minutes of `reconcile.listed_after`.
    for (id, recipients) in [("refused", 1), ("refused-batch", 2)] {
        let status = settled(&world, id).await;
        assert_eq!(
            status["recipients"],
            counts(recipients, &[("sent", recipients)]),
            "{id}"
        );
    }
    assert_eq!(delivered_once(&world), 3);
}
