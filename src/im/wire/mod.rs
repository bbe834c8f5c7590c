//! How do requests and replies look on the wire? One file per operation, spelled as the IM API spells them.
//!
//! These types know JSON and the domain's identifiers; what a reply means for the work is decided in
//! [`super::client`]. Field orders are fixed, since a repeated request must be the same bytes.

pub(super) mod batch_send;
pub(super) mod history;
pub(super) mod import;
pub(super) mod mark_read;
pub(super) mod message;
pub(super) mod revoke;
pub(super) mod send;
pub(super) mod unread;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::domain::{AccountId, ErrorCode};

/// What every reply has. Unknown fields are ignored: the service adds some now and then.
#[derive(Debug, Deserialize)]
pub(super) struct Base<'a> {
    /// `OK`, `FAIL`, or `SomeError` in a batch.
    #[serde(rename = "ActionStatus", borrow, default)]
    pub(super) status: Option<Cow<'a, str>>,
    /// 0 is success.
    #[serde(rename = "ErrorCode")]
    pub(super) code: ErrorCode,
    /// A text for people.
    #[serde(rename = "ErrorInfo", borrow, default)]
    pub(super) info: Option<Cow<'a, str>>,
    /// The key of what was sent. With a code other than 0 it contradicts the code.
    #[serde(rename = "MsgKey", borrow, default)]
    pub(super) msg_key: Option<Cow<'a, str>>,
}

/// A reply that isn't what the API documents, in words that never hold its content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Not JSON, or not with the documented fields.
    #[error("the answer is not the documented JSON ({what} error at line {line}, column {column})")]
    Json {
        /// `serde_json`'s category.
        what: &'static str,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// Something that the documentation rules out.
    #[error("{0}")]
    Content(&'static str),
}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        use serde_json::error::Category;
        let what = match error.classify() {
            Category::Io => "read",
            Category::Syntax => "syntax",
            Category::Data => "data",
            Category::Eof => "end",
        };
        // The error's own text may quote values, and with them a message's text.
        Self::Json {
            what,
            line: error.line(),
            column: error.column(),
        }
    }
}

/// Whether code, status and key go together. What contradicts itself proves nothing: neither that the call was carried
/// out nor that it wasn't.
pub(super) fn judge(base: &Base<'_>) -> Result<(), Malformed> {
    let has_key = base.msg_key.as_deref().is_some_and(|key| !key.is_empty());
    match (base.code.0, base.status.as_deref()) {
        (0, Some("OK" | "SomeError")) => Ok(()),
        (0, _) => Err(Malformed::Content(
            "the answer has code 0 but neither the status OK nor SomeError",
        )),
        (_, Some("SomeError")) => Err(Malformed::Content(
            "the answer has the status SomeError but a code of failure",
        )),
        _ if has_key => Err(Malformed::Content("the answer has a code of failure but also a MsgKey")),
        _ => Ok(()),
    }
}

/// Parses a reply.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Serialises a request.
pub(super) fn to_bytes(request: &impl Serialize) -> Bytes {
    // All keys are strings and memory takes every byte; floats that aren't finite become null.
    serde_json::to_vec(request).expect("a request is plain JSON").into()
}

/// One entry of an `ErrorList`: a recipient, or peer, that failed while others did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientError {
    /// Which account.
    pub to: AccountId,
    /// Why. Its class is [`super::error_code::class_in_error_list`].
    pub code: ErrorCode,
}

/// An `ErrorList` entry on the wire; a batch names the account `To_Account`, an unread count `Peer_Account`.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorEntry {
    #[serde(rename = "To_Account", alias = "Peer_Account")]
    account: AccountId,
    #[serde(rename = "ErrorCode")]
    code: ErrorCode,
}

/// An `ErrorList` may be absent, null or empty. An entry with code 0 is no failure.
pub(super) fn failures(list: Option<Vec<ErrorEntry>>) -> Vec<RecipientError> {
    list.unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.code.0 != 0)
        .map(|entry| RecipientError {
            to: entry.account,
            code: entry.code,
        })
        .collect()
}

/// A number that helps but isn't needed: whatever is no number of this kind counts as absent, so that a surprise
/// there doesn't cost the reply.
pub(super) fn lenient<'de, D: Deserializer<'de>, T: TryFrom<i64>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_i64().and_then(|number| T::try_from(number).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_reply_is_described_without_its_content() {
        let error = parse::<Base<'_>>(br#"{"ErrorCode": "a secret text"}"#).unwrap_err();
        let printed = format!("{error} {error:?}");
        assert!(!printed.contains("secret"), "{printed}");
        assert!(printed.contains("data error at line 1"), "{printed}");
    }

    #[test]
    fn unknown_fields_of_a_reply_are_ignored_and_missing_texts_are_accepted() {
        let base: Base<'_> = parse(br#"{"ErrorCode": 0, "ErrorDisplay": "", "New": [1]}"#).unwrap();
        assert_eq!(base.code, ErrorCode(0));
        assert!(base.status.is_none() && base.info.is_none() && base.msg_key.is_none());
        let base: Base<'_> = parse(br#"{"ErrorCode": 0, "ErrorInfo": null, "MsgKey": null}"#).unwrap();
        assert!(base.info.is_none());
    }

    #[test]
    fn a_reply_that_contradicts_itself_is_neither_success_nor_refusal() {
        let judged = |text: &str| judge(&parse(text.as_bytes()).unwrap()).is_ok();
        assert!(judged(r#"{"ActionStatus": "OK", "ErrorCode": 0}"#));
        assert!(judged(
            r#"{"ActionStatus": "SomeError", "ErrorCode": 0, "MsgKey": "1_2_3"}"#
        ));
        assert!(judged(r#"{"ActionStatus": "FAIL", "ErrorCode": 90001}"#));
        assert!(judged(r#"{"ErrorCode": 90001, "MsgKey": ""}"#));
        assert!(!judged(r#"{"ErrorCode": 0}"#));
        assert!(!judged(
            r#"{"ActionStatus": "FAIL", "ErrorCode": 0, "MsgKey": "1_2_3"}"#
        ));
        assert!(!judged(r#"{"ActionStatus": "SomeError", "ErrorCode": 90012}"#));
        assert!(!judged(
            r#"{"ActionStatus": "FAIL", "ErrorCode": 90012, "MsgKey": "1_2_3"}"#
        ));
    }

    #[test]
    fn an_error_list_may_be_absent_null_or_empty_and_code_0_is_no_failure() {
        assert!(failures(None).is_empty());
        let list: Vec<ErrorEntry> =
            parse(br#"[{"To_Account": "a", "ErrorCode": 0}, {"To_Account": "b", "ErrorCode": 70107, "New": 1}]"#)
                .unwrap();
        let to = AccountId::parse("b").unwrap();
        assert_eq!(
            failures(Some(list)),
            [RecipientError {
                to,
                code: ErrorCode(70107)
            }]
        );
    }
}
