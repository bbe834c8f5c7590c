//! The proof: do the records and the IM history agree? Every message on record as sent must be in the history, once.
//!
//! Knows records and the history; prints nothing. Runs beside the workers, so it is paced ([`HistoryAsker`]), asks each
//! conversation once, and needs no memory that grows with the records.
//!
//! ```
//! use im_dispatcher::verify::VerifyReport;
//!
//! let mut report = VerifyReport { sent: 3, ..VerifyReport::default() };
//! assert!(report.holds());
//! report.missing = 1; // on record as sent, and in no history
//! assert!(!report.holds());
//! ```

mod history;
mod judge;
mod run;

use std::time::Duration;

use serde::Serialize;

pub use history::HistoryAsker;
pub use judge::{Finding, Verdict};
pub use run::{VerifyError, verify};

use crate::store::{ScopeRecord, VerifyScope};

/// What is verified, and how.
#[derive(Debug, Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Which records.
    pub scope: VerifyScope<'a>,
    /// Since its claim a call can't still be on its way after that long: what has no outcome then is in doubt.
    pub quiet: Duration,
    /// The service lists what it accepted within that time.
    pub listed_after: Duration,
    /// How long a message that was sent within `listed_after` and isn't listed is waited for before a second look.
    pub settle: Duration,
    /// Findings of each kind that are named; all are counted.
    pub examples: usize,
}

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// On record as sent, and in the history once, under its key.
    pub sent: u64,
    /// On record as sent and not in the history; or pending, and nothing would ever carry it on.
    pub missing: u64,
    /// In the history more than once, or with a further key on record, and not revoked.
    pub sent_twice: u64,
    /// Nobody knows: `unknown`, or a call without an outcome that can't be on its way any more.
    pub in_doubt: u64,
    /// In the history, although the record says that it was not sent.
    pub unrecorded: u64,
    /// The history could not be asked: nothing is proven of these.
    pub unasked: u64,
    /// Sent by the records; the history can't tell.
    pub unverifiable: Unverifiable,
    /// Not sent yet: pending, or a call under way.
    pub waiting: u64,
    /// Among them: due for more than a second.
    pub past_due: u64,
    /// Sent and revoked.
    pub revoked: u64,
    /// On record as revoked, and in the history without the mark of a revoked message.
    pub not_revoked: u64,
    /// Failed.
    pub failed: u64,
    /// Revoked before they were sent.
    pub cancelled: u64,
    /// Expired.
    pub expired: u64,
    /// Held back by sending policy.
    pub suppressed: u64,
    /// Calls that were made for it.
    pub calls: u64,
    /// Named findings, at most [`VerifyOptions::examples`] of each kind.
    pub findings: Vec<NamedFinding>,
}

/// Why the history can't tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Unverifiable {
    /// For those online only (`life_time` 0).
    pub online_only: u64,
    /// Older than the history.
    pub beyond_retention: u64,
    /// The service refuses to show the conversation to either side: an account was deleted, say.
    pub refused: u64,
}

/// A finding with its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedFinding {
    /// What was found.
    pub finding: Finding,
    /// The job.
    pub job: String,
    /// The sender.
    pub from: String,
    /// The recipient.
    pub to: String,
    /// The keys that it is about.
    pub msg_keys: Vec<String>,
    /// Why.
    pub why: String,
}

impl VerifyReport {
    /// Whether everything that could be asked agrees, and everything was asked.
    pub const fn holds(&self) -> bool {
        self.missing == 0 && self.sent_twice == 0 && self.in_doubt == 0 && self.unrecorded == 0 && self.unasked == 0
    }

    fn add(&mut self, record: &ScopeRecord, verdict: Verdict, examples: usize) {
        *self.count_mut(verdict.finding) += 1;
        if verdict.finding.is_named() {
            self.name(
                NamedFinding {
                    finding: verdict.finding,
                    job: record.job.to_string(),
                    from: record.from.clone(),
                    to: record.to.clone(),
                    msg_keys: verdict.msg_keys,
                    why: verdict.why,
                },
                examples,
            );
        }
    }

    fn name(&mut self, finding: NamedFinding, examples: usize) {
        let named = self.findings.iter().filter(|named| named.finding == finding.finding);
        if named.count() < examples {
            self.findings.push(finding);
        }
    }

    const fn count_mut(&mut self, finding: Finding) -> &mut u64 {
        match finding {
            Finding::Sent => &mut self.sent,
            Finding::Missing => &mut self.missing,
            Finding::SentTwice => &mut self.sent_twice,
            Finding::InDoubt => &mut self.in_doubt,
            Finding::Unrecorded => &mut self.unrecorded,
            Finding::Unasked => &mut self.unasked,
            Finding::OnlineOnly => &mut self.unverifiable.online_only,
            Finding::Beyond => &mut self.unverifiable.beyond_retention,
            Finding::Refused => &mut self.unverifiable.refused,
            Finding::Waiting => &mut self.waiting,
            Finding::Revoked => &mut self.revoked,
            Finding::NotRevoked => &mut self.not_revoked,
            Finding::Failed => &mut self.failed,
            Finding::Cancelled => &mut self.cancelled,
            Finding::Expired => &mut self.expired,
            Finding::Suppressed => &mut self.suppressed,
        }
    }
}
