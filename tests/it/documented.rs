//! The commands of the documents, run as they stand there: a reader who types them gets what the text says. A block that can't
//! run here (it installs, needs Docker, stays until Ctrl-C) has `<!-- not run: REASON -->` before it; that its commands exist is
//! tested in `tests/docs`.

use std::{collections::BTreeMap, fmt::Write as _, os::unix::fs::symlink, path::Path, process::Stdio, time::Duration};

use tokio::io::AsyncReadExt as _;

#[path = "../support/markdown.rs"]
mod markdown;

use crate::support::{Worker, World, binary, free_port};
use markdown::{Block, blocks, documents, path, text};

/// For all commands of one document.
const PATIENCE: Duration = Duration::from_mins(1);

/// Addresses that documents name, each of which is a free port here: tests run side by side.
const ADDRESSES: [&str; 2] = ["127.0.0.1:8700", "127.0.0.1:8080"];

/// What the commands print where all is as the text says. Exit codes are looked at in any case.
const SAID: [(&str, &[&str]); 4] = [
    ("README.md", &["sent to alice, MsgKey", "revoked: 1 of 1 revoked"]),
    (
        "docs/getting-started.md",
        &[
            "job hello-1 (send, app default): sent",
            "revoked: 1 of 1 revoked",
            "job hello-1 (send, app default): revoked",
            "1 failed recipients in 1 jobs",
            "revoked: 2 of 2 revoked",
            "refused before it is published",
            "lane bulk is resumed",
            "ok: nothing is missing, sent twice or in doubt",
        ],
    ),
    ("docs/operations.md", &["migrations", "ok: nothing is missing"]),
    ("docs/publishing.md", &["2 rows: 2 good, 0 bad", "2 jobs published"]),
];

/// What a document's commands find in their folder.
const FOLDERS: [&str; 4] = ["deploy", "examples", "schemas", "src"];

fn is_run(block: &Block) -> bool {
    block.language == "sh" && block.not_run.is_none()
}

/// The blocks of a document as one script, which says where it is before each.
fn script(document: &str, blocks: &[Block]) -> String {
    // What it starts in the background ends with it, however it ends.
    let mut script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n".to_owned();
    for block in blocks.iter().filter(|block| is_run(block)) {
        write!(script, "echo '=== {document}:{}'\n{}", block.line, block.text).unwrap();
    }
    ADDRESSES.iter().fold(script, |script, address| {
        if script.contains(address) {
            script.replace(address, &format!("127.0.0.1:{}", free_port()))
        } else {
            script
        }
    })
}

/// The folder as a reader has it: the repository's own files, and those that the document tells to write.
fn furnish(folder: &Path, blocks: &[Block]) {
    for name in FOLDERS {
        symlink(path(name), folder.join(name)).unwrap();
    }
    for block in blocks {
        if let Some(name) = &block.file {
            std::fs::write(folder.join(name), &block.text).unwrap();
        }
    }
}

/// Runs a document's commands in a world of their own; what they printed, or else what went wrong.
async fn run(document: &str, blocks: &[Block]) -> Result<String, String> {
    let world = World::new().await;
    furnish(world.directory(), blocks);
    let script = script(document, blocks);
    // A document that starts a worker of its own has the whole stage.
    let worker = if script.contains("im-dispatcher worker") {
        None
    } else {
        Some(Worker::start(&world).await)
    };
    let mut environment: BTreeMap<String, String> = world.environment();
    // As a reader has it.
    environment.remove("RUST_LOG");
    let http = worker.as_ref().map_or_else(
        || format!("127.0.0.1:{}", free_port()),
        |worker| worker.url("").trim_start_matches("http://").to_owned(),
    );
    environment.insert("IM_DISPATCHER_HTTP_ADDR".to_owned(), http);
    let bin = binary().parent().unwrap().to_str().unwrap().to_owned();
    environment.insert("PATH".to_owned(), format!("{bin}:{}", std::env::var("PATH").unwrap()));
    let mut child = tokio::process::Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(world.directory())
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut printed = Vec::new();
    let mut output = child.stdout.take().unwrap();
    let ended = tokio::time::timeout(PATIENCE, async {
        let (_, status) = tokio::join!(output.read_to_end(&mut printed), child.wait());
        status.unwrap()
    })
    .await;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    match ended {
        Ok(status) if status.success() => Ok(printed),
        Ok(status) => Err(format!("{status}\n{printed}")),
        Err(_) => Err(format!("not over after {PATIENCE:?}\n{printed}")),
    }
}

#[tokio::test]
async fn every_command_of_the_documents_does_what_is_said_of_it() {
    let mut ran = 0;
    for document in documents() {
        let blocks = blocks(&text(&document));
        let wanted = blocks.iter().filter(|block| is_run(block)).count();
        if wanted == 0 {
            continue;
        }
        let printed = run(&document, &blocks)
            .await
            .unwrap_or_else(|error| panic!("a command of {document} failed: {error}"));
        assert_eq!(printed.matches(&format!("=== {document}:")).count(), wanted);
        for (_, phrases) in SAID.iter().filter(|(other, _)| *other == document) {
            for phrase in *phrases {
                assert!(
                    printed.contains(phrase),
                    "{document}: nothing said {phrase:?}:\n{printed}"
                );
            }
        }
        ran += wanted;
    }
    assert!(ran > 10, "only {ran} blocks were run: has the search broken?");
}

#[test]
fn a_block_that_is_not_run_says_why() {
    for document in documents() {
        for block in blocks(&text(&document)) {
            if let Some(reason) = block.not_run {
                assert_eq!(block.language, "sh", "{document}:{}: only commands are run", block.line);
                assert!(reason.len() > 10, "{document}:{}: why isn't it run?", block.line);
            }
        }
    }
}

#[tokio::test]
async fn a_command_that_fails_is_found_with_its_place() {
    let document =
        "```sh\ntrue\n```\n```sh\nfalse\n```\n<!-- not run: it would fail, too -->\n```sh\nno-such-program\n```\n";
    let error = run("here.md", &blocks(document)).await.unwrap_err();
    assert!(error.contains("=== here.md:4"), "{error}");
    assert!(!error.contains("here.md:8"), "{error}");
}
