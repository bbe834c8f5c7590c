//! The table as it is printed, and its machine-readable copy.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use serde_json::{Map, Value, json};

/// A bound, and what was measured.
#[derive(Debug)]
pub(crate) struct Bound {
    /// What.
    pub(crate) what: &'static str,
    /// What is asked for.
    pub(crate) asked: String,
    /// What was measured.
    pub(crate) got: String,
    /// Whether that is good enough.
    pub(crate) holds: bool,
}

impl Bound {
    /// At most so many.
    pub(crate) fn at_most(what: &'static str, asked: u64, got: u64) -> Self {
        Self {
            what,
            asked: format!("≤ {asked}"),
            got: got.to_string(),
            holds: got <= asked,
        }
    }

    /// At least that share.
    pub(crate) fn at_least_share(what: &'static str, asked: f64, got: f64) -> Self {
        Self {
            what,
            asked: format!("≥ {:.1} %", asked * 100.0),
            got: format!("{:.2} %", got * 100.0),
            holds: got >= asked,
        }
    }

    /// Less than so many milliseconds.
    pub(crate) fn faster(what: &'static str, asked: f64, got: f64) -> Self {
        Self {
            what,
            asked: format!("< {asked} ms"),
            got: format!("{got:.1} ms"),
            holds: got < asked,
        }
    }
}

/// What a row measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// What is asked for.
    pub(crate) bounds: Vec<Bound>,
    /// What else is worth keeping.
    pub(crate) figures: Value,
}

/// The rows so far.
pub(crate) struct Table {
    file: Option<PathBuf>,
    machine: Value,
    rows: Map<String, Value>,
    missed: usize,
}

/// Prints a line for whoever watches.
#[expect(clippy::print_stdout, reason = "it is what the program is for")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

impl Table {
    /// A table that goes on with what is in the file.
    pub(crate) fn open(file: Option<PathBuf>, machine: Value) -> anyhow::Result<Self> {
        let kept: Option<Value> = match file.as_ref().filter(|file| file.exists()) {
            Some(file) => {
                let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
                serde_json::from_str(&text).ok()
            }
            None => None,
        };
        let rows = kept
            .and_then(|kept| kept["rows"].as_object().cloned())
            .unwrap_or_default();
        say("| case | what | asked | got | |");
        say("|---|---|---|---|---|");
        Ok(Self {
            file,
            machine,
            rows,
            missed: 0,
        })
    }

    /// Prints a row, and keeps it.
    pub(crate) fn add(&mut self, name: &str, title: &str, measured: &Measured) -> anyhow::Result<()> {
        let mut bounds = Vec::new();
        for bound in &measured.bounds {
            let verdict = if bound.holds { "holds" } else { "MISSED" };
            say(&format!(
                "| {title} | {} | {} | {} | {verdict} |",
                bound.what, bound.asked, bound.got
            ));
            self.missed += usize::from(!bound.holds);
            bounds.push(json!({"what": bound.what, "asked": bound.asked, "got": bound.got, "holds": bound.holds}));
        }
        self.rows.insert(
            name.to_owned(),
            json!({"case": title, "bounds": bounds, "figures": measured.figures}),
        );
        if let Some(file) = &self.file {
            let text = serde_json::to_string_pretty(&json!({"machine": self.machine, "rows": self.rows}))?;
            std::fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }

    /// Whether everything holds.
    pub(crate) fn end(self) -> ExitCode {
        if self.missed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
