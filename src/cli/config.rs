//! `config show` and `config default`.

use std::process::ExitCode;

use serde_json::json;

use crate::config::{DEFAULT_FILE_TEXT, Settings};

use super::output::{json as print_json, line, note, table};

/// What to look at.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the effective settings, each with its source; secrets are hidden
    Show {
        /// One object for machines
        #[arg(long)]
        json: bool,
    },
    /// Print the default file, with a comment for each setting
    Default,
}

pub(super) fn run(settings: &Settings, command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Default => line(DEFAULT_FILE_TEXT.trim_end())?,
        Command::Show { json: true } => {
            let rows: serde_json::Map<String, serde_json::Value> = settings
                .effective()
                .into_iter()
                .map(|row| (row.name, json!({"value": row.value, "source": row.origin})))
                .collect();
            print_json(&rows)?;
        }
        Command::Show { json: false } => {
            let mut table = table(&["setting", "value", "source"]);
            for row in settings.effective() {
                table.add_row([
                    row.name,
                    row.value.unwrap_or_else(|| "(not set)".into()),
                    row.origin.unwrap_or_default(),
                ]);
            }
            line(table)?;
        }
    }
    for problem in settings.problems() {
        note(format_args!("note: {problem}"));
    }
    Ok(ExitCode::SUCCESS)
}
