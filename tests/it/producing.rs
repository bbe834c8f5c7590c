//! The library's producer against a real broker: what it publishes arrives, and its outcomes come back.

use std::{collections::HashSet, time::Duration};

use im_dispatcher::{
    domain::{
        AccountId, AppName, JobId, Lane,
        event::Outcome,
        job::{Job, Task},
        message::Message,
    },
    producer::{ConnectError, Outgoing, ProduceError, Producer, ProducerOptions},
};

use crate::support::{Worker, World, eventually};

/// A bound for what takes milliseconds.
const SOON: Duration = Duration::from_mins(1);

fn options(world: &World) -> ProducerOptions {
    ProducerOptions {
        namespace: world.namespace.clone(),
        ..ProducerOptions::new(&world.services.amqp_url)
    }
}

fn send(id: &str, to: &str) -> Job {
    Job::new(
        JobId::parse(id).unwrap(),
        Task::Send {
            from: None,
            to: AccountId::parse(to).unwrap(),
            message: Message::from_text("hello"),
        },
    )
}

async fn depth_becomes(world: &World, queue: &str, count: u32) {
    let what = format!("{count} messages in {queue}");
    eventually(SOON, &what, || async {
        (world.broker.depth(queue).await == Some(count)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_typed_job_is_carried_out_and_its_outcome_comes_back_typed() {
    let world = World::new().await;
    let _worker = Worker::start(&world).await;
    let producer = Producer::connect(options(&world)).await.unwrap();
    let mut all = producer.outcomes(&["send.*"]).await.unwrap();
    let mut own = producer.outcomes(&[]).await.unwrap();

    producer.publish(Lane::High, &send("plain", "alice")).await.unwrap();
    let event = tokio::time::timeout(SOON, all.next()).await.unwrap().unwrap();
    assert_eq!((event.data.job_id.as_str(), event.outcome), ("plain", Outcome::Sent));
    assert_eq!(event.namespace, world.namespace);
    assert!(event.data.msg_key.is_some() && event.data.to == Some(AccountId::parse("alice").unwrap()));

    // A queue without a binding gets only what names it.
    let asking = Outgoing::of(&send("asking", "unknown_bob")).unwrap();
    let asking = asking.with_reply_to(own.queue()).with_correlation_id("c");
    producer.publish_outgoing(Lane::High, asking).await.unwrap();
    let event = tokio::time::timeout(SOON, own.next()).await.unwrap().unwrap();
    assert_eq!((event.data.job_id.as_str(), event.outcome), ("asking", Outcome::Failed));
    assert_eq!(event.data.error.unwrap().code, "im-90012");
    for outcomes in [all, own] {
        outcomes.close().await;
    }
    producer.close().await;
}

#[tokio::test]
async fn a_pipeline_answers_for_each_job_and_every_one_is_in_its_queue() {
    const JOBS: u32 = 3_000;
    let mut world = World::new().await;
    let own = format!("{}.jobs.bulk.shop", world.namespace);
    for lane in ["high", "normal", "bulk"] {
        let queue = format!("{}.jobs.{lane}.shop", world.namespace);
        world.broker.delete_also(&queue);
    }
    let shop = AppName::parse("shop").unwrap();
    let producer = Producer::connect(ProducerOptions {
        app_queues: vec![shop.clone()],
        ..options(&world)
    })
    .await
    .unwrap();
    let mut pipeline = producer.pipeline(Lane::Bulk);
    let mut answered = HashSet::new();
    for number in 0..JOBS {
        let mut job = send(&format!("job-{number}"), "alice");
        if number == 0 {
            job.app = shop.clone();
        }
        pipeline.publish(number, Outgoing::of(&job).unwrap()).await;
        while let Some((number, result)) = pipeline.try_next() {
            result.unwrap();
            answered.insert(number);
        }
    }
    while let Some((number, result)) = pipeline.next().await {
        result.unwrap();
        answered.insert(number);
    }
    assert_eq!(answered, (0..JOBS).collect());
    depth_becomes(&world, "jobs.bulk", JOBS - 1).await;
    let queue = own.strip_prefix(&format!("{}.", world.namespace)).unwrap();
    depth_becomes(&world, queue, 1).await;
    producer.close().await;
}

#[tokio::test]
async fn what_no_worker_would_take_isnt_published_and_a_broker_that_is_away_is_said_in_time() {
    let world = World::new().await;
    let producer = Producer::connect(options(&world)).await.unwrap();
    let job = Job {
        coalesce: true,
        ..Job::new(
            JobId::parse("batch").unwrap(),
            Task::BatchSend {
                from: None,
                to: vec![AccountId::parse("alice").unwrap()],
                message: Message::from_text("hello"),
            },
        )
    };
    let error = producer.publish(Lane::High, &job).await.unwrap_err();
    assert!(
        matches!(&error, ProduceError::Invalid { source, .. } if source.sentence.starts_with("coalesce")),
        "{error}"
    );
    assert_eq!(world.broker.depth("jobs.high").await, Some(0));
    producer.close().await;

    let away = ProducerOptions {
        connect_timeout: Duration::from_millis(200),
        ..ProducerOptions::new("amqp://127.0.0.1:1/%2f")
    };
    assert!(matches!(Producer::connect(away).await, Err(ConnectError::Away(_))));
    let wrong = ProducerOptions::new("http://guest:secret@127.0.0.1");
    let error = Producer::connect(wrong).await.err().unwrap();
    assert!(matches!(error, ConnectError::Setup(_)) && !format!("{error:?}").contains("secret"));
}
