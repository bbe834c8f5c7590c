//! The commands that call the IM API at once, against the simulator.

use im_dispatcher::simulator::{Simulator, SimulatorOptions};
use serde_json::{Value, json};

use super::{World, run};

/// A world whose app is the simulator's.
async fn world(simulator: &Simulator) -> World {
    let mut world = World::new().await;
    world
        .set("IM_SDK_APP_ID", im_dispatcher::simulator::SAMPLE_SDK_APP_ID.to_string())
        .set("IM_SECRET_KEY", im_dispatcher::simulator::SAMPLE_SECRET)
        .set("IM_BASE_URL", simulator.base_url());
    world
}

#[tokio::test]
async fn what_is_imported_is_in_the_history_counts_as_unread_and_can_be_set_to_read() {
    let simulator = Simulator::start(SimulatorOptions::default()).unwrap();
    let world = world(&simulator).await;
    for n in 0..150 {
        let text = format!("number {n} {}", "x".repeat(200));
        let (at, mut arguments) = (
            format!("{}s", 2_000 - n),
            vec!["import", "--from", "alice", "--to", "bob"],
        );
        arguments.extend(["--text", &text, "--timestamp", &at, "--unread"]);
        if n % 50 == 0 || n < 100 {
            let (code, stdout, stderr) = run(&world, &arguments).await;
            assert_eq!(code, 0, "{stderr}");
            assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["to"], json!("bob"));
        }
    }
    // More than one page: a page ends at 13 KB.
    let (code, stdout, stderr) = run(&world, &["history", "--from", "bob", "--to", "alice"]).await;
    assert_eq!(code, 0, "{stderr}");
    let messages: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(messages.len(), 101);
    assert!(simulator.arrivals(im_dispatcher::domain::Command::GetRoamMsg).len() > 1);
    let (_, stdout, _) = run(
        &world,
        &["history", "--from", "bob", "--to", "alice", "--since", "1920s"],
    )
    .await;
    assert!(stdout.lines().count() < 101);

    let (code, stdout, _) = run(&world, &["unread", "bob"]).await;
    assert_eq!((code, stdout.trim()), (0, "101"));
    let (code, stdout, _) = run(&world, &["unread", "bob", "alice", "carol", "--json"]).await;
    let counts: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &counts["peers"]), (0, &json!({"alice": 101, "carol": 0})));
    let (code, _, stderr) = run(&world, &["mark-read", "bob", "alice"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(run(&world, &["unread", "bob"]).await.1.trim(), "0");
}

#[tokio::test]
async fn check_holds_with_everything_there_and_tells_a_wrong_key() {
    let simulator = Simulator::start(SimulatorOptions::default()).unwrap();
    let mut world = world(&simulator).await;
    assert_eq!(run(&world, &["migrate"]).await.0, 0);
    let (code, stdout, stderr) = run(&world, &["check"]).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    for what in [
        "config",
        "postgres",
        "migrations",
        "rabbitmq",
        "topology",
        "accepts the UserSig",
    ] {
        assert!(stdout.contains(what), "{what}: {stdout}");
    }
    // An address that a worker would not get.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    world.set("IM_DISPATCHER_HTTP_ADDR", taken.local_addr().unwrap().to_string());
    let (code, stdout, _) = run(&world, &["check"]).await;
    assert_eq!(code, 0, "it may be a worker's: {stdout}");
    assert!(stdout.contains("is in use"), "{stdout}");
    world
        .set("IM_DISPATCHER_HTTP_ADDR", "192.0.2.1:80")
        .set("IM_DISPATCHER_ADMIN_TOKEN", "t");
    let (code, stdout, _) = run(&world, &["check"]).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("listen on 192.0.2.1:80"), "{stdout}");
    world.set("IM_DISPATCHER_HTTP_ADDR", "");
    world.set("IM_SECRET_KEY", "another-key");
    let (code, stdout, _) = run(&world, &["check"]).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("70009") || stdout.contains("70003"), "{stdout}");
    assert!(stdout.contains("sdk_app_id, secret and admin_account"), "{stdout}");
}

#[tokio::test]
async fn an_import_is_checked_by_the_rules_for_jobs_before_anything_is_called() {
    let simulator = Simulator::start(SimulatorOptions::default()).unwrap();
    let world = world(&simulator).await;
    let long = "x".repeat(13_000);
    let (code, stdout, stderr) = run(&world, &["import", "--from", "a", "--to", "b", "--text", &long]).await;
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(simulator.arrivals(im_dispatcher::domain::Command::ImportMsg).is_empty());
}
