//! The published schemas and example jobs: fresh, valid, and of one mind with the decoder.

use std::{collections::BTreeSet, fs, path::PathBuf};

use im_dispatcher::domain::{
    job::{DecodeError, Job, JobType},
    schema::{event_schema, job_schema},
};
use serde_json::{Value, json};

fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A schema's file as it should be. With `UPDATE_SCHEMAS=1` in the environment it is written, else compared.
fn check_file(name: &str, schema: &Value) {
    let file = path("schemas").join(name);
    let fresh = format!("{}\n", serde_json::to_string_pretty(schema).unwrap_or_default());
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        assert!(fs::write(&file, &fresh).is_ok(), "can't write {}", file.display());
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == fresh,
        "{name} is stale: run UPDATE_SCHEMAS=1 cargo test --test jobs"
    );
}

#[test]
fn the_schema_files_equal_the_types() {
    check_file("job.schema.json", &job_schema());
    check_file("event.schema.json", &event_schema());
}
