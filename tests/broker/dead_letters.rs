//! The operator's tools over the dead queue.

use std::time::Duration;

use im_dispatcher::{
    broker::{Disposition, Letter, Properties, Publication, Selection, header},
    domain::Lane,
};
use lapin::options::BasicPublishOptions;

use crate::fixture::{Fixture, Running, next, publication, text};

async fn bury(running: &Running, fixture: &Fixture, id: &str, lane: &str) {
    let letter = Letter {
        body: format!(r#"{{"id":"{id}"}}"#).into(),
        properties: Properties::new().with_message_id(id).with_header("tenant", "a"),
        queue: fixture.queue(lane),
        code: "retries-exhausted".into(),
        sentence: "8 attempts".into(),
        attempts: 8,
        generation: 2,
        letter_id: format!("letter-{id}"),
    };
    running.broker.publisher().dead_letter(letter).await.unwrap();
}

#[tokio::test]
async fn looking_takes_nothing_away() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options().publishing_only()).await;
    for id in ["a", "b", "c"] {
        bury(&running, &fixture, id, "high").await;
    }
    let tools = running.broker.dead_letters();
    assert_eq!(tools.peek(2).await.unwrap().len(), 2);
    fixture.until_waiting(&fixture.queue("dead"), 3).await;
    let found = tools.find(&Selection::Job("b".into()), 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].attempts, found[0].generation, found[0].code.as_str()),
        (8, 2, "retries-exhausted")
    );
    fixture.until_waiting(&fixture.queue("dead"), 3).await;
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_replay_goes_to_the_lane_it_came_from_marked_and_without_the_letters_headers() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    for (id, lane) in [("a", "high"), ("b", "bulk")] {
        bury(&running, &fixture, id, lane).await;
    }
    let tools = running.broker.dead_letters();
    let report = tools.replay(&Selection::Job("b".into()), None).await.unwrap();
    assert_eq!((report.seen, report.matched, report.done), (2, 1, 1), "{report:?}");
    let delivery = next(&mut running.deliveries.take(Lane::Bulk)).await;
    assert_eq!(text(&delivery), r#"{"id":"b"}"#);
    assert_eq!(delivery.properties.message_id(), Some("b"));
    let headers: Vec<_> = delivery.properties.header_names().collect();
    assert_eq!(headers, ["tenant", header::REPLAY]);
    assert_eq!(delivery.properties.header(header::REPLAY).as_deref(), Some("letter-b"));
    delivery.settle(Disposition::Ack);
    fixture.until_waiting(&fixture.queue("dead"), 1).await;
    let report = tools
        .replay(&Selection::Letter("letter-a".into()), Some(Lane::Normal))
        .await
        .unwrap();
    assert_eq!(report.done, 1);
    next(&mut running.deliveries.take(Lane::Normal))
        .await
        .settle(Disposition::Ack);
    fixture.until_waiting(&fixture.queue("dead"), 0).await;
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn discarding_all_ends_although_new_letters_keep_coming() {
    let fixture = Fixture::new().await;
    let running = fixture.start(fixture.options().publishing_only()).await;
    for i in 0..50 {
        bury(&running, &fixture, &i.to_string(), "high").await;
    }
    let publisher = running.broker.publisher();
    let dead = fixture.queue("dead");
    let more = tokio::spawn(async move {
        loop {
            publisher.publish(publication("", &dead, "{}")).await.unwrap();
        }
    });
    let tools = running.broker.dead_letters();
    let run = tools.discard(&Selection::All);
    let report = tokio::time::timeout(Duration::from_secs(30), run)
        .await
        .expect("it goes on for ever")
        .unwrap();
    more.abort();
    assert!(report.done >= 50 && report.failed.is_empty(), "{report:?}");
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_job_that_the_broker_dead_lettered_is_listed_with_its_reason_and_replayed() {
    let fixture = Fixture::new().await;
    // Nobody consumes, so that a message with a time to live expires in its lane.
    let running = fixture.start(fixture.options().publishing_only()).await;
    let channel = fixture.channel().await;
    let properties = lapin::BasicProperties::default()
        .with_message_id("j".into())
        .with_expiration("1".into());
    channel
        .basic_publish(
            "".into(),
            fixture.queue("bulk").as_str().into(),
            BasicPublishOptions::default(),
            b"{}",
            properties,
        )
        .await
        .unwrap()
        .await
        .unwrap();
    fixture.until_waiting(&fixture.queue("dead"), 1).await;
    let tools = running.broker.dead_letters();
    let letters = tools.peek(1).await.unwrap();
    assert_eq!(
        (letters[0].code.as_str(), letters[0].job_id.as_deref()),
        ("broker-expired", Some("j"))
    );
    assert_eq!(letters[0].queue.as_deref(), Some(fixture.queue("bulk").as_str()));
    let report = tools.replay(&Selection::All, None).await.unwrap();
    assert_eq!(report.done, 1, "{report:?}");
    fixture.until_waiting(&fixture.queue("bulk"), 1).await;
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_letter_of_an_app_whose_queue_is_gone_goes_to_the_apps_lane() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    bury(&running, &fixture, "a", "bulk.gone").await;
    let report = running
        .broker
        .dead_letters()
        .replay(&Selection::All, None)
        .await
        .unwrap();
    assert_eq!(report.done, 1, "{report:?}");
    let delivery = next(&mut running.deliveries.take(Lane::Bulk)).await;
    assert_eq!(&*delivery.queue, fixture.queue("bulk"));
    delivery.settle(Disposition::Ack);
    running.broker.close().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_letter_that_names_a_strangers_queue_is_not_sent_there() {
    let fixture = Fixture::new().await;
    let mut running = fixture.start(fixture.options()).await;
    let forged = Properties::new()
        .with_header(header::QUEUE, "someone.elses")
        .with_header(header::ERROR_CODE, "poison");
    let forged = Publication {
        properties: forged,
        ..publication("", &fixture.queue("dead"), "{}")
    };
    running.broker.publisher().publish(forged).await.unwrap();
    assert_eq!(
        running
            .broker
            .dead_letters()
            .replay(&Selection::All, None)
            .await
            .unwrap()
            .done,
        1
    );
    next(&mut running.deliveries.take(Lane::Normal))
        .await
        .settle(Disposition::Ack);
    running.broker.close().await;
    fixture.remove().await;
}
