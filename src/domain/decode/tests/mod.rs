//! The decoder's rules, one by one; its words for single fields are in `faults`, what it never says in `secrets`.

mod faults;
mod policy;
mod secrets;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::{job::OnUnknown, strategies};

fn decode(job: &Value) -> Result<Job, DecodeError> {
    Job::decode(job.to_string().as_bytes(), None)
}

fn sentence(job: &Value) -> String {
    let error = decode(job).expect_err("the job should be refused");
    assert_eq!(error.word, "invalid-job", "{error}");
    error.sentence
}

fn send() -> Value {
    json!({"type": "send", "id": "j", "to": "bob", "message": {"text": "hi"}})
}

/// A send with one field set to something else.
fn with(pointer: &str, value: Value) -> Value {
    let mut job = send();
    set(&mut job, pointer, value);
    job
}

fn set(job: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    job.pointer_mut(parent).unwrap()[key] = value;
}

/// A send of one element.
#[expect(clippy::needless_pass_by_value, reason = "so that a case is one line")]
fn with_element(msg_type: &str, content: Value) -> Value {
    with(
        "/message",
        json!({"body": [{"MsgType": msg_type, "MsgContent": content}]}),
    )
}

#[test]
fn a_plain_send_is_decoded() {
    let job = decode(&send()).unwrap();
    assert_eq!(job.id.as_str(), "j");
    assert_eq!(job.app.as_str(), "default");
    assert_eq!(job.on_unknown, OnUnknown::Reconcile);
    assert!(matches!(job.task, Task::Send { from: None, ref to, .. } if to.as_str() == "bob"));
}

#[test]
fn what_is_not_json_is_invalid_json_and_json_that_is_no_object_is_an_invalid_job() {
    let cut = &send().to_string().into_bytes()[..20];
    for body in [
        &b""[..],
        b"hello",
        b"{\"type\": ",
        b"\xff\xfe",
        b"{}{}",
        b"{} trailing",
        b"\xef\xbb\xbf{}",
        cut,
    ] {
        let error = Job::decode(body, None).unwrap_err();
        assert_eq!(error.word, "invalid-json", "{error}");
        assert!(error.sentence.starts_with("not JSON: "));
    }
    assert_eq!(sentence(&json!([1])), "the job must be a JSON object, not an array");
    assert_eq!(sentence(&json!("send")), "the job must be a JSON object, not a string");
    assert_eq!(sentence(&Value::Null), "the job must be a JSON object, not null");
}

#[test]
fn the_type_decides_and_must_be_known() {
    let types = "type: must be send, batch_send, revoke, import, mark_read, unread or history";
    assert_eq!(sentence(&json!({"id": "j"})), "type: is missing");
    assert_eq!(sentence(&with("/type", json!("sned"))), types);
    assert_eq!(sentence(&with("/type", json!(1))), types);
}

#[test]
fn the_id_comes_from_the_body_or_else_from_the_message_id() {
    let with_id = send().to_string();
    let mut without = send();
    without.as_object_mut().unwrap().remove("id");
    let without = without.to_string();
    let id = |body: &str, property: Option<&str>| Job::decode(body.as_bytes(), property).map(|job| job.id.to_string());
    assert_eq!(id(&with_id, None).unwrap(), "j");
    assert_eq!(id(&with_id, Some("j")).unwrap(), "j");
    assert_eq!(id(&with_id, Some("")).unwrap(), "j");
    assert_eq!(id(&without, Some("p")).unwrap(), "p");
    assert_eq!(id(&with_id, Some("p")).unwrap(), "j");
    for property in [None, Some("")] {
        assert_eq!(
            id(&without, property).unwrap_err().sentence,
            "id: is missing, here and as the AMQP message_id"
        );
    }
    assert_eq!(
        id(&without, Some(&"x".repeat(129))).unwrap_err().sentence,
        "message_id: is 129 characters long, the limit is 128"
    );
    assert_eq!(
        id(&without, Some("a\0")).unwrap_err().sentence,
        "message_id: must not contain NUL"
    );
}

