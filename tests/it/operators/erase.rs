//! `erase`: one account's data leaves every table, and nothing that waits is lost.

use im_dispatcher::{
    domain::Command,
    simulator::{AccountRules, Fault},
};
use lapin::BasicProperties;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, Row as _};

use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, counts, send, settled},
};

/// The account; no other text of the tests holds it.
const ADA: &str = "qz_ada_qz";

async fn erased(world: &World, arguments: &[&str]) -> (i32, Value) {
    let arguments: Vec<&str> = ["erase", ADA, "--json", "--settled-for", "0s"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    super::json(world, &arguments).await
}

/// Every column of every table, whatever is added one day, whose rows hold the text: in characters or as bytes.
async fn columns_with(pool: &PgPool, text: &str) -> Vec<String> {
    let columns = sqlx::query(
        "SELECT c.table_name::text, c.column_name::text, c.data_type::text FROM information_schema.columns c
         JOIN information_schema.tables t USING (table_schema, table_name)
         WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' ORDER BY 1, 2",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(columns.len() > 100, "{}", columns.len());
    let mut found = Vec::new();
    for column in columns {
        let (table, name): (String, String) = (column.get(0), column.get(1));
        let holds = if column.get::<String, _>(2) == "bytea" {
            format!(r#"position(convert_to($1, 'UTF8') IN "{name}") > 0"#)
        } else {
            format!(r#"strpos("{name}"::text, $1) > 0"#)
        };
        let sql = format!(r#"SELECT EXISTS (SELECT FROM "{table}" WHERE {holds})"#);
        let there: bool = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(text)
            .fetch_one(pool)
            .await
            .unwrap();
        if there {
            // Each week's table counts as its parent.
            let parent = table
                .trim_end_matches(|c: char| c.is_ascii_digit())
                .trim_end_matches('_');
            found.push(format!("{parent}.{name}"));
        }
    }
    found.dedup();
    found
}

/// Waits until nothing of the account is live any more.
async fn at_rest(world: &World) -> Value {
    eventually(LONG, "everything of the account has ended", || async {
        let (_, found) = erased(world, &["--dry-run"]).await;
        (found["waiting"] == json!([])).then_some(found)
    })
    .await
}

/// Waits until the lanes' queues are empty and everything of them is done.
async fn queues_are_empty(world: &World) {
    eventually(LONG, "the queues are empty", || async {
        for lane in ["high", "normal", "bulk"] {
            if world.broker.depth(&format!("jobs.{lane}")).await != Some(0) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Jobs of the account, one of each kind that leaves something on record: lane and job.
fn jobs_of_ada() -> Vec<(&'static str, Value)> {
    let mut capped = send("capped", ADA);
    capped["cap"] = json!({"max": 3, "period": "24h"});
    let mut from = send("from-her", "bob");
    from["from"] = json!(ADA);
    let to: Vec<String> = (0..20)
        .map(|n| format!("m{n}"))
        .chain([ADA.into(), "unknown7".into()])
        .collect();
    vec![
        ("high", send("plain", ADA)),
        ("normal", capped),
        ("normal", from),
        (
            "bulk",
            json!({"type": "batch_send", "id": "batch", "to": to, "message": {"text": "to many"}}),
        ),
    ]
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one account's whole story, of which each step needs those before it"
)]
async fn nothing_of_an_erased_account_is_left_and_a_redelivered_job_is_not_sent_again() {
    let world = World::careless().await;
    let worker = Worker::start(&world).await;
    let pool = world.database.pool().await;
    for (lane, job) in jobs_of_ada() {
        world.broker.publish(lane, &job).await;
        settled(&world, job["id"].as_str().unwrap()).await;
    }
    // Refused as a whole, so that the table keeps the job for a retry; and one that names her in an error's text.
    world.simulator.inject(Command::SendMsg, Fault::Code(90_001), 1);
    let refused = send("refused", ADA);
    world.broker.publish("normal", &refused).await;
    settled(&world, "refused").await;
    sqlx::query("UPDATE messages SET error_message = 'no way to ' || to_account WHERE job_id = 'refused'")
        .execute(&pool)
        .await
        .unwrap();
    // An operation without recipients, which only its content tells.
    let replies = world.broker.tap_replies().await;
    let asked = json!({"type": "unread", "id": "asked", "user": ADA, "peers": ["bob"]});
    let properties = || BasicProperties::default().with_reply_to(replies.queue().into());
    let bytes = serde_json::to_vec(&asked).unwrap();
    world.broker.publish_with("normal", &bytes, properties()).await;
    settled(&world, "asked").await;
    // Revocations of some recipients of a job, and by key.
    let output = world
        .cli(&[
            "revoke", "--job", "batch", "--to", ADA, "--to", "m3", "--id", "some", "--wait",
        ])
        .await;
    assert!(output.status.success(), "{output:?}");
    let key = world.status_json("plain").await.unwrap()["messages"][0]["msg_key"]
        .as_str()
        .unwrap()
        .to_owned();
    let by_key = [
        "revoke",
        "--msg-key",
        &key,
        "--from",
        "administrator",
        "--to",
        ADA,
        "--id",
        "by-key",
        "--wait",
    ];
    let output = world.cli(&by_key).await;
    assert!(output.status.success(), "{output:?}");
    sqlx::query("INSERT INTO audit (role, via, action, target) VALUES ('operator', 'bearer', 'revoke', $1)")
        .bind(format!("job batch to m3, {ADA}"))
        .execute(&pool)
        .await
        .unwrap();

    let before = columns_with(&pool, ADA).await;
    for expected in [
        "audit.target",
        "cap_uses.account",
        "jobs.body",
        "messages.error_message",
        "messages.from_account",
        "messages.to_account",
        "revocations.to_account",
        "revocations.to_accounts",
    ] {
        assert!(before.iter().any(|column| column == expected), "{expected}: {before:?}");
    }
    let found = at_rest(&world).await;
    let expected = |dry_run: bool| {
        json!({"account": ADA, "app": null, "dry_run": dry_run, "jobs": 6, "messages": 5, "as_sender": 1, "cap_uses": 1,
               "revocations": 2, "audit": 3, "named_by_id": 0, "waiting": [], "waiting_left_out": 0})
    };
    assert_eq!(found, expected(true));
    assert_eq!(columns_with(&pool, ADA).await, before, "a dry run changes nothing");
    let output = world.cli(&["erase", "administrator", "--yes"]).await;
    assert_eq!(output.status.code(), Some(2), "the app's own account: {output:?}");

    assert_eq!(erased(&world, &["--yes"]).await, (0, expected(false)));
    assert_eq!(columns_with(&pool, ADA).await, Vec::<String>::new());
    let (_, again) = erased(&world, &["--yes"]).await;
    assert_eq!((&again["jobs"], &again["messages"]), (&json!(0), &json!(0)));
    let acts: Vec<(String, String, String)> =
        sqlx::query_as("SELECT via, target, result FROM audit WHERE action = 'erase' ORDER BY id")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(acts.len(), 2);
    assert_eq!((acts[0].0.as_str(), acts[0].2.as_str()), ("command-line", "done"));
    assert!(acts[0].1.starts_with("account sha256:"), "{acts:?}");

    // A producer's repeat, a replayed letter, and the same after a restart: nothing is sent, and nothing comes back.
    let delivered = world.simulator.report().delivered;
    let calls = world.simulator.arrivals(Command::GetUnreadNum).len();
    let again = jobs_of_ada().into_iter().chain([("normal", refused)]);
    for (lane, job) in again {
        world.broker.publish(lane, &job).await;
    }
    world.broker.publish_with("normal", &bytes, properties()).await;
    let output = world.cli(&["dead-letters", "replay", "refused"]).await;
    assert!(output.status.success(), "{output:?}");
    queues_are_empty(&world).await;
    assert!(worker.stop().await.success());
    let _worker = Worker::start(&world).await;
    queues_are_empty(&world).await;
    assert_eq!(world.simulator.report().delivered, delivered);
    assert_eq!(world.simulator.arrivals(Command::GetUnreadNum).len(), calls);
    assert_eq!(columns_with(&pool, ADA).await, Vec::<String>::new());

    // The others of the batch are still on record, and can be tried again.
    let batch = world.status_json("batch").await.unwrap();
    assert_eq!(
        batch["recipients"],
        counts(21, &[("sent", 19), ("revoked", 1), ("failed", 1)])
    );
    for (job, state) in [
        ("plain", "done"),
        ("refused", "done"),
        ("asked", "done"),
        ("by-key", "done"),
        ("some", "revoked"),
    ] {
        assert_eq!(world.status_json(job).await.unwrap()["state"], state, "{job}");
        assert!(world.cli(&["explain", job]).await.status.success(), "{job}");
    }
    world.simulator.set_accounts(AccountRules {
        unknown_prefixes: Vec::new(),
        ..AccountRules::default()
    });
    let (code, retried) = super::json(&world, &["retry", "--job", "batch", "--json"]).await;
    assert_eq!((code, &retried["retried"]), (0, &json!(1)));
    settled(&world, "batch").await;
    assert_eq!(world.simulator.report().delivered, delivered + 1);
    assert!(world.simulator.messages_to(ADA).len() <= 3);
    assert_eq!(columns_with(&pool, ADA).await, Vec::<String>::new());
    assert_eq!(super::json(&world, &["verify", "--json"]).await.0, 0);
}

#[tokio::test]
async fn what_is_live_is_left_and_named_and_goes_once_it_has_ended() {
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let pool = world.database.pool().await;
    world.broker.publish("normal", &send("ended", ADA)).await;
    settled(&world, "ended").await;
    let mut later = send("later", ADA);
    later["send_at"] = json!("2099-01-01T00:00:00Z");
    world.broker.publish("normal", &later).await;
    let output = world
        .cli(&["revoke", "--job", "unknown-job", "--to", ADA, "--id", "waits"])
        .await;
    assert!(output.status.success(), "{output:?}");
    let waiting = json!([{"job": "later", "why": "pending"}, {"job": "waits", "why": "revocation"}]);
    eventually(LONG, "both are known", || async {
        let (code, found) = erased(&world, &["--dry-run"]).await;
        (found["waiting"] == waiting && found["jobs"] == 2).then_some(code)
    })
    .await;

    let (code, kept) = super::json(&world, &["erase", ADA, "--json", "--settled-for", "10m"]).await;
    assert_eq!(
        (code, &kept["messages"], &kept["waiting"][0]["why"]),
        (1, &json!(0), &json!("recent"))
    );
    // What has just ended is waited for.
    let (code, some) = super::json(&world, &["erase", ADA, "--json", "--settled-for", "5s"]).await;
    assert_eq!((code, &some["messages"], &some["waiting"]), (1, &json!(1), &waiting));
    assert_eq!(world.status_json("later").await.unwrap()["recipients"]["pending"], 1);
    let output = world.cli(&["erase", ADA, "--yes", "--settled-for", "0s"]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("left: job later: it waits to be sent"), "{told}");

    // Another app's account of this name is another account.
    assert_eq!(erased(&world, &["--yes", "--app", "other"]).await.0, 0);
    let output = world.cli(&["revoke", "--job", "later", "--to", ADA, "--wait"]).await;
    assert!(output.status.success(), "{output:?}");
    // The job that the other revocation waits for has come: it is cancelled, as it was promised.
    world.broker.publish("normal", &send("unknown-job", ADA)).await;
    assert_eq!(settled(&world, "unknown-job").await["state"], "cancelled");
    at_rest(&world).await;
    let (code, rest) = erased(&world, &["--yes"]).await;
    assert_eq!((code, &rest["messages"], &rest["waiting"]), (0, &json!(2), &json!([])));
    assert_eq!(columns_with(&pool, ADA).await, Vec::<String>::new());
    assert_eq!(world.simulator.messages_to(ADA).len(), 1);
}
