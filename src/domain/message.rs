//! A message as a job gives it: text or IM elements, and its options. What is absent stays absent on the wire.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `message` of a job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// A plain text: short for a `body` of one TIMTextElem. Exactly one of `text` and `body` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// IM elements as the IM API spells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Vec<Element>>,
    /// The app's own data, stored and roamed with the message (CloudCustomData).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_data: Option<String>,
    /// How the message is pushed to devices that are offline (OfflinePushInfo).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_push: Option<OfflinePush>,
    /// Seconds that the service keeps the message for a recipient who is offline, 0 to 604800; 0: online only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_time: Option<u32>,
    /// MsgSeq; derived from the job where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u32>,
    /// MsgRandom; derived from the job where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<u32>,
    /// SyncOtherMachine: true is 1, false is 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_to_sender: Option<bool>,
    /// Callbacks of the app server that this message doesn't trigger. Not in a `batch_send`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forbid_callbacks: Option<Vec<ForbiddenCallback>>,
    /// SendMsgControl words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Vec<SendControl>>,
    /// IsNeedReadReceipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_receipt: Option<bool>,
    /// SupportMessageExtension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<bool>,
}

/// A callback that a message can forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForbiddenCallback {
    /// ForbidBeforeSendMsgCallback.
    Before,
    /// ForbidAfterSendMsgCallback.
    After,
}

/// A word of SendMsgControl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SendControl {
    /// Not counted as unread.
    NoUnread,
    /// The conversation list isn't changed.
    NoLastMsg,
    /// Respect the recipient's do-not-disturb.
    WithMuteNotifications,
    /// Skip content moderation.
    NoMsgCheck,
}

/// An element of MsgBody, tagged and spelled as the IM API does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "MsgType", content = "MsgContent", deny_unknown_fields)]
pub enum Element {
    /// Text.
    #[serde(rename = "TIMTextElem")]
    Text(TextElement),
}

/// TIMTextElem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextElement {
    /// The text.
    #[serde(rename = "Text")]
    pub text: String,
}

/// OfflinePushInfo.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct OfflinePush {
    /// Keys that this version doesn't know, passed on unchanged.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}
