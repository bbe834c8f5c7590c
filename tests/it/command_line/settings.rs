//! Usage and configuration: exit code 2, one line that says what would be right, nothing on stdout.

use super::{file, run, world_without_app};

#[tokio::test]
async fn wrong_usage_exits_2_with_nothing_on_stdout() {
    let world = world_without_app().await;
    for arguments in [
        &["no-such-command"][..],
        &["status"],
        &["status", "j", "--group", "g"],
        &["status", "j", "--timeout", "5"],
        &["status", "j", "--wait", "--timeout", "soon"],
        &["status", "j", "--state", "lost"],
        &["status", ""],
        &["submit", "--lane", "urgent"],
        &["revoke"],
        &["revoke", "--job", "j", "--group", "g"],
        &["revoke", "--from", "a", "--to", "b"],
        &["revoke", "--from", "a", "--to", "b", "--to", "c", "--msg-key", "1_2_3"],
        &["dead-letters", "discard"],
        &["dead-letters", "replay", "j", "--all"],
        &["schema", "jobs"],
        &["completions", "cmd"],
        &["history", "--from", "a"],
        &["config", "show", "--set", "namespace"],
    ] {
        let (code, stdout, stderr) = run(&world, arguments).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_wrong_or_missing_setting_exits_2_with_one_line_that_names_it() {
    let mut world = world_without_app().await;
    let (code, _, stderr) = run(&world, &["worker"]).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("IM_SDK_APP_ID"), "{stderr}");
    world
        .set("IM_SDK_APP_ID", "14")
        .set("IM_SECRET_KEY", "k")
        .set("IM_RATE_LIMIT", "quick");
    let (code, stdout, stderr) = run(&world, &["worker"]).await;
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
    assert!(
        stderr.contains("environment variable IM_RATE_LIMIT") && stderr.contains("whole number"),
        "{stderr}"
    );
    world
        .set("IM_RATE_LIMIT", "20")
        .set("IM_DISPATCHER__RETRY__INITAIL", "1s");
    let (code, _, stderr) = run(&world, &["status", "j"]).await;
    assert_eq!(code, 2);
    assert!(
        stderr.contains("did you mean IM_DISPATCHER__RETRY__INITIAL?"),
        "{stderr}"
    );
}

#[tokio::test]
async fn an_unknown_key_of_the_file_in_the_working_directory_stops_every_command() {
    let world = world_without_app().await;
    file(&world, "im-dispatcher.toml", b"[budget]\nguart = \"4ms\"\n");
    let (code, _, stderr) = run(&world, &["config", "show"]).await;
    assert_eq!((code, stderr.lines().count()), (2, 1));
    assert!(stderr.contains("did you mean budget.guard?"), "{stderr}");
    // What needs no settings works all the same.
    assert_eq!(run(&world, &["schema", "job"]).await.0, 0);
    assert_eq!(run(&world, &["completions", "bash"]).await.0, 0);
}

#[tokio::test]
async fn config_show_names_each_source_and_a_flag_wins() {
    let mut world = world_without_app().await;
    let path = file(&world, "some.toml", b"[retry]\nmax_attempts = 3\ninitial = \"2s\"\n");
    world.set("IM_DISPATCHER__RETRY__INITIAL", "3s");
    let (code, stdout, _) = run(
        &world,
        &["--config", &path, "config", "show", "--json", "--set", "retry.max=9m"],
    )
    .await;
    assert_eq!(code, 0);
    let shown: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let row = |name: &str| {
        (
            shown[name]["value"].as_str().unwrap(),
            shown[name]["source"].as_str().unwrap(),
        )
    };
    assert_eq!(row("retry.max_attempts"), ("3", format!("file {path}").as_str()));
    assert_eq!(
        row("retry.initial"),
        ("3s", "environment variable IM_DISPATCHER__RETRY__INITIAL")
    );
    assert_eq!(row("retry.max"), ("9m", "flag --set"));
    assert_eq!(row("budget.guard"), ("4ms", "the defaults"));
    let (code, stdout, _) = run(&world, &["config", "show"]).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("retry.initial") && stdout.contains("the defaults"));
}

#[tokio::test]
async fn the_default_file_can_be_printed_and_loads() {
    let world = world_without_app().await;
    let (code, text, _) = run(&world, &["config", "default"]).await;
    assert_eq!(code, 0);
    let path = file(&world, "all.toml", text.as_bytes());
    let (code, _, stderr) = run(&world, &["--config", &path, "config", "show"]).await;
    assert_eq!(code, 0, "{stderr}");
}

#[tokio::test]
async fn the_schemas_are_those_of_the_repository() {
    let world = world_without_app().await;
    for kind in ["job", "event"] {
        let (code, stdout, _) = run(&world, &["schema", kind]).await;
        assert_eq!(code, 0);
        let path = format!("{}/schemas/{kind}.schema.json", env!("CARGO_MANIFEST_DIR"));
        let kept: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap(), kept);
    }
}

#[tokio::test]
async fn an_unknown_job_or_group_exits_1_with_nothing_on_stdout() {
    let world = world_without_app().await;
    assert_eq!(run(&world, &["migrate"]).await.0, 0);
    for arguments in [&["status", "nobody", "--json"][..], &["status", "--group", "nobody"]] {
        let (code, stdout, stderr) = run(&world, arguments).await;
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    }
}

#[tokio::test]
async fn check_says_what_is_wrong_and_how_to_mend_it() {
    let mut world = world_without_app().await;
    let (code, stdout, _) = run(&world, &["check"]).await;
    assert_eq!(code, 1);
    assert!(
        stdout.contains("IM_SDK_APP_ID") && stdout.contains("im-dispatcher migrate"),
        "{stdout}"
    );
    world.set("AMQP_URL", "amqp://guest:wrong-password@127.0.0.1:1/%2f");
    let (_, stdout, stderr) = run(&world, &["check"]).await;
    assert!(stdout.contains("is RabbitMQ running"), "{stdout}");
    assert!(!stdout.contains("wrong-password") && !stderr.contains("wrong-password"));
}
