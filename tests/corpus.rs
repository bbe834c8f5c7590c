//! Every input of `fuzz/corpus` once more, without a fuzzer: what it found stays found. Needs no services.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

/// Replays a target's corpus; how many inputs there were.
#[expect(
    clippy::unwrap_used,
    reason = "a helper of tests: a corpus that can't be read is a failure"
)]
fn replay(target: &str, check: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let replayed = std::panic::catch_unwind(|| check(&bytes));
        assert!(replayed.is_ok(), "{} breaks a rule", path.display());
        inputs += 1;
    }
    inputs
}

#[test]
fn the_job_decoder_takes_its_whole_corpus() {
    assert!(replay("job", checks::job) > 30);
}

#[test]
fn the_reader_of_replies_takes_its_whole_corpus() {
    assert!(replay("reply", checks::reply) > 10);
}

#[test]
fn the_reader_of_the_roaming_history_takes_its_whole_corpus() {
    assert!(replay("roaming", checks::roaming) > 5);
}
