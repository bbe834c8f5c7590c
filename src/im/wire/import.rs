//! importmsg: a message with a time of its own. The reply is the base alone: it has no MsgKey.

use serde::Serialize;

use super::message::MsgBody;
use crate::{
    domain::{AccountId, message::Message},
    im::encode::Pair,
};

/// The request.
#[derive(Serialize)]
pub(in crate::im) struct Request<'a> {
    #[serde(rename = "SyncFromOldSystem")]
    sync_from_old_system: u8,
    #[serde(rename = "From_Account")]
    from: &'a AccountId,
    #[serde(rename = "To_Account")]
    to: &'a AccountId,
    #[serde(rename = "MsgSeq")]
    seq: u32,
    #[serde(rename = "MsgRandom")]
    random: u32,
    #[serde(rename = "MsgTimeStamp")]
    timestamp: u64,
    #[serde(rename = "MsgBody")]
    body: MsgBody<'a>,
    #[serde(rename = "CloudCustomData", skip_serializing_if = "Option::is_none")]
    custom_data: Option<&'a str>,
}

impl<'a> Request<'a> {
    pub(in crate::im) fn new(
        from: &'a AccountId,
        to: &'a AccountId,
        message: &'a Message,
        pair: Pair,
        timestamp: u64,
        sync_from_old_system: u8,
    ) -> Self {
        Self {
            sync_from_old_system,
            from,
            to,
            seq: pair.seq,
            random: pair.random,
            timestamp,
            body: MsgBody(message),
            custom_data: message.custom_data.as_deref(),
        }
    }
}
