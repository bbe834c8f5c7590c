//! What a message looks like on the wire: absent stays absent, zero is sent as zero, the same is always the same bytes.

use proptest::{option, prelude::*, sample};
use serde_json::{Value, json};

use super::account;
use crate::{
    domain::{
        AccountId,
        message::{Element, ForbiddenCallback, Message, OfflinePush, SendControl},
    },
    im::{Pair, encode_batch, encode_import, encode_send, msg_body_len},
};

const PAIR: Pair = Pair {
    seq: u32::MAX,
    random: 0,
};

/// An element of each type with every field that im-api documents, as the API spells it.
fn elements() -> Vec<Value> {
    vec![
        json!({"MsgType": "TIMTextElem", "MsgContent": {"Text": "hi \u{1F600} \"\\\n"}}),
        json!({"MsgType": "TIMLocationElem", "MsgContent": {"Desc": "", "Latitude": 0.0, "Longitude": -121.489_999_999_999_97}}),
        json!({"MsgType": "TIMFaceElem", "MsgContent": {"Index": 0, "Data": "content"}}),
        json!({"MsgType": "TIMCustomElem", "MsgContent": {"Data": "d", "Desc": "", "Ext": "e", "Sound": "s.aiff"}}),
        json!({"MsgType": "TIMSoundElem", "MsgContent": {"Url": "https://h/1", "UUID": "u", "Size": 0, "Second": 0, "Download_Flag": 2}}),
        json!({"MsgType": "TIMImageElem", "MsgContent": {"UUID": "u", "ImageFormat": 255, "ImageInfoArray": [
            {"Type": 1, "Size": 1, "Width": 2, "Height": 0, "URL": "https://h/1"}, {"Type": 3, "URL": "https://h/3"}]}}),
        json!({"MsgType": "TIMFileElem", "MsgContent": {"Url": "https://h/1", "UUID": "u", "FileSize": 0, "FileName": "n",
            "Download_Flag": 2}}),
        json!({"MsgType": "TIMVideoFileElem", "MsgContent": {"VideoUrl": "https://h/1", "VideoUUID": "u", "VideoSize": 1,
            "VideoSecond": 0, "VideoFormat": "mp4", "VideoDownloadFlag": 2, "ThumbUrl": "https://h/2", "ThumbUUID": "t",
            "ThumbSize": 0, "ThumbWidth": 1, "ThumbHeight": 2, "ThumbFormat": "JPG", "ThumbDownloadFlag": 2}}),
        json!({"MsgType": "TIMRelayElem", "MsgContent": {"Title": "t", "MsgNum": 1, "CompatibleText": "c", "AbstractList": ["a"],
            "MsgList": [{"From_Account": "a", "To_Account": "b", "MsgSeq": 0, "MsgRandom": 4_294_967_295_u32, "MsgTimeStamp": 1,
            "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}}], "CloudCustomData": ""}]}}),
    ]
}

fn push() -> Value {
    json!({"PushFlag": 0, "Title": "t", "Desc": "", "Ext": "{}",
        "AndroidInfo": {"Sound": "s", "PushStyle": 0, "VIVOClassification": 0, "HuaWeiImportance": "LOW", "Later": [0]},
        "ApnsInfo": {"BadgeMode": 0, "MutableContent": 0, "InterruptionLevel": "time-sensitive"}, "Vendor": {"a": 0, "b": null}})
}

fn parsed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn full() -> Message {
    Message {
        text: None,
        body: Some(elements().iter().map(parsed).collect()),
        custom_data: Some(String::new()),
        offline_push: Some(parsed(&push())),
        life_time: Some(0),
        seq: Some(1),
        random: Some(2),
        sync_to_sender: Some(false),
        forbid_callbacks: Some(vec![ForbiddenCallback::Before, ForbiddenCallback::After]),
        control: Some(vec![
            SendControl::NoUnread,
            SendControl::NoLastMsg,
            SendControl::WithMuteNotifications,
            SendControl::NoMsgCheck,
        ]),
        read_receipt: Some(false),
        extension: Some(false),
    }
}

fn decoded(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_bare_text_has_the_required_fields_and_no_other() {
    let message = Message::from_text("hi");
    assert_eq!(
        encode_send(None, &account("b"), &message, PAIR),
        r#"{"To_Account":"b","MsgSeq":4294967295,"MsgRandom":0,"MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"hi"}}]}"#
    );
    assert_eq!(
        encode_batch(Some(&account("a")), &[account("b"), account("c")], &message, PAIR),
        r#"{"From_Account":"a","To_Account":["b","c"],"MsgSeq":4294967295,"MsgRandom":0,"MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"hi"}}]}"#
    );
    assert_eq!(
        encode_import(&account("a"), &account("b"), &message, PAIR, 1_572_870_301, 5),
        r#"{"SyncFromOldSystem":5,"From_Account":"a","To_Account":"b","MsgSeq":4294967295,"MsgRandom":0,"MsgTimeStamp":1572870301,"MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"hi"}}]}"#
    );
}

#[test]
fn every_option_and_element_is_sent_as_given_and_zero_as_zero() {
    let sent = decoded(&encode_send(Some(&account("a")), &account("b"), &full(), PAIR));
    assert_eq!(
        sent,
        json!({"SyncOtherMachine": 2, "From_Account": "a", "To_Account": "b", "MsgLifeTime": 0, "MsgSeq": 4_294_967_295_u32,
            "MsgRandom": 0, "ForbidCallbackControl": ["ForbidBeforeSendMsgCallback", "ForbidAfterSendMsgCallback"],
            "SendMsgControl": ["NoUnread", "NoLastMsg", "WithMuteNotifications", "NoMsgCheck"], "MsgBody": elements(),
            "CloudCustomData": "", "SupportMessageExtension": 0, "IsNeedReadReceipt": 0, "OfflinePushInfo": push()})
    );
    let yes = Message {
        sync_to_sender: Some(true),
        read_receipt: Some(true),
        extension: Some(true),
        ..Message::from_text("")
    };
    let sent = decoded(&encode_send(None, &account("b"), &yes, PAIR));
    for field in ["SyncOtherMachine", "IsNeedReadReceipt", "SupportMessageExtension"] {
        assert_eq!(sent[field], 1, "{field}");
    }
}

#[test]
fn a_batch_sends_all_that_a_send_does_but_callback_control() {
    let mut single = decoded(&encode_send(None, &account("b"), &full(), PAIR));
    let batch = decoded(&encode_batch(None, &[account("b")], &full(), PAIR));
    let fields = single.as_object_mut().unwrap();
    fields.remove("ForbidCallbackControl");
    fields["To_Account"] = json!(["b"]);
    assert_eq!(batch, single);
}

#[test]
fn an_import_sends_body_and_custom_data_only() {
    let sent = decoded(&encode_import(&account("a"), &account("b"), &full(), PAIR, 0, 2));
    let fields: Vec<_> = sent.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "SyncFromOldSystem",
            "From_Account",
            "To_Account",
            "MsgSeq",
            "MsgRandom",
            "MsgTimeStamp",
            "MsgBody",
            "CloudCustomData"
        ]
    );
    assert_eq!(
        (&sent["MsgTimeStamp"], &sent["SyncFromOldSystem"]),
        (&json!(0), &json!(2))
    );
}

/// Whoever sees this fail has changed what is written and raises `ENCODER_VERSION`.
#[test]
fn version_1_of_the_encoder_writes_these_bytes() {
    use sha2::{Digest, Sha256};
    assert_eq!(crate::im::ENCODER_VERSION, 1);
    let mut hash = Sha256::new();
    hash.update(encode_send(Some(&account("a")), &account("b"), &full(), PAIR));
    hash.update(encode_batch(None, &[account("b"), account("c")], &full(), PAIR));
    hash.update(encode_import(&account("a"), &account("b"), &full(), PAIR, 7, 1));
    assert_eq!(
        hex::encode(hash.finalize()),
        "9385117caf6175d0dce9142eac86210e96f292e4e5536b5e45c52c84d30bc3fe"
    );
}

#[test]
fn the_body_is_measured_as_it_is_sent() {
    for message in [full(), Message::from_text("ü\n\u{1F600}"), Message::default()] {
        let sent = encode_import(&account("a"), &account("b"), &message, PAIR, 0, 2);
        let sent: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
            serde_json::from_slice(&sent).unwrap();
        assert_eq!(msg_body_len(&message), sent["MsgBody"].get().len());
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let element = sample::select(elements()).prop_map(|element| parsed::<Element>(&element));
    let content = prop_oneof![
        ".*".prop_map(|text| (Some(text), None)),
        prop::collection::vec(element, 1..4).prop_map(|body| (None, Some(body))),
    ];
    let flags = (
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
    );
    let controls = prop::collection::vec(
        sample::select(vec![SendControl::NoUnread, SendControl::NoMsgCheck]),
        0..3,
    );
    let callbacks = prop::collection::vec(
        sample::select(vec![ForbiddenCallback::Before, ForbiddenCallback::After]),
        0..3,
    );
    let push = option::of(Just(parsed::<OfflinePush>(&push())));
    let rest = (
        option::of(".*"),
        push,
        option::of(0..=604_800_u32),
        option::of(controls),
        option::of(callbacks),
    );
    (content, flags, rest).prop_map(
        |(
            (text, body),
            (sync_to_sender, read_receipt, extension),
            (custom_data, offline_push, life_time, control, forbid),
        )| {
            Message {
                text,
                body,
                custom_data,
                offline_push,
                life_time,
                seq: None,
                random: None,
                sync_to_sender,
                forbid_callbacks: forbid,
                control,
                read_receipt,
                extension,
            }
        },
    )
}

/// Reads a sendmsg body back, field by field, by the spelling of im-api.
fn read_back(sent: &Value, as_text: bool) -> Message {
    let number = |field: &str| sent.get(field).map(|value| value.as_u64().unwrap());
    let body = &sent["MsgBody"];
    Message {
        text: as_text.then(|| body[0]["MsgContent"]["Text"].as_str().unwrap().to_owned()),
        body: (!as_text).then(|| parsed(body)),
        custom_data: sent.get("CloudCustomData").map(parsed),
        offline_push: sent.get("OfflinePushInfo").map(parsed),
        life_time: sent.get("MsgLifeTime").map(parsed),
        seq: None,
        random: None,
        sync_to_sender: number("SyncOtherMachine").map(|value| value == 1),
        forbid_callbacks: sent.get("ForbidCallbackControl").map(|words| {
            let before = |word: &Value| *word == "ForbidBeforeSendMsgCallback";
            let callback = |word| {
                if before(word) {
                    ForbiddenCallback::Before
                } else {
                    ForbiddenCallback::After
                }
            };
            words.as_array().unwrap().iter().map(callback).collect()
        }),
        control: sent.get("SendMsgControl").map(parsed),
        read_receipt: number("IsNeedReadReceipt").map(|value| value == 1),
        extension: number("SupportMessageExtension").map(|value| value == 1),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_what_was_given(
        message in any_message(), from in option::of("\\PC{1,8}"), to in "\\PC{1,8}", seq in any::<u32>(), random in any::<u32>(),
    ) {
        let from = from.map(|from| AccountId::parse(from).unwrap());
        let to = AccountId::parse(to).unwrap();
        let bytes = encode_send(from.as_ref(), &to, &message, Pair { seq, random });
        prop_assert_eq!(&bytes, &encode_send(from.as_ref(), &to, &message.clone(), Pair { seq, random }));
        let sent = decoded(&bytes);
        prop_assert_eq!(sent.get("From_Account").map(parsed::<AccountId>), from);
        prop_assert_eq!(parsed::<AccountId>(&sent["To_Account"]), to);
        prop_assert_eq!((parsed::<u32>(&sent["MsgSeq"]), parsed::<u32>(&sent["MsgRandom"])), (seq, random));
        prop_assert_eq!(read_back(&sent, message.text.is_some()), message);
    }
}
