//! A message as a job gives it: text or IM elements, and its options. What is absent stays absent on the wire.
//!
//! Answers which messages are valid and how their `MsgBody` is spelled. It must not know which call carries one.
//! Limits and spellings are those of the IM service's REST documentation (`MsgBody`, sendmsg, `OfflinePushInfo`).

mod check;
mod coded;
mod element;
mod media;
mod push;
mod relay;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use coded::{Flag, ImageFormat, ImageType, UrlFlag};
pub use element::{CustomElement, Element, FaceElement, LocationElement, TextElement};
pub use media::{FileElement, ImageElement, ImageInfo, SoundElement, VideoElement};
pub use push::{AndroidInfo, ApnsInfo, HuaweiImportance, InterruptionLevel, OfflinePush};
pub use relay::{RelayElement, RelayedMessage};

/// The most bytes of a `MsgBody` as serialised: 12 KB, beyond which the service answers 93000 (or 80002, 90055).
pub const MAX_BODY_BYTES: usize = 12_288;
/// The longest that the service keeps a message for a recipient who is offline: 7 days, in seconds (90026 beyond).
pub const MAX_LIFE_TIME: u32 = 604_800;

/// The `message` of a job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["text"]}, {"required": ["body"]}]))]
pub struct Message {
    /// A plain text: short for a `body` of one `TIMTextElem`. Exactly one of `text` and `body` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12_288))]
    pub text: Option<String>,
    /// IM elements as the IM API spells them: at least one, at most one `TIMCustomElem`, at most 12,288 bytes as
    /// serialised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "element::body_schema")]
    pub body: Option<Vec<Element>>,
    /// The app's own data, stored and roamed with the message (`CloudCustomData`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_data: Option<String>,
    /// How the message is pushed to devices that are offline (`OfflinePushInfo`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_push: Option<OfflinePush>,
    /// Seconds that the service keeps the message for a recipient who is offline, 0 to 604800; 0: online only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 604_800))]
    pub life_time: Option<u32>,
    /// MsgSeq; derived from the job where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u32>,
    /// MsgRandom; derived from the job where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<u32>,
    /// `SyncOtherMachine`: true is 1, false is 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_to_sender: Option<bool>,
    /// Callbacks of the app server that this message doesn't trigger. Only in a `send`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("uniqueItems" = true))]
    pub forbid_callbacks: Option<Vec<ForbiddenCallback>>,
    /// `SendMsgControl` words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("uniqueItems" = true))]
    pub control: Option<Vec<SendControl>>,
    /// `IsNeedReadReceipt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_receipt: Option<bool>,
    /// `SupportMessageExtension`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<bool>,
}

/// A callback that a message can forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForbiddenCallback {
    /// `ForbidBeforeSendMsgCallback`.
    Before,
    /// `ForbidAfterSendMsgCallback`.
    After,
}

impl ForbiddenCallback {
    /// The word of `ForbidCallbackControl`.
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Before => "ForbidBeforeSendMsgCallback",
            Self::After => "ForbidAfterSendMsgCallback",
        }
    }
}

/// A word of `SendMsgControl`.
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

impl Message {
    /// A message of one plain text and no options.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self {
            text: Some(text.into()),
            ..Self::default()
        }
    }

    /// The `MsgBody`: `body`, or one `TIMTextElem` of `text`. Serialised compactly, it is what the 12 KB limit counts.
    pub fn elements(&self) -> Cow<'_, [Element]> {
        match (&self.body, &self.text) {
            (Some(body), _) => Cow::Borrowed(body),
            (None, Some(text)) => Cow::Owned(vec![Element::Text(TextElement { text: text.clone() })]),
            (None, None) => Cow::Borrowed(&[]),
        }
    }

    /// The options, each with whether it is given: what a call without such a field can't carry.
    pub(crate) const fn options(&self) -> [(&'static str, bool); 10] {
        [
            ("custom_data", self.custom_data.is_some()),
            ("offline_push", self.offline_push.is_some()),
            ("life_time", self.life_time.is_some()),
            ("seq", self.seq.is_some()),
            ("random", self.random.is_some()),
            ("sync_to_sender", self.sync_to_sender.is_some()),
            ("forbid_callbacks", self.forbid_callbacks.is_some()),
            ("control", self.control.is_some()),
            ("read_receipt", self.read_receipt.is_some()),
            ("extension", self.extension.is_some()),
        ]
    }
}
