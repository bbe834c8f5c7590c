//! How commands talk: stdout for machines and tables, stderr for the rest.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Wrong usage that clap can't see: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(String);

/// Wrong usage, said in a sentence.
pub(super) fn usage(text: impl Into<String>) -> Usage {
    Usage(text.into())
}

/// Writes a line to stdout.
pub(super) fn line(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes an object to stdout, on one line.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(serde_json::to_string(value)?)?)
}

/// Writes a line to stderr; a stderr that is closed is nobody's loss.
pub(super) fn note(text: impl fmt::Display) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Writes an error with its causes to stderr. A cause that its error's text has already told isn't told twice.
pub(super) fn error(error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    note(format_args!("error: {text}"));
}

/// Whether an error is that whoever reads our stdout has gone.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// A table in the style of the place that it is printed to.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(if io::stdout().is_terminal() {
            presets::UTF8_FULL_CONDENSED
        } else {
            presets::NOTHING
        })
        .set_header(header.iter().copied());
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// A progress bar on a terminal, and nothing elsewhere.
pub(super) fn progress(length: Option<u64>, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

/// Whether something may be done: `yes` says so, or whoever is asked; anything but yes is no. Where there is nobody to ask,
/// the command itself is the answer.
pub(super) fn agreed(yes: bool, question: &str) -> io::Result<bool> {
    if yes || !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(true);
    }
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A text of others, safe for a terminal: control characters, which could move the cursor or worse, are replaced.
pub(super) fn plain(text: impl fmt::Display) -> String {
    let text = text.to_string();
    if text.chars().any(char::is_control) {
        text.chars()
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .collect()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_others_never_reach_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(plain("größer"), "größer");
    }

    #[test]
    fn a_reader_that_has_gone_is_told_from_other_errors() {
        let gone = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("print");
        assert!(is_broken_pipe(&gone));
        assert!(!is_broken_pipe(&anyhow::anyhow!("other")));
    }
}
