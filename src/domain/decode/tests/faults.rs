//! Each fault of a single field, with the sentence that it gets.

use serde_json::{Value, json};

use super::{sentence, with, with_element};

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn faults_are_named_by_their_field() {
    let text = |text: &str| json!({"MsgType": "TIMTextElem", "MsgContent": {"Text": text}});
    let custom = json!({"MsgType": "TIMCustomElem", "MsgContent": {"Data": "d"}});
    let cases = [
        (with("/to", json!("")), "to: must not be empty"),
        (
            with("/to", json!("x".repeat(33))),
            "to: is 33 bytes long, the limit is 32",
        ),
        (with("/to", json!("a\u{0}")), "to: must not contain NUL"),
        (with("/to", json!(["bob"])), "to: must be a string, not an array"),
        (
            with("/to", Value::Null),
            "to: must be a string, not null: leave the field out instead",
        ),
        (
            with("/from", Value::Null),
            "from: must not be null: leave the field out instead",
        ),
        (with("/id", json!(7)), "id: must be a string, not a number"),
        (with("/id", json!("")), "id: must not be empty"),
        (
            with("/group", json!("g".repeat(129))),
            "group: is 129 characters long, the limit is 128",
        ),
        (with("/app", json!("")), "app: must not be empty"),
        (
            with("/mesage", json!({})),
            "mesage: unknown field, did you mean `message`?",
        ),
        (
            with("/sendAt", json!("x")),
            "sendAt: unknown field, did you mean `send_at`?",
        ),
        (
            with("/message/txt", json!("x")),
            "message.txt: unknown field, did you mean `text`?",
        ),
        (
            with("/message", json!("hi")),
            "message: must be an object, not a string",
        ),
        (with("/message", json!({})), "message: must have `text` or `body`"),
        (
            with("/message/body", json!([text("x")])),
            "message.body: must not be given beside `text`",
        ),
        (
            with("/message", json!({"body": []})),
            "message.body: must hold at least one element",
        ),
        (
            with("/message", json!({"body": [custom, custom]})),
            "message.body[1]: must not be a second TIMCustomElem, a body has at most one",
        ),
        (
            with("/message", json!({"body": [{"MsgType": "TIMTextElem"}]})),
            "message.body[0].MsgContent: is missing",
        ),
        (
            with("/message", json!({"body": [{"MsgContent": {}}]})),
            "message.body[0].MsgType: is missing",
        ),
        (
            with(
                "/message",
                json!({"body": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}, "Msg": 1}]}),
            ),
            "message.body[0].Msg: unknown field, did you mean `MsgType`?",
        ),
        (
            with_element("TIMTextElem", json!({"Text": 5})),
            "message.body[0].MsgContent.Text: must be a string, not a number",
        ),
        (
            with_element("TIMTextElem", json!({"text": "x"})),
            "message.body[0].MsgContent.text: unknown field, did you mean `Text`?",
        ),
        (
            with_element("TIMLocationElem", json!({"Latitude": 91, "Longitude": 0})),
            "message.body[0].MsgContent.Latitude: must be from -90 to 90 degrees",
        ),
        (
            with_element("TIMFaceElem", json!({})),
            "message.body[0].MsgContent: must have Index or Data",
        ),
        (
            with_element("TIMFaceElem", json!({"Index": 1.5})),
            "message.body[0].MsgContent.Index: must be a whole number from -2147483648 to 2147483647",
        ),
        (
            with_element("TIMSoundElem", json!({"Url": "u", "UUID": "i", "Download_Flag": 1})),
            "message.body[0].MsgContent.Download_Flag: must be 2, the only download flag",
        ),
        (
            with_element("TIMSoundElem", json!({"Url": "", "UUID": "i", "Download_Flag": 2})),
            "message.body[0].MsgContent.Url: must not be empty",
        ),
        (
            with_element("TIMFileElem", json!({"URL": "u", "UUID": "i", "Download_Flag": 2})),
            "message.body[0].MsgContent.URL: unknown field, did you mean `Url`?",
        ),
        (
            with_element(
                "TIMImageElem",
                json!({"UUID": "i", "ImageFormat": 5, "ImageInfoArray": []}),
            ),
            "message.body[0].MsgContent.ImageFormat: must be 1 (JPG), 2 (GIF), 3 (PNG), 4 (BMP) or 255 (other)",
        ),
        (
            with_element(
                "TIMImageElem",
                json!({"UUID": "i", "ImageInfoArray": [{"Type": 0, "URL": "u"}]}),
            ),
            "message.body[0].MsgContent.ImageInfoArray[0].Type: must be 1 (original), 2 (large) or 3 (thumbnail)",
        ),
        (
            with_element(
                "TIMVideoFileElem",
                json!({"VideoUrl": "u", "VideoUUID": "i", "VideoDownloadFlag": 2, "ThumbUrl": "u"}),
            ),
            "message.body[0].MsgContent.ThumbUUID: is missing: the thumbnail's URL, UUID and flag go together",
        ),
        (
            with_element("TIMRelayElem", json!({"Title": "t"})),
            "message.body[0].MsgContent: must have `MsgList` or `JsonMsgKey`",
        ),
        (
            with_element(
                "TIMRelayElem",
                json!({"MsgList": [{"From_Account": "a", "To_Account": "b", "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": 1}}]}]}),
            ),
            "message.body[0].MsgContent.MsgList[0].MsgBody[0].MsgContent.Text: must be a string, not a number",
        ),
        (
            with("/message/life_time", json!(604_801)),
            "message.life_time: must be from 0 to 604800 seconds (7 days)",
        ),
        (
            with("/message/life_time", json!(-1)),
            "message.life_time: must be a whole number from 0 to 4294967295",
        ),
        (
            with("/message/seq", json!(4_294_967_296_u64)),
            "message.seq: must be a whole number from 0 to 4294967295",
        ),
        (
            with("/message/random", json!("1")),
            "message.random: must be a whole number, not a string",
        ),
        (
            with("/message/sync_to_sender", json!(1)),
            "message.sync_to_sender: must be true or false, not a number",
        ),
        (
            with("/message/control", json!(["NoUnread", "Loud"])),
            "message.control[1]: must be NoUnread, NoLastMsg, WithMuteNotifications or NoMsgCheck",
        ),
        (
            with("/message/control", json!(["NoUnread", "NoUnread"])),
            "message.control[1]: is given twice",
        ),
        (
            with("/message/forbid_callbacks", json!("before")),
            "message.forbid_callbacks: must be an array, not a string",
        ),
        (
            with("/message/offline_push", json!({"PushFlag": 2})),
            "message.offline_push.PushFlag: must be 0 or 1",
        ),
        (
            with("/message/offline_push", json!({"Ext": "not json"})),
            "message.offline_push.Ext: must itself be JSON text",
        ),
        (
            with(
                "/message/offline_push",
                json!({"ApnsInfo": {"InterruptionLevel": "loud"}}),
            ),
            "message.offline_push.ApnsInfo.InterruptionLevel: must be active, critical, passive or time-sensitive",
        ),
        (
            with("/coalesce", json!("yes")),
            "coalesce: must be true or false, not a string",
        ),
        (
            with("/on_unknown", json!("guess")),
            "on_unknown: must be reconcile, fail or resend",
        ),
        (
            with("/send_at", json!(1_700_000_000)),
            "send_at: must be a string, not a number",
        ),
        (
            with("/send_at", json!("2026-05-01 08:00:00Z")),
            "send_at: must be an RFC 3339 time, such as 2026-05-01T08:00:00Z",
        ),
        (
            with("/send_at", json!("2026-02-30T08:00:00Z")),
            "send_at: must be an RFC 3339 time, such as 2026-05-01T08:00:00Z",
        ),
    ];
    for (job, expected) in cases {
        assert_eq!(sentence(&job), expected);
    }
}
