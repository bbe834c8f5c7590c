//! What became of the lines, in bounded memory however many are bad.

use std::{fmt, process::ExitCode};

use serde::Serialize;

use crate::broker::PublishError;

use super::super::output::{json as print_json, note};

/// Bad lines that are listed; the rest is counted.
const LISTED: usize = 100;
/// Jobs in a row that could not be published, after which the rest isn't tried: the broker is away.
const GIVE_UP: u64 = 2_000;

/// A line that was not published.
#[derive(Debug, Serialize)]
pub(super) struct BadLine {
    line: u64,
    code: String,
    error: String,
}

impl BadLine {
    pub(super) fn new(line: u64, code: impl Into<String>, error: impl Into<String>) -> Self {
        Self {
            line,
            code: code.into(),
            error: error.into(),
        }
    }
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: line {}: {} ({})", self.line, self.error, self.code)
    }
}

/// What became of the lines.
#[derive(Debug, Default)]
pub(super) struct Report {
    good: u64,
    bad: u64,
    unpublished: u64,
    unpublished_in_a_row: u64,
    listed: Vec<BadLine>,
    /// Only of a table.
    rows: Option<Rows>,
}

/// What is counted of a table while its rows are checked.
#[derive(Debug, Default, Serialize)]
pub(super) struct Rows {
    /// Rows that aren't blank.
    #[serde(rename = "rows")]
    pub(super) total: u64,
    /// Rows that make the same job as an earlier one, and are left out.
    pub(super) repeats: u64,
    /// Recipients of the good rows, each counted once.
    pub(super) recipients: u64,
    /// Those of them that more than one row names.
    pub(super) recipients_repeated: u64,
    /// Rows, from the first on, that an earlier run has published.
    pub(super) published_before: u64,
}

impl Report {
    /// For a table.
    pub(super) fn of_rows() -> Self {
        Self {
            rows: Some(Rows::default()),
            ..Self::default()
        }
    }

    /// What is counted of a table.
    pub(super) fn rows(&mut self) -> &mut Rows {
        self.rows.get_or_insert_default()
    }

    /// After the check: from here on the good ones are those that were published.
    pub(super) const fn forget_good(&mut self) {
        self.good = 0;
    }

    /// A good line, checked or published.
    pub(super) const fn good(&mut self) {
        self.good += 1;
        self.unpublished_in_a_row = 0;
    }

    pub(super) fn bad(&mut self, line: BadLine) {
        self.bad += 1;
        self.list(line);
    }

    pub(super) fn unpublished(&mut self, number: u64, error: &PublishError) {
        self.unpublished += 1;
        self.unpublished_in_a_row += 1;
        let code = if error.maybe_published() {
            "maybe-published"
        } else {
            "not-published"
        };
        self.list(BadLine::new(number, code, error.to_string()));
    }

    fn list(&mut self, line: BadLine) {
        if self.listed.len() < LISTED {
            self.listed.push(line);
        }
    }

    pub(super) const fn is_bad(&self) -> bool {
        self.bad > 0
    }

    pub(super) const fn published(&self) -> u64 {
        self.good
    }

    /// Whether trying on makes no sense.
    pub(super) const fn gave_up(&self) -> bool {
        self.unpublished_in_a_row >= GIVE_UP
    }

    /// Prints the report; exit code 1 if any line was bad or not published.
    pub(super) fn finish(mut self, json: bool, phase: Phase) -> anyhow::Result<ExitCode> {
        self.listed.sort_by_key(|line| line.line);
        for line in &self.listed {
            note(line);
        }
        let faults = self.bad + self.unpublished;
        let unlisted = faults.saturating_sub(self.listed.len() as u64);
        if unlisted > 0 {
            note(format_args!("error: and {unlisted} more lines"));
        }
        note(self.summary(phase));
        if json {
            let mut summary = serde_json::json!({
                "published": if phase == Phase::Published { self.good } else { 0 },
                "good": self.good, "bad": self.bad, "not_published": self.unpublished, "lines": self.listed,
            });
            if let Some(rows) = &self.rows {
                summary["table"] = serde_json::to_value(rows)?;
            }
            print_json(&summary)?;
        }
        Ok(if faults > 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn summary(&self, phase: Phase) -> String {
        if phase == Phase::Checked {
            let hint = if self.bad > 0 {
                "; mend them, or leave them out by --skip-bad"
            } else {
                ""
            };
            let checked = match &self.rows {
                None => format!("{} good lines, {} bad", self.good, self.bad),
                Some(rows) => format!("{} rows: {} good, {} bad{rows}", rows.total, self.good, self.bad),
            };
            return format!("{checked}; nothing was published{hint}");
        }
        let bad = match (self.bad, &self.rows) {
            (0, _) => String::new(),
            (bad, None) => format!(", {bad} bad lines left out"),
            (bad, Some(_)) => format!(", {bad} bad rows left out"),
        };
        let repeats = self.rows.as_ref().map_or(0, |rows| rows.repeats);
        let repeats = match repeats {
            0 => String::new(),
            repeats => format!(", {repeats} rows that repeat another left out"),
        };
        let rest = if self.gave_up() { " and the rest not tried" } else { "" };
        let unpublished = match self.unpublished {
            0 => String::new(),
            count => format!(
                ", {count} not published{rest}; submit the same again: jobs that were published are not sent twice"
            ),
        };
        let jobs = if self.good == 1 { "job" } else { "jobs" };
        format!("{} {jobs} published{bad}{repeats}{unpublished}", self.good)
    }
}

/// Behind the numbers of good and bad rows.
impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.repeats > 0 {
            write!(f, ", {} that repeat another and are left out", self.repeats)?;
        }
        write!(f, "; {} recipients", self.recipients)?;
        if self.recipients_repeated > 0 {
            write!(f, ", {} of them in more than one row", self.recipients_repeated)?;
        }
        if self.published_before > 0 {
            write!(f, "; {} rows were published before", self.published_before)?;
        }
        Ok(())
    }
}

/// How far the lines came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// They were only checked.
    Checked,
    /// The good ones were published.
    Published,
}
