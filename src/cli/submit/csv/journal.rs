//! How far the publishing of a table came, on disk beside it.
//!
//! It is no promise: ids are, which make a row that is published twice a repeat. It spares the repeats, and tells a file
//! that was mended from a new one.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::super::output::{Usage, usage};

/// Between two writes while rows are published.
const EVERY: Duration = Duration::from_millis(250);
/// The form of the file.
const VERSION: u32 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    version: u32,
    /// What the ids are made with: of the file and the template as they first were, or random for a fresh start.
    pub(super) salt: String,
    /// SHA-256 of the file.
    file: String,
    /// SHA-256 of the template.
    template: String,
    /// Every row up to this one has been published or left out.
    pub(super) done: u64,
    /// Every row has.
    finished: bool,
}

/// What the user said of a file that was published before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choice {
    /// It is the same campaign, mended.
    pub(super) mended: bool,
    /// It is another campaign.
    pub(super) fresh: bool,
}

/// How a run begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The journal's first state.
    pub(super) entry: Entry,
    /// What the user should know.
    pub(super) note: Option<String>,
}

/// Where a run begins, by the journal of an earlier one.
pub(super) fn start(earlier: Option<Entry>, file: &str, template: &str, choice: Choice) -> Result<Start, Usage> {
    let new = |salt: String| Entry {
        version: VERSION,
        salt,
        file: file.to_owned(),
        template: template.to_owned(),
        done: 0,
        finished: false,
    };
    let begin = |entry: Entry, note: Option<String>| Ok(Start { entry, note });
    let first_salt = || format!("{file}/{template}");
    let random_salt = || Uuid::new_v4().to_string();
    let Some(earlier) = earlier else {
        return begin(new(if choice.fresh { random_salt() } else { first_salt() }), None);
    };
    let (same_file, same_template) = (earlier.file == file, earlier.template == template);
    let done = earlier.done;
    if same_file && same_template {
        if choice.fresh && !earlier.finished {
            return Err(usage(format!(
                "this file is half published ({done} rows): go on without --fresh, or remove its journal first"
            )));
        }
        if choice.fresh {
            return begin(new(random_salt()), None);
        }
        let note = if earlier.finished {
            "note: this file was published before, with this template: workers will know the ids and send nothing \
             again; --fresh makes it another campaign"
                .to_owned()
        } else {
            format!("note: going on behind row {done}, where the last run stopped")
        };
        let done = if earlier.finished { 0 } else { done };
        let finished = false;
        return begin(
            Entry {
                done,
                finished,
                ..earlier
            },
            Some(note),
        );
    }
    if choice.fresh {
        return begin(new(random_salt()), None);
    }
    if same_template && choice.mended {
        let note = "note: rows that were published before keep their ids and are not sent again".to_owned();
        return begin(new(earlier.salt), Some(note));
    }
    if same_template {
        return Err(usage(format!(
            "the file has changed since {done} of its rows were published with this template: --mended sends only the \
             rows that are new or changed, --fresh makes it another campaign and sends every row"
        )));
    }
    if !earlier.finished {
        return Err(usage(format!(
            "{done} rows were published with another template, and not the rest: go on with that one, or --fresh sends \
             every row with this one"
        )));
    }
    begin(new(first_salt()), None)
}

/// The journal of a run.
pub(super) struct Journal {
    path: PathBuf,
    entry: Entry,
    /// Rows that are done behind one that isn't yet.
    ahead: std::collections::BTreeSet<u64>,
    written: Instant,
}

/// Where the journal of a table lies, unless it is set: beside it, one for each place that it is published to.
pub(super) fn default_path(file: &Path, target: &str) -> PathBuf {
    let tag = Uuid::new_v5(&super::IDS, target.as_bytes()).simple().to_string();
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.journal", &tag[..8]));
    file.with_file_name(name)
}

/// Reads a journal; `None` where there is none.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<Entry>> {
    let what = || format!("read the journal {}", path.display());
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(what),
    };
    let entry: Entry = serde_json::from_slice(&text)
        .with_context(what)
        .context("it is damaged; remove it to start anew: rows that were published are not sent twice")?;
    anyhow::ensure!(entry.version == VERSION, "{} is of another version", path.display());
    Ok(Some(entry))
}

