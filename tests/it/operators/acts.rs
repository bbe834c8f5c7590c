//! What is done by the command line is in the audit log: who did what, and how it ended.

use serde_json::json;

use super::json as printed;
use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, send, settled},
};

#[tokio::test]
async fn every_act_of_the_command_line_is_noted_with_its_end() {
    let world = World::careless().await;
    let worker = Worker::start(&world).await;
    world.broker.publish("normal", &send("failed", "unknown1")).await;
    for id in ["wrong", "worse"] {
        world.broker.publish("normal", &json!({"id": id, "type": "send"})).await;
    }
    assert_eq!(settled(&world, "failed").await["state"], "failed");
    eventually(LONG, "both letters are there", || async {
        (world.broker.depth("jobs.dead").await == Some(2)).then_some(())
    })
    .await;
    worker.stop().await;

    for (arguments, code) in [
        (&["pause", "--group", "spring"][..], 0),
        (&["resume", "--group", "spring"], 0),
        (&["resume", "--lane", "bulk"], 0),
        (&["revoke", "--job", "failed", "--to", "unknown1", "--id", "r"], 0),
        (&["revoke", "--group", "spring", "--id", "failed"], 1),
        (&["retry", "--job", "failed", "--code", "im-90012", "--yes"], 0),
        (&["dead-letters", "discard", "wrong", "--yes"], 0),
        (&["dead-letters", "replay", "--all"], 0),
        // What changes nothing isn't an act.
        (&["retry", "--job", "failed", "--dry-run"], 0),
        (&["dead-letters", "list"], 0),
    ] {
        let output = world.cli(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    }
    let noted: Vec<(String, String, bool, String)> = sqlx::query_as(
        "SELECT action, target, result = 'done', coalesce(detail, '') FROM audit
         WHERE via = 'command-line' AND actor <> '' ORDER BY id",
    )
    .fetch_all(&world.database.pool().await)
    .await
    .unwrap();
    let noted: Vec<_> = noted
        .iter()
        .map(|(action, target, done, detail)| (action.as_str(), target.as_str(), *done, detail.as_str()))
        .collect();
    let conflict = "the id failed names another job already; choose another --id";
    assert_eq!(
        noted,
        [
            ("pause", "group spring", true, "until it is resumed"),
            ("resume", "group spring", true, "resumed"),
            ("resume", "lane bulk", true, "it wasn't paused"),
            ("revoke", "job failed to unknown1", true, "taken as revocation r"),
            ("revoke", "group spring", false, conflict),
            ("retry", "job failed with im-90012", true, "1 recipients"),
            ("discard", "letters of job wrong", true, "1 of 1 letters"),
            ("replay", "all letters", true, "1 of 1 letters"),
        ]
    );
    assert_eq!(printed(&world, &["verify", "--json"]).await.0, 0);
}
