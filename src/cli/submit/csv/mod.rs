//! `submit --csv FILE --template FILE`: a job for each row of a table.
//!
//! The table is read twice. First every row is filled in and checked, and if one is bad nothing is published. Then the
//! rows are published, and the journal keeps how far that came. An id is made of the file, the row and the template, so
//! that whatever is published twice is a repeat; the journal only spares the repeats.

mod journal;
mod table;
mod template;

use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use csv::StringRecord;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    config::{Settings, mask_url},
    domain::{
        AccountId,
        job::{Job, Task},
    },
    producer::{Outgoing, Pipeline},
};

use super::{
    super::{
        context,
        output::{note, progress, usage},
    },
    Rules,
    pace::{Meter, pace},
    report::{BadLine, Phase, Report},
};
use journal::{Choice, Journal, Start};
use table::{Row, Source, Table};
use template::Template;

/// The namespace of rows' ids (RFC 9562, version 5): itself the version 5 UUID of the name `im-dispatcher/csv` in RFC
/// 9562's URL namespace.
const IDS: Uuid = Uuid::from_u128(0x81f0_d69f_99f0_59ba_b39e_fcfb_1b27_3ef5);
/// The most rows of a file: what is remembered of each while it is checked stays below 500 MB.
const MAX_ROWS: u64 = 5_000_000;
/// The largest template, in bytes: a job's longest message takes a tenth of that.
const MAX_TEMPLATE: u64 = 1024 * 1024;

/// Flags for a table.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// A table with a header line, CSV: a job for each row, by the template
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-", requires = "template")]
    #[arg(conflicts_with = "unchecked", help_heading = "Tables")]
    csv: Option<PathBuf>,
    /// A job as JSON, with {{column}} in its strings
    #[arg(long, value_name = "FILE", requires = "csv", help_heading = "Tables")]
    template: Option<PathBuf>,
    /// What parts two cells: one ASCII character, or tab
    #[arg(long, value_name = "C", default_value = ",", value_parser = delimiter, help_heading = "Tables")]
    delimiter: u8,
    /// Where the progress is kept [default: beside the table]
    #[arg(long, value_name = "FILE", requires = "csv", help_heading = "Tables")]
    journal: Option<PathBuf>,
    /// The file was mended since it was published: rows that stayed as they were keep their ids and are not sent again
    #[arg(long, requires = "csv", conflicts_with = "fresh", help_heading = "Tables")]
    mended: bool,
    /// It is another campaign, whatever was published of this file before: every row is sent
    #[arg(long, requires = "csv", help_heading = "Tables")]
    fresh: bool,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err("one ASCII character, or tab".to_owned()),
    }
}

impl Flags {
    /// The table's path, if one is named: `--csv FILE`, or `--csv` and the file as the argument.
    pub(super) fn path<'a>(&'a self, argument: &'a Path) -> anyhow::Result<Option<&'a Path>> {
        let dash = Path::new("-");
        match (self.csv.as_deref(), argument) {
            (None, _) => Ok(None),
            (Some(given), argued) if given == dash && argued == dash => {
                Err(usage("--csv takes a file: it is read twice, and goes on where it stopped").into())
            }
            (Some(given), argued) if given == dash => Ok(Some(argued)),
            (Some(given), argued) if argued == dash => Ok(Some(given)),
            _ => Err(usage("name one file: behind --csv, or by itself").into()),
        }
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    Bad,
    /// The same job as an earlier row's.
    Repeat,
}

/// A table, its template, and what their ids are made with.
struct Plan<'a> {
    rules: &'a Rules<'a>,
    source: Source<'a>,
    template: Template,
    start: Start,
    journal: PathBuf,
}

pub(super) async fn run(
    settings: &Settings,
    rules: &Rules<'_>,
    path: &Path,
    timeout: Duration,
) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(settings, rules, path)?;
    let mut report = Report::of_rows();
    if let Some(text) = &plan.start.note {
        note(text);
    }
    let fates = plan.check(&mut report)?;
    let args = rules.args;
    if args.dry_run || (report.is_bad() && !args.skip_bad) {
        return report.finish(args.json, Phase::Checked);
    }
    report.forget_good();
    plan.publish(settings, timeout, &fates, &mut report).await?;
    report.finish(args.json, Phase::Published)
}

