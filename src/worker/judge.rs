//! What follows a call that failed: retried, reconciled, or failed for good. One place for all kinds of calls.

use std::time::{Duration, Instant};

use super::{app::App, context::Context};
use crate::{
    domain::{ErrorClass, ErrorCode, retry::Next},
    im::{ImError, ImErrorKind, class_in_error_list},
    telemetry::Operation,
};

/// The word of a job whose attempts are used up.
pub(super) const EXHAUSTED: &str = "retries-exhausted";
/// The word of a job that nobody can tell was sent, where it asked to fail then.
pub(super) const OUTCOME_UNKNOWN: &str = "outcome-unknown";
/// The word of a job in whose hands worker after worker died.
pub(super) const POISON: &str = "poison";
/// The word of a fault of our own.
pub(super) const INTERNAL: &str = "internal";

/// How soon after a lost answer the history is asked for the first time. An accepted message is mostly listed at once.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(300);

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Judgement {
    /// Surely not carried out: again after the delay.
    Retry {
        /// How long from now.
        after: Duration,
        /// Whether it counts.
        counts: bool,
    },
    /// May have been carried out.
    Doubt,
    /// Failed for good, with its word and sentence.
    Fail {
        /// The word.
        code: String,
        /// The sentence.
        message: String,
        /// A failure of this recipient alone: nothing in the job needs mending.
        recipient: bool,
    },
}

impl Context {
    /// Judges a failed call. `attempts` are the counted ones, this one included.
    pub(super) fn judge(&self, app: &App, error: &ImError, attempts: u32) -> Judgement {
        let code = error.word();
        match error.class {
            ErrorClass::Ambiguous => {
                self.metrics.operation(Operation::Doubt);
                Judgement::Doubt
            }
            // The claim ran out of time before anything was written.
            ErrorClass::Transient if error.kind == ImErrorKind::Deadline => Judgement::Retry {
                after: Duration::ZERO,
                counts: false,
            },
            ErrorClass::Auth => {
                let pause = app.gate.closed_for(Instant::now()).unwrap_or(self.retry.auth_delay);
                Judgement::Retry {
                    after: pause + spread(Duration::from_secs(2)),
                    counts: false,
                }
            }
            ErrorClass::Throttled | ErrorClass::Transient => {
                if let Some(pause) = app.gate.closed_for(Instant::now()) {
                    // The host is ill: attempts aren't burnt on it.
                    return Judgement::Retry {
                        after: pause + spread(Duration::from_secs(1)),
                        counts: false,
                    };
                }
                let counts = error.class == ErrorClass::Transient;
                match self.retry.next(error.class, attempts, rand::random()) {
                    Next::RetryIn(after) => Judgement::Retry { after, counts },
                    Next::GiveUp => Judgement::Fail {
                        code: EXHAUSTED.to_owned(),
                        message: format!("after {attempts} attempts, the last answer was {code}: {}", error.text),
                        recipient: false,
                    },
                }
            }
            ErrorClass::Recipient | ErrorClass::Blocked => Judgement::Fail {
                code,
                message: error.text.clone(),
                recipient: true,
            },
            ErrorClass::Permanent | ErrorClass::AlreadyDone => Judgement::Fail {
                code,
                message: error.text.clone(),
                recipient: false,
            },
        }
    }
}

/// A random share of a span, so that what was parked together doesn't return together.
pub(super) fn spread(span: Duration) -> Duration {
    span.mul_f64(rand::random::<f64>())
}

/// Whether a recorded failure makes a dead letter: a failure of the job as a whole does, a recipient's own only where
/// that was asked for.
pub(super) fn needs_letter(word: &str, recipient_letters: bool) -> bool {
    recipient_letters || !is_recipients_own(word)
}

/// Whether a word is about one recipient alone.
fn is_recipients_own(word: &str) -> bool {
    word.strip_prefix("im-")
        .and_then(|code| code.parse().ok())
        .is_some_and(|code| {
            matches!(
                class_in_error_list(ErrorCode(code)),
                ErrorClass::Recipient | ErrorClass::Blocked
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipients_own_failure_makes_a_letter_only_where_asked_for() {
        assert!(!needs_letter("im-90012", false));
        assert!(!needs_letter("im-20006", false));
        assert!(needs_letter("im-90012", true));
        assert!(needs_letter("im-90001", false));
        assert!(needs_letter(EXHAUSTED, false));
        assert!(needs_letter(OUTCOME_UNKNOWN, false));
    }

    #[test]
    fn spread_stays_within_its_span() {
        for _ in 0..100 {
            assert!(spread(Duration::from_secs(1)) <= Duration::from_secs(1));
        }
    }
}
