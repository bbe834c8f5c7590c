//! sendmsg: one message to one recipient.

use serde::{Deserialize, Serialize};

use super::{
    Malformed, lenient,
    message::{MsgBody, forbid_callbacks, sync_other_machine},
    parse,
};
use crate::{
    domain::{
        AccountId, MsgKey,
        message::{Message, OfflinePush, SendControl},
    },
    im::encode::Pair,
};

/// The request of sendmsg and, with an array as `To_Account`, of batchsendmsg.
#[derive(Serialize)]
pub(in crate::im) struct Request<'a, To: Serialize + ?Sized> {
    #[serde(rename = "SyncOtherMachine", skip_serializing_if = "Option::is_none")]
    sync_other_machine: Option<u8>,
    #[serde(rename = "From_Account", skip_serializing_if = "Option::is_none")]
    from: Option<&'a AccountId>,
    #[serde(rename = "To_Account")]
    to: &'a To,
    #[serde(rename = "MsgLifeTime", skip_serializing_if = "Option::is_none")]
    life_time: Option<u32>,
    #[serde(rename = "MsgSeq")]
    seq: u32,
    #[serde(rename = "MsgRandom")]
    random: u32,
    #[serde(rename = "ForbidCallbackControl", skip_serializing_if = "Option::is_none")]
    forbid_callbacks: Option<Vec<&'static str>>,
    #[serde(rename = "SendMsgControl", skip_serializing_if = "Option::is_none")]
    control: Option<&'a [SendControl]>,
    #[serde(rename = "MsgBody")]
    body: MsgBody<'a>,
    #[serde(rename = "CloudCustomData", skip_serializing_if = "Option::is_none")]
    custom_data: Option<&'a str>,
    #[serde(rename = "SupportMessageExtension", skip_serializing_if = "Option::is_none")]
    extension: Option<u8>,
    #[serde(rename = "IsNeedReadReceipt", skip_serializing_if = "Option::is_none")]
    read_receipt: Option<u8>,
    #[serde(rename = "OfflinePushInfo", skip_serializing_if = "Option::is_none")]
    offline_push: Option<&'a OfflinePush>,
}

impl<'a, To: Serialize + ?Sized> Request<'a, To> {
    pub(in crate::im) fn new(sender: Option<&'a AccountId>, to: &'a To, message: &'a Message, pair: Pair) -> Self {
        Self {
            sync_other_machine: sync_other_machine(message),
            from: sender,
            to,
            life_time: message.life_time,
            seq: pair.seq,
            random: pair.random,
            forbid_callbacks: forbid_callbacks(message),
            control: message.control.as_deref(),
            body: MsgBody(message),
            custom_data: message.custom_data.as_deref(),
            extension: message.extension.map(u8::from),
            read_receipt: message.read_receipt.map(u8::from),
            offline_push: message.offline_push.as_ref(),
        }
    }

    /// A batch triggers no callbacks and has no such field.
    pub(in crate::im) fn without_callback_control(self) -> Self {
        Self {
            forbid_callbacks: None,
            ..self
        }
    }
}

/// The service has accepted a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendReply {
    /// The message's key.
    pub msg_key: MsgKey,
    /// When the service took it, in Unix seconds, if it says so.
    pub msg_time: Option<i64>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "MsgKey", default)]
    msg_key: Option<String>,
    #[serde(rename = "MsgTime", default, deserialize_with = "lenient")]
    msg_time: Option<i64>,
}

/// A success without a MsgKey is none: nobody could revoke that message.
pub(in crate::im) fn msg_key(text: Option<String>) -> Result<MsgKey, Malformed> {
    MsgKey::parse(text.unwrap_or_default())
        .map_err(|_| Malformed::Content("the answer has code 0 but no usable MsgKey"))
}

pub(in crate::im) fn reply(bytes: &[u8]) -> Result<SendReply, Malformed> {
    let reply: Reply = parse(bytes)?;
    Ok(SendReply {
        msg_key: msg_key(reply.msg_key)?,
        msg_time: reply.msg_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_needs_a_key_and_nothing_else() {
        let documented = br#"{"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "MsgTime": 1572870301,
            "MsgKey": "89541_2574206_1572870301", "MsgId": "144115233406643804-1727580296-4026038328"}"#;
        let expected = MsgKey::parse("89541_2574206_1572870301").unwrap();
        assert_eq!(
            reply(documented),
            Ok(SendReply {
                msg_key: expected.clone(),
                msg_time: Some(1_572_870_301)
            })
        );
        for time in ["null", "\"soon\"", "1e300", "18446744073709551615", "{}"] {
            let text = format!(r#"{{"MsgKey": "89541_2574206_1572870301", "MsgTime": {time}}}"#);
            let expected = SendReply {
                msg_key: expected.clone(),
                msg_time: None,
            };
            assert_eq!(reply(text.as_bytes()), Ok(expected), "{time}");
        }
        for text in [
            "{}",
            r#"{"MsgKey": ""}"#,
            r#"{"MsgKey": null}"#,
            r#"{"MsgKey": 5}"#,
            "[]",
            "",
        ] {
            assert!(reply(text.as_bytes()).is_err(), "{text}");
        }
    }
}
