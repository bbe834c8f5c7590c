//! What came of a call that did not succeed: its class, its code, its place, and whether anything had been written.

use std::{error::Error, fmt};

use super::error_code;
use crate::domain::{Command, ErrorClass, ErrorCode};

/// A call that did not succeed. The class decides what follows; text is for people.
#[derive(Debug, thiserror::Error)]
#[error("{command}: {}{}", self.text, self.suffix())]
pub struct ImError {
    /// What it means for the work.
    pub class: ErrorClass,
    /// The code that the service answered, if it answered one.
    pub code: Option<ErrorCode>,
    /// The service's `ErrorInfo`, or our own sentence. Bounded, and free of secrets; never matched on.
    pub text: String,
    /// The command that was called.
    pub command: Command,
    /// The `random` of the last HTTP request's URL, by which the service's logs know it; none if there was no request.
    pub url_random: Option<u32>,
    /// The HTTP status, if one was received.
    pub http_status: Option<u16>,
    /// In which step it failed.
    pub kind: ImErrorKind,
    /// The cause, without URL and without content.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
    /// Whether the request's body had been handed to the connection.
    pub(super) written: bool,
}

/// In which step a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImErrorKind {
    /// The service answered with a code.
    Refused,
    /// The caller's deadline had passed before the request was written.
    Deadline,
    /// No connection: the name isn't known, the host refuses or doesn't answer, or TLS failed.
    Connect,
    /// The total time-out passed.
    Timeout,
    /// The connection broke before the whole answer was there.
    ConnectionLost,
    /// An HTTP status other than 2xx.
    Http,
    /// An answer that isn't what the API documents: no JSON, code 0 without MsgKey, contradictory, too long.
    BadReply,
    /// The request could not be made: a fault of the caller.
    Request,
}

impl ImErrorKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Refused,
        Self::Deadline,
        Self::Connect,
        Self::Timeout,
        Self::ConnectionLost,
        Self::Http,
        Self::BadReply,
        Self::Request,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Deadline => "deadline",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::ConnectionLost => "connection-lost",
            Self::Http => "http",
            Self::BadReply => "bad-reply",
            Self::Request => "request",
        }
    }
}

impl fmt::Display for ImErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The most characters of the service's `ErrorInfo` that are kept. The longest documented one has about 200.
const MAX_TEXT: usize = 300;

impl ImError {
    /// A failure without a code. If nothing had been written it is transient; afterwards a call that makes a message
    /// appear is in doubt, and any other is simply repeated.
    pub(super) fn without_code(command: Command, kind: ImErrorKind, written: bool, text: impl Into<String>) -> Self {
        let class = match kind {
            ImErrorKind::Request => ErrorClass::Permanent,
            _ if written && command.leaves_doubt() => ErrorClass::Ambiguous,
            _ => ErrorClass::Transient,
        };
        Self {
            class,
            code: None,
            text: text.into(),
            command,
            url_random: None,
            http_status: None,
            kind,
            source: None,
            written,
        }
    }

    /// A call that was not made at all, for want of a slot or of time.
    pub fn not_asked(command: Command, text: impl Into<String>) -> Self {
        Self::without_code(command, ImErrorKind::Deadline, false, text)
    }

    /// A recipient's own code in the list of failures of a batch call that reached others. The service has decided, so it
    /// leaves nothing open.
    pub fn listed(code: ErrorCode) -> Self {
        let class = match error_code::class_in_error_list(code) {
            ErrorClass::Ambiguous => ErrorClass::Transient,
            class => class,
        };
        Self {
            class,
            ..Self::refused(Command::BatchSendMsg, code, "")
        }
    }

