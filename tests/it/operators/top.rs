//! `top`, the API's overview and the metrics: the budgets of all workers, as one of them tells.

use serde_json::Value;

use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, send},
};

/// The meter of sendmsg in an overview.
fn sendmsg(overview: &Value) -> Option<&Value> {
    let budgets = overview["budgets"].as_array()?;
    budgets.iter().find(|budget| budget["command"] == "sendmsg")
}

/// How many workers there are.
fn there(overview: &Value) -> usize {
    let workers = overview["workers"].as_array();
    workers.map_or(0, |workers| {
        workers.iter().filter(|worker| worker["state"] == "ready").count()
    })
}

#[tokio::test]
async fn one_worker_tells_of_the_whole_fleet() {
    let world = World::new().await;
    let (first, second) = (Worker::start(&world).await, Worker::start(&world).await);
    let url = first.url("");
    let number = std::sync::atomic::AtomicUsize::new(0);
    let overview = eventually(LONG, "top shows two workers and a call", || async {
        // One more each time: there is always one in the last minute.
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        world
            .broker
            .publish("high", &send(&format!("job-{number}"), "alice"))
            .await;
        let output = world.cli(&["top", "--once", "--json", "--url", &url]).await;
        let overview: Value = serde_json::from_slice(&output.stdout).ok()?;
        let used = sendmsg(&overview)?["used_minute"].as_u64()?;
        (there(&overview) == 2 && used > 0).then_some(overview)
    })
    .await;
    let meter = sendmsg(&overview).unwrap();
    assert_eq!((&meter["app"], &meter["limit"]), (&"default".into(), &200.into()));
    assert_eq!((&meter["effective"], &meter["throttled"]), (&200.into(), &0.into()));

    let output = world.cli(&["top", "--once", "--url", &url]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("2 workers") && text.contains("sendmsg"), "{text}");

    let series = r#"im_dispatcher_budget_limit{sdk_app_id="1400000000",command="sendmsg",of="calls"}"#;
    eventually(LONG, "the metrics show the limit where calls were made", || async {
        let shown = [first.metric(series).await, second.metric(series).await];
        shown.contains(&Some(200.0)).then_some(())
    })
    .await;

    // A worker that ends is no longer among them.
    assert!(second.stop().await.success());
    eventually(LONG, "one worker is left", || async {
        let output = world.cli(&["top", "--once", "--json", "--url", &url]).await;
        let overview: Value = serde_json::from_slice(&output.stdout).ok()?;
        (there(&overview) == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn top_says_what_is_missing_where_it_can_show_nothing() {
    let mut world = World::new().await;
    let nobody = world.cli(&["top", "--once", "--url", "http://127.0.0.1:1"]).await;
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(nobody.stdout.is_empty() && said.contains("no worker answers"), "{said}");
    let no_terminal = world.cli(&["top", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(no_terminal.status.code(), Some(2));
    assert_eq!(
        world.cli(&["top", "--once"]).await.status.code(),
        Some(2),
        "http.addr is empty here"
    );

    let worker = Worker::spawn(&world, &[("IM_DISPATCHER_READONLY_TOKEN", "look")]);
    eventually(LONG, "the worker's API is up", || async {
        worker.readiness().await.map(drop)
    })
    .await;
    let without = world.cli(&["top", "--once", "--url", &worker.url("")]).await;
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(said.contains("IM_DISPATCHER_READONLY_TOKEN"), "{said}");
    world.set("IM_DISPATCHER_READONLY_TOKEN", "look");
    let with = world.cli(&["top", "--once", "--json", "--url", &worker.url("")]).await;
    assert!(with.status.success(), "{}", String::from_utf8_lossy(&with.stderr));
}
