//! What an unsuccessful call means for the work: the class decides behaviour, never the text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A code that the IM service answers (`ErrorCode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub i32);

impl ErrorCode {
    /// The stable word of events, statuses and dead letters: `im-90001`.
    pub fn word(self) -> String {
        format!("im-{}", self.0)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The class of an error. A closed set: labels in logs, metrics and rows come from [`ErrorClass::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// Surely not carried out, and may work later: retried with backoff.
    Transient,
    /// The service asked for less: the budget slows down, the attempt is not counted.
    Throttled,
    /// Nobody knows whether it was carried out: only reconciliation leads on.
    Ambiguous,
    /// Credentials or the app's permissions: hits every job alike, so the app pauses and the job waits.
    Auth,
    /// This recipient can't be reached; nothing is wrong with the job.
    Recipient,
    /// A rule of the app or of the recipient refused the message.
    Blocked,
    /// The request itself is wrong: repeating it can't help.
    Permanent,
    /// What was asked for had been done before: a success.
    AlreadyDone,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 8] = [
        Self::Transient,
        Self::Throttled,
        Self::Ambiguous,
        Self::Auth,
        Self::Recipient,
        Self::Blocked,
        Self::Permanent,
        Self::AlreadyDone,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Ambiguous => "ambiguous",
            Self::Auth => "auth",
            Self::Recipient => "recipient",
            Self::Blocked => "blocked",
            Self::Permanent => "permanent",
            Self::AlreadyDone => "already_done",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_set_is_pinned() {
        let labels: Vec<_> = ErrorClass::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(
            labels,
            [
                "transient",
                "throttled",
                "ambiguous",
                "auth",
                "recipient",
                "blocked",
                "permanent",
                "already_done"
            ]
        );
    }
}