    /// A code other than 0 that the service answered.
    pub(super) fn refused(command: Command, code: ErrorCode, info: &str) -> Self {
        let text = match (printable(info), error_code::lookup(code)) {
            (text, _) if !text.is_empty() => text,
            (_, Some(known)) => known.meaning.to_owned(),
            (_, None) => "a code that is not documented".to_owned(),
        };
        Self {
            class: error_code::class_of(code, command),
            code: Some(code),
            ..Self::without_code(command, ImErrorKind::Refused, true, text)
        }
    }

    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(super) fn at(mut self, url_random: u32, http_status: Option<u16>) -> Self {
        self.url_random = Some(url_random);
        self.http_status = http_status;
        self
    }

    /// The stable word of events, statuses and dead letters: `im-90001` for a code of the service, else `timeout`,
    /// `connect`, `connection-lost`, `http-502`, `bad-reply`, `deadline` or `request`.
    pub fn word(&self) -> String {
        match (self.kind, self.code, self.http_status) {
            (ImErrorKind::Refused, Some(code), _) => code.word(),
            (ImErrorKind::Http, _, Some(status)) => format!("http-{status}"),
            (kind, ..) => kind.as_str().to_owned(),
        }
    }

    /// Whether the service surely has nothing of this request, since its body was never handed to a connection and
    /// never will be.
    pub const fn not_written(&self) -> bool {
        !self.written
    }

    /// What the code means and what to do about it, where there is a code that im-api lists.
    pub fn code_info(&self) -> Option<&'static error_code::CodeInfo> {
        self.code.and_then(error_code::lookup)
    }

    /// ` (im-90001, random 17)`.
    fn suffix(&self) -> String {
        match self.url_random {
            Some(random) => format!(" ({}, random {random})", self.word()),
            None => format!(" ({})", self.word()),
        }
    }
}

/// A text of the service as it may be logged: bounded, on one line.
fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_stable() {
        let word = |kind| ImError::without_code(Command::SendMsg, kind, true, "").word();
        let words: Vec<_> = ImErrorKind::ALL.into_iter().skip(1).map(word).collect();
        assert_eq!(
            words,
            [
                "deadline",
                "connect",
                "timeout",
                "connection-lost",
                "http",
                "bad-reply",
                "request"
            ]
        );
        assert_eq!(
            ImError::refused(Command::SendMsg, ErrorCode(90001), "x").word(),
            "im-90001"
        );
        let gateway = ImError::without_code(Command::SendMsg, ImErrorKind::Http, true, "").at(1, Some(502));
        assert_eq!(gateway.word(), "http-502");
    }

    #[test]
    fn what_was_written_leaves_a_send_in_doubt_and_what_was_not_does_not() {
        for kind in [
            ImErrorKind::Timeout,
            ImErrorKind::ConnectionLost,
            ImErrorKind::Http,
            ImErrorKind::BadReply,
        ] {
            for command in Command::ALL {
                let written = ImError::without_code(command, kind, true, "");
                let expected = if command.leaves_doubt() {
                    ErrorClass::Ambiguous
                } else {
                    ErrorClass::Transient
                };
                assert_eq!(written.class, expected, "{kind} {command}");
                assert!(!written.not_written());
                let unwritten = ImError::without_code(command, kind, false, "");
                assert_eq!(unwritten.class, ErrorClass::Transient);
                assert!(unwritten.not_written());
            }
        }
    }

    #[test]
    fn a_text_of_the_service_is_bounded_and_on_one_line() {
        let error = ImError::refused(
            Command::SendMsg,
            ErrorCode(90001),
            &format!("a\r\nb{}", "ü".repeat(1000)),
        );
        assert!(error.text.starts_with("a  b"));
        assert_eq!(error.text.chars().count(), MAX_TEXT + 1);
    }

    #[test]
    fn an_empty_text_is_replaced_by_the_documented_meaning() {
        let error = ImError::refused(Command::SendMsg, ErrorCode(90012), "");
        assert_eq!(error.text, "To_Account is not registered or does not exist");
        assert_eq!(
            error.to_string(),
            "sendmsg: To_Account is not registered or does not exist (im-90012)"
        );
        assert_eq!(error.code_info().unwrap().class, ErrorClass::Recipient);
    }
}
