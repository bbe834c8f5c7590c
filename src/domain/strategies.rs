//! Jobs of every kind for property tests: whatever comes out of here is valid.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::{collection::vec, option, prelude::*};
use serde_json::{Map, Value, json};

use super::{
    AccountId, AppName, GroupName, JobId, MsgKey,
    job::{Job, OnUnknown, RevokeTarget, Task},
    message::{
        AndroidInfo, ApnsInfo, CustomElement, Element, FaceElement, FileElement, Flag, ForbiddenCallback,
        HuaweiImportance, ImageElement, ImageFormat, ImageInfo, ImageType, InterruptionLevel, LocationElement, Message,
        OfflinePush, RelayElement, RelayedMessage, SendControl, SoundElement, TextElement, UrlFlag, VideoElement,
    },
    policy::{Cap, Day, Days, Period, SendWindow, TimeOfDay, Zone},
};

/// Any text, with what JSON must escape.
fn text() -> BoxedStrategy<String> {
    prop_oneof![any::<String>(), "[ -~]{1,12}", Just("\u{0}\"\\\n 你好 🎉".to_owned())].boxed()
}

fn filled() -> BoxedStrategy<String> {
    text().prop_map(|text| format!("x{text}")).boxed()
}

fn account() -> BoxedStrategy<AccountId> {
    "[a-z0-9@._-]{1,32}|[你好]{1,10}"
        .prop_map(|text| AccountId::parse(text).unwrap())
        .boxed()
}

fn accounts(min: usize) -> BoxedStrategy<Vec<AccountId>> {
    proptest::collection::hash_set(account(), min..6)
        .prop_map(|set| set.into_iter().collect())
        .boxed()
}

fn flag() -> BoxedStrategy<Flag> {
    prop_oneof![Just(Flag::Zero), Just(Flag::One)].boxed()
}

fn time() -> BoxedStrategy<DateTime<Utc>> {
    (0_i64..4_102_444_800, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap())
        .boxed()
}

/// Vendor keys, in the order that decoding gives them.
fn other() -> BoxedStrategy<Map<String, Value>> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300_f64..1e300).prop_map(Value::from),
        text().prop_map(Value::from),
        Just(json!({"a": [1, {"b": null}], "c": {}})),
    ];
    proptest::collection::btree_map("Vendor[A-Za-z]{1,8}", value, 0..4)
        .prop_map(|map| map.into_iter().collect())
        .boxed()
}

fn plain_element() -> BoxedStrategy<Element> {
    prop_oneof![
        text().prop_map(|text| Element::Text(TextElement { text })),
        (option::of(text()), -90.0..=90.0, -180.0..=180.0).prop_map(|(desc, latitude, longitude)| {
            Element::Location(LocationElement {
                desc,
                latitude,
                longitude,
            })
        }),
        (any::<i32>(), option::of(text())).prop_map(|(index, data)| Element::Face(FaceElement {
            index: Some(index),
            data
        })),
        (filled(), filled(), option::of(any::<u32>()), option::of(any::<u32>())).prop_map(
            |(url, uuid, size, second)| {
                Element::Sound(SoundElement {
                    url,
                    uuid,
                    size,
                    second,
                    download_flag: UrlFlag::Url,
                })
            }
        ),
        image(),
        (filled(), filled(), option::of(0..1_u64 << 53), option::of(text())).prop_map(
            |(url, uuid, file_size, file_name)| {
                Element::File(FileElement {
                    url,
                    uuid,
                    file_size,
                    file_name,
                    download_flag: UrlFlag::Url,
                })
            }
        ),
        video(),
    ]
    .boxed()
}

fn image() -> BoxedStrategy<Element> {
    let format = prop::sample::select(vec![
        ImageFormat::Jpg,
        ImageFormat::Gif,
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Other,
    ]);
    let image_type = prop::sample::select(vec![ImageType::Original, ImageType::Large, ImageType::Thumbnail]);
    let number = || option::of(any::<u32>());
    let info =
        (image_type, number(), number(), number(), filled()).prop_map(|(image_type, size, width, height, url)| {
            ImageInfo {
                image_type,
                size,
                width,
                height,
                url,
            }
        });
    (filled(), option::of(format), vec(info, 1..4))
        .prop_map(|(uuid, image_format, image_info_array)| {
            Element::Image(ImageElement {
                uuid,
                image_format,
                image_info_array,
            })
        })
        .boxed()
}