#[test]
fn an_expiry_must_be_later_than_the_sending() {
    let times = |send_at: &str, expires_at: &str| {
        let mut job = with("/send_at", json!(send_at));
        job["expires_at"] = json!(expires_at);
        job
    };
    assert!(decode(&times("2026-05-01T08:00:00Z", "2026-05-01T08:00:00.001Z")).is_ok());
    for expires_at in ["2026-05-01T08:00:00Z", "2026-05-01T09:00:00+02:00"] {
        assert_eq!(
            sentence(&times("2026-05-01T08:00:00Z", expires_at)),
            "expires_at: must be later than `send_at`"
        );
    }
}

#[test]
fn a_message_may_have_12288_bytes_as_serialised_and_no_more() {
    let frame = r#"[{"MsgType":"TIMTextElem","MsgContent":{"Text":""}}]"#.len();
    let fitting = "x".repeat(12_288 - frame);
    assert!(decode(&with("/message/text", json!(fitting))).is_ok());
    assert!(decode(&with_element("TIMTextElem", json!({"Text": fitting}))).is_ok());
    let rule = "makes a MsgBody of 12289 bytes as serialised, the limit is 12288";
    let beyond = format!("{fitting}x");
    assert_eq!(
        sentence(&with("/message/text", json!(beyond))),
        format!("message.text: {rule}")
    );
    assert_eq!(
        sentence(&with_element("TIMTextElem", json!({"Text": beyond}))),
        format!("message.body: {rule}")
    );
    // A quote takes two bytes on the wire.
    assert!(decode(&with("/message/text", json!("\"".repeat(6_200)))).is_err());
}

fn batch(to: &[String]) -> Value {
    json!({"type": "batch_send", "id": "j", "to": to, "message": {"text": "hi"}})
}

fn many(recipients: usize) -> Vec<String> {
    (0..recipients).map(|number| format!("user-{number}")).collect()
}

#[test]
fn a_batch_has_1_to_100000_recipients_each_checked_and_duplicates_are_removed_in_order() {
    let names = |job: &Job| match &job.task {
        Task::BatchSend { to, .. } => to.iter().map(AccountId::to_string).collect::<Vec<_>>(),
        _ => panic!("not a batch"),
    };
    let to: Vec<String> = ["c", "a", "c", "b", "a"].map(String::from).into();
    assert_eq!(names(&decode(&batch(&to)).unwrap()), ["c", "a", "b"]);
    assert_eq!(names(&decode(&batch(&many(100_000))).unwrap()).len(), 100_000);
    assert_eq!(sentence(&batch(&many(100_001))), "to: must hold at most 100000 entries");
    assert_eq!(sentence(&batch(&[])), "to: must hold at least one account");
    let mut to = many(100);
    to[17] = String::new();
    assert_eq!(sentence(&batch(&to)), "to[17]: must not be empty");
    let mut callbacks = batch(&many(2));
    callbacks["message"]["forbid_callbacks"] = json!(["before"]);
    assert_eq!(
        sentence(&callbacks),
        "message.forbid_callbacks: is not for a batch_send: batchsendmsg has no such field"
    );
}

#[test]
fn only_a_send_is_coalesced() {
    let mut job = batch(&many(2));
    job["coalesce"] = json!(false);
    assert!(decode(&job).is_ok());
    job["coalesce"] = json!(true);
    assert_eq!(
        sentence(&job),
        "coalesce: must not be true in a job of type batch_send, only in a send"
    );
    assert!(decode(&with("/coalesce", json!(true))).unwrap().coalesce);
}

