//! `submit --csv`: what a marketer's file becomes, and that no interruption loses or repeats a row.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::{depth_becomes, file, run, world_without_app};
use crate::support::{Process, Worker, World, binary, eventually};

/// A bound for what takes seconds.
const PATIENCE: Duration = Duration::from_mins(2);

const TEMPLATE: &str = r#"{"type": "send", "group": "may", "to": "{{account}}",
  "message": {"text": "Dear {{name|friend}}, it is May."}}"#;

/// `submit --csv … --json` and its summary.
async fn submit(world: &World, table: &str, template: &str, more: &[&str]) -> (i32, Value, String) {
    let mut arguments = vec!["submit", "--csv", table, "--template", template, "--json"];
    arguments.extend(more);
    let (code, stdout, stderr) = run(world, &arguments).await;
    (code, serde_json::from_str(&stdout).unwrap_or_default(), stderr)
}

/// What the journal in the world's folder says; null if there is none.
fn journal(directory: &Path) -> Value {
    let mut files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let path = files.find(|path| path.extension().is_some_and(|extension| extension == "journal"));
    path.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_dry_run_counts_rows_recipients_and_repeats_and_names_bad_rows_by_line() {
    let world = world_without_app().await;
    let rows = "account,name\nanna,Anna\nben,\n,Nobody\n\nanna,Anna\nanna,Ann\nan-account-that-is-longer-than-32-bytes,X\ncarl\n";
    let table = file(&world, "people.csv", rows.as_bytes());
    let template = file(&world, "may.json", TEMPLATE.as_bytes());
    let (code, summary, stderr) = submit(&world, &table, &template, &["--dry-run"]).await;
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(
        (&summary["good"], &summary["bad"], &summary["published"]),
        (&json!(3), &json!(3), &json!(0))
    );
    assert_eq!(
        summary["table"],
        json!({"rows": 7, "repeats": 1, "recipients": 2, "recipients_repeated": 1, "published_before": 0})
    );
    let lines: Vec<_> = summary["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["line"])
        .collect();
    assert_eq!(lines, [4, 8, 9], "{summary}");
    assert!(stderr.contains("line 4: column \"account\" is empty"), "{stderr}");
    assert!(
        stderr.contains("line 8: to") && stderr.contains("line 9: the row has 1 cells"),
        "{stderr}"
    );
    assert!(
        stderr.contains("7 rows: 3 good, 3 bad, 1 that repeat another"),
        "{stderr}"
    );
    assert!(
        !stderr.contains("Anna") && !summary.to_string().contains("Anna"),
        "no text is printed"
    );
    assert_eq!(journal(world.directory()), Value::Null);

    // With a bad row nothing is published, unless it is left out by will.
    assert_eq!(submit(&world, &table, &template, &[]).await.0, 1);
    assert_eq!(world.broker.depth("jobs.normal").await.unwrap_or(0), 0);
    let (code, summary, _) = submit(&world, &table, &template, &["--skip-bad", "--lane", "bulk"]).await;
    assert_eq!((code, &summary["published"]), (1, &json!(3)));
    depth_becomes(&world, "jobs.bulk", 3).await;
    let job = world.broker.take("jobs.bulk").await.unwrap();
    assert_eq!(job.properties.message_id().as_ref().unwrap().as_str(), job.json()["id"]);
    assert_eq!(*job.properties.delivery_mode(), Some(2));
}

#[tokio::test]
async fn a_table_or_template_that_cant_be_used_is_wrong_usage_and_says_what_would_be_right() {
    let world = world_without_app().await;
    let table = file(&world, "people.csv", b"account,name\nanna,Anna\n");
    let template = file(&world, "may.json", TEMPLATE.as_bytes());
    let typo = file(
        &world,
        "typo.json",
        TEMPLATE.replace("{{account}}", "{{acount}}").as_bytes(),
    );
    let (code, _, stderr) = submit(&world, &table, &typo, &[]).await;
    assert_eq!(code, 2);
    assert!(
        stderr.contains("to: the table has no column \"acount\"; did you mean \"account\"?"),
        "{stderr}"
    );
    for arguments in [
        &["submit", "--csv", &table][..],
        &["submit", "--template", &template],
        &["submit", "--csv", "--template", &template],
        &["submit", "--csv", &table, "--template", &template, "other.csv"],
        &["submit", "--csv", &table, "--template", &template, "--unchecked"],
        &["submit", "--csv", &table, "--template", &template, "--delimiter", "ab"],
        &["submit", "--csv", &table, "--template", &template, "--rate", "0"],
    ] {
        assert_eq!(run(&world, arguments).await.0, 2, "{arguments:?}");
    }
    // The file as an argument, as the contract spells it.
    let arguments = ["submit", "--csv", "--template", &template, &table, "--dry-run"];
    assert_eq!(run(&world, &arguments).await.0, 0);
}

#[tokio::test]
async fn a_mended_file_keeps_the_ids_of_its_rows_and_a_fresh_start_makes_new_ones() {
    let world = world_without_app().await;
    let table = file(&world, "people.csv", b"account,name\nanna,Anna\nben,Ben\n");
    let template = file(&world, "may.json", TEMPLATE.as_bytes());
    let ids = async |count: u32| {
        depth_becomes(&world, "jobs.normal", count).await;
        let mut ids = std::collections::BTreeMap::new();
        for _ in 0..count {
            let job = world.broker.take("jobs.normal").await.unwrap().json();
            ids.insert(
                job["to"].as_str().unwrap().to_owned(),
                job["id"].as_str().unwrap().to_owned(),
            );
        }
        ids
    };
    assert_eq!(submit(&world, &table, &template, &[]).await.0, 0);
    let first = ids(2).await;
    assert_eq!(
        (
            &journal(world.directory())["done"],
            &journal(world.directory())["finished"]
        ),
        (&json!(2), &json!(true))
    );

    // The same again: the same ids, and a word about it.
    let (code, summary, stderr) = submit(&world, &table, &template, &[]).await;
    assert_eq!((code, &summary["published"]), (0, &json!(2)), "{stderr}");
    assert!(stderr.contains("--fresh"), "{stderr}");
    assert_eq!(ids(2).await, first);

    file(
        &world,
        "people.csv",
        b"account,name\nben,Benjamin\nanna,Anna\ncarl,Carl\n",
    );
    let (code, _, stderr) = submit(&world, &table, &template, &[]).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("--mended") && stderr.contains("--fresh"), "{stderr}");
    assert_eq!(submit(&world, &table, &template, &["--mended"]).await.0, 0);
    let mended = ids(3).await;
    assert_eq!(mended["anna"], first["anna"]);
    assert_ne!(mended["ben"], first["ben"]);

    assert_eq!(submit(&world, &table, &template, &["--fresh"]).await.0, 0);
    let fresh = ids(3).await;
    assert!(fresh.iter().all(|(to, id)| mended[to] != *id));

    // Where the journal is lost the ids are made of file and template alone, as they were at first.
    file(&world, "people.csv", b"account,name\nanna,Anna\nben,Ben\n");
    let elsewhere = world.directory().join("another.journal");
    let journal = ["--journal", elsewhere.to_str().unwrap()];
    assert_eq!(submit(&world, &table, &template, &journal).await.0, 0);
    assert_eq!(ids(2).await, first);
}

#[tokio::test]
async fn a_run_that_is_killed_goes_on_where_it_stopped_and_each_row_is_sent_exactly_once() {
    const ROWS: usize = 400;
    let world = World::careless().await;
    let _worker = Worker::start(&world).await;
    let header = "account,name".to_owned();
    let rows = (0..ROWS).map(|n| format!("user_{n},Name {n}"));
    let lines: Vec<_> = std::iter::once(header).chain(rows).collect();
    let table = file(&world, "people.csv", lines.join("\n").as_bytes());
    let template = file(&world, "may.json", TEMPLATE.as_bytes());

    let arguments = ["submit", "--csv", &table, "--template", &template, "--rate", "100"];
    let mut begun = Process::spawn("submit", &binary(), &arguments, world.environment(), world.directory());
    eventually(PATIENCE, "some rows are done", || async {
        (journal(world.directory())["done"].as_u64() > Some(20)).then_some(())
    })
    .await;
    begun.kill();
    let done = journal(world.directory())["done"].as_u64().unwrap();
    assert!(done < ROWS as u64, "it was killed on its way");

    let (code, summary, stderr) = submit(&world, &table, &template, &[]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains(&format!("going on behind row {done}")), "{stderr}");
    assert_eq!(
        (&summary["published"], &summary["table"]["published_before"]),
        (&json!(ROWS as u64 - done), &json!(done))
    );
    let sent_once = async || {
        eventually(PATIENCE, "every row is sent", || async {
            let (_, stdout, _) = run(&world, &["status", "--group", "may", "--json"]).await;
            let status: Value = serde_json::from_str(&stdout).unwrap();
            (status["jobs"] == ROWS && status["recipients"]["sent"] == ROWS).then_some(())
        })
        .await;
        let report = world.simulator.report();
        assert_eq!(report.delivered, ROWS as u64);
        assert!(report.sent_twice.is_empty());
    };
    sent_once().await;

    // The whole file again: repeats, each acknowledged and none sent.
    let (code, summary, stderr) = submit(&world, &table, &template, &[]).await;
    assert_eq!((code, &summary["published"]), (0, &json!(ROWS)), "{stderr}");
    depth_becomes(&world, "jobs.normal", 0).await;
    sent_once().await;
    assert_eq!(world.broker.depth("jobs.dead").await, Some(0));
}
