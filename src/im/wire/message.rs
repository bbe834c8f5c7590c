//! The part of a request that is the message: the body and the options as the API spells them.

use serde::{Serialize, Serializer};

use crate::domain::message::Message;

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
        match (&self.0.body, &self.0.text) {
            (Some(elements), _) => elements.serialize(serializer),
            (None, text) => serializer.collect_seq(text.as_deref().map(|text| TextElem {
                kind: "TIMTextElem",
                content: TextContent { text },
            })),
        }
    }
}

/// `SyncOtherMachine`: 1 also to the sender's own devices and roaming, 2 not.
pub(in crate::im) fn sync_other_machine(message: &Message) -> Option<u8> {
    message.sync_to_sender.map(|sync| if sync { 1 } else { 2 })
}

/// `ForbidCallbackControl`.
pub(in crate::im) fn forbid_callbacks(message: &Message) -> Option<Vec<&'static str>> {
    let callbacks = message.forbid_callbacks.as_ref()?;
    Some(callbacks.iter().map(|callback| callback.wire_name()).collect())
}
