//! `TIMRelayElem`: several messages forwarded as one, with their contents inside or under a key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Element, element};
use crate::domain::AccountId;

/// `TIMRelayElem`. Exactly one of `MsgList` (which fits into the 12 KB) and `JsonMsgKey` (beyond them) is given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["MsgList"]}, {"required": ["JsonMsgKey"]}]))]
pub struct RelayElement {
    /// The title that clients show.
    #[serde(rename = "Title", default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How many messages were merged.
    #[serde(rename = "MsgNum", default, skip_serializing_if = "Option::is_none")]
    pub msg_num: Option<u32>,
    /// What clients show that don't know merged messages.
    #[serde(rename = "CompatibleText", default, skip_serializing_if = "Option::is_none")]
    pub compatible_text: Option<String>,
    /// The lines of the preview.
    #[serde(rename = "AbstractList", default, skip_serializing_if = "Option::is_none")]
    pub abstract_list: Option<Vec<String>>,
    /// The messages.
    #[serde(rename = "MsgList", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub msg_list: Option<Vec<RelayedMessage>>,
    /// The key under which the service keeps the messages.
    #[serde(rename = "JsonMsgKey", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub json_msg_key: Option<String>,
}

/// An entry of `MsgList`. Exactly one of `To_Account` and `GroupId` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["To_Account"]}, {"required": ["GroupId"]}]))]
pub struct RelayedMessage {
    /// Who had sent it.
    #[serde(rename = "From_Account")]
    pub from_account: AccountId,
    /// To whom, if in a conversation of two.
    #[serde(rename = "To_Account", default, skip_serializing_if = "Option::is_none")]
    pub to_account: Option<AccountId>,
    /// In which group, if in one.
    #[serde(rename = "GroupId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub group_id: Option<String>,
    /// MsgSeq.
    #[serde(rename = "MsgSeq", default, skip_serializing_if = "Option::is_none")]
    pub msg_seq: Option<u32>,
    /// MsgRandom.
    #[serde(rename = "MsgRandom", default, skip_serializing_if = "Option::is_none")]
    pub msg_random: Option<u32>,
    /// Unix seconds.
    #[serde(rename = "MsgTimeStamp", default, skip_serializing_if = "Option::is_none")]
    pub msg_time_stamp: Option<u32>,
    /// Its elements, by the same rules as a job's own.
    #[serde(rename = "MsgBody")]
    #[schemars(schema_with = "element::body_schema")]
    pub msg_body: Vec<Element>,
    /// Its `CloudCustomData`.
    #[serde(rename = "CloudCustomData", default, skip_serializing_if = "Option::is_none")]
    pub cloud_custom_data: Option<String>,
}