#[test]
fn a_revoke_has_exactly_one_form_of_target() {
    let revoke = |target: Value| json!({"type": "revoke", "id": "r", "target": target});
    for target in [
        json!({"job": "j"}),
        json!({"job": "j", "to": ["a", "b"]}),
        json!({"group": "g"}),
        json!({"from": "a", "to": "b", "msg_key": "1_2_3"}),
    ] {
        assert!(decode(&revoke(target.clone())).is_ok());
        assert!(RevokeTarget::decode(target.to_string().as_bytes()).is_ok());
    }
    let cases = [
        (
            json!({}),
            "target: must have `job`, `group`, or `from`, `to` and `msg_key`",
        ),
        (
            json!({"to": ["a"]}),
            "target: must have `job`, `group`, or `from`, `to` and `msg_key`",
        ),
        (json!({"jbo": "j"}), "target.jbo: unknown field, did you mean `job`?"),
        (
            json!({"job": "j", "group": "g"}),
            "target.group: unknown field, known here: job, to",
        ),
        (
            json!({"job": "j", "to": []}),
            "target.to: must hold at least one account",
        ),
        (
            json!({"job": "j", "to": null}),
            "target.to: must not be null: leave the field out instead",
        ),
        (
            json!({"job": "j", "to": "a"}),
            "target.to: must be an array, not a string",
        ),
        (
            json!({"group": "g", "to": ["a"]}),
            "target.to: unknown field, known here: group",
        ),
        (json!({"from": "a", "to": "b"}), "target.msg_key: is missing"),
        (
            json!({"from": "a", "to": ["b"], "msg_key": "k"}),
            "target.to: must be a string, not an array",
        ),
        (json!("j"), "target: must be an object, not a string"),
    ];
    for (target, expected) in cases {
        assert_eq!(sentence(&revoke(target)), expected);
    }
    assert_eq!(sentence(&json!({"type": "revoke", "id": "r"})), "target: is missing");
    assert_eq!(
        sentence(&json!({"type": "revoke", "id": "r", "target": {"job": "j"}, "to": ["a"]})),
        "to: unknown field, did you mean `type`?".replace(
            ", did you mean `type`?",
            ", known here: target, type, id, app, group, send_at, expires_at, coalesce, on_unknown, \
         send_window, cap"
        )
    );
    assert_eq!(
        RevokeTarget::decode(b"{\"job\": \"\"}").unwrap_err().sentence,
        "job: must not be empty"
    );
}

#[test]
fn an_import_carries_a_time_in_seconds_and_only_what_importmsg_has() {
    let import = json!({"type": "import", "id": "i", "from": "a", "to": "b", "message": {"text": "x"},
        "timestamp": 1_700_000_000, "unread": false});
    assert!(decode(&import).is_ok());
    let mut millis = import.clone();
    millis["timestamp"] = json!(1_700_000_000_000_u64);
    assert_eq!(
        sentence(&millis),
        "timestamp: must be Unix seconds from 0 to 4294967295, not milliseconds"
    );
    for option in NOT_IN_IMPORT {
        let mut job = import.clone();
        job["message"][option] = match option {
            "offline_push" => json!({}),
            "life_time" => json!(1),
            "forbid_callbacks" | "control" => json!([]),
            _ => json!(true),
        };
        assert_eq!(
            sentence(&job),
            format!("message.{option}: is not for an import: importmsg has no such field")
        );
    }
}

#[test]
fn unread_and_history_need_somewhere_to_answer() {
    let unread = decode(&json!({"type": "unread", "id": "u", "user": "a", "peers": ["b", "b"]})).unwrap();
    assert!(matches!(&unread.task, Task::Unread { peers, .. } if peers.len() == 1));
    let history = json!({"type": "history", "id": "h", "from": "a", "to": "b", "since": "2026-05-01T00:00:00Z"});
    assert!(unread.check_reply(true).is_ok());
    for job in [unread, decode(&history).unwrap()] {
        assert!(
            job.check_reply(false)
                .unwrap_err()
                .sentence
                .starts_with("reply_to: is missing")
        );
    }
    assert!(decode(&send()).unwrap().check_reply(false).is_ok());
    let mut backwards = history.clone();
    backwards["until"] = json!("2026-04-30T00:00:00Z");
    assert_eq!(sentence(&backwards), "until: must not be earlier than `since`");
    let mut none = history;
    none["limit"] = json!(0);
    assert_eq!(sentence(&none), "limit: must be at least 1");
}

