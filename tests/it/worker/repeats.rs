//! The same job more than once: by its producer, by two workers, by a broker that delivers again.

use serde_json::json;

use super::{LONG, counts, delivered_once, send, settled};
use crate::support::{Worker, World, eventually};

#[tokio::test]
async fn a_producer_that_publishes_the_same_id_ten_times_at_once_sends_one_message() {
    let world = World::new().await;
    let _first = Worker::start(&world).await;
    let _second = Worker::start(&world).await;
    let job = send("ten", "alice");
    futures::future::join_all((0..10).map(|_| world.broker.publish("normal", &job))).await;
    assert_eq!(settled(&world, "ten").await["recipients"], counts(1, &[("sent", 1)]));
    eventually(LONG, "every copy is acknowledged", || async {
        (world.broker.depth("jobs.normal").await == Some(0)).then_some(())
    })
    .await;
    // The same content under another spelling is the same job; other content under the id is a conflict.
    world
        .broker
        .publish(
            "bulk",
            &json!({"message": {"body": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "text of ten"}}]},
                                         "to": "alice", "id": "ten", "type": "send"}),
        )
        .await;
    world.broker.publish("bulk", &send("ten", "bob")).await;
    let letters = world.broker.dead_letters(1, LONG).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].word().as_deref(), Some("id-conflict"));
    assert_eq!(delivered_once(&world), 1);
}

#[tokio::test]
async fn a_batch_that_is_published_twice_is_sent_once() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let to: Vec<String> = (0..700).map(|n| format!("u{n}")).collect();
    let job = json!({"type": "batch_send", "id": "twice", "to": to, "message": {"text": "once"}});
    world.broker.publish("bulk", &job).await;
    world.broker.publish("normal", &job).await;
    assert_eq!(
        settled(&world, "twice").await["recipients"],
        counts(700, &[("sent", 700)])
    );
    world.broker.publish("bulk", &job).await;
    eventually(LONG, "the last copy is acknowledged", || async {
        (world.broker.depth("jobs.bulk").await == Some(0)).then_some(())
    })
    .await;
    assert_eq!(delivered_once(&world), 700);
}