fn video() -> BoxedStrategy<Element> {
    let thumbnail = option::of((filled(), filled(), option::of(any::<u32>()), option::of(text())));
    (
        filled(),
        filled(),
        option::of(0..1_u64 << 53),
        option::of(any::<u32>()),
        thumbnail,
    )
        .prop_map(|(video_url, video_uuid, video_size, video_second, thumbnail)| {
            let (thumb_url, thumb_uuid, thumb_size, thumb_format) = match thumbnail {
                Some((url, uuid, size, format)) => (Some(url), Some(uuid), size, format),
                None => (None, None, None, None),
            };
            Element::Video(VideoElement {
                video_url,
                video_uuid,
                video_size,
                video_second,
                video_format: thumb_format.clone(),
                video_download_flag: UrlFlag::Url,
                thumb_download_flag: thumb_url.as_ref().map(|_| UrlFlag::Url),
                thumb_url,
                thumb_uuid,
                thumb_size,
                thumb_width: thumb_size,
                thumb_height: video_second,
                thumb_format,
            })
        })
        .boxed()
}

fn custom() -> BoxedStrategy<Element> {
    (text(), option::of(text()), option::of(text()), option::of(text()))
        .prop_map(|(data, desc, ext, sound)| {
            Element::Custom(CustomElement {
                data: Some(data),
                desc,
                ext,
                sound,
            })
        })
        .boxed()
}

fn body() -> BoxedStrategy<Vec<Element>> {
    let leaf = vec(plain_element(), 1..3).boxed();
    leaf.prop_recursive(2, 4, 2, |inner| {
        let entry = (account(), option::of(account()), option::of(any::<u32>()), inner).prop_map(
            |(from_account, to_account, number, msg_body)| RelayedMessage {
                from_account,
                group_id: to_account.is_none().then(|| "@TGS#1".to_owned()),
                to_account,
                msg_seq: number,
                msg_random: number,
                msg_time_stamp: number,
                msg_body,
                cloud_custom_data: number.map(|number| number.to_string()),
            },
        );
        let relay = (text(), vec(entry, 1..3)).prop_map(|(title, messages)| {
            Element::Relay(RelayElement {
                msg_num: u32::try_from(messages.len()).ok(),
                compatible_text: Some(title.clone()),
                abstract_list: Some(vec![title.clone()]),
                title: Some(title),
                msg_list: Some(messages),
                json_msg_key: None,
            })
        });
        (relay, option::of(custom())).prop_map(|(relay, custom)| std::iter::once(relay).chain(custom).collect())
    })
    .boxed()
}

