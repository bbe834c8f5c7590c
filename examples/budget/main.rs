//! The budget's table: does the worker take what the service grants, and never more? `scripts/bench.sh budget` builds it and
//! brings the services.
//!
//! Each row starts real worker processes against a simulator of the IM API, gives them work, and counts on both sides: what
//! the simulator saw, and what the workers' own stamps say: their log, when a call is let go, which is checked right before the
//! write, and when the request was handed to its connection.
//! It prints each bound with what was measured, keeps the figures as JSON, and exits 0 only if every bound holds.
//!
//! It knows the product from outside only: its binary, its queues, its HTTP API, its log.

mod count;
#[expect(
    clippy::unwrap_used,
    reason = "the tests' own helper: loopback ports can be bound, or nothing works"
)]
#[path = "../../tests/it/support/net.rs"]
mod net;
mod producer;
mod rows;
mod scene;
mod table;
mod workers;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use clap::Parser;

use self::{rows::Row, table::Table};

/// Measures the budget: each row of its table, or those that are named.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows, or what their names begin with [default: all]
    rows: Vec<String>,
    /// Lists the rows.
    #[arg(long)]
    list: bool,
    /// How long a backlog is watched [default: what the table asks for]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Jobs that wait in the bulk lane beside the urgent ones.
    #[arg(long, default_value_t = 100_000)]
    bulk: usize,
    /// Urgent jobs whose way is measured.
    #[arg(long, default_value_t = 100)]
    samples: usize,
    /// Jobs of each run without a limit.
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// Pairs of runs without a limit.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Where the figures are kept; rows that aren't run stay as they are there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The machine, as JSON, kept with the figures.
    #[arg(long, default_value = "null")]
    machine: String,
    /// Where logs are kept.
    #[arg(long, default_value = "target/bench/budget-logs")]
    directory: PathBuf,
    /// The binary.
    #[arg(long, default_value = "target/release/im-dispatcher")]
    binary: PathBuf,
    /// The binary that can do without the budget, for the row `free`.
    #[arg(long)]
    bare_binary: Option<PathBuf>,
}

impl Arguments {
    /// How long a row watches.
    fn span(&self, asked: u64) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(asked))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let all = Row::all();
    // A whole name means that row only, although another's begins so.
    let asks_for = |name: &str, row: &Row| {
        if all.iter().any(|one| one.name() == name) {
            row.name() == name
        } else {
            row.name().starts_with(name)
        }
    };
    let wanted = |row: &&Row| arguments.rows.is_empty() || arguments.rows.iter().any(|name| asks_for(name, row));
    let rows: Vec<Row> = all.iter().filter(wanted).copied().collect();
    ensure!(!rows.is_empty(), "no such row: see --list");
    if arguments.list {
        for row in rows {
            table::say(&row.name());
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        arguments.binary.exists(),
        "{} isn't there: start this by scripts/bench.sh budget",
        arguments.binary.display()
    );
    let machine = serde_json::from_str(&arguments.machine).context("--machine")?;
    let mut table = Table::open(arguments.json.clone(), machine)?;
    for row in rows {
        let name = row.name();
        let result = row.run(&arguments).await.with_context(|| format!("row {name}"))?;
        table.add(&name, &row.title(), &result)?;
    }
    Ok(table.end())
}
