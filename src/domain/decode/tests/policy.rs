//! Send windows and caps of jobs, and the sentence of each fault.

use serde_json::{Value, json};

use super::{decode, send, sentence, with};

fn window() -> Value {
    json!({"start": "09:00", "end": "21:00", "timezone": "Asia/Shanghai"})
}

fn cap() -> Value {
    json!({"max": 3, "period": "24h"})
}

#[test]
fn a_window_and_a_cap_are_decoded_and_written_as_they_were() {
    let mut job = with("/send_window", window());
    job["group"] = json!("promo-may");
    job["cap"] = json!({"max": 3, "period": "7d", "group_prefix": "promo-"});
    let decoded = decode(&job).unwrap();
    let shown = decoded.send_window.unwrap().to_string();
    assert_eq!(shown, "09:00 to 21:00 Asia/Shanghai");
    let written: Value = serde_json::from_slice(&decoded.encode()).unwrap();
    assert_eq!(written["send_window"], job["send_window"]);
    assert_eq!(written["cap"], job["cap"]);
    job["send_window"]["days"] = json!(["fri", "mon"]);
    let written: Value = serde_json::from_slice(&decode(&job).unwrap().encode()).unwrap();
    assert_eq!(written["send_window"]["days"], json!(["mon", "fri"]));
}

#[test]
fn policy_is_part_of_the_envelope_and_not_of_the_content() {
    let plain = decode(&send()).unwrap().digest();
    assert_eq!(decode(&with("/send_window", window())).unwrap().digest(), plain);
    assert_eq!(decode(&with("/cap", cap())).unwrap().digest(), plain);
}

#[test]
fn faults_are_named_by_their_field() {
    let window = |field: &str, value: Value| {
        let mut window = window();
        window[field] = value;
        with("/send_window", window)
    };
    let cap = |field: &str, value: Value| {
        let mut cap = cap();
        cap[field] = value;
        with("/cap", cap)
    };
    let time = "must be a time of day such as 09:00 or 21:30:00, at most 24:00";
    let cases = [
        (window("start", json!("9am")), format!("send_window.start: {time}")),
        (window("end", json!("24:30")), format!("send_window.end: {time}")),
        (
            window("end", json!("09:00")),
            "send_window.end: must differ from `start`; the whole day is from 00:00 to 24:00".to_owned(),
        ),
        (
            window("start", json!("24:00")),
            "send_window.start: must be before 24:00".to_owned(),
        ),
        (
            window("timezone", json!("Peking")),
            "send_window.timezone: must be the name of a time zone in the IANA database, such as Asia/Shanghai"
                .to_owned(),
        ),
        (
            window("days", json!([])),
            "send_window.days: must name at least one day: mon, tue, wed, thu, fri, sat or sun".to_owned(),
        ),
        (
            window("days", json!(["monday"])),
            "send_window.days[0]: must be mon, tue, wed, thu, fri, sat or sun".to_owned(),
        ),
        (
            window("zone", json!("UTC")),
            "send_window.zone: unknown field, did you mean `timezone`?".to_owned(),
        ),
        (
            with("/send_window", json!({})),
            "send_window.start: is missing".to_owned(),
        ),
        (
            cap("max", json!(0)),
            "cap.max: must be a whole number from 1 to 10000".to_owned(),
        ),
        (
            cap("period", json!("1 day")),
            "cap.period: must be a number with its unit s, m, h or d, such as 24h, from 1s to 31d".to_owned(),
        ),
        (
            cap("group_prefix", json!("promo-")),
            "cap.group_prefix: must be what the job's `group` begins with".to_owned(),
        ),
        (with("/cap", json!({"max": 1})), "cap.period: is missing".to_owned()),
    ];
    for (job, expected) in cases {
        let told = sentence(&job);
        if expected.contains("did you mean") {
            assert!(told.starts_with("send_window.zone: unknown field"), "{told}");
        } else {
            assert_eq!(told, expected);
        }
    }
}

#[test]
fn only_a_send_and_a_batch_send_have_a_policy() {
    let import = json!({"type": "import", "id": "j", "from": "a", "to": "b", "message": {"text": "hi"},
                        "timestamp": 1, "unread": false});
    let read = json!({"type": "mark_read", "id": "j", "user": "a", "peer": "b"});
    for (job, word) in [(import, "import"), (read, "mark_read")] {
        for (field, value) in [("send_window", window()), ("cap", cap())] {
            let mut job = job.clone();
            job[field] = value;
            assert_eq!(
                sentence(&job),
                format!("{field}: is for a send or a batch_send, not for a job of type {word}")
            );
        }
    }
    let batch = json!({"type": "batch_send", "id": "j", "to": ["a"], "message": {"text": "hi"},
                       "send_window": window(), "cap": cap()});
    assert!(decode(&batch).is_ok());
}
