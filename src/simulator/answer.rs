//! What does an answer look like? The JSON of every reply, written straight into bytes.

use std::fmt::Write;

use super::codes::Refusal;

/// The JSON of an answer with code 0.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered(pub(super) String);

/// The answer of a refusal.
pub(super) fn fail(refusal: Refusal) -> String {
    let Refusal { code, info } = refusal;
    format!(r#"{{"ActionStatus":"FAIL","ErrorCode":{code},"ErrorInfo":"{info}"}}"#)
}

/// An answer without anything of its own.
pub(super) fn ok() -> Answered {
    Answered(r#"{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}"#.to_owned())
}

/// An answer with more fields, which `rest` holds as JSON text.
pub(super) fn ok_with(rest: &str) -> Answered {
    Answered(format!(
        r#"{{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":"",{rest}}}"#
    ))
}

/// The answer of sendmsg.
pub(super) fn sent(key: &str, time: Option<u32>) -> Answered {
    let mut json = String::with_capacity(160);
    json.push_str(r#"{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":"""#);
    if let Some(time) = time {
        push(&mut json, format_args!(r#","MsgTime":{time}"#));
    }
    push(&mut json, format_args!(r#","MsgKey":"{key}"}}"#));
    Answered(json)
}

/// The answer of batchsendmsg when anyone was reached: `SomeError` with an `ErrorList` of the failures, or `OK` without.
/// `MsgTime` isn't in the documented reply.
pub(super) fn batch_sent(key: &str, failed: &[(&str, i32)]) -> Answered {
    if failed.is_empty() {
        return sent(key, None);
    }
    let mut json = String::with_capacity(120 + failed.len() * 64);
    push(
        &mut json,
        format_args!(r#"{{"ActionStatus":"SomeError","ErrorCode":0,"ErrorInfo":"","MsgKey":"{key}","ErrorList":["#),
    );
    for (index, (to, code)) in failed.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        push(
            &mut json,
            format_args!(r#"{comma}{{"To_Account":{},"ErrorCode":{code}}}"#, quoted(to)),
        );
    }
    json.push_str("]}");
    Answered(json)
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Appends to a text, which can't fail.
pub(super) fn push(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::codes;

    #[test]
    fn every_answer_is_json_of_the_documented_shape() {
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let failed = parse(&fail(codes::MSG_RANDOM));
        assert_eq!(
            (failed["ActionStatus"].as_str(), failed["ErrorCode"].as_i64()),
            (Some("FAIL"), Some(90005))
        );
        assert_eq!(parse(&ok().0)["ErrorCode"], 0);
        assert_eq!(parse(&ok_with(r#""Complete":1"#).0)["Complete"], 1);
        let one = parse(&sent("1_2_3", Some(3)).0);
        assert_eq!(
            (one["MsgKey"].as_str(), one["MsgTime"].as_u64()),
            (Some("1_2_3"), Some(3))
        );
        let all = parse(&batch_sent("1_2_3", &[]).0);
        assert_eq!(
            (all["ActionStatus"].as_str(), all.get("ErrorList"), all.get("MsgTime")),
            (Some("OK"), None, None)
        );
        let some = parse(&batch_sent("1_2_3", &[("a\"b", 70107), ("c", 70169)]).0);
        assert_eq!(some["ActionStatus"], "SomeError");
        assert_eq!(some["ErrorList"][0]["To_Account"], "a\"b");
        assert_eq!(some["ErrorList"][1]["ErrorCode"], 70169);
    }
}
