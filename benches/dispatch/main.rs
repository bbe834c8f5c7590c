//! The benchmark: the release build of im-dispatcher beside a plain reference worker, on the same machine, the same services
//! and at the same time. `scripts/bench.sh PART` builds, starts private services and runs it.
//!
//! It plays producer and operator, as any program could: it publishes jobs, starts and ends the processes, reads what the
//! simulator and Postgres say, and takes CPU and memory from /proc. Rounds of what is compared are interleaved, figures are
//! medians of the rounds.

mod batch;
mod figures;
mod jobs;
mod latency;
mod memory;
mod process;
mod revoke;
mod rows;
mod stage;
mod throughput;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Jobs a second and CPU for a thousand jobs, at 0 and 30 ms.
    Throughput,
    /// Publish to call and publish to record, idle and at a thousand jobs a second.
    Latency,
    /// Recipients a second of long batches.
    Batch,
    /// Calls a second of a campaign's revocation.
    Revoke,
    /// Memory, start-up and throughput with a long queue.
    Memory,
    /// Lookups and inserts with tens of millions of rows.
    Rows,
}

/// Measures one part and prints a table.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(value_enum)]
    part: Part,
    /// Rounds of each variant; figures are their medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Jobs of a throughput run, recipients of a batch or revoke run, jobs that wait, rows: 0 is the part's own number.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Only the dispatcher, not the reference: for a profile.
    #[arg(long)]
    alone: bool,
    /// Only the variant with that API latency, in milliseconds.
    #[arg(long)]
    latency: Option<u64>,
    /// im-dispatcher's release build.
    #[arg(long)]
    worker: PathBuf,
    /// The reference worker.
    #[arg(long)]
    reference: PathBuf,
    /// The broker's version, for the record.
    #[arg(long, default_value = "?")]
    broker_version: String,
    /// The broker's process, for its CPU seconds.
    #[arg(long, default_value_t = 0)]
    broker_pid: u32,
    /// The private Postgres's log, for the plans of the lookups.
    #[arg(long)]
    postgres_log: Option<PathBuf>,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: PathBuf,
    /// Facts of the machine, as a JSON object.
    #[arg(long, default_value = "{}")]
    machine: String,
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
}

impl Arguments {
    /// Its number of jobs, or the part's own.
    fn jobs_or(&self, own: usize) -> usize {
        if self.jobs == 0 { own } else { self.jobs }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let lab = stage::Lab::open(&arguments).await?;
    let figures = match arguments.part {
        Part::Throughput => throughput::measure(&lab, &arguments).await?,
        Part::Latency => latency::measure(&lab, &arguments).await?,
        Part::Batch => batch::measure(&lab, &arguments).await?,
        Part::Revoke => revoke::measure(&lab, &arguments).await?,
        Part::Memory => memory::measure(&lab, &arguments).await?,
        Part::Rows => rows::measure(&lab, &arguments).await?,
    };
    let versions = lab.versions(&arguments.broker_version).await?;
    figures.print(&arguments.machine, &versions)?;
    figures.write(&arguments.json, &arguments.machine, &versions)
}
