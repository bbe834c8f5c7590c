//! RabbitMQ, Postgres and the IM API away for a while: nothing is lost, and the worker goes on by itself.

use serde_json::json;

use super::{LONG, counts, delivered_once, group_settled, send};
use crate::support::{Relay, Worker, World, eventually};

/// A relay to the host and port of a URL.
async fn relay_to(url: &str) -> Relay {
    let (_, rest) = url.split_once("://").unwrap();
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    Relay::start(authority.rsplit('@').next().unwrap()).await
}

async fn publish_load(world: &World, from: usize, to: usize) {
    for n in from..to {
        let mut job = send(&format!("job-{n}"), &format!("user{n}"));
        job["group"] = json!("load");
        world.broker.publish("normal", &job).await;
    }
}

#[tokio::test]
async fn a_cut_connection_to_the_broker_is_rebuilt_and_nothing_is_sent_twice() {
    let mut world = World::new().await;
    let relay = relay_to(&world.services.amqp_url).await;
    let through = relay.route(&world.services.amqp_url);
    world.set("AMQP_URL", through);
    let worker = Worker::start(&world).await;
    publish_load(&world, 0, 100).await;
    eventually(LONG, "it is under way", || async {
        (world.simulator.delivered_total() > 10).then_some(())
    })
    .await;
    relay.cut();
    worker.until_unready("RabbitMQ", LONG).await;
    publish_load(&world, 100, 200).await;
    relay.restore();
    assert_eq!(
        group_settled(&world, "load", 200).await["recipients"],
        counts(200, &[("sent", 200)])
    );
    assert_eq!(delivered_once(&world), 200);
}

#[tokio::test]
async fn a_database_that_is_away_stops_the_intake_and_what_is_held_is_recorded_when_it_is_back() {
    let mut world = World::new().await;
    let relay = relay_to(world.database.url()).await;
    let through = relay.route(world.database.url());
    world.set("DATABASE_URL", through);
    let worker = Worker::start(&world).await;
    publish_load(&world, 0, 150).await;
    eventually(LONG, "it is under way", || async {
        (world.simulator.delivered_total() > 10).then_some(())
    })
    .await;
    relay.cut();
    worker.until_unready("Postgres", LONG).await;
    relay.restore();
    world.set("DATABASE_URL", world.database.url().to_owned());
    assert_eq!(
        group_settled(&world, "load", 150).await["recipients"],
        counts(150, &[("sent", 150)])
    );
    assert_eq!(delivered_once(&world), 150);
}

#[tokio::test]
async fn a_worker_that_starts_without_its_services_waits_for_them() {
    let mut world = World::new().await;
    let relay = relay_to(world.database.url()).await;
    let through = relay.route(world.database.url());
    relay.cut();
    world.set("DATABASE_URL", through);
    let mut worker = Worker::spawn(&world, &[]);
    worker.until_unready("Postgres", LONG).await;
    relay.restore();
    worker.until_ready().await;
}
