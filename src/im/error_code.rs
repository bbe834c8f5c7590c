//! What does a code of the service mean, and what is to be done? One table maps every code that im-api lists to its
//! class; a code that isn't listed has a stated default.
//!
//! The table says what the code means by itself. Whether the call may be repeated also depends on the command
//! ([`class_of`]): a service that has failed inside may have accepted the message before it did.

use crate::domain::{
    Command, ErrorClass,
    ErrorClass::{AlreadyDone, Ambiguous, Auth, Blocked, Permanent, Recipient, Throttled, Transient},
    ErrorCode,
};

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeInfo {
    /// The code.
    pub code: ErrorCode,
    /// What it means by itself, without regard to the command.
    pub class: ErrorClass,
    /// Its meaning by the service's documentation.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

/// The codes that an app's own callback may answer (im-api: 120001 to 130000).
const APP_CALLBACK: std::ops::RangeInclusive<i32> = 120_001..=130_000;

/// The row for the codes of [`APP_CALLBACK`]; its `code` is the first of them.
static CALLBACK_INFO: CodeInfo = row(
    120_001,
    Blocked,
    "the app's own callback refused the message with a code of its own (120001 to 130000)",
    "ask who runs the app's callback server what the code means",
);

const fn row(code: i32, class: ErrorClass, meaning: &'static str, advice: &'static str) -> CodeInfo {
    CodeInfo {
        code: ErrorCode(code),
        class,
        meaning,
        advice,
    }
}

/// The table's row for a code; `None` for a code that im-api doesn't list.
pub fn lookup(code: ErrorCode) -> Option<&'static CodeInfo> {
    if APP_CALLBACK.contains(&code.0) {
        return Some(&CALLBACK_INFO);
    }
    TABLE
        .binary_search_by_key(&code, |info| info.code)
        .ok()
        .map(|index| &TABLE[index])
}

/// The class of a code that a whole call was answered with.
///
/// For the commands that make a message appear, a transient code leaves open whether the message was accepted, so it
/// is ambiguous; 80003 says itself that nothing was delivered. An unlisted code gets the same default: ambiguous for
/// those commands, transient for the others (im-api: a few retries, then dead-letter). 20023 is a success of a
/// revocation only; from any other command it is as good as unlisted.
pub fn class_of(code: ErrorCode, command: Command) -> ErrorClass {
    match listed(code, command == Command::MsgWithdraw) {
        Transient if command.leaves_doubt() && code != CALLBACK_FAILED => Ambiguous,
        class => class,
    }
}

/// The class of a code in a batch's `ErrorList`. An entry is a definite answer about its one recipient: not delivered.
/// So a transient one (70169, 90992, …) may be repeated for that recipient alone, and so may an unlisted one.
pub fn class_in_error_list(code: ErrorCode) -> ErrorClass {
    listed(code, false)
}

fn listed(code: ErrorCode, revocation: bool) -> ErrorClass {
    match lookup(code).map(|info| info.class) {
        Some(AlreadyDone) if !revocation => Transient,
        Some(class) => class,
        None => Transient,
    }
}

/// Whether the code says that the UserSig itself is at fault, so that a new one may mend it. 70009 is among them
/// since the secret may have been changed while the call was under way.
pub const fn names_signature(code: ErrorCode) -> bool {
    matches!(
        code.0,
        20002 | 60004 | 60005 | 70001 | 70002 | 70003 | 70005 | 70009 | 70013 | 70014 | 70052
    )
}

/// Whether the code, in answer to a call whose accounts were spelled as strings, says that one of them doesn't exist.
/// Where it answers a question about a conversation, there is none: who doesn't exist has no messages.
pub const fn names_no_account(code: ErrorCode) -> bool {
    matches!(code.0, 20003 | 70107 | 90003 | 90008 | 90012 | 90048)
}

/// The app's before-send callback failed and the message was not delivered: transient, and never in doubt.
const CALLBACK_FAILED: ErrorCode = ErrorCode(80003);