impl Journal {
    /// Begins one, and writes it, so that a place that can't be written is found before anything is published.
    pub(super) fn begin(path: PathBuf, entry: Entry) -> anyhow::Result<Self> {
        let mut journal = Self {
            path,
            entry,
            ahead: std::collections::BTreeSet::new(),
            written: Instant::now(),
        };
        journal
            .write()
            .context("the journal can't be written; name another place by --journal")?;
        Ok(journal)
    }

    /// A row is published, or left out.
    pub(super) fn done(&mut self, row: u64) -> anyhow::Result<()> {
        self.ahead.insert(row);
        while self.ahead.remove(&(self.entry.done + 1)) {
            self.entry.done += 1;
        }
        if self.written.elapsed() >= EVERY {
            self.write()?;
        }
        Ok(())
    }

    /// The run has come to its end; `finished` if every row is done.
    pub(super) fn end(&mut self, finished: bool) -> anyhow::Result<()> {
        self.entry.finished = finished;
        self.write()
    }

    /// Every row up to this one is done.
    pub(super) const fn row(&self) -> u64 {
        self.entry.done
    }

    /// Replaces the file in one step: a crash leaves the old one or the new one.
    fn write(&mut self) -> anyhow::Result<()> {
        let what = || format!("write the journal {}", self.path.display());
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".tmp");
        let mut file = fs::File::create(&temporary).with_context(what)?;
        file.write_all(&serde_json::to_vec(&self.entry)?).with_context(what)?;
        file.sync_data().with_context(what)?;
        fs::rename(&temporary, &self.path).with_context(what)?;
        self.written = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(done: u64, finished: bool) -> Entry {
        Entry {
            version: VERSION,
            salt: "s".to_owned(),
            file: "f".to_owned(),
            template: "t".to_owned(),
            done,
            finished,
        }
    }

    const MENDED: Choice = Choice {
        mended: true,
        fresh: false,
    };
    const FRESH: Choice = Choice {
        mended: false,
        fresh: true,
    };

    fn salt_and_row(earlier: Entry, file: &str, template: &str, choice: Choice) -> Result<(String, u64), String> {
        start(Some(earlier), file, template, choice)
            .map(|start| (start.entry.salt, start.entry.done))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_same_file_goes_on_where_it_stopped_and_a_finished_one_is_repeated_under_the_same_ids() {
        let none = Choice::default();
        assert_eq!(start(None, "f", "t", none).unwrap().entry.salt, "f/t");
        assert_eq!(salt_and_row(entry(7, false), "f", "t", none), Ok(("s".to_owned(), 7)));
        assert_eq!(salt_and_row(entry(9, true), "f", "t", none), Ok(("s".to_owned(), 0)));
        assert!(
            salt_and_row(entry(7, false), "f", "t", FRESH)
                .unwrap_err()
                .contains("half published")
        );
        assert_ne!(salt_and_row(entry(9, true), "f", "t", FRESH).unwrap().0, "s");
    }

    #[test]
    fn a_changed_file_is_sent_only_where_the_user_has_said_what_it_is() {
        let none = Choice::default();
        let error = salt_and_row(entry(7, true), "g", "t", none).unwrap_err();
        assert!(error.contains("--mended") && error.contains("--fresh"), "{error}");
        assert_eq!(salt_and_row(entry(7, true), "g", "t", MENDED), Ok(("s".to_owned(), 0)));
        assert_ne!(salt_and_row(entry(7, false), "g", "t", FRESH).unwrap().0, "s");
    }

    #[test]
    fn a_changed_template_is_another_campaign_unless_the_last_one_is_half_published() {
        let none = Choice::default();
        assert_eq!(salt_and_row(entry(7, true), "g", "u", none).unwrap().0, "g/u");
        assert!(salt_and_row(entry(7, false), "f", "u", MENDED).is_err());
        assert!(
            salt_and_row(entry(7, false), "f", "u", none)
                .unwrap_err()
                .contains("another template")
        );
    }

    #[test]
    fn a_row_counts_once_every_row_before_it_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let path = default_path(&directory.path().join("people.csv"), "im@host");
        let mut journal = Journal::begin(path.clone(), entry(2, false)).unwrap();
        for row in [4, 5, 7] {
            journal.done(row).unwrap();
        }
        assert_eq!(journal.row(), 2);
        journal.done(3).unwrap();
        assert_eq!(journal.row(), 5);
        journal.end(false).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), entry(5, false));
        assert_ne!(path, default_path(&directory.path().join("people.csv"), "im@other"));
        fs::write(&path, "{").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("damaged"));
        assert!(read(Path::new("nowhere")).unwrap().is_none());
    }
}
