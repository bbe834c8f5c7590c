//! A refusal names fields and never repeats a value, whatever is wrong and however big it is.

use serde_json::{Value, json};

use super::{decode, sentence, with};
use crate::domain::job::Job;

/// Stands where a message's text stands, and must never be in a sentence.
const SECRET: &str = "S3CRET-TEXT";

/// Every place of a job, found by walking a job that has everything, is given the secret as text, as a list and as an
/// object, and has each of its values replaced: no refusal may repeat it.
#[test]
fn no_sentence_repeats_a_value() {
    fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Object(fields) => {
                fields
                    .iter()
                    .for_each(|(name, field)| pointers(field, &format!("{at}/{name}"), found));
            }
            Value::Array(entries) => {
                entries
                    .iter()
                    .enumerate()
                    .for_each(|(n, entry)| pointers(entry, &format!("{at}/{n}"), found));
            }
            _ => {}
        }
    }

    let relayed = json!({"From_Account": "a", "GroupId": "g", "MsgSeq": 1, "MsgBody": [
        {"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}}]});
    let full = json!({
        "type": "send", "id": "j", "app": "default", "group": "g", "send_at": "2026-05-01T08:00:00Z",
        "expires_at": "2026-05-02T08:00:00Z", "coalesce": true, "on_unknown": "fail", "from": "a", "to": "b",
        "message": {
            "body": [
                {"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}},
                {"MsgType": "TIMLocationElem", "MsgContent": {"Desc": "d", "Latitude": 1.5, "Longitude": 2}},
                {"MsgType": "TIMFaceElem", "MsgContent": {"Index": 1, "Data": "d"}},
                {"MsgType": "TIMCustomElem", "MsgContent": {"Data": "d", "Desc": "d", "Ext": "e", "Sound": "s"}},
                {"MsgType": "TIMSoundElem", "MsgContent": {"Url": "u", "UUID": "i", "Size": 1, "Second": 1, "Download_Flag": 2}},
                {"MsgType": "TIMImageElem", "MsgContent": {"UUID": "i", "ImageFormat": 1, "ImageInfoArray": [{"Type": 1, "URL": "u"}]}},
                {"MsgType": "TIMRelayElem", "MsgContent": {"Title": "t", "AbstractList": ["x"], "MsgList": [relayed]}},
            ],
            "custom_data": "c", "life_time": 1, "seq": 1, "random": 1, "sync_to_sender": true,
            "forbid_callbacks": ["before"], "control": ["NoUnread"], "read_receipt": true, "extension": true,
            "offline_push": {"PushFlag": 0, "Title": "t", "Ext": "{}", "AndroidInfo": {"PushStyle": 0, "HuaWeiImportance": "LOW"},
                "ApnsInfo": {"BadgeMode": 0, "InterruptionLevel": "active"}},
        },
    });
    assert!(decode(&full).is_ok());
    let mut places = Vec::new();
    pointers(&full, "", &mut places);
    let mut refused = 0;
    for place in &places {
        for value in [
            json!(SECRET),
            json!([SECRET]),
            json!({"Text": SECRET}),
            json!([{"x": [SECRET]}]),
            json!(1e300),
        ] {
            let mut job = full.clone();
            *job.pointer_mut(place).unwrap() = value;
            if let Err(error) = decode(&job) {
                refused += 1;
                assert!(!error.sentence.contains(SECRET), "{place}: {error}");
                assert!(!error.sentence.contains("1e300"), "{place}: {error}");
                assert!(!format!("{error:?}").contains(SECRET), "{place}");
            }
        }
    }
    assert!(refused > 200, "only {refused} of the changed jobs were refused");
}

#[test]
fn a_body_cut_anywhere_is_not_json_and_says_nothing_of_its_text() {
    let body = with("/message/text", json!(SECRET)).to_string();
    for end in 0..body.len() {
        let error = Job::decode(&body.as_bytes()[..end], None).unwrap_err();
        assert_eq!(error.word, "invalid-json");
        assert!(!error.sentence.contains("S3"), "{error}");
    }
}

#[test]
fn a_body_of_16_megabytes_is_refused_whatever_it_holds() {
    let size = 16 << 20;
    let text = with("/message/text", json!("x".repeat(size)));
    assert!(sentence(&text).starts_with("message.text: makes a MsgBody of 167772"));
    let numbers = format!(r#"{{"type":"send","id":"j","to":[{}0]}}"#, "0,".repeat(size / 2));
    assert_eq!(
        Job::decode(numbers.as_bytes(), None).unwrap_err().sentence,
        "to: must hold at most 100000 entries"
    );
    let keys = (0..size / 12)
        .map(|n| format!("\"k{n:07}\":1"))
        .collect::<Vec<_>>()
        .join(",");
    let error = Job::decode(format!("{{{keys}}}").as_bytes(), None).unwrap_err();
    assert_eq!(error.word, "invalid-job");
    let nested = "[".repeat(size);
    assert_eq!(Job::decode(nested.as_bytes(), None).unwrap_err().word, "invalid-json");
}
