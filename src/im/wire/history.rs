//! `admin_getroammsg`: a page of a conversation's history.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Malformed, lenient, parse};
use crate::{
    domain::{AccountId, MsgKey},
    im::encode::Pair,
};

/// The most messages that a page is asked for (im-api: samples ask for 100; a page also ends at 13 KB).
pub const MAX_PAGE: u32 = 100;

/// Which messages to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Whose view of the conversation. What was sent with `SyncOtherMachine` 2 only the recipient sees.
    pub operator: AccountId,
    /// The other side.
    pub peer: AccountId,
    /// The oldest time, in Unix seconds, included.
    pub min_time: u64,
    /// The newest time, in Unix seconds, included.
    pub max_time: u64,
    /// Messages per page; kept within 1 to [`MAX_PAGE`].
    pub max_count: u32,
}

/// Where the next page begins. Opaque: it comes from a [`HistoryPage`] and goes into the next call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HistoryCursor {
    pub(in crate::im) last_msg_time: u64,
    pub(in crate::im) last_msg_key: String,
}

/// The request. Operator and peer go under their current and under their older names, since services of both ages
/// are in use and each ignores the other's.
#[derive(Serialize)]
pub(in crate::im) struct Request<'a> {
    #[serde(rename = "Operator_Account")]
    operator: &'a AccountId,
    #[serde(rename = "Peer_Account")]
    peer: &'a AccountId,
    #[serde(rename = "From_Account")]
    from: &'a AccountId,
    #[serde(rename = "To_Account")]
    to: &'a AccountId,
    #[serde(rename = "MaxCnt")]
    max_count: u32,
    #[serde(rename = "MinTime")]
    min_time: u64,
    #[serde(rename = "MaxTime")]
    max_time: u64,
    #[serde(rename = "LastMsgKey", skip_serializing_if = "Option::is_none")]
    last_msg_key: Option<&'a str>,
}

impl<'a> Request<'a> {
    pub(in crate::im) fn new(query: &'a HistoryQuery, cursor: Option<&'a HistoryCursor>) -> Self {
        Self {
            operator: &query.operator,
            peer: &query.peer,
            from: &query.operator,
            to: &query.peer,
            max_count: query.max_count.clamp(1, MAX_PAGE),
            min_time: query.min_time,
            max_time: cursor.map_or(query.max_time, |cursor| cursor.last_msg_time),
            last_msg_key: cursor.map(|cursor| cursor.last_msg_key.as_str()),
        }
    }
}

/// A message of the history, spelled as the API spells it. Its content does not show in `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct HistoryMessage {
    /// The sender.
    #[serde(rename = "From_Account")]
    pub from: AccountId,
    /// The recipient.
    #[serde(rename = "To_Account")]
    pub to: AccountId,
    /// The key.
    #[serde(rename = "MsgKey")]
    pub key: MsgKey,
    /// MsgSeq.
    #[serde(
        rename = "MsgSeq",
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub seq: Option<u32>,
    /// MsgRandom.
    #[serde(
        rename = "MsgRandom",
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub random: Option<u32>,
    /// When it was sent, in Unix seconds.
    #[serde(
        rename = "MsgTimeStamp",
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub timestamp: Option<i64>,
    /// 0 normal, 8 revoked.
    #[serde(
        rename = "MsgFlagBits",
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub flags: Option<u32>,
    /// Whether the other side has read it; newer services.
    #[serde(
        rename = "IsPeerRead",
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub peer_read: Option<u8>,
    /// The elements as the service wrote them.
    #[serde(rename = "MsgBody", default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
    /// The app's own data.
    #[serde(rename = "CloudCustomData", default, skip_serializing_if = "Option::is_none")]
    pub custom_data: Option<String>,
}

impl HistoryMessage {
    /// Whether the message has been revoked: it stays in the history with this flag.
    pub fn is_revoked(&self) -> bool {
        self.flags.is_some_and(|flags| flags & 8 != 0)
    }

    /// Whether it is the message of the call with this pair: by its two fields, or, where the service leaves them
    /// out, by the beginning of its key, `MsgSeq_MsgRandom_`.
    pub fn has_pair(&self, pair: Pair) -> bool {
        match (self.seq, self.random) {
            (Some(seq), Some(random)) => (seq, random) == (pair.seq, pair.random),
            _ => key_pair(&self.key) == Some(pair),
        }
    }
}

/// The pair at the beginning of a key of the documented form.
fn key_pair(key: &MsgKey) -> Option<Pair> {
    let mut parts = key.as_str().split('_');
    Some(Pair {
        seq: parts.next()?.parse().ok()?,
        random: parts.next()?.parse().ok()?,
    })
}

impl fmt::Debug for HistoryMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistoryMessage")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("key", &self.key)
            .field("timestamp", &self.timestamp)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

/// A page of the history.
#[derive(Debug, Clone)]
pub struct HistoryPage {
    /// In the service's order: pages go back in time, a page's messages forward.
    pub messages: Vec<HistoryMessage>,
    /// The service says that nothing is left.
    pub complete: bool,
    /// Where the next page begins. `None` while not `complete` means that the service names no way on: the rest of
    /// the history can't be read, and nothing may be concluded from a message's absence.
    pub next: Option<HistoryCursor>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "Complete")]
    complete: i64,
    #[serde(rename = "LastMsgTime", default, deserialize_with = "lenient")]
    last_msg_time: Option<i64>,
    #[serde(rename = "LastMsgKey", default)]
    last_msg_key: Option<String>,
    #[serde(rename = "MsgList", default)]
    messages: Option<Vec<HistoryMessage>>,
}

