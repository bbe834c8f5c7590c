//! Is an answer a success, a refusal, or proof of nothing? From the bytes of a reply with an HTTP status of 2xx alone.

use super::{
    error::{ImError, ImErrorKind},
    wire::{self, Malformed},
};
use crate::domain::Command;

/// Reads a reply: `read` takes what only a success has, `redact` takes secrets out of the service's text.
pub(super) fn interpret<T>(
    command: Command,
    bytes: &[u8],
    redact: impl FnOnce(&str) -> String,
    read: impl FnOnce(&[u8]) -> Result<T, Malformed>,
) -> Result<T, ImError> {
    let malformed =
        |why: Malformed| ImError::without_code(command, ImErrorKind::BadReply, true, why.to_string()).caused_by(why);
    let base: wire::Base<'_> = wire::parse(bytes).map_err(malformed)?;
    wire::judge(&base).map_err(malformed)?;
    if base.code.0 != 0 {
        let info = redact(base.info.as_deref().unwrap_or_default());
        return Err(ImError::refused(command, base.code, &info));
    }
    read(bytes).map_err(malformed)
}

/// What the client would make of these bytes as the reply to a command, without a call and without the content: the
/// readers' entrance for fuzzing and for tests.
pub fn check_reply(command: Command, bytes: &[u8]) -> Result<(), ImError> {
    interpret(command, bytes, str::to_owned, |bytes| match command {
        Command::SendMsg => wire::send::reply(bytes).map(drop),
        Command::BatchSendMsg => wire::batch_send::reply(bytes).map(drop),
        Command::GetRoamMsg => wire::history::reply(bytes, None).map(drop),
        Command::GetUnreadNum => wire::unread::reply(bytes).map(drop),
        Command::ImportMsg | Command::MsgWithdraw | Command::SetMsgRead => Ok(()),
    })
}

/// A page of the history as the client reads it, without a call: the reader's entrance for fuzzing and for tests.
pub fn read_page(bytes: &[u8]) -> Result<wire::history::HistoryPage, ImError> {
    interpret(Command::GetRoamMsg, bytes, str::to_owned, |bytes| {
        wire::history::reply(bytes, None)
    })
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample};
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::ErrorClass;

    /// A value that a reply's field might have, sensible or not.
    fn field() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            sample::select(vec!["", "OK", "SomeError", "FAIL", "1_2_3", "a"]).prop_map(Value::from),
            sample::select(vec![0, 1, 20023, 60008, 70001, 70107, 90001, 125_000]).prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            let key = sample::select(vec![
                "To_Account",
                "From_Account",
                "Peer_Account",
                "ErrorCode",
                "MsgKey",
                "MsgSeq",
                "MsgBody",
            ]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..4).prop_map(|pairs| pairs.into_iter().collect()),
            ]
        })
    }

    fn reply() -> impl Strategy<Value = Value> {
        let keys = vec![
            "ActionStatus",
            "ErrorCode",
            "ErrorInfo",
            "MsgKey",
            "MsgTime",
            "ErrorList",
            "Complete",
            "LastMsgKey",
            "LastMsgTime",
            "MsgList",
            "AllC2CUnreadMsgNum",
            "C2CUnreadMsgNumList",
        ];
        prop::collection::vec((sample::select(keys), field()), 0..8).prop_map(|pairs| {
            let mut reply = json!({"ActionStatus": "OK", "ErrorCode": 0});
            for (key, value) in pairs {
                reply[key] = value;
            }
            reply
        })
    }

    proptest! {
        #[test]
        fn only_code_0_with_a_status_of_success_succeeds_and_a_send_needs_its_key(
            reply in reply(), command in sample::select(Command::ALL.to_vec()),
        ) {
            match check_reply(command, reply.to_string().as_bytes()) {
                Ok(()) => {
                    prop_assert_eq!(&reply["ErrorCode"], 0);
                    prop_assert!(reply["ActionStatus"] == "OK" || reply["ActionStatus"] == "SomeError");
                    let has_key = reply["MsgKey"].as_str().is_some_and(|key| !key.is_empty());
                    prop_assert!(has_key || !command.leaves_doubt());
                }
                Err(error) if error.code.is_some() => {
                    prop_assert_eq!(reply["ErrorCode"].as_i64(), error.code.map(|code| i64::from(code.0)));
                }
                Err(error) => {
                    let doubt = if command.leaves_doubt() { ErrorClass::Ambiguous } else { ErrorClass::Transient };
                    prop_assert_eq!((error.kind, error.class), (ImErrorKind::BadReply, doubt));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for command in Command::ALL {
                prop_assert!(check_reply(command, &bytes).is_err());
            }
        }
    }
}
