//! The published schemas and example jobs: fresh, valid, and of one mind with the decoder.

mod asyncapi;
mod refused;

use std::{collections::BTreeSet, fs, path::PathBuf};

use im_dispatcher::domain::{
    AccountId, AppName, JobId,
    event::{Event, EventData, Outcome, RecipientFailure, Reply, event_id},
    job::{Job, JobType},
    schema::{event_schema, job_schema},
};
use jsonschema::Validator;
use serde_json::Value;

fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

#[expect(clippy::unwrap_used, reason = "a test helper")]
fn validator(schema: &Value) -> Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap()
}

/// Every example, by its file's name.
#[expect(clippy::unwrap_used, reason = "a test helper")]
fn examples() -> Vec<(String, Vec<u8>)> {
    let mut examples: Vec<_> = fs::read_dir(path("examples/jobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
        .map(|file| {
            (
                file.file_stem().unwrap().to_string_lossy().into_owned(),
                fs::read(&file).unwrap(),
            )
        })
        .collect();
    examples.sort();
    examples
}

/// A schema's file as it should be. With `UPDATE_SCHEMAS=1` in the environment it is written, else compared.
#[expect(clippy::unwrap_used, reason = "a test helper")]
fn check_file(name: &str, schema: &Value) {
    let file = path("schemas").join(name);
    let fresh = format!("{}\n", serde_json::to_string_pretty(schema).unwrap());
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::write(&file, &fresh).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == fresh,
        "schemas/{name} is stale: run UPDATE_SCHEMAS=1 cargo test --test jobs"
    );
}

#[test]
fn the_schema_files_equal_the_types() {
    check_file("job.schema.json", &job_schema());
    check_file("event.schema.json", &event_schema());
}

#[test]
fn the_schemas_are_valid_by_their_own_meta_schema() {
    for schema in [job_schema(), event_schema()] {
        assert!(jsonschema::meta::is_valid(&schema));
    }
}

#[test]
fn every_example_is_valid_by_the_schema_and_decodes_to_itself() {
    let validator = validator(&job_schema());
    for (name, body) in examples() {
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert!(
            validator.is_valid(&value),
            "{name}: {:?}",
            validator.validate(&value).err()
        );
        let job = Job::decode(&body, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Job::decode(&job.encode(), None), Ok(job), "{name}");
    }
}

#[test]
fn the_examples_show_every_type_element_and_option() {
    fn words(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, field)| {
                found.insert(name.clone());
                words(field, found);
            }),
            Value::Array(entries) => entries.iter().for_each(|entry| words(entry, found)),
            Value::String(text) => {
                found.insert(text.clone());
            }
            _ => {}
        }
    }

    /// The names of all properties of a schema, and the words that it allows.
    fn vocabulary(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(fields) => {
                if let Some(Value::Object(properties)) = fields.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                if let Some(Value::String(word)) = fields.get("const") {
                    found.insert(word.clone());
                }
                fields.values().for_each(|field| vocabulary(field, found));
            }
            Value::Array(entries) => entries.iter().for_each(|entry| vocabulary(entry, found)),
            _ => {}
        }
    }

    let mut shown = BTreeSet::new();
    for (_, body) in examples() {
        words(&serde_json::from_slice(&body).unwrap(), &mut shown);
    }
    let mut known = BTreeSet::new();
    vocabulary(&job_schema(), &mut known);
    // A default is shown by leaving it out, and of the push services' choices one is enough.
    for word in ["reconcile", "LOW", "active", "critical", "passive"] {
        assert!(known.remove(word), "{word} is no word of a job any more");
    }
    let missing: Vec<_> = known.difference(&shown).collect();
    assert!(missing.is_empty(), "no example shows {missing:?}");
    for job_type in JobType::ALL {
        assert!(shown.contains(job_type.as_str()));
    }
}

#[test]
fn events_are_valid_by_their_schema() {
    let validator = validator(&event_schema());
    let job_id = JobId::parse("spring-sale-2026").unwrap();
    for outcome in Outcome::ALL {
        let mut data = EventData::new(job_id.clone(), JobType::BatchSend, AppName::default_app());
        match outcome {
            Outcome::Sent => {
                data.sent = Some(vec![AccountId::parse("user_1").unwrap()]);
                data.failed = Some(vec![RecipientFailure {
                    to: AccountId::parse("user_2").unwrap(),
                    code: "im-70107".to_owned(),
                    message: "the account does not exist".to_owned(),
                }]);
                data.attempts = 1;
            }
            Outcome::Reply => data.reply = Some(Reply::Unread { unread: 3 }),
            _ => data.to = Some(AccountId::parse("user_1").unwrap()),
        }
        let event = Event {
            id: event_id(&job_id, "0", outcome),
            namespace: "im".to_owned(),
            time: chrono::DateTime::from_timestamp(1_777_622_400, 0).unwrap(),
            outcome,
            data,
        };
        let mut value: Value = serde_json::from_slice(&event.to_bytes()).unwrap();
        assert!(
            validator.is_valid(&value),
            "{outcome}: {:?}",
            validator.validate(&value).err()
        );
        value["data"].as_object_mut().unwrap().remove("job_id");
        assert!(!validator.is_valid(&value), "{outcome}");
    }
}