pub(in crate::im) fn reply(bytes: &[u8], asked: Option<&HistoryCursor>) -> Result<HistoryPage, Malformed> {
    let reply: Reply = parse(bytes)?;
    let messages = reply.messages.unwrap_or_default();
    let complete = reply.complete == 1;
    let next = match (reply.last_msg_time.map(u64::try_from), reply.last_msg_key) {
        (Some(Ok(last_msg_time)), Some(last_msg_key))
            if !complete && !messages.is_empty() && !last_msg_key.is_empty() =>
        {
            Some(HistoryCursor {
                last_msg_time,
                last_msg_key,
            })
        }
        _ => None,
    };
    Ok(HistoryPage {
        messages,
        complete,
        next: next.filter(|next| Some(next) != asked),
    })
}

#[cfg(test)]
pub(in crate::im) mod tests {
    use super::*;
    use crate::im::wire::to_bytes;

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).unwrap()
    }

    pub(in crate::im) fn query() -> HistoryQuery {
        HistoryQuery {
            operator: account("a"),
            peer: account("b"),
            min_time: 5,
            max_time: 9,
            max_count: 1000,
        }
    }

    pub(in crate::im) fn message(fields: &str) -> HistoryMessage {
        parse(format!(r#"{{"From_Account": "a", "To_Account": "b", {fields}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn the_next_page_is_asked_for_from_the_last_message_on() {
        let cursor = HistoryCursor {
            last_msg_time: 7,
            last_msg_key: "k".into(),
        };
        let first = to_bytes(&Request::new(&query(), None));
        assert_eq!(
            first,
            r#"{"Operator_Account":"a","Peer_Account":"b","From_Account":"a","To_Account":"b","MaxCnt":100,"MinTime":5,"MaxTime":9}"#
        );
        let second: serde_json::Value = parse(&to_bytes(&Request::new(&query(), Some(&cursor)))).unwrap();
        assert_eq!((&second["MaxTime"], &second["LastMsgKey"]), (&7.into(), &"k".into()));
        assert_eq!(second["MinTime"], 5);
    }

    #[test]
    fn the_documented_page_is_read_with_old_and_new_fields() {
        let page = reply(
            br#"{"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "Complete": 0, "MsgCnt": 1, "LastMsgTime": 1584669680,
            "LastMsgKey": "549396494_2578554_1584669680", "MsgList": [{"From_Account": "user2", "To_Account": "user1",
            "MsgSeq": 549396494, "MsgRandom": 4294967295, "MsgTimeStamp": 1584669680, "MsgFlagBits": 8, "IsPeerRead": 0,
            "MsgKey": "549396494_2578554_1584669680", "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "1"}}],
            "CloudCustomData": "own", "MsgVersion": 1}]}"#,
            None,
        )
        .unwrap();
        assert!(!page.complete);
        let cursor = HistoryCursor {
            last_msg_time: 1_584_669_680,
            last_msg_key: "549396494_2578554_1584669680".into(),
        };
        assert_eq!(page.next, Some(cursor));
        let message = &page.messages[0];
        assert!(message.is_revoked());
        assert!(message.has_pair(Pair {
            seq: 549_396_494,
            random: u32::MAX
        }));
        assert!(!format!("{page:?}").contains("own"));
        let printed = serde_json::to_string(message).unwrap();
        assert!(
            printed.contains(r#""MsgContent": {"Text": "1"}"#) && printed.contains(r#""MsgSeq":549396494"#),
            "{printed}"
        );
    }

    #[test]
    fn a_pair_is_recognised_by_the_key_where_the_fields_are_missing() {
        let pair = Pair { seq: 12, random: 34 };
        assert!(message(r#""MsgKey": "12_34_1""#).has_pair(pair));
        assert!(!message(r#""MsgKey": "12_345_1""#).has_pair(pair));
        assert!(!message(r#""MsgKey": "opaque""#).has_pair(pair));
        assert!(!message(r#""MsgKey": "12_34_1", "MsgSeq": 1, "MsgRandom": 2"#).has_pair(pair));
    }

    #[test]
    fn a_page_that_names_no_way_on_has_no_next_one() {
        let item = r#"{"From_Account": "a", "To_Account": "b", "MsgKey": "1_2_3"}"#;
        let next = |fields: &str| reply(format!("{{{fields}}}").as_bytes(), None).unwrap().next;
        assert!(
            next(&format!(
                r#""Complete": 0, "LastMsgTime": 3, "LastMsgKey": "k", "MsgList": [{item}]"#
            ))
            .is_some()
        );
        for fields in [
            format!(r#""Complete": 1, "LastMsgTime": 3, "LastMsgKey": "k", "MsgList": [{item}]"#),
            r#""Complete": 0, "LastMsgTime": 3, "LastMsgKey": "k", "MsgList": []"#.to_owned(),
            r#""Complete": 0, "LastMsgTime": 3, "LastMsgKey": "k", "MsgList": null"#.to_owned(),
            format!(r#""Complete": 0, "LastMsgTime": 3, "LastMsgKey": "", "MsgList": [{item}]"#),
            format!(r#""Complete": 0, "LastMsgTime": -3, "LastMsgKey": "k", "MsgList": [{item}]"#),
            format!(r#""Complete": 0, "MsgList": [{item}]"#),
        ] {
            assert!(next(&fields).is_none(), "{fields}");
        }
        let asked = HistoryCursor {
            last_msg_time: 3,
            last_msg_key: "k".into(),
        };
        let same = format!(r#"{{"Complete": 0, "LastMsgTime": 3, "LastMsgKey": "k", "MsgList": [{item}]}}"#);
        assert!(reply(same.as_bytes(), Some(&asked)).unwrap().next.is_none());
    }
}
