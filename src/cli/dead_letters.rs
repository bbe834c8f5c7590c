//! `dead-letters list / show / replay / discard`.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    broker::{Broker, BrokerError, DeadLetter, DeadLetterReport, Selection},
    config::Settings,
    domain::Lane,
};

use super::{
    act::act_even_unnoted,
    context,
    output::{agreed, json as print_json, line, note, plain, table, usage},
};

/// What to do with dead letters.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List them, the oldest first, with their reasons
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        limit: usize,
        /// One object a line, for machines
        #[arg(long)]
        json: bool,
    },
    /// Print the letters of one job, with what the producer sent
    Show {
        /// The job's id, or with --letter the letter's name
        id: String,
        /// The id names a letter
        #[arg(long)]
        letter: bool,
        /// One object a line, for machines
        #[arg(long)]
        json: bool,
    },
    /// Put them back into their queues; a failed job's failed recipients are tried again under the same id
    Replay {
        #[command(flatten)]
        which: Which,
        /// Into this lane instead of the queues that they came from
        #[arg(long, value_name = "LANE")]
        lane: Option<Lane>,
    },
    /// Drop them for good
    Discard {
        #[command(flatten)]
        which: Which,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Which letters.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Those of this job
    id: Option<String>,
    /// The one of this name
    #[arg(long, value_name = "NAME")]
    letter: Option<String>,
    /// Every one
    #[arg(long)]
    all: bool,
}

impl Which {
    fn selection(&self) -> anyhow::Result<Selection> {
        match (&self.id, &self.letter, self.all) {
            (Some(id), None, false) => Ok(Selection::Job(id.clone())),
            (None, Some(name), false) => Ok(Selection::Letter(name.clone())),
            (None, None, true) => Ok(Selection::All),
            _ => Err(usage("name a job, a letter by --letter, or --all").into()),
        }
    }
}

pub(super) async fn run(settings: &Settings, command: &Command) -> anyhow::Result<ExitCode> {
    let broker = context::broker(settings).await?;
    let code = run_on(settings, &broker, command).await;
    broker.close().await;
    code
}

async fn run_on(settings: &Settings, broker: &Broker, command: &Command) -> anyhow::Result<ExitCode> {
    let letters = broker.dead_letters();
    match command {
        Command::List { limit, json } => {
            list(&letters.peek(*limit).await?, *limit, *json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id, letter, json } => {
            let selection = if *letter {
                Selection::Letter(id.clone())
            } else {
                Selection::Job(id.clone())
            };
            let found = letters.find(&selection, usize::MAX).await?;
            if found.is_empty() {
                return Ok(none(&selection));
            }
            for letter in &found {
                show(letter, *json)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Replay { which, lane } => {
            let selection = which.selection()?;
            let report = noted(settings, "replay", &selection, letters.replay(&selection, *lane)).await?;
            Ok(told(&selection, &report, "replayed"))
        }
        Command::Discard { which, yes } => {
            let selection = which.selection()?;
            if !agreed(*yes, "Drop these letters for good?")? {
                note("nothing was dropped");
                return Ok(ExitCode::FAILURE);
            }
            let report = noted(settings, "discard", &selection, letters.discard(&selection)).await?;
            Ok(told(&selection, &report, "discarded"))
        }
    }
}

/// Does it, noted in the audit log where there is a database.
async fn noted(
    settings: &Settings,
    action: &str,
    selection: &Selection,
    deed: impl Future<Output = Result<DeadLetterReport, BrokerError>>,
) -> anyhow::Result<DeadLetterReport> {
    let store = match &settings.database_url {
        Some(_) => Some(context::store(settings)?),
        None => None,
    };
    let target = selection.to_string();
    Ok(act_even_unnoted(store.as_ref(), action, &target, deed, DeadLetterReport::told).await?)
}

fn list(letters: &[DeadLetter], limit: usize, json: bool) -> anyhow::Result<()> {
    if json {
        for letter in letters {
            print_json(&Value::Object(described(letter)))?;
        }
    } else if letters.is_empty() {
        note("there are no dead letters");
    } else {
        let mut table = table(&["job", "error", "why", "queue", "attempts", "letter"]);
        for letter in letters {
            table.add_row([
                plain(letter.job_id.as_deref().unwrap_or_default()),
                plain(&letter.code),
                plain(&letter.sentence),
                plain(letter.queue.as_deref().unwrap_or_default()),
                letter.attempts.to_string(),
                plain(&letter.letter_id),
            ]);
        }
        line(table)?;
    }
    if letters.len() == limit {
        note(format_args!("the first {limit}; more with --limit"));
    }
    Ok(())
}

fn show(letter: &DeadLetter, json: bool) -> anyhow::Result<()> {
    let body = std::str::from_utf8(&letter.body);
    if json {
        let mut object = described(letter);
        match body {
            Ok(text) => object.insert("body".into(), json!(text)),
            Err(_) => object.insert("body_base64".into(), json!(STANDARD.encode(&letter.body))),
        };
        return print_json(&Value::Object(object));
    }
    for (name, value) in described(letter) {
        let value = match value {
            Value::String(text) => plain(text),
            Value::Null => continue,
            other => other.to_string(),
        };
        line(format_args!("{name:12} {value}"))?;
    }
    match body {
        Ok(text) if io::stdout().is_terminal() => line(plain(text))?,
        Ok(text) => line(text)?,
        Err(_) => line(format_args!("(not UTF-8, in base64) {}", STANDARD.encode(&letter.body)))?,
    }
    Ok(())
}

fn described(letter: &DeadLetter) -> serde_json::Map<String, Value> {
    let fields = [
        ("job", json!(letter.job_id)),
        ("letter", json!(letter.letter_id)),
        ("code", json!(letter.code)),
        ("error", json!(letter.sentence)),
        ("queue", json!(letter.queue)),
        ("attempts", json!(letter.attempts)),
        ("generation", json!(letter.generation)),
        ("bytes", json!(letter.body.len())),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn none(selection: &Selection) -> ExitCode {
    let what = match selection {
        Selection::All => "there are no dead letters".to_owned(),
        Selection::Job(id) => format!("no dead letter is of job {id}"),
        Selection::Letter(name) => format!("no dead letter is named {name}"),
        Selection::Code(code) => format!("no dead letter has the code {code}"),
    };
    note(format_args!(
        "error: {what}; `im-dispatcher dead-letters list` shows what is there"
    ));
    ExitCode::FAILURE
}

fn told(selection: &Selection, report: &DeadLetterReport, verb: &str) -> ExitCode {
    if report.matched == 0 && *selection != Selection::All {
        return none(selection);
    }
    note(format_args!("{} of {} {verb}", report.done, report.matched));
    for (letter, why) in &report.failed {
        note(format_args!("error: letter {letter} is still there: {why}"));
    }
    ExitCode::from(u8::from(!report.failed.is_empty()))
}
