//! The counters of this process, for whoever shows them beside those of other processes.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use chrono::{DateTime, Utc};

use super::{
    Metrics,
    metrics::{verdict_label, verdicts},
};
use crate::domain::{Command, Lane, event::Outcome, job::JobType};

/// What was counted since the start. Names that never came up are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Recipients' messages by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Calls of the IM API by class, `ok` among them.
    pub calls: BTreeMap<String, u64>,
    /// Errors by command and word.
    pub errors: BTreeMap<(String, String), u64>,
    /// Deliveries by lane.
    pub deliveries: [u64; 3],
    /// By lane: when the youngest job that came was published.
    pub head_published_at: [Option<DateTime<Utc>>; 3],
}

impl Metrics {
    /// The counters now.
    pub fn reading(&self) -> Reading {
        let mut reading = Reading {
            errors: self.error_codes.counts(),
            deliveries: Lane::ALL.map(|lane| {
                let index = lane.index() * 2;
                self.deliveries.get(index) + self.deliveries.get(index + 1)
            }),
            head_published_at: Lane::ALL.map(|lane| {
                let millis = self.head_published_at[lane.index()].load(Ordering::Relaxed);
                DateTime::from_timestamp_millis(millis).filter(|_| millis > 0)
            }),
            ..Reading::default()
        };
        for index in 0..JobType::ALL.len() * Outcome::ALL.len() {
            let outcome = Outcome::ALL[index % Outcome::ALL.len()].as_str();
            add(&mut reading.outcomes, outcome, self.messages.get(index));
        }
        let classes: Vec<_> = verdicts().map(verdict_label).collect();
        for index in 0..Command::ALL.len() * classes.len() {
            add(
                &mut reading.calls,
                classes[index % classes.len()],
                self.attempts.get(index),
            );
        }
        reading
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str, count: u64) {
    if count > 0 {
        *counts.entry(name.to_owned()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::ErrorClass, telemetry::Verdict};

    #[test]
    fn counts_are_read_by_the_names_under_which_they_were_made() {
        let metrics = Metrics::new();
        metrics.outcome(JobType::Send, Outcome::Sent, 3);
        metrics.outcome(JobType::BatchSend, Outcome::Sent, 4);
        metrics.outcome(JobType::BatchSend, Outcome::Revoked, 1);
        metrics.attempt(Command::SendMsg, Verdict::Ok);
        metrics.attempt(Command::MsgWithdraw, Verdict::Error(ErrorClass::Throttled));
        metrics.error_code(Command::MsgWithdraw, "im-60007");
        metrics.delivery(Lane::Bulk, true);
        metrics.delivery(Lane::Bulk, false);
        metrics.published(Lane::Bulk, Some(1_000));
        metrics.published(Lane::Bulk, Some(900));
        metrics.published(Lane::High, None);
        let reading = metrics.reading();
        assert_eq!(reading.outcomes, [("sent".into(), 7), ("revoked".into(), 1)].into());
        assert_eq!(reading.calls, [("ok".into(), 1), ("throttled".into(), 1)].into());
        let code = ("admin_msgwithdraw".to_owned(), "im-60007".to_owned());
        assert_eq!(reading.errors, [(code, 1)].into());
        assert_eq!(reading.deliveries, [0, 0, 2]);
        assert_eq!(
            reading.head_published_at,
            [None, None, DateTime::from_timestamp(1_000, 0)]
        );
    }
}
