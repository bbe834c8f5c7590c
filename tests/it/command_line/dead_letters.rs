//! `dead-letters`: look, replay, discard.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use super::{World, depth_becomes, run, world_without_app};

/// Puts a letter into the dead queue, as the worker writes it.
async fn bury(world: &World, job: &str, lane: &str, body: &[u8]) {
    let text = |text: String| AMQPValue::LongString(text.into());
    let mut headers = FieldTable::default();
    headers.insert("x-im-error-code".into(), text("im-90001".into()));
    headers.insert("x-im-error".into(), text("message.text: too long\u{1b}[2J".into()));
    headers.insert("x-im-queue".into(), text(format!("{}.jobs.{lane}", world.namespace)));
    headers.insert("x-im-letter".into(), text(format!("letter-{job}")));
    headers.insert("x-im-attempts".into(), AMQPValue::LongLongInt(2));
    let properties = BasicProperties::default()
        .with_message_id(job.into())
        .with_headers(headers);
    // A routing key that no lane has leads to the dead queue by the alternate exchange.
    world.broker.publish_with("nowhere", body, properties).await;
}

#[tokio::test]
async fn letters_are_listed_shown_replayed_and_discarded() {
    let world = world_without_app().await;
    // Declares the topology.
    let (code, _, stderr) = run(&world, &["dead-letters", "list"]).await;
    assert_eq!(code, 0, "{stderr}");
    for (job, lane) in [("a", "high"), ("b", "bulk"), ("c", "bulk")] {
        bury(&world, job, lane, format!("{{\"id\":\"{job}\"}}").as_bytes()).await;
    }
    depth_becomes(&world, "jobs.dead", 3).await;
    let (code, stdout, _) = run(&world, &["dead-letters", "list", "--json"]).await;
    let listed: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, listed.len()), (0, 3));
    assert!(
        listed
            .iter()
            .all(|letter| letter["code"] == json!("im-90001") && letter.get("body").is_none())
    );
    let (_, table, _) = run(&world, &["dead-letters", "list"]).await;
    assert!(
        table.contains("too long") && !table.contains('\u{1b}'),
        "no escape of others reaches a terminal: {table}"
    );

    let (code, stdout, _) = run(&world, &["dead-letters", "show", "b", "--json"]).await;
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &shown["body"], &shown["attempts"]),
        (0, &json!("{\"id\":\"b\"}"), &json!(2))
    );
    let (code, stdout, stderr) = run(&world, &["dead-letters", "show", "nobody"]).await;
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");

    let (code, _, stderr) = run(&world, &["dead-letters", "replay", "a"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(world.broker.take("jobs.high").await.unwrap().body, b"{\"id\":\"a\"}");
    assert_eq!(
        run(&world, &["dead-letters", "replay", "a"]).await.0,
        1,
        "it is there no more"
    );
    let (code, _, _) = run(
        &world,
        &["dead-letters", "replay", "--letter", "letter-b", "--lane", "normal"],
    )
    .await;
    assert_eq!(code, 0);
    assert_eq!(world.broker.take("jobs.normal").await.unwrap().json()["id"], json!("b"));
    let (code, _, stderr) = run(&world, &["dead-letters", "discard", "--all"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("1 of 1 discarded"), "{stderr}");
    depth_becomes(&world, "jobs.dead", 0).await;
    assert_eq!(
        run(&world, &["dead-letters", "replay", "--all"]).await.0,
        0,
        "nothing to do is done"
    );
}
