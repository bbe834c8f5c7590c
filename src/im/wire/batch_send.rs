//! batchsendmsg: one message to up to 500 recipients. Its request is that of [`super::send`] with an array.

use serde::Deserialize;

use super::{ErrorEntry, Malformed, RecipientError, failures, parse, send::msg_key};
use crate::domain::MsgKey;

/// The service has accepted a message for at least one of the recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchReply {
    /// The one key of all recipients' messages.
    pub msg_key: MsgKey,
    /// Those that failed; the message was delivered to everyone else.
    pub failed: Vec<RecipientError>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "MsgKey", default)]
    msg_key: Option<String>,
    #[serde(rename = "ErrorList", default)]
    failed: Option<Vec<ErrorEntry>>,
}

pub(in crate::im) fn reply(bytes: &[u8]) -> Result<BatchReply, Malformed> {
    let reply: Reply = parse(bytes)?;
    Ok(BatchReply {
        msg_key: msg_key(reply.msg_key)?,
        failed: failures(reply.failed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AccountId, ErrorCode};

    #[test]
    fn an_error_list_names_the_failures_with_either_status() {
        for status in ["OK", "SomeError"] {
            let text = format!(
                r#"{{"ActionStatus": "{status}", "ErrorCode": 0, "ErrorInfo": "", "MsgKey": "1_2_3",
                "ErrorList": [{{"To_Account": "rong", "ErrorCode": 70107}}]}}"#
            );
            let failed = reply(text.as_bytes()).unwrap().failed;
            let to = AccountId::parse("rong").unwrap();
            assert_eq!(
                failed,
                [RecipientError {
                    to,
                    code: ErrorCode(70107)
                }]
            );
            for list in ["null", "[]"] {
                let text = format!(r#"{{"ActionStatus": "{status}", "MsgKey": "1_2_3", "ErrorList": {list}}}"#);
                assert!(reply(text.as_bytes()).unwrap().failed.is_empty());
            }
        }
    }

    #[test]
    fn an_entry_that_names_nobody_spoils_the_reply() {
        for entry in [
            "{}",
            r#"{"ErrorCode": 70107}"#,
            r#"{"To_Account": "", "ErrorCode": 70107}"#,
            "1",
        ] {
            let text = format!(r#"{{"MsgKey": "1_2_3", "ErrorList": [{entry}]}}"#);
            assert!(reply(text.as_bytes()).is_err(), "{entry}");
        }
    }
}
