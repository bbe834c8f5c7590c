//! The part of a request that is the message: the body and the options as the API spells them.

use serde::{Serialize, Serializer, ser::SerializeSeq};

use crate::domain::message::{Element, ForbiddenCallback, Message, SendControl};

/// `MsgBody`: the message's own elements, or its text as one `TIMTextElem`.
pub(in crate::im) struct MsgBody<'a>(pub(in crate::im) &'a Message);

#[derive(Serialize)]
struct TextElem<'a> {
    #[serde(rename = "MsgType")]
    kind: &'static str,
    #[serde(rename = "MsgContent")]
    content: TextContent<'a>,
}

#[derive(Serialize)]
struct TextContent<'a> {
    #[serde(rename = "Text")]
    text: &'a str,
}

impl Serialize for MsgBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let elements: &[Element] = self.0.body.as_deref().unwrap_or_default();
        let text = self.0.text.as_deref();
        let mut seq = serializer.serialize_seq(Some(elements.len() + usize::from(text.is_some())))?;
        if let Some(text) = text {
            seq.serialize_element(&TextElem {
                kind: "TIMTextElem",
                content: TextContent { text },
            })?;
        }
        for element in elements {
            seq.serialize_element(element)?;
        }
        seq.end()
    }
}

/// `SyncOtherMachine`: 1 also to the sender's own devices and roaming, 2 not.
pub(in crate::im) fn sync_other_machine(message: &Message) -> Option<u8> {
    message.sync_to_sender.map(|sync| if sync { 1 } else { 2 })
}

/// `ForbidCallbackControl`.
pub(in crate::im) fn forbid_callbacks(message: &Message) -> Option<Vec<&'static str>> {
    let word = |callback: &ForbiddenCallback| match callback {
        ForbiddenCallback::Before => "ForbidBeforeSendMsgCallback",
        ForbiddenCallback::After => "ForbidAfterSendMsgCallback",
    };
    message
        .forbid_callbacks
        .as_ref()
        .map(|callbacks| callbacks.iter().map(word).collect())
}

/// `SendMsgControl`.
pub(in crate::im) fn send_control(message: &Message) -> Option<Vec<&'static str>> {
    let word = |control: &SendControl| match control {
        SendControl::NoUnread => "NoUnread",
        SendControl::NoLastMsg => "NoLastMsg",
        SendControl::WithMuteNotifications => "WithMuteNotifications",
        SendControl::NoMsgCheck => "NoMsgCheck",
    };
    message
        .control
        .as_ref()
        .map(|controls| controls.iter().map(word).collect())
}