impl<'a> Plan<'a> {
    fn new(settings: &Settings, rules: &'a Rules<'a>, path: &'a Path) -> anyhow::Result<Self> {
        let flags = &rules.args.table;
        let source = Source::read(path, flags.delimiter)?;
        let text = read_template(flags.template.as_deref().unwrap_or_else(|| Path::new("")))?;
        let columns = source.open()?.columns().to_vec();
        let template = Template::parse(&text, &columns).map_err(|error| usage(format!("--template: {error}")))?;
        let journal = flags.journal.clone().unwrap_or_else(|| {
            let target = format!("{}@{}", settings.namespace, mask_url(&settings.amqp_url));
            journal::default_path(path, &target)
        });
        let choice = Choice {
            mended: flags.mended,
            fresh: flags.fresh,
        };
        let start = journal::start(journal::read(&journal)?, &source.digest, &table::digest(&text), choice)?;
        Ok(Self {
            rules,
            source,
            template,
            start,
            journal,
        })
    }

    /// Fills in and checks every row.
    fn check(&self, report: &mut Report) -> anyhow::Result<Vec<Fate>> {
        let mut table = self.source.open()?;
        let bar = progress(Some(self.source.bytes()), "checking {bar:30} {percent}% ETA {eta}");
        let (mut fates, mut seen) = (Vec::new(), Seen::default());
        while let Some(row) = table.next()? {
            anyhow::ensure!(row.number <= MAX_ROWS, "a table has at most {MAX_ROWS} rows; split it");
            bar.set_position(table.position());
            let line = row.line;
            let fate = match self.job(row).and_then(|(job, body)| seen.add(line, &job, &body)) {
                Ok(fate) => fate,
                Err(bad) => {
                    report.bad(bad);
                    Fate::Bad
                }
            };
            match fate {
                Fate::Good => report.good(),
                Fate::Repeat => report.rows().repeats += 1,
                Fate::Bad => {}
            }
            fates.push(fate);
        }
        bar.finish_and_clear();
        let rows = report.rows();
        rows.total = fates.len() as u64;
        rows.recipients = seen.recipients.len() as u64;
        rows.recipients_repeated = seen.twice.len() as u64;
        rows.published_before = self.start.entry.done;
        Ok(fates)
    }

    /// The job of a row, and how it is published.
    fn job(&self, row: Row) -> Result<(Job, Bytes), BadLine> {
        let line = row.line;
        let bad = |code: &str, error: String| BadLine::new(line, code, error);
        let cells = row.cells.map_err(|error| bad("invalid-row", error))?;
        let body = self
            .body(&cells)
            .map_err(|error| bad("invalid-row", error.to_string()))?;
        let job = Job::decode(&body, None).map_err(|error| bad(error.word, error.sentence))?;
        self.rules.check(&job).map_err(|(code, error)| bad(&code, error))?;
        Ok((job, body))
    }

    fn body(&self, cells: &StringRecord) -> Result<Bytes, template::FillError> {
        let mut job = Value::Object(self.template.fill(|column| cells.get(column).unwrap_or_default())?);
        if !self.template.has_id() {
            let id = row_id(&self.start.entry.salt, &job.to_string());
            job["id"] = id.to_string().into();
        }
        Ok(job.to_string().into())
    }

    async fn publish(
        &self,
        settings: &Settings,
        timeout: Duration,
        fates: &[Fate],
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let begin = self.start.entry.done;
        let journal = Journal::begin(self.journal.clone(), self.start.entry.clone())?;
        let left = fates.iter().skip(begin as usize).filter(|fate| **fate == Fate::Good);
        let meter = Meter::new(left.count() as u64);
        let mut table = self.source.open()?;
        let producer = context::producer(settings, timeout).await?;
        let mut run = Run {
            pipeline: producer.pipeline(self.rules.args.lane),
            journal,
            meter,
            report,
        };
        let done = run.all(self, &mut table, fates).await;
        run.meter.finish();
        let ended = run.journal.end(run.journal.row() == fates.len() as u64);
        producer.close().await;
        done.and(ended)
    }
}

/// The publishing of a table's rows, each known by its number and its line.
struct Run<'a> {
    pipeline: Pipeline<(u64, u64)>,
    journal: Journal,
    meter: Meter,
    report: &'a mut Report,
}

