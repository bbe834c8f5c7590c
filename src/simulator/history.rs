//! `admin_getroammsg`: which messages of a conversation does one side see, page by page?
//!
//! Documented: current and older names of the two accounts; a page is cut at `MaxCnt` or at 13 KB, whichever comes first;
//! Complete; the next page is asked for with `MaxTime` and `LastMsgKey` of the last; revoked messages are listed with flag 8;
//! a message sent with `SyncOtherMachine` 2 is found from the recipient's side only; retention.
//! Choices: both ends of the time are included; pages go backward in time and are oldest first inside; `LastMsgTime` and
//! `LastMsgKey` are those of the oldest; `MaxCnt` over 100 is 100, and 0 is refused (90001); a `LastMsgKey` that isn't found
//! is as none; an operator that doesn't exist is 90008 and a peer 90003, the codes of this command that fit.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    answer::{self, Answered},
    codes::{self, Refusal},
    fields::{Field, Fields},
    send::Context,
    store::{Account, Conversation, Flags, Message},
};

/// The ceiling of `MaxCnt`.
const MAX_COUNT: u32 = 100;
/// Where a page is cut, in bytes of its `MsgList`.
const PAGE_BYTES: usize = 13 * 1024;
/// `MsgFlagBits` of a revoked message.
const REVOKED_FLAG: u8 = 8;

/// The fields of `admin_getroammsg`.
pub(super) const FIELDS: &[Field] = &[
    Field::OperatorAccount,
    Field::PeerAccount,
    Field::FromAccount,
    Field::ToAccount,
    Field::MaxCnt,
    Field::MinTime,
    Field::MaxTime,
    Field::LastMsgKey,
];

/// An `admin_getroammsg`.
#[derive(Debug)]
pub(super) struct History<'a> {
    operator: Cow<'a, str>,
    pub(super) peer: Cow<'a, str>,
    max_count: u32,
    min_time: u32,
    max_time: u32,
    last_key: Option<Cow<'a, str>>,
}

/// An item of `MsgList`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item<'a> {
    #[serde(rename = "From_Account")]
    from: &'a str,
    #[serde(rename = "To_Account")]
    to: &'a str,
    msg_seq: u32,
    msg_random: u32,
    msg_time_stamp: u32,
    msg_flag_bits: u8,
    is_peer_read: u8,
    is_need_read_receipt: u8,
    support_message_extension: u8,
    msg_key: String,
    msg_body: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_custom_data: Option<&'a RawValue>,
}

/// A page, newest first while it is being gathered.
#[derive(Default)]
struct Page {
    items: Vec<String>,
    complete: bool,
    last: Option<(u32, String)>,
}

impl<'a> History<'a> {
    pub(super) fn parse(fields: &Fields<'a>) -> Result<Self, Refusal> {
        let either =
            |current, older, refusal| fields.required_text(if fields.has(current) { current } else { older }, refusal);
        let number = |field| fields.u32(field, codes::BODY)?.ok_or(codes::BODY);
        Ok(Self {
            operator: either(Field::OperatorAccount, Field::FromAccount, codes::FROM_ACCOUNT)?,
            peer: either(Field::PeerAccount, Field::ToAccount, codes::TO_ACCOUNT)?,
            max_count: match number(Field::MaxCnt)? {
                0 => return Err(codes::BODY),
                count => count.min(MAX_COUNT),
            },
            min_time: number(Field::MinTime)?,
            max_time: number(Field::MaxTime)?,
            last_key: fields
                .text(Field::LastMsgKey, codes::BODY)?
                .filter(|key| !key.is_empty()),
        })
    }

    pub(super) fn carry_out(&self, context: &Context<'_>) -> Result<Answered, Refusal> {
        if !context.app.exists(&self.operator, context.rules) {
            return Err(codes::FROM_ACCOUNT);
        }
        if !context.app.exists(&self.peer, context.rules) {
            return Err(codes::TO_ACCOUNT);
        }
        let store = &context.app.store;
        let (operator, peer) = (store.account(&self.operator), store.account(&self.peer));
        let page = store.with_conversation(&operator, &peer, |conversation| {
            self.page(context, conversation, &operator)
        });
        let Page {
            mut items,
            complete,
            last,
        } = page.unwrap_or(Page {
            complete: true,
            ..Page::default()
        });
        items.reverse();
        let (last_time, last_key) = last.unwrap_or_default();
        Ok(answer::ok_with(&format!(
            r#""Complete":{},"MsgCnt":{},"LastMsgTime":{last_time},"LastMsgKey":"{last_key}","MsgList":[{}]"#,
            u8::from(complete),
            items.len(),
            items.join(",")
        )))
    }

    fn page(&self, context: &Context<'_>, conversation: &Conversation, operator: &Account) -> Page {
        let visible = |message: &Message| {
            let (from, to) = conversation.parties(message);
            let flags = message.flags;
            (flags.has(Flags::AT_SENDER) && from.name() == operator.name()
                || flags.has(Flags::AT_RECIPIENT) && to.name() == operator.name())
                && message.at.saturating_add(context.roam_lag) <= context.at
        };
        let messages = conversation.messages();
        let in_time = &messages[..messages.partition_point(|message| message.content.time <= self.max_time)];
        let oldest = self.min_time.max(context.oldest);
        let after_last = self.last_key.as_deref().and_then(|key| {
            in_time
                .iter()
                .rposition(|message| message.content.time >= oldest && message.content.key() == key)
        });
        let rest = &in_time[..after_last.unwrap_or(in_time.len())];
        let mut page = Page {
            complete: true,
            ..Page::default()
        };
        let mut bytes = 0;
        for message in rest
            .iter()
            .rev()
            .take_while(|message| message.content.time >= oldest)
            .filter(|m| visible(m))
        {
            let item = item(conversation, message);
            bytes += item.len() + 1;
            let full = page.items.len() == self.max_count as usize || bytes > PAGE_BYTES && !page.items.is_empty();
            if full {
                page.complete = false;
                break;
            }
            page.items.push(item);
            page.last = Some((message.content.time, message.content.key()));
        }
        page
    }
}

fn item(conversation: &Conversation, message: &Message) -> String {
    let (from, to) = conversation.parties(message);
    let content = &message.content;
    let item = Item {
        from: from.name(),
        to: to.name(),
        msg_seq: content.seq,
        msg_random: content.random,
        msg_time_stamp: content.time,
        msg_flag_bits: if message.flags.has(Flags::REVOKED) {
            REVOKED_FLAG
        } else {
            0
        },
        is_peer_read: u8::from(!message.flags.has(Flags::UNREAD)),
        is_need_read_receipt: u8::from(content.read_receipt),
        support_message_extension: u8::from(content.extension),
        msg_key: content.key(),
        msg_body: &content.body,
        cloud_custom_data: content.custom.as_deref(),
    };
    serde_json::to_string(&item).expect("plain data is JSON")
}
