//! The published schemas and example jobs: fresh, valid, and of one mind with the decoder.

use std::{collections::BTreeSet, fs, path::PathBuf};

use im_dispatcher::domain::{
    AccountId, AppName, JobId,
    event::{Event, EventData, Outcome, RecipientFailure, Reply, event_id},
    job::{Job, JobType},
    schema::{event_schema, job_schema},
};
use jsonschema::Validator;
use serde_json::{Value, json};

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

/// A change of a valid job that makes it invalid: where, and to what (`None` removes the field).
type Change = (&'static str, Option<Value>);

#[expect(clippy::unwrap_used, reason = "a test helper")]
fn example(name: &str) -> Value {
    serde_json::from_slice(&examples().into_iter().find(|(found, _)| found == name).unwrap().1).unwrap()
}

#[expect(clippy::unwrap_used, reason = "a test helper")]
fn changed(example: &Value, (pointer, value): &Change) -> Value {
    let mut job = example.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = job.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(key.to_owned(), value.clone())),
        (Value::Object(fields), None) => drop(fields.remove(key).unwrap()),
        (Value::Array(entries), Some(value)) => entries.push(value.clone()),
        _ => panic!("{pointer} can't be changed"),
    }
    job
}

#[test]
fn what_the_decoder_refuses_the_schema_refuses_too() {
    let content = "/message/body/0/MsgContent";
    let at = |field: &str| -> &'static str { Box::leak(format!("{content}/{field}").into_boxed_str()) };
    let text = json!({"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}});
    let custom = json!({"MsgType": "TIMCustomElem", "MsgContent": {"Data": "x"}});
    let table: Vec<(&str, Vec<Change>)> = vec![
        (
            "send-options",
            vec![
                ("/type", None),
                ("/type", Some(json!("sned"))),
                ("/to", None),
                ("/to", Some(json!(""))),
                ("/to", Some(json!("x".repeat(33)))),
                ("/to", Some(json!("a\u{0}b"))),
                ("/to", Some(json!(["a"]))),
                ("/to", Some(Value::Null)),
                ("/from", Some(Value::Null)),
                ("/from", Some(json!(1))),
                ("/id", Some(json!("x".repeat(129)))),
                ("/id", Some(json!(""))),
                ("/group", Some(json!("x".repeat(129)))),
                ("/app", Some(json!("x".repeat(65)))),
                ("/send_at", Some(json!("tomorrow"))),
                ("/send_at", Some(json!("2026-05-01 08:00:00Z"))),
                ("/send_at", Some(json!("2026-05-01T08:00:00"))),
                ("/send_at", Some(json!("2026-02-30T08:00:00Z"))),
                ("/expires_at", Some(json!(1_777_622_400))),
                ("/coalesce", Some(json!(1))),
                ("/on_unknown", Some(json!("guess"))),
                ("/unknown", Some(json!(1))),
                ("/target", Some(json!({"job": "j"}))),
                ("/message", None),
                ("/message", Some(json!({}))),
                ("/message", Some(json!("hi"))),
                ("/message/text", Some(json!("x".repeat(12_289)))),
                ("/message/body", Some(json!([text]))),
                ("/message/unknown", Some(json!(1))),
                ("/message/custom_data", Some(json!({}))),
                ("/message/life_time", Some(json!(604_801))),
                ("/message/life_time", Some(json!(-1))),
                ("/message/life_time", Some(json!(0.5))),
                ("/message/seq", Some(json!(4_294_967_296_u64))),
                ("/message/random", Some(json!("1"))),
                ("/message/sync_to_sender", Some(json!(1))),
                ("/message/forbid_callbacks", Some(json!(["during"]))),
                ("/message/forbid_callbacks", Some(json!(["after", "after"]))),
                ("/message/control", Some(json!(["Loud"]))),
                ("/message/control", Some(json!("NoUnread"))),
                ("/message/read_receipt", Some(json!("yes"))),
                ("/message/extension", Some(Value::Null)),
                ("/message/offline_push", Some(json!([]))),
            ],
        ),
        (
            "send-push",
            vec![
                ("/message/offline_push/PushFlag", Some(json!(2))),
                ("/message/offline_push/PushFlag", Some(json!(true))),
                ("/message/offline_push/Title", Some(json!(1))),
                ("/message/offline_push/Ext", Some(json!(""))),
                ("/message/offline_push/AndroidInfo/PushStyle", Some(json!(2))),
                ("/message/offline_push/AndroidInfo/VIVOClassification", Some(json!("1"))),
                (
                    "/message/offline_push/AndroidInfo/HuaWeiImportance",
                    Some(json!("HIGH")),
                ),
                ("/message/offline_push/ApnsInfo/BadgeMode", Some(json!(-1))),
                ("/message/offline_push/ApnsInfo/InterruptionLevel", Some(json!("loud"))),
            ],
        ),
        (
            "element-text",
            vec![
                ("/message/body", Some(json!([]))),
                ("/message/body", Some(json!({}))),
                ("/message/body/0/MsgType", None),
                ("/message/body/0/MsgType", Some(json!("TIMTextElement"))),
                ("/message/body/0/MsgContent", None),
                ("/message/body/0/Extra", Some(json!(1))),
                (at("Text"), None),
                (at("Text"), Some(json!(1))),
                (at("text"), Some(json!("x"))),
            ],
        ),
        (
            "element-location",
            vec![
                (at("Latitude"), None),
                (at("Latitude"), Some(json!(90.1))),
                (at("Longitude"), Some(json!(-180.5))),
                (at("Longitude"), Some(json!("2"))),
                (at("Desc"), Some(json!(1))),
            ],
        ),
        (
            "element-face",
            vec![
                (at("Index"), Some(json!(2_147_483_648_u64))),
                (at("Index"), Some(json!("6"))),
            ],
        ),
        (
            "element-custom",
            vec![("/message/body/-", Some(custom)), (at("Data"), Some(json!({})))],
        ),
        (
            "element-sound",
            vec![
                (at("Url"), None),
                (at("Url"), Some(json!(""))),
                (at("URL"), Some(json!("u"))),
                (at("UUID"), None),
                (at("Download_Flag"), None),
                (at("Download_Flag"), Some(json!(1))),
                (at("Size"), Some(json!(-1))),
            ],
        ),
        (
            "element-image",
            vec![
                (at("ImageFormat"), Some(json!(5))),
                (at("ImageInfoArray"), Some(json!([]))),
                (at("ImageInfoArray"), None),
                (at("ImageInfoArray/0/Type"), Some(json!(4))),
                (at("ImageInfoArray/0/URL"), None),
                (at("ImageInfoArray/0/Url"), Some(json!("u"))),
            ],
        ),
        (
            "element-file",
            vec![
                (at("FileSize"), Some(json!(9_007_199_254_740_992_u64))),
                (at("UUID"), Some(json!(""))),
            ],
        ),
        (
            "element-video",
            vec![
                (at("VideoUrl"), None),
                (at("VideoDownloadFlag"), Some(json!(1))),
                (at("ThumbUUID"), None),
                (at("ThumbDownloadFlag"), None),
                (at("Download_Flag"), Some(json!(2))),
            ],
        ),
        (
            "element-relay",
            vec![
                (at("JsonMsgKey"), Some(json!("key"))),
                (at("MsgList"), None),
                (at("MsgList"), Some(json!([]))),
                (at("MsgList/0/GroupId"), Some(json!("g"))),
                (at("MsgList/0/To_Account"), None),
                (at("MsgList/0/From_Account"), None),
                (at("MsgList/0/MsgBody"), Some(json!([]))),
                (at("MsgList/0/MsgBody/0/MsgContent/Text"), Some(json!(1))),
                (at("AbstractList"), Some(json!("line"))),
            ],
        ),
        (
            "batch-send",
            vec![
                ("/to", Some(json!([]))),
                ("/to", Some(json!("user_1"))),
                ("/to/-", Some(json!(""))),
                ("/coalesce", Some(json!(true))),
                ("/message/forbid_callbacks", Some(json!(["before"]))),
            ],
        ),
        (
            "revoke-recipients",
            vec![
                ("/target", None),
                ("/target", Some(json!({}))),
                ("/target", Some(json!("job"))),
                ("/target/to", Some(json!([]))),
                ("/target/to", Some(Value::Null)),
                ("/target/job", None),
                ("/target/group", Some(json!("g"))),
                ("/to", Some(json!(["a"]))),
            ],
        ),
        (
            "revoke-message",
            vec![
                ("/target/msg_key", None),
                ("/target/to", Some(json!(["a"]))),
                ("/target/from", None),
            ],
        ),
        (
            "import-history",
            vec![
                ("/from", None),
                ("/timestamp", None),
                ("/timestamp", Some(json!(1_577_836_800_000_u64))),
                ("/timestamp", Some(json!(-1))),
                ("/unread", Some(json!(1))),
                ("/message/life_time", Some(json!(1))),
                ("/message/offline_push", Some(json!({}))),
            ],
        ),
        ("mark-read", vec![("/peer", None), ("/peers", Some(json!(["bob"])))]),
        (
            "unread-peers",
            vec![
                ("/peers", Some(json!("bob"))),
                ("/peers/-", Some(json!(1))),
                ("/user", None),
            ],
        ),
        (
            "history",
            vec![
                ("/limit", Some(json!(0))),
                ("/since", Some(json!("April"))),
                ("/to", None),
            ],
        ),
    ];
    let validator = validator(&job_schema());
    for (name, changes) in table {
        let example = example(name);
        for change in changes {
            let job = changed(&example, &change);
            let refusal = Job::decode(job.to_string().as_bytes(), None);
            assert_eq!(
                refusal.map_err(|error| error.word),
                Err("invalid-job"),
                "{name}: {change:?}"
            );
            assert!(!validator.is_valid(&job), "{name}: the schema accepts {change:?}");
        }
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