impl Run<'_> {
    async fn all(&mut self, plan: &Plan<'_>, table: &mut Table, fates: &[Fate]) -> anyhow::Result<()> {
        let begin = plan.start.entry.done;
        let pace = plan.rules.args.rate.map(pace);
        while let Some(row) = table.next()? {
            let number = row.number;
            let fate = fates
                .get(number as usize - 1)
                .context("the table has grown; start again")?;
            if number <= begin {
                continue;
            }
            if *fate == Fate::Good {
                let line = row.line;
                let (job, body) = plan
                    .job(row)
                    .map_err(|bad| anyhow::anyhow!("{bad}; it was good before"))?;
                if let Some(pace) = &pace {
                    pace.until_ready().await;
                }
                let outgoing = plan.rules.addressed(Outgoing::encoded(&job, body));
                self.pipeline.publish((number, line), outgoing).await;
            } else {
                self.journal.done(number)?;
            }
            while let Some(answer) = self.pipeline.try_next() {
                self.take(answer)?;
            }
            if self.report.gave_up() {
                break;
            }
        }
        while let Some(answer) = self.pipeline.next().await {
            self.take(answer)?;
        }
        Ok(())
    }

    fn take(&mut self, ((number, line), result): Answer) -> anyhow::Result<()> {
        match result {
            Ok(()) => {
                self.report.good();
                self.journal.done(number)?;
            }
            Err(error) => self.report.unpublished(line, &error),
        }
        self.meter.tick();
        Ok(())
    }
}

type Answer = ((u64, u64), Result<(), crate::broker::PublishError>);

/// The id of a row: of what the ids are made with, and its job.
fn row_id(salt: &str, content: &str) -> Uuid {
    // The length keeps ("a", "bc") and ("ab", "c") apart.
    Uuid::new_v5(&IDS, format!("{}:{salt}{content}", salt.len()).as_bytes())
}

/// What the rows so far had: ids and recipients, as hashes.
#[derive(Default)]
struct Seen {
    /// An id's hash, to its content's.
    ids: HashMap<Uuid, u64>,
    recipients: HashSet<u64>,
    twice: HashSet<u64>,
    hash: RandomState,
}

impl Seen {
    fn add(&mut self, line: u64, job: &Job, body: &[u8]) -> Result<Fate, BadLine> {
        let content = self.hash.hash_one(body);
        let id = Uuid::new_v5(&IDS, job.id.as_str().as_bytes());
        match self.ids.insert(id, content) {
            Some(earlier) if earlier == content => return Ok(Fate::Repeat),
            Some(earlier) => {
                self.ids.insert(id, earlier);
                let sentence = "id: an earlier row has the same with another content".to_owned();
                return Err(BadLine::new(line, "id-conflict", sentence));
            }
            None => {}
        }
        for to in recipients(&job.task) {
            let to = self.hash.hash_one(to.as_str());
            if !self.recipients.insert(to) {
                self.twice.insert(to);
            }
        }
        Ok(Fate::Good)
    }
}

fn recipients(task: &Task) -> &[AccountId] {
    match task {
        Task::Send { to, .. } | Task::Import { to, .. } => std::slice::from_ref(to),
        Task::BatchSend { to, .. } => to,
        _ => &[],
    }
}

fn read_template(path: &Path) -> anyhow::Result<String> {
    let what = || format!("read the template {}", path.display());
    let length = fs::metadata(path).with_context(what)?.len();
    if length > MAX_TEMPLATE {
        return Err(usage(format!(
            "--template: it is {length} bytes long, the limit is {MAX_TEMPLATE}"
        ))
        .into());
    }
    fs::read_to_string(path).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_id_is_pinned_and_made_of_file_template_and_row() {
        assert_eq!(IDS, Uuid::new_v5(&Uuid::NAMESPACE_URL, b"im-dispatcher/csv"));
        let id = row_id("f/t", "{}");
        assert_ne!(id, row_id("f/u", "{}"));
        assert_ne!(id, row_id("f/", "t{}"));
        // Pinned: a new release must know the rows that the one before it has published.
        assert_eq!(id.to_string(), "b94d8011-a929-5d4a-91d2-897b499793ba");
    }

    #[test]
    fn a_delimiter_is_one_ascii_character_or_tab() {
        assert_eq!(delimiter(";"), Ok(b';'));
        assert_eq!(delimiter("tab"), Ok(b'\t'));
        assert!(delimiter("ü").is_err() && delimiter("\"").is_err() && delimiter("").is_err());
    }
}
