//! `schema job|event`: the JSON Schema, the same as the file in `schemas/`.

use std::process::ExitCode;

use clap::ValueEnum;

use crate::domain::schema::{event_schema, job_schema};

use super::output::line;

/// Flags of `schema`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Of what
    kind: Kind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A job, as producers publish it
    Job,
    /// An outcome event
    Event,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let schema = match args.kind {
        Kind::Job => job_schema(),
        Kind::Event => event_schema(),
    };
    line(serde_json::to_string_pretty(&schema)?)?;
    Ok(ExitCode::SUCCESS)
}
