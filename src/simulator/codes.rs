//! Which code does the service answer for which fault? The codes that the simulator itself finds a reason for; any
//! other code can be had as an injected fault.

/// A refusal: the call was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `ErrorCode`.
    pub(super) code: i32,
    /// `ErrorInfo`: for people; nobody may match on it.
    pub(super) info: &'static str,
}

/// Names the refusals, each with the meaning that the documentation gives its code.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $info:literal;)*) => {
        $($(#[$doc])* pub(super) const $name: Refusal = Refusal { code: $code, info: $info };)*
    };
}

refusals! {
    /// HTTP or URL can't be parsed: not a POST, a parameter missing or malformed.
    HTTP = 60002, "HTTP request or URL parameters cannot be parsed";
    JSON = 60003, "request body is not JSON";
    /// identifier is missing.
    IDENTIFIER_MISSING = 60004, "identifier is missing";
    /// This command's frequency limit.
    THROTTLED = 60007, "frequency limit of this API";
    /// Wrong resource or URL.
    NO_SUCH_COMMAND = 60009, "no such service or command";
    NOT_ADMIN = 60010, "identifier is not an app administrator";
    /// The app's overall frequency limit.
    APP_THROTTLED = 60011, "frequency limit of this SDKAppID";
    SDK_APP_ID = 60012, "sdkappid is missing or wrong";
    SIG_IDENTIFIER = 70013, "UserSig was made for another identifier";
    SIG_APP = 70014, "UserSig was made for another SDKAppID";
    NO_SUCH_APP = 70020, "SDKAppID not found";
    /// Only inside an `ErrorList`.
    NO_SUCH_ACCOUNT = 70107, "account does not exist";
    REVOKE_NOT_FOUND = 20022, "message to revoke does not exist";
    ALREADY_REVOKED = 20023, "message was already revoked";
    /// The body's structure, or a field that has no code of its own.
    BODY = 90001, "request body does not have the documented form";
    CONTENT = 90002, "MsgContent does not have the documented form";
    TO_ACCOUNT = 90003, "To_Account is missing or not a string";
    MSG_RANDOM = 90005, "Invalid format of MsgRandom";
    MSG_TIME = 90006, "Invalid format of MsgTimeStamp";
    MSG_BODY = 90007, "MsgBody is not an array";
    FROM_ACCOUNT = 90008, "From_Account is missing, not a string or does not exist";
    ELEMENT = 90010, "an element of MsgBody does not have the documented form";
    TOO_MANY_RECIPIENTS = 90011, "more than 500 recipients";
    NO_RECIPIENT = 90012, "To_Account is not registered";
    TOO_MANY_ACCOUNTS = 90018, "more than 10 peers";
    LIFE_TIME_RANGE = 90026, "MsgLifeTime is over 7 days";
    SYNC_FROM_OLD_SYSTEM = 90030, "SyncFromOldSystem is missing or wrong";
    SYNC_OTHER_MACHINE = 90031, "SyncOtherMachine is not an integer of 1 or 2";
    OFFLINE_PUSH = 90043, "OfflinePushInfo is malformed";
    LIFE_TIME_TYPE = 90044, "MsgLifeTime is not an integer";
    UNKNOWN_ACCOUNT = 90048, "requested account does not exist";
    MSG_KEY = 90054, "MsgKey is malformed";
    BATCH_TOO_LONG = 90055, "batch message is over 12 KB";
    TOO_LONG = 93000, "message is over 12 KB";
}
