//! A table of bad jobs: each a valid example with one change, refused by the decoder and by the schema alike.

use im_dispatcher::domain::{job::Job, schema::job_schema};
use serde_json::{Value, json};

use super::{examples, validator};

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
#[expect(clippy::too_many_lines, reason = "one table")]
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