/// Every code of im-api, section 6, in ascending order.
pub static TABLE: &[CodeInfo] = &[
    row(
        20001,
        Permanent,
        "illegal request packet",
        "mend the job; compare it with the schema",
    ),
    row(
        20002,
        Auth,
        "UserSig or A2 invalid",
        "check the secret and the clock; the client has signed anew already",
    ),
    row(
        20003,
        Recipient,
        "sender or recipient invalid or not imported",
        "import the accounts, the sender too, then retry the recipients",
    ),
    row(
        20004,
        Transient,
        "network error inside the service",
        "nothing; it is looked up and repeated",
    ),
    row(
        20005,
        Transient,
        "internal server error",
        "nothing; it is looked up and repeated",
    ),
    row(
        20006,
        Blocked,
        "the app's before-send callback refused the message",
        "ask who runs the app's callback server",
    ),
    row(
        20007,
        Blocked,
        "the recipient has blacklisted the sender",
        "nothing; respect it",
    ),
    row(
        20008,
        Blocked,
        "sender and recipient belong to different apps",
        "check the job's app and its recipients",
    ),
    row(
        20009,
        Blocked,
        "the two are not friends",
        "nothing, or add the relation first",
    ),
    row(
        20010,
        Blocked,
        "the sender is not in the recipient's friend list",
        "nothing, or add the relation first",
    ),
    row(
        20011,
        Blocked,
        "the recipient is not in the sender's friend list",
        "nothing, or add the relation first",
    ),
    row(
        20012,
        Blocked,
        "the sender is muted",
        "unmute the sender, then retry the recipients",
    ),
    row(
        20016,
        Permanent,
        "over the time in which a client may recall a message (2 minutes by default)",
        "revoke through the administrator's command, which has no such limit",
    ),
    row(
        20022,
        Permanent,
        "the message to revoke does not exist: wrong sender, recipient or key, expired, or never stored",
        "check From_Account (the sender that the message really had), To_Account and MsgKey",
    ),
    row(
        20023,
        AlreadyDone,
        "the message was revoked before",
        "nothing; it counts as revoked",
    ),
    row(
        60002,
        Permanent,
        "the HTTP request or its URL can't be parsed",
        "check the base URL; report it as a bug",
    ),
    row(60003, Permanent, "the JSON can't be parsed", "report it as a bug"),
    row(
        60004,
        Auth,
        "account or signature missing or wrong",
        "check the administrator account and the secret",
    ),
    row(
        60005,
        Auth,
        "account or signature wrong",
        "check the administrator account and the secret",
    ),
    row(
        60006,
        Auth,
        "the SDKAppID is forbidden to call",
        "check the app in the console",
    ),
    row(
        60007,
        Throttled,
        "over this command's frequency limit",
        "lower the limit in the configuration or raise the quota; check for other callers of the app",
    ),
    row(
        60008,
        Transient,
        "the request timed out, or its HTTP format is bad",
        "nothing; it is looked up and repeated",
    ),
    row(60009, Permanent, "wrong resource or URL", "check the base URL"),
    row(
        60010,
        Auth,
        "the identifier is not an app administrator",
        "make the account an administrator in the console, or configure another",
    ),
    row(
        60011,
        Throttled,
        "over the whole app's frequency limit",
        "lower the limits of all commands; check for other callers of the app",
    ),
    row(
        60012,
        Auth,
        "SDKAppID missing or wrong",
        "check the configured SDKAppID",
    ),
    row(
        60013,
        Transient,
        "the reply of a server inside could not be parsed",
        "nothing; it is looked up and repeated",
    ),
    row(
        60014,
        Transient,
        "the exchange of the account timed out inside",
        "nothing; it is looked up and repeated",
    ),
    row(60015, Permanent, "an account is not a string", "mend the job"),
    row(60016, Auth, "the app is disabled", "enable the app in the console"),
    row(
        60017,
        Auth,
        "the call is forbidden",
        "check the app's permissions in the console",
    ),
    row(
        60018,
        Throttled,
        "called too frequently",
        "lower the limit in the configuration",
    ),
    row(
        60019,
        Throttled,
        "called too frequently",
        "lower the limit in the configuration",
    ),
    row(
        60020,
        Auth,
        "the app's edition lacks this, or has lapsed",
        "renew or upgrade the edition; it takes up to 5 minutes after the purchase",
    ),
    row(
        60021,
        Auth,
        "the source IP is not on the allowed list",
        "add this host's address in the console",
    ),
    row(
        70001,
        Auth,
        "the UserSig has expired",
        "check this host's clock; the client has signed anew already",
    ),
    row(70002, Auth, "the UserSig is empty", "check the secret"),
    row(
        70003,
        Auth,
        "the UserSig is illegal or cut off",
        "check the secret and what is between here and the service",
    ),
    row(
        70005,
        Auth,
        "the UserSig is illegal or cut off",
        "check the secret and what is between here and the service",
    ),
    row(
        70009,
        Auth,
        "the UserSig's check failed: it was signed with another app's key",
        "check the app's secret",
    ),
    row(
        70013,
        Auth,
        "the UserSig was made for another identifier",
        "check the administrator account in the configuration",
    ),
    row(
        70014,
        Auth,
        "the UserSig was made for another SDKAppID",
        "check the configured SDKAppID",
    ),
    row(
        70016,
        Auth,
        "the key or the app was not found",
        "check the SDKAppID, and that the base URL is the host of the app's data centre",
    ),
    row(
        70020,
        Auth,
        "the app was not found",
        "check the SDKAppID, and that the base URL is the host of the app's data centre",
    ),
    row(
        70050,
        Auth,
        "too many bad UserSigs",
        "check the secret, then wait a minute",
    ),
    row(
        70051,
        Auth,
        "the account is on a security list",
        "ask the service's support about the administrator account",
    ),
    row(
        70052,
        Auth,
        "the UserSig was revoked or is invalid",
        "check the secret; the client has signed anew already",
    ),
    row(
        70107,
        Recipient,
        "the account does not exist",
        "import the account, then retry the recipient",
    ),
    row(
        70114,
        Auth,
        "a security restriction",
        "ask the service's support about the app",
    ),
    row(
        70169,
        Transient,
        "the account server timed out inside",
        "nothing; it is repeated",
    ),
    row(
        70202,
        Transient,
        "the account server timed out inside",
        "nothing; it is repeated",
    ),
    row(
        70206,
        Permanent,
        "too many accounts in the request",
        "report it as a bug",
    ),
    row(
        70398,
        Auth,
        "the app's quota of accounts is used up",
        "raise the quota in the console",
    ),
    row(70402, Permanent, "an illegal parameter", "mend the job"),
    row(
        70403,
        Auth,
        "the identifier is not an app administrator",
        "make the account an administrator in the console, or configure another",
    ),
    row(
        70500,
        Transient,
        "an error inside the account server",
        "nothing; it is repeated",
    ),
    row(
        80001,
        Blocked,
        "content moderation refused the message",
        "change the content",
    ),
    row(
        80002,
        Permanent,
        "the message is too long",
        "shorten the message: at most 12 KB",
    ),
    row(
        80003,
        Transient,
        "the app's before-send callback failed or timed out, and the app chose not to deliver then",
        "look at the app's callback server",
    ),
    row(90001, Permanent, "the JSON body is illegal", "mend the job"),
    row(90002, Permanent, "MsgBody is illegal", "mend the message's body"),
    row(
        90003,
        Permanent,
        "To_Account is missing, not a string, or does not exist",
        "mend the recipient, or import it",
    ),
    row(
        90005,
        Permanent,
        "MsgRandom is missing, not a number or out of range",
        "report it as a bug",
    ),
    row(
        90006,
        Permanent,
        "MsgTimeStamp is not a number",
        "mend the job's timestamp",
    ),
    row(90007, Permanent, "MsgBody is not an array", "mend the message's body"),
    row(
        90008,
        Permanent,
        "From_Account is missing, not a string, or that sender does not exist",
        "mend the sender, or import its account",
    ),
    row(
        90009,
        Auth,
        "the call needs an app administrator",
        "make the account an administrator in the console, or configure another",
    ),
    row(
        90010,
        Permanent,
        "the message's format is illegal",
        "mend the message's body",
    ),
    row(
        90011,
        Permanent,
        "more than 500 recipients in a call",
        "report it as a bug",
    ),
    row(
        90012,
        Recipient,
        "To_Account is not registered or does not exist",
        "import the account, then retry the recipient",
    ),
    row(
        90018,
        Permanent,
        "too many accounts in the request",
        "report it as a bug",
    ),
    row(
        90026,
        Permanent,
        "MsgLifeTime is over 7 days",
        "give a life_time of at most 604800 seconds",
    ),
    row(
        90030,
        Permanent,
        "SyncFromOldSystem is missing or wrong",
        "configure the values of SyncFromOldSystem that this service takes",
    ),
    row(
        90031,
        Permanent,
        "SyncOtherMachine is not a number",
        "report it as a bug",
    ),
    row(90043, Permanent, "OfflinePushInfo is malformed", "mend offline_push"),
    row(90044, Permanent, "MsgLifeTime is not a number", "report it as a bug"),
    row(
        90048,
        Recipient,
        "the requested account does not exist",
        "import the account, then retry the recipient",
    ),
    row(
        90054,
        Permanent,
        "the MsgKey to revoke is malformed",
        "check the MsgKey",
    ),
    row(
        90055,
        Permanent,
        "the batch's body is too long",
        "shorten the message: at most 12 KB",
    ),
    row(
        90992,
        Transient,
        "an internal error",
        "nothing; if every call has it, look at the app's callback server",
    ),
    row(
        90994,
        Transient,
        "an internal error",
        "nothing; it is looked up and repeated",
    ),
    row(
        90995,
        Transient,
        "an internal error",
        "nothing; it is looked up and repeated",
    ),
    row(
        91000,
        Transient,
        "an internal error",
        "nothing; it is looked up and repeated",
    ),
    row(
        93000,
        Permanent,
        "the message is too long",
        "shorten the message: at most 12 KB",
    ),
];
