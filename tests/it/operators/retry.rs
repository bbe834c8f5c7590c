//! `retry`: failed recipients again, once.

use im_dispatcher::{
    domain::Command,
    simulator::{AccountRules, Fault},
};
use serde_json::{Value, json};

use crate::{
    support::{Worker, World},
    worker::{counts, group_settled, send, settled},
};

/// The accounts that begin with `unknown` have been imported meanwhile.
fn import_accounts(world: &World) {
    world.simulator.set_accounts(AccountRules {
        unknown_prefixes: Vec::new(),
        ..AccountRules::default()
    });
}

async fn retried(world: &World, arguments: &[&str]) -> (i32, Value) {
    let arguments: Vec<&str> = ["retry", "--json"].iter().chain(arguments).copied().collect();
    super::json(world, &arguments).await
}

fn told(jobs: u64, recipients: u64, retried: u64, dry_run: bool) -> Value {
    json!({"jobs": jobs, "recipients": recipients, "retried": retried, "without_body": 0, "dry_run": dry_run})
}

#[tokio::test]
async fn a_single_is_tried_again_once_its_account_exists() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    world.broker.publish("normal", &send("single", "unknown1")).await;
    world.broker.publish("normal", &send("fine", "alice")).await;
    assert_eq!(settled(&world, "single").await["state"], "failed");
    settled(&world, "fine").await;
    let before = world.status_json("single").await;

    assert_eq!(
        retried(&world, &["--job", "single", "--dry-run"]).await,
        (0, told(1, 1, 0, true))
    );
    assert_eq!(
        retried(&world, &["--job", "single", "--code", "retries-exhausted"]).await,
        (0, told(0, 0, 0, false))
    );
    assert_eq!(world.status_json("single").await, before, "neither changes anything");

    import_accounts(&world);
    assert_eq!(
        retried(&world, &["--job", "single", "--code", "90012"]).await,
        (0, told(1, 1, 1, false))
    );
    let status = settled(&world, "single").await;
    assert_eq!(
        (&status["state"], &status["messages"][0]["attempts"]),
        (&json!("sent"), &json!(2))
    );
    assert_eq!(
        retried(&world, &["--job", "single"]).await,
        (0, told(0, 0, 0, false)),
        "once"
    );
    assert_eq!(world.simulator.messages_to("unknown1").len(), 1);
    let (_, explained) = super::json(&world, &["explain", "single", "--json"]).await;
    let timeline = explained["timeline"].as_array().unwrap();
    assert!(
        timeline.iter().any(|entry| entry["event"] == "retried"),
        "{explained:#}"
    );
    assert_eq!(super::json(&world, &["verify", "--json"]).await.0, 0);

    let output = world.cli(&["retry", "--job", "nobody"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[tokio::test]
async fn a_groups_failed_recipients_are_tried_again_and_two_retries_at_a_time_act_once() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let to: Vec<String> = (0..600)
        .map(|n| {
            if n % 200 == 3 {
                format!("unknown{n}")
            } else {
                format!("m{n}")
            }
        })
        .collect();
    let batch =
        json!({"type": "batch_send", "id": "batch", "group": "campaign", "to": to, "message": {"text": "to many"}});
    world.broker.publish("bulk", &batch).await;
    settled(&world, "batch").await;
    // A permanent refusal of another kind.
    world.simulator.inject(Command::SendMsg, Fault::Code(90_001), 1);
    for (id, to) in [("refused", "alice"), ("gone", "unknown_a"), ("fine", "bob")] {
        let mut job = send(id, to);
        job["group"] = json!("campaign");
        world.broker.publish("normal", &job).await;
        settled(&world, id).await;
    }
    let status = group_settled(&world, "campaign", 4).await;
    assert_eq!(status["recipients"], counts(603, &[("sent", 598), ("failed", 5)]));

    assert_eq!(
        retried(&world, &["--group", "campaign", "--dry-run"]).await,
        (0, told(3, 5, 0, true))
    );
    import_accounts(&world);
    let arguments = ["--group", "campaign"];
    let (first, second) = tokio::join!(retried(&world, &arguments), retried(&world, &arguments));
    assert_eq!((first.0, second.0), (0, 0));
    let opened = first.1["retried"].as_u64().unwrap() + second.1["retried"].as_u64().unwrap();
    assert_eq!(opened, 5, "{first:?} {second:?}");
    let status = group_settled(&world, "campaign", 4).await;
    assert_eq!(status["recipients"], counts(603, &[("sent", 603)]));
    assert_eq!(world.simulator.report().delivered, 603);
    assert!(world.simulator.report().sent_twice.is_empty());
    assert_eq!(
        super::json(&world, &["verify", "--json", "--group", "campaign"])
            .await
            .0,
        0
    );
}