#[test]
fn a_key_given_twice_is_refused_in_elements_and_in_vendor_keys_too() {
    let cases = [
        (
            r#"{"type":"send","id":"j","to":"a","to":"b","message":{"text":"x"}}"#,
            "to: is given twice",
        ),
        (
            r#"{"type":"send","id":"j","to":"a","message":{"body":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"x","Text":"y"}}]}}"#,
            "message.body[0].MsgContent.Text: is given twice",
        ),
        (
            r#"{"type":"send","id":"j","to":"a","message":{"text":"x","offline_push":{"Vendor":{"k":1,"k":2}}}}"#,
            "message.offline_push.Vendor.k: is given twice",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(Job::decode(body.as_bytes(), None).unwrap_err().sentence, expected);
    }
}

#[test]
fn the_content_may_come_before_its_type() {
    let body =
        r#"{"message":{"body":[{"MsgContent":{"Text":7},"MsgType":"TIMTextElem"}]},"to":"a","id":"j","type":"send"}"#;
    assert_eq!(
        Job::decode(body.as_bytes(), None).unwrap_err().sentence,
        "message.body[0].MsgContent.Text: must be a string, not a number"
    );
    assert!(Job::decode(body.replace('7', "\"x\"").as_bytes(), None).is_ok());
    // Other readers than the job decoder find the content in either place as well.
    let element = r#"{"MsgContent":{"Text":"x"},"MsgType":"TIMTextElem"}"#;
    assert!(serde_json::from_str::<crate::domain::message::Element>(element).is_ok());
}

#[test]
fn merged_messages_may_be_nested_as_deep_as_json_may() {
    let nested = |depth: usize| {
        let text = json!({"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}});
        let element = (0..depth).fold(text, |inner, _| {
            json!({"MsgType": "TIMRelayElem", "MsgContent": {"MsgList": [{"From_Account": "a", "GroupId": "g", "MsgBody": [inner]}]}})
        });
        with("/message", json!({"body": [element]})).to_string()
    };
    // A test's thread has a stack of 2 MB, as a worker's has.
    let job = Job::decode(nested(24).as_bytes(), None).unwrap();
    assert_eq!(Job::decode(&job.encode(), None).as_ref(), Ok(&job));
    assert_eq!(
        Job::decode(nested(25).as_bytes(), None).unwrap_err().word,
        "invalid-json"
    );
}

#[test]
fn whole_numbers_may_be_written_with_a_fraction_of_zero() {
    let job = decode(&with("/message/seq", json!(5.0))).unwrap();
    assert_eq!(job.message().unwrap().seq, Some(5));
}

#[test]
fn unknown_push_keys_pass_unchanged_and_in_one_order() {
    let push = json!({"Zeta": {"b": 1, "a": [1.5, null]}, "Title": "t", "Alpha": 0, "ApnsInfo": {"New": "x"}});
    let job = decode(&with("/message/offline_push", push.clone())).unwrap();
    let push_info = job.message().unwrap().offline_push.as_ref().unwrap();
    assert_eq!(serde_json::to_value(push_info).unwrap(), push);
    assert_eq!(
        serde_json::to_string(push_info).unwrap(),
        r#"{"Title":"t","ApnsInfo":{"New":"x"},"Alpha":0,"Zeta":{"a":[1.5,null],"b":1}}"#
    );
}

#[test]
fn absent_stays_absent_and_zero_stays_zero() {
    let job = decode(&with("/message", json!({"text": "", "seq": 0, "life_time": 0}))).unwrap();
    let message = job.message().unwrap();
    assert_eq!(
        (message.seq, message.random, message.life_time),
        (Some(0), None, Some(0))
    );
    assert_eq!(
        serde_json::to_string(message).unwrap(),
        r#"{"text":"","life_time":0,"seq":0}"#
    );
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_the_same_job(job in strategies::job()) {
        let decoded = Job::decode(&job.encode(), None);
        prop_assert_eq!(decoded.as_ref(), Ok(&job));
        prop_assert_eq!(job.check(), Ok(()));
        prop_assert_eq!(decoded.map(|decoded| decoded.digest()), Ok(job.digest()));
    }

    #[test]
    fn a_target_by_itself_decodes_to_what_was_encoded(target in strategies::target()) {
        let json = serde_json::to_vec(&target).unwrap();
        prop_assert_eq!(RevokeTarget::decode(&json), Ok(target));
    }

    #[test]
    fn any_bytes_are_refused_or_decoded_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Job::decode(&bytes, Some("id")).is_err());
    }
}