fn push() -> BoxedStrategy<OfflinePush> {
    let android = (flag(), option::of(text()), other()).prop_map(|(flag, text, other)| AndroidInfo {
        push_style: Some(flag),
        vivo_classification: Some(flag),
        huawei_importance: (flag == Flag::One).then_some(HuaweiImportance::Low),
        google_channel_id: text.clone(),
        sound: text,
        other,
        ..AndroidInfo::default()
    });
    let apns = (flag(), option::of(text()), other()).prop_map(|(flag, text, other)| ApnsInfo {
        badge_mode: Some(flag),
        mutable_content: Some(flag),
        interruption_level: (flag == Flag::One).then_some(InterruptionLevel::TimeSensitive),
        title: text,
        other,
        ..ApnsInfo::default()
    });
    (
        option::of(flag()),
        option::of(text()),
        option::of(android),
        option::of(apns),
        other(),
    )
        .prop_map(|(push_flag, title, android_info, apns_info, other)| OfflinePush {
            push_flag,
            desc: title.clone(),
            title,
            ext: push_flag.map(|_| r#"{"k": 1}"#.to_owned()),
            android_info,
            apns_info,
            other,
        })
        .boxed()
}

/// A message with what every call can carry.
pub(super) fn message() -> BoxedStrategy<Message> {
    let content = prop_oneof![
        text().prop_map(|text| (Some(text), None)),
        body().prop_map(|body| (None, Some(body))),
    ];
    (
        content,
        option::of(text()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
    )
        .prop_map(|((text, body), custom_data, seq, random)| Message {
            text,
            body,
            custom_data,
            seq,
            random,
            ..Message::default()
        })
        .prop_filter("within the limit", |message| message.check().is_ok())
        .boxed()
}

/// A message with every option of a send.
fn full_message() -> BoxedStrategy<Message> {
    let control = option::of(Just(vec![SendControl::NoUnread, SendControl::WithMuteNotifications]));
    let forbid = option::of(Just(vec![ForbiddenCallback::After, ForbiddenCallback::Before]));
    let switch = || option::of(any::<bool>());
    (
        message(),
        option::of(push()),
        option::of(0..=604_800_u32),
        switch(),
        switch(),
        control,
        forbid,
    )
        .prop_map(
            |(message, offline_push, life_time, sync_to_sender, extension, control, forbid_callbacks)| Message {
                offline_push,
                life_time,
                sync_to_sender,
                forbid_callbacks,
                control,
                read_receipt: extension.map(|extension| !extension),
                extension,
                ..message
            },
        )
        .boxed()
}

fn task() -> BoxedStrategy<Task> {
    prop_oneof![
        (option::of(account()), account(), full_message()).prop_map(|(from, to, message)| Task::Send {
            from,
            to,
            message
        }),
        (option::of(account()), accounts(1), message()).prop_map(|(from, to, message)| Task::BatchSend {
            from,
            to,
            message
        }),
        target().prop_map(Task::Revoke),
        (account(), account(), message(), any::<u32>(), any::<bool>()).prop_map(
            |(from, to, message, timestamp, unread)| Task::Import {
                from,
                to,
                message,
                timestamp: u64::from(timestamp),
                unread,
            }
        ),
        (account(), account()).prop_map(|(user, peer)| Task::MarkRead { user, peer }),
        (account(), accounts(0)).prop_map(|(user, peers)| Task::Unread { user, peers }),
        (account(), account(), option::of(time()), option::of(1..u32::MAX)).prop_map(|(from, to, since, limit)| {
            Task::History {
                from,
                to,
                since,
                until: since.map(|since| since + TimeDelta::days(1)),
                limit,
            }
        }),
    ]
    .boxed()
}

/// A target of any form.
pub(super) fn target() -> BoxedStrategy<RevokeTarget> {
    prop_oneof![
        ("[a-z0-9]{1,20}", option::of(accounts(1))).prop_map(|(job, to)| RevokeTarget::Job {
            job: JobId::parse(job).unwrap(),
            to
        }),
        "[^\u{0}]{1,40}".prop_map(|group| RevokeTarget::Group(GroupName::parse(group).unwrap())),
        (account(), account(), "[0-9]{1,9}_[0-9]{1,9}_[0-9]{10}").prop_map(|(from, to, key)| RevokeTarget::Message {
            from,
            to,
            msg_key: MsgKey::parse(key).unwrap()
        }),
    ]
    .boxed()
}

/// A job of any type.
pub(super) fn job() -> BoxedStrategy<Job> {
    let on_unknown = prop::sample::select(vec![OnUnknown::Reconcile, OnUnknown::Fail, OnUnknown::Resend]);
    (
        "[^\u{0}]{1,64}",
        option::of("[a-z]{1,20}"),
        option::of("[^\u{0}]{1,64}"),
        option::of(time()),
        any::<bool>(),
        on_unknown,
        (option::of(send_window()), option::of(cap())),
        task(),
    )
        .prop_map(
            |(id, app, group, send_at, coalesce, on_unknown, (send_window, cap), task)| Job {
                id: JobId::parse(id).unwrap(),
                app: app.map_or_else(AppName::default_app, |app| AppName::parse(app).unwrap()),
                send_window: send_window.filter(|_| obeys(&task)),
                cap: cap.filter(|_| obeys(&task)).map(|cap| Cap {
                    // Of a job with a group the half of its name is a prefix, of one without there is none.
                    group_prefix: group.as_deref().filter(|_| cap.max % 2 == 0).map(prefix),
                    ..cap
                }),
                group: group.map(|group| GroupName::parse(group).unwrap()),
                send_at,
                expires_at: send_at.map(|send_at| send_at + TimeDelta::hours(1)),
                coalesce: coalesce && matches!(task, Task::Send { .. }),
                on_unknown,
                task,
            },
        )
        .boxed()
}

fn obeys(task: &Task) -> bool {
    matches!(task, Task::Send { .. } | Task::BatchSend { .. })
}

fn prefix(group: &str) -> GroupName {
    let half: String = group.chars().take(group.chars().count().div_ceil(2)).collect();
    GroupName::parse(half).unwrap()
}

/// A cap of a lane.
fn cap() -> BoxedStrategy<Cap> {
    (1..=10_000_u32, 1_u32..=60, prop::sample::select(vec!["s", "m", "h"]))
        .prop_map(|(max, number, unit)| Cap {
            max,
            period: Period::parse(&format!("{number}{unit}")).unwrap(),
            group_prefix: None,
        })
        .boxed()
}

/// A window of five minutes at least, in a zone whose clock is changed or not.
pub(super) fn send_window() -> BoxedStrategy<SendWindow> {
    let zones = [
        "UTC",
        "Asia/Shanghai",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Asia/Kathmandu",
        "America/St_Johns",
        "Pacific/Apia",
    ];
    let days = proptest::sample::subsequence(Day::ALL.to_vec(), 1..=7);
    (0_u32..288, 1_u32..287, prop::sample::select(zones.to_vec()), days)
        .prop_map(|(start, length, zone, days)| {
            let time = |fives: u32| TimeOfDay::parse(&format!("{:02}:{:02}", fives / 12 % 24, fives % 12 * 5)).unwrap();
            SendWindow {
                start: time(start),
                end: time(start + length),
                timezone: Zone::parse(zone).unwrap(),
                days: Days::of(days).unwrap(),
            }
        })
        .boxed()
}
