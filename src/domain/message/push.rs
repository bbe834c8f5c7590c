//! `OfflinePushInfo`: typed where it is documented. Vendor keys that are not known here pass unchanged, since this
//! object grows often; they are kept in the order of their names, so that equal messages serialise equally.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::Flag;

/// `OfflinePushInfo`. APNs carries 4 KB in all: keep Desc and Ext within 3 KB.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct OfflinePush {
    /// 0: push (the default), 1: no offline push for this message.
    #[serde(rename = "PushFlag", default, skip_serializing_if = "Option::is_none")]
    pub push_flag: Option<Flag>,
    /// The notification's title.
    #[serde(rename = "Title", default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The notification's text; goes before the elements' own.
    #[serde(rename = "Desc", default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Passed through to the client: must itself be JSON text.
    #[serde(rename = "Ext", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), extend("contentMediaType" = "application/json"))]
    pub ext: Option<String>,
    /// Android's vendors.
    #[serde(rename = "AndroidInfo", default, skip_serializing_if = "Option::is_none")]
    pub android_info: Option<AndroidInfo>,
    /// Apple's push service.
    #[serde(rename = "ApnsInfo", default, skip_serializing_if = "Option::is_none")]
    pub apns_info: Option<ApnsInfo>,
    /// Keys that this version doesn't know, passed on unchanged.
    #[serde(flatten, deserialize_with = "sorted")]
    pub other: Map<String, Value>,
}

/// `AndroidInfo` of `OfflinePushInfo`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct AndroidInfo {
    /// The sound file.
    #[serde(rename = "Sound", default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<String>,
    /// The style of the notification, 0 or 1.
    #[serde(rename = "PushStyle", default, skip_serializing_if = "Option::is_none")]
    pub push_style: Option<Flag>,
    /// Huawei's notification channel.
    #[serde(rename = "HuaWeiChannelID", default, skip_serializing_if = "Option::is_none")]
    pub huawei_channel_id: Option<String>,
    /// Xiaomi's notification channel.
    #[serde(rename = "XiaoMiChannelID", default, skip_serializing_if = "Option::is_none")]
    pub xiaomi_channel_id: Option<String>,
    /// OPPO's notification channel.
    #[serde(rename = "OPPOChannelID", default, skip_serializing_if = "Option::is_none")]
    pub oppo_channel_id: Option<String>,
    /// FCM's notification channel.
    #[serde(rename = "GoogleChannelID", default, skip_serializing_if = "Option::is_none")]
    pub google_channel_id: Option<String>,
    /// vivo's class: 0 operation, 1 system (the default).
    #[serde(rename = "VIVOClassification", default, skip_serializing_if = "Option::is_none")]
    pub vivo_classification: Option<Flag>,
    /// vivo's category.
    #[serde(rename = "VIVOCategory", default, skip_serializing_if = "Option::is_none")]
    pub vivo_category: Option<String>,
    /// Huawei's importance.
    #[serde(rename = "HuaWeiImportance", default, skip_serializing_if = "Option::is_none")]
    pub huawei_importance: Option<HuaweiImportance>,
    /// 1: Ext becomes the Intent's parameter on Huawei.
    #[serde(rename = "ExtAsHuaweiIntentParam", default, skip_serializing_if = "Option::is_none")]
    pub ext_as_huawei_intent_param: Option<Flag>,
    /// Huawei's category.
    #[serde(rename = "HuaWeiCategory", default, skip_serializing_if = "Option::is_none")]
    pub huawei_category: Option<String>,
    /// The picture's URL on Huawei.
    #[serde(rename = "HuaWeiImage", default, skip_serializing_if = "Option::is_none")]
    pub huawei_image: Option<String>,
    /// The picture's URL on Honor.
    #[serde(rename = "HonorImage", default, skip_serializing_if = "Option::is_none")]
    pub honor_image: Option<String>,
    /// Honor's importance. Its words are not documented, so any passes.
    #[serde(rename = "HonorImportance", default, skip_serializing_if = "Option::is_none")]
    pub honor_importance: Option<String>,
    /// The picture's URL on FCM.
    #[serde(rename = "GoogleImage", default, skip_serializing_if = "Option::is_none")]
    pub google_image: Option<String>,
    /// Keys that this version doesn't know, passed on unchanged.
    #[serde(flatten, deserialize_with = "sorted")]
    pub other: Map<String, Value>,
}

/// `HuaWeiImportance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub enum HuaweiImportance {
    /// LOW.
    Low,
    /// NORMAL.
    Normal,
}

/// `ApnsInfo` of `OfflinePushInfo`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ApnsInfo {
    /// The sound file.
    #[serde(rename = "Sound", default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<String>,
    /// 0: the message counts in the badge, 1: it doesn't.
    #[serde(rename = "BadgeMode", default, skip_serializing_if = "Option::is_none")]
    pub badge_mode: Option<Flag>,
    /// The title on Apple's devices; goes before the outer Title.
    #[serde(rename = "Title", default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The subtitle.
    #[serde(rename = "SubTitle", default, skip_serializing_if = "Option::is_none")]
    pub sub_title: Option<String>,
    /// The picture's URL.
    #[serde(rename = "Image", default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// 1: the app's extension may change the notification.
    #[serde(rename = "MutableContent", default, skip_serializing_if = "Option::is_none")]
    pub mutable_content: Option<Flag>,
    /// How much the notification may interrupt.
    #[serde(rename = "InterruptionLevel", default, skip_serializing_if = "Option::is_none")]
    pub interruption_level: Option<InterruptionLevel>,
    /// 1: a silent push.
    #[serde(rename = "ContentAvailable", default, skip_serializing_if = "Option::is_none")]
    pub content_available: Option<Flag>,
    /// Keys that this version doesn't know, passed on unchanged.
    #[serde(flatten, deserialize_with = "sorted")]
    pub other: Map<String, Value>,
}

/// `InterruptionLevel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum InterruptionLevel {
    /// active.
    Active,
    /// critical.
    Critical,
    /// passive.
    Passive,
    /// time-sensitive.
    TimeSensitive,
}

/// Keeps the unknown keys in the order of their names, at every depth.
fn sorted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let mut other = Map::deserialize(deserializer)?;
    other.sort_keys();
    other.values_mut().for_each(Value::sort_all_objects);
    Ok(other)
}
