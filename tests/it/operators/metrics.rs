//! What /metrics prints is what docs/monitoring.md says.

use std::collections::{BTreeMap, BTreeSet};

use im_dispatcher::{domain::Command, simulator::Fault};
use serde_json::json;

use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, send, settled},
};

/// The families of the table, with type and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = include_str!("../../../docs/monitoring.md");
    let lines = text.lines().filter(|line| line.starts_with("| `im_dispatcher_"));
    lines
        .map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let (metric, kind) = (cells.next().unwrap().trim_matches('`'), cells.next().unwrap());
            let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
            let labels = labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| !label.is_empty());
            (name.to_owned(), (kind.to_owned(), labels.map(str::to_owned).collect()))
        })
        .collect()
}

/// The families of a page, as the table would have them.
fn printed(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut current = (String::new(), String::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            current = (format!("{name}{suffix}"), kind.to_owned());
        } else if !line.starts_with('#') {
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            let labels = labels.map_or("", |(labels, _)| labels).split("\",");
            let names = labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            let (name, kind) = current.clone();
            let family = families.entry(name).or_insert((kind, BTreeSet::new()));
            family.1.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

async fn page(worker: &Worker) -> String {
    reqwest::get(worker.url("/metrics"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap()
}

#[tokio::test]
async fn the_table_of_metrics_is_what_a_worker_prints() {
    let world = World::new().await;
    world.simulator.inject(Command::SendMsg, Fault::Code(60_007), 1);
    let worker = Worker::start(&world).await;
    world.broker.publish("normal", &send("job", "alice")).await;
    world.broker.publish("normal", &json!({"type": "nothing"})).await;
    settled(&world, "job").await;
    // Gauges of the table are taken every five seconds, families without a member yet aren't printed.
    let documented = documented();
    let page = eventually(LONG, "/metrics has every family", || async {
        let page = page(&worker).await;
        (printed(&page).len() >= documented.len()).then_some(page)
    })
    .await;
    assert_eq!(
        printed(&page),
        documented,
        "printed on the left, docs/monitoring.md on the right"
    );
    for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
}

#[tokio::test]
async fn a_jobs_way_shows_in_what_is_counted_and_measured() {
    let world = World::new().await;
    world.simulator.inject(Command::SendMsg, Fault::Code(60_007), 1);
    let worker = Worker::start(&world).await;
    for n in 0..5 {
        world.broker.publish("high", &send(&format!("job-{n}"), "alice")).await;
    }
    for n in 0..5 {
        settled(&world, &format!("job-{n}")).await;
    }
    // Four at once, one by the table after its first attempt had failed.
    for (series, least) in [
        ("im_dispatcher_publish_to_record_seconds_count{lane=\"high\"}", 5.0),
        ("im_dispatcher_budget_wait_seconds_count{lane=\"high\"}", 6.0),
        ("im_dispatcher_call_seconds_count{command=\"sendmsg\"}", 6.0),
        ("im_dispatcher_deliveries_settled_total{settlement=\"acked\"}", 5.0),
        ("im_dispatcher_publishes_total{result=\"confirmed\"}", 5.0),
        ("im_dispatcher_dependency_ready{dependency=\"postgres\"}", 1.0),
        ("im_dispatcher_dependency_ready{dependency=\"rabbitmq\"}", 1.0),
        ("im_dispatcher_ready", 1.0),
    ] {
        eventually(LONG, &format!("{series} is at least {least}"), || async {
            (worker.metric(series).await? >= least).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn work_that_is_due_and_waits_for_nothing_but_room_has_an_age_and_what_a_pause_holds_has_none() {
    let mut world = World::new().await;
    // No slots: what is due stays due.
    world.set("IM_RATE_LIMIT", "1");
    let worker = Worker::start(&world).await;
    let to: Vec<String> = (0..5_000).map(|n| format!("user{n}")).collect();
    let job = json!({"type": "batch_send", "id": "many", "to": to, "message": {"text": "hi"}});
    world.broker.publish("bulk", &job).await;
    let series = "im_dispatcher_past_due_seconds{lane=\"bulk\"}";
    eventually(LONG, "work of the bulk lane is past due", || async {
        (worker.metric(series).await? > 0.0).then_some(())
    })
    .await;
    assert!(world.cli(&["pause", "--lane", "bulk"]).await.status.success());
    eventually(LONG, "a paused lane isn't late", || async {
        let paused = worker.metric("im_dispatcher_lane_paused{lane=\"bulk\"}").await?;
        (paused > 0.0 && worker.metric(series).await? <= 0.0).then_some(())
    })
    .await;
}
