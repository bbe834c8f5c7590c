//! No secret, `UserSig` or message text in any output at any level: every command with marked secrets, all output read.

use im_dispatcher::simulator::{AppOptions, Simulator, SimulatorOptions};
use serde_json::json;

use super::{World, file, run, run_with};

const SECRET: &str = "MARKED-5ecret-c0ffee";
const TEXT: &str = "MARKED-the-text-of-a-message";

#[tokio::test]
async fn no_command_prints_a_secret_a_usersig_or_a_text_at_trace() {
    let app = AppOptions {
        secret: SECRET.into(),
        ..AppOptions::default()
    };
    let simulator = Simulator::start(SimulatorOptions {
        apps: vec![app],
        ..SimulatorOptions::default()
    })
    .unwrap();
    let mut world = World::new().await;
    // A database that asks for its password marks its own; one that takes any gets ours.
    let mut database = url::Url::parse(world.database.url()).unwrap();
    if database.password().is_none() {
        database.set_password(Some(SECRET)).unwrap();
    }
    let password = database.password().unwrap().to_owned();
    world
        .set(
            "RUST_LOG",
            "trace,lapin=trace,sqlx=trace,hyper=trace,reqwest=trace,rustls=trace",
        )
        .set("DATABASE_URL", database.as_str())
        .set("IM_SDK_APP_ID", im_dispatcher::simulator::SAMPLE_SDK_APP_ID.to_string())
        .set("IM_SECRET_KEY", SECRET)
        .set("IM_BASE_URL", simulator.base_url())
        .set("IM_DISPATCHER_ADMIN_TOKEN", SECRET)
        .set("IM_DISPATCHER_READONLY_TOKEN", SECRET);
    let jobs = json!({"type": "send", "id": "a", "to": "u", "message": {"text": TEXT}}).to_string();
    let path = file(&world, "jobs.ndjson", jobs.as_bytes());
    let mut read = String::new();
    for arguments in [
        &["migrate"][..],
        &["config", "show"],
        &["config", "show", "--json"],
        &["check"],
        &["submit", &path],
        &["status", "a"],
        &["revoke", "--job", "a", "--wait", "--timeout", "1"],
        &["import", "--from", "a", "--to", "b", "--text", TEXT],
        &["unread", "b"],
        &["mark-read", "b", "a"],
        &["dead-letters", "list"],
        &["dead-letters", "replay", "--all"],
        &["usersig", "--lifetime", "x"],
        &["--help"],
        &["worker", "--help"],
        &["worker", "--http-addr", "nonsense"],
    ] {
        let (_, stdout, stderr) = run(&world, arguments).await;
        read.push_str(&stdout);
        read.push_str(&stderr);
    }
    // These print a text or a signature: that is what they are asked for, and they print it once, on stdout.
    for arguments in [&["history", "--from", "b", "--to", "a"][..], &["usersig"]] {
        let (code, stdout, stderr) = run(&world, arguments).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stdout.contains(TEXT) || stdout.starts_with("eJ") || stdout.starts_with("eA"),
            "{stdout}"
        );
        read.push_str(&stderr);
    }
    let broken =
        format!("{{\"type\": \"send\", \"id\": \"b\", \"to\": \"u\", \"message\": {{\"text\": [\"{TEXT}\"]}}}}");
    let (_, _, stderr) = run_with(&world, &["submit"], broken.as_bytes()).await;
    read.push_str(&stderr);
    // Everything away: errors are where URLs like to appear.
    world
        .set("AMQP_URL", format!("amqp://user:{SECRET}@127.0.0.1:1/%2f"))
        .set(
            "DATABASE_URL",
            format!("postgres://user:{SECRET}@127.0.0.1:1/db?sslmode=disable"),
        )
        .set("IM_BASE_URL", "http://127.0.0.1:1");
    for arguments in [
        &["check"][..],
        &["migrate"],
        &["status", "a"],
        &["unread", "b"],
        &["history", "--from", "b", "--to", "a"],
        &["import", "--from", "a", "--to", "b", "--text", TEXT],
    ] {
        let (code, stdout, stderr) = run(&world, arguments).await;
        assert_eq!(code, 1, "{arguments:?}: {stderr}");
        read.push_str(&stdout);
        read.push_str(&stderr);
    }
    assert!(read.len() > 5_000 && read.contains("DEBUG"), "the level was in force");
    for (number, line) in read.lines().enumerate() {
        for marked in [SECRET, TEXT, &password, "usersig=", "eJyrVg", "eAEB", "eJx"] {
            assert!(!line.contains(marked), "line {number} has {marked}: {line}");
        }
        assert_capped(line);
        // A frame in a log would be the bytes as numbers.
        assert!(
            !line.contains("77, 65, 82, 75, 69, 68"),
            "line {number} has the mark as bytes: {line}"
        );
    }
}

/// A dependency's finer levels can't be raised, whether or not its present version prints anything secret there.
fn assert_capped(line: &str) {
    let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else {
        return;
    };
    let (Some(level), Some(target)) = (entry["level"].as_str(), entry["target"].as_str()) else {
        return;
    };
    let target = entry["log.target"].as_str().unwrap_or(target);
    let fine = matches!(level, "DEBUG" | "TRACE");
    let allowed = target.starts_with("im_dispatcher") || target.starts_with("hyper_util::client::legacy::");
    assert!(!fine || allowed, "{target} speaks at {level}: {line}");
}
