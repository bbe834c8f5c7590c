//! Does `MsgBody`, or `OfflinePushInfo`, have the documented form? One table of the element types and their fields.
//!
//! The documentation lists the fields of each element and not which of them are required. Only those are that an element
//! can't do without (a text, a place, a URL and UUID with their flag); every other is checked when it is there. Fields
//! that the table doesn't have are let through, since new ones appear.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    codes::{self, Refusal},
    fields::{object, string, strings},
};

/// The longest `MsgBody` as JSON text, in bytes (12 KB per message).
pub(super) const MAX_BODY: usize = 12 * 1024;

/// What a value must be.
#[derive(Clone, Copy)]
enum Kind {
    /// A string.
    Text,
    /// A number.
    Number,
    /// A whole number from 0 to 2^32 - 1.
    Unsigned,
    /// A number of bytes.
    Size,
    /// One of these whole numbers.
    OneOf(&'static [u32]),
    /// An array of strings.
    Texts,
    /// The array of an image's sizes.
    Images,
    /// The messages inside a merged one.
    Relayed,
}

/// A field of an element: its name, what it must be, and whether it must be there.
type Rule = (&'static str, Kind, bool);

const DOWNLOAD: Kind = Kind::OneOf(&[2]);

const TEXT: &[Rule] = &[("Text", Kind::Text, true)];
const LOCATION: &[Rule] = &[
    ("Desc", Kind::Text, false),
    ("Latitude", Kind::Number, true),
    ("Longitude", Kind::Number, true),
];
const FACE: &[Rule] = &[("Index", Kind::Number, false), ("Data", Kind::Text, false)];
const CUSTOM: &[Rule] = &[
    ("Data", Kind::Text, false),
    ("Desc", Kind::Text, false),
    ("Ext", Kind::Text, false),
    ("Sound", Kind::Text, false),
];
const SOUND: &[Rule] = &[
    ("Url", Kind::Text, true),
    ("UUID", Kind::Text, true),
    ("Size", Kind::Size, false),
    ("Second", Kind::Unsigned, false),
    ("Download_Flag", DOWNLOAD, true),
];
const IMAGE: &[Rule] = &[
    ("UUID", Kind::Text, true),
    ("ImageFormat", Kind::OneOf(&[1, 2, 3, 4, 255]), false),
    ("ImageInfoArray", Kind::Images, true),
];
const IMAGE_INFO: &[Rule] = &[
    ("Type", Kind::OneOf(&[1, 2, 3]), true),
    ("Size", Kind::Size, false),
    ("Width", Kind::Unsigned, false),
    ("Height", Kind::Unsigned, false),
    ("URL", Kind::Text, true),
];
const FILE: &[Rule] = &[
    ("Url", Kind::Text, true),
    ("UUID", Kind::Text, true),
    ("FileSize", Kind::Size, false),
    ("FileName", Kind::Text, false),
    ("Download_Flag", DOWNLOAD, true),
];
const VIDEO: &[Rule] = &[
    ("VideoUrl", Kind::Text, true),
    ("VideoUUID", Kind::Text, true),
    ("VideoSize", Kind::Size, false),
    ("VideoSecond", Kind::Unsigned, false),
    ("VideoFormat", Kind::Text, false),
    ("VideoDownloadFlag", DOWNLOAD, true),
    ("ThumbUrl", Kind::Text, false),
    ("ThumbUUID", Kind::Text, false),
    ("ThumbSize", Kind::Size, false),
    ("ThumbWidth", Kind::Unsigned, false),
    ("ThumbHeight", Kind::Unsigned, false),
    ("ThumbFormat", Kind::Text, false),
    ("ThumbDownloadFlag", DOWNLOAD, false),
];
const RELAY: &[Rule] = &[
    ("Title", Kind::Text, false),
    ("MsgNum", Kind::Unsigned, false),
    ("CompatibleText", Kind::Text, false),
    ("AbstractList", Kind::Texts, false),
    ("MsgList", Kind::Relayed, false),
    ("JsonMsgKey", Kind::Text, false),
];
const RELAYED: &[Rule] = &[
    ("From_Account", Kind::Text, true),
    ("To_Account", Kind::Text, false),
    ("GroupId", Kind::Text, false),
    ("MsgSeq", Kind::Unsigned, false),
    ("MsgRandom", Kind::Unsigned, false),
    ("MsgTimeStamp", Kind::Unsigned, false),
    ("CloudCustomData", Kind::Text, false),
];

/// The fields of an element's `MsgContent`; `None` for a type that isn't documented.
fn rules(msg_type: &str) -> Option<&'static [Rule]> {
    Some(match msg_type {
        "TIMTextElem" => TEXT,
        "TIMLocationElem" => LOCATION,
        "TIMFaceElem" => FACE,
        "TIMCustomElem" => CUSTOM,
        "TIMSoundElem" => SOUND,
        "TIMImageElem" => IMAGE,
        "TIMFileElem" => FILE,
        "TIMVideoFileElem" => VIDEO,
        "TIMRelayElem" => RELAY,
        _ => return None,
    })
}

/// How deep merged messages may be nested in each other before they are refused.
const MAX_RELAYS: usize = 4;

/// Checks a `MsgBody`: 90007 if it is missing or no array, 90010 for an element that is no such object or of no documented
/// type, 90002 for a `MsgContent` with a wrong field, an empty array, or a second custom element.
pub(super) fn check_body(body: Option<&RawValue>) -> Result<&RawValue, Refusal> {
    let body = body.ok_or(codes::MSG_BODY)?;
    check_elements(body, 0)?;
    Ok(body)
}

fn check_elements(body: &RawValue, depth: usize) -> Result<(), Refusal> {
    let elements: Vec<&RawValue> = serde_json::from_str(body.get()).map_err(|_| codes::MSG_BODY)?;
    let mut custom = 0;
    for element in &elements {
        let pairs = object(element).ok_or(codes::ELEMENT)?;
        let find = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let msg_type = find("MsgType").and_then(string).ok_or(codes::ELEMENT)?;
        let rules = rules(&msg_type).ok_or(codes::ELEMENT)?;
        let content = object(find("MsgContent").ok_or(codes::ELEMENT)?).ok_or(codes::CONTENT)?;
        check_content(&content, rules, depth)?;
        if msg_type == "TIMRelayElem" && !content.iter().any(|(key, _)| key == "MsgList" || key == "JsonMsgKey") {
            return Err(codes::CONTENT);
        }
        custom += usize::from(msg_type == "TIMCustomElem");
    }
    if elements.is_empty() || custom > 1 {
        return Err(codes::CONTENT);
    }
    Ok(())
}

fn check_content(content: &[(Cow<'_, str>, &RawValue)], rules: &[Rule], depth: usize) -> Result<(), Refusal> {
    for (name, kind, required) in rules {
        match content.iter().find(|(key, _)| key == name) {
            Some((_, value)) => check_value(value, *kind, depth)?,
            None if *required => return Err(codes::CONTENT),
            None => {}
        }
    }
    Ok(())
}

fn check_value(value: &RawValue, kind: Kind, depth: usize) -> Result<(), Refusal> {
    let text = value.get();
    let holds = match kind {
        Kind::Text => text.starts_with('"'),
        Kind::Number => text.starts_with(|c: char| c == '-' || c.is_ascii_digit()),
        Kind::Unsigned => text.parse::<u32>().is_ok(),
        Kind::Size => text.parse::<u64>().is_ok(),
        Kind::OneOf(numbers) => text.parse().is_ok_and(|number: u32| numbers.contains(&number)),
        Kind::Texts => strings(value).is_some(),
        Kind::Images => {
            let images: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| codes::CONTENT)?;
            for image in &images {
                check_content(&object(image).ok_or(codes::CONTENT)?, IMAGE_INFO, depth)?;
            }
            !images.is_empty()
        }
        Kind::Relayed => {
            let messages: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| codes::CONTENT)?;
            for message in &messages {
                let pairs = object(message).ok_or(codes::CONTENT)?;
                check_content(&pairs, RELAYED, depth)?;
                let body = pairs.iter().find(|(key, _)| key == "MsgBody").ok_or(codes::CONTENT)?.1;
                check_elements(body, depth + 1).map_err(|_| codes::CONTENT)?;
            }
            !messages.is_empty() && depth < MAX_RELAYS
        }
    };
    if holds { Ok(()) } else { Err(codes::CONTENT) }
}

/// Checks an `OfflinePushInfo` (90043): an object; `PushFlag` 0 or 1; Title, Desc and Ext strings, Ext itself JSON text;
/// `AndroidInfo` and `ApnsInfo` objects, whose vendor keys are let through since they grow often.
pub(super) fn check_push(push: Option<&RawValue>) -> Result<(), Refusal> {
    let Some(push) = push else { return Ok(()) };
    for (key, value) in object(push).ok_or(codes::OFFLINE_PUSH)? {
        let text = value.get();
        let holds = match key.as_ref() {
            "PushFlag" => matches!(text, "0" | "1"),
            "Title" | "Desc" => text.starts_with('"'),
            "Ext" => string(value).is_some_and(|ext| ext.is_empty() || serde_json::from_str::<&RawValue>(&ext).is_ok()),
            "AndroidInfo" | "ApnsInfo" => text.starts_with('{'),
            _ => true,
        };
        if !holds {
            return Err(codes::OFFLINE_PUSH);
        }
    }
    Ok(())
}

/// The text of a body as tests look at it: its text elements, one after the other.
pub(super) fn text_of(body: &RawValue) -> String {
    let elements: Vec<&RawValue> = serde_json::from_str(body.get()).unwrap_or_default();
    let find = |pairs: &[(Cow<'_, str>, &RawValue)], name: &str| {
        pairs
            .iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| string(value).map(Cow::into_owned))
    };
    elements
        .into_iter()
        .filter_map(object)
        .filter(|pairs| find(pairs, "MsgType").as_deref() == Some("TIMTextElem"))
        .filter_map(|pairs| {
            let (_, content) = *pairs.iter().find(|(key, _)| key == "MsgContent")?;
            find(&object(content)?, "Text")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the argument is written by json!")]
    fn code(body: serde_json::Value) -> i32 {
        check_body(Some(&to_raw_value(&body).unwrap()))
            .err()
            .map_or(0, |refusal| refusal.code)
    }

    #[expect(clippy::needless_pass_by_value, reason = "the argument is written by json!")]
    fn element(msg_type: &str, content: serde_json::Value) -> serde_json::Value {
        json!([{"MsgType": msg_type, "MsgContent": content}])
    }

    fn examples() -> Vec<(&'static str, serde_json::Value)> {
        let inner = json!({"From_Account": "a", "To_Account": "b", "MsgSeq": 1, "MsgRandom": 2, "MsgTimeStamp": 3,
            "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "hi"}}]});
        vec![
            ("TIMTextElem", json!({"Text": "hi"})),
            (
                "TIMLocationElem",
                json!({"Desc": "d", "Latitude": 29.3, "Longitude": -105.5}),
            ),
            ("TIMFaceElem", json!({"Index": 1})),
            ("TIMCustomElem", json!({"Data": "{}"})),
            (
                "TIMSoundElem",
                json!({"Url": "u", "UUID": "i", "Size": 1, "Second": 2, "Download_Flag": 2}),
            ),
            (
                "TIMImageElem",
                json!({"UUID": "i", "ImageFormat": 255, "ImageInfoArray": [{"Type": 1, "Size": 1, "Width": 2, "Height": 3, "URL": "u"}]}),
            ),
            (
                "TIMFileElem",
                json!({"Url": "u", "UUID": "i", "FileSize": 1, "FileName": "f", "Download_Flag": 2}),
            ),
            (
                "TIMVideoFileElem",
                json!({"VideoUrl": "u", "VideoUUID": "i", "VideoSize": 1, "VideoSecond": 1, "VideoFormat": "mp4", "VideoDownloadFlag": 2}),
            ),
            (
                "TIMRelayElem",
                json!({"Title": "t", "MsgNum": 1, "CompatibleText": "c", "AbstractList": ["a"], "MsgList": [inner]}),
            ),
        ]
    }

    #[test]
    fn every_documented_element_is_accepted_and_one_with_a_missing_or_mistyped_field_is_not() {
        for (msg_type, content) in examples() {
            assert_eq!(code(element(msg_type, content.clone())), 0, "{msg_type}");
            for (name, _, required) in rules(msg_type).unwrap() {
                let mut without = content.clone();
                without.as_object_mut().unwrap().remove(*name);
                let expected = if *required { 90002 } else { 0 };
                if msg_type != "TIMRelayElem" {
                    assert_eq!(code(element(msg_type, without)), expected, "{msg_type} without {name}");
                }
                let mut wrong = content.clone();
                wrong[*name] = json!(true);
                assert_eq!(code(element(msg_type, wrong)), 90002, "{msg_type} with a wrong {name}");
            }
        }
    }

    #[test]
    fn the_array_its_elements_and_their_content_have_their_own_codes() {
        assert_eq!(check_body(None).unwrap_err().code, 90007);
        assert_eq!(code(json!({})), 90007);
        assert_eq!(code(json!("text")), 90007);
        assert_eq!(code(json!([])), 90002);
        assert_eq!(code(json!(["text"])), 90010);
        assert_eq!(code(json!([{"MsgType": "TIMTextElem"}])), 90010);
        assert_eq!(code(element("TIMNoSuchElem", json!({}))), 90010);
        assert_eq!(code(json!([{"MsgType": "TIMTextElem", "MsgContent": "hi"}])), 90002);
        assert_eq!(
            code(element("TIMRelayElem", json!({"Title": "neither list nor key"}))),
            90002
        );
        let custom = json!({"MsgType": "TIMCustomElem", "MsgContent": {"Data": "x"}});
        assert_eq!(code(json!([custom])), 0);
        assert_eq!(code(json!([custom, custom])), 90002);
    }

    #[test]
    fn push_information_is_checked_where_it_is_documented_and_passed_where_it_is_not() {
        let code = |push: serde_json::Value| {
            check_push(Some(&to_raw_value(&push).unwrap()))
                .err()
                .map_or(0, |refusal| refusal.code)
        };
        assert_eq!(
            code(json!({"PushFlag": 1, "Title": "t", "Ext": "{\"a\":1}", "AndroidInfo": {"NewKey": 1}})),
            0
        );
        for bad in [
            json!([]),
            json!({"PushFlag": 2}),
            json!({"Ext": "{"}),
            json!({"ApnsInfo": 1}),
            json!({"Desc": 1}),
        ] {
            assert_eq!(code(bad.clone()), 90043, "{bad}");
        }
    }
}
