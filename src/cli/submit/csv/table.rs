//! A CSV file with a header line, row by row.
//!
//! Knows cells and lines; not what they are for. RFC 4180 as the `csv` crate reads it: quotes, line breaks inside of
//! them, and a byte order mark are allowed for.

use std::{
    fs::{File, Metadata},
    io::Read as _,
    path::Path,
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use csv::{ByteRecord, Reader, ReaderBuilder, StringRecord, Terminator};
use sha2::{Digest, Sha256};

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;
/// A row over more lines than this was hardly meant: a quote isn't closed.
const LONG_ROW: u64 = 1_000;

/// A file that is read several times and must stay the same meanwhile.
pub(super) struct Source<'a> {
    path: &'a Path,
    delimiter: u8,
    stamp: (u64, Option<SystemTime>),
    /// Where the last line ends without a line break: behind the last byte.
    open_end: Option<u64>,
    /// SHA-256 of its bytes, in hex.
    pub(super) digest: String,
}

/// A row that isn't blank.
pub(super) struct Row {
    /// Counted from 1, the header and blank rows apart.
    pub(super) number: u64,
    /// The line that it begins on, counted from 1.
    pub(super) line: u64,
    /// Its cells, as many as there are columns, without the blanks around them; or why it can't be read.
    pub(super) cells: Result<StringRecord, String>,
}

/// The rows of a file.
pub(super) struct Table {
    reader: Reader<File>,
    open_end: Option<u64>,
    columns: Vec<String>,
    number: u64,
    record: ByteRecord,
}

fn stamp(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

/// SHA-256 of a text, in hex.
pub(super) fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

impl<'a> Source<'a> {
    /// How long it is.
    pub(super) const fn bytes(&self) -> u64 {
        self.stamp.0
    }

    /// Reads the file once, for its digest.
    pub(super) fn read(path: &'a Path, delimiter: u8) -> anyhow::Result<Self> {
        let what = || format!("read {}", path.display());
        let mut file = File::open(path).with_context(what)?;
        let metadata = file.metadata().with_context(what)?;
        if !metadata.is_file() {
            bail!(
                "{} is no file; a table is read twice, so save it as one",
                path.display()
            );
        }
        let (mut hash, mut buffer, mut last, mut length) = (Sha256::new(), vec![0; BUFFER], None, 0);
        loop {
            let count = file.read(&mut buffer).with_context(what)?;
            let Some(byte) = buffer[..count].last() else { break };
            hash.update(&buffer[..count]);
            last = Some(*byte);
            length += count as u64;
        }
        Ok(Self {
            path,
            delimiter,
            stamp: stamp(&metadata),
            open_end: (last != Some(b'\n')).then_some(length),
            digest: hex::encode(hash.finalize()),
        })
    }

    /// Its rows, from the first one.
    pub(super) fn open(&self) -> anyhow::Result<Table> {
        let what = || format!("read {}", self.path.display());
        let file = File::open(self.path).with_context(what)?;
        if stamp(&file.metadata().with_context(what)?) != self.stamp {
            bail!("{} was changed meanwhile; start again", self.path.display());
        }
        Table::new(file, self.delimiter, self.open_end).with_context(what)
    }
}

impl Table {
    fn new(file: File, delimiter: u8, open_end: Option<u64>) -> anyhow::Result<Self> {
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            // With CRLF as the end the position of a row isn't that of its line; so the CR is a blank at the end of one.
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(BUFFER)
            .from_reader(file);
        let header = reader.headers().context("the header line")?;
        let columns: Vec<_> = header.iter().map(|column| column.trim().to_owned()).collect();
        if columns.iter().any(|column| column.contains('\r')) {
            bail!("its lines end with CR alone; save it as \"CSV UTF-8\"");
        }
        if columns.iter().all(String::is_empty) {
            bail!("it has no header line with the names of its columns");
        }
        for (index, column) in columns.iter().enumerate() {
            if !column.is_empty() && columns[..index].contains(column) {
                bail!("it has two columns {column:?}");
            }
        }
        Ok(Self {
            reader,
            open_end,
            columns,
            number: 0,
            record: ByteRecord::new(),
        })
    }

    /// The names of the columns.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    /// The next row that isn't blank; `None` at the end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Row>> {
        loop {
            if !self.reader.read_byte_record(&mut self.record)? {
                return Ok(None);
            }
            let breaks = self.record.as_slice().split(|byte| *byte == b'\n').count() as u64 - 1;
            self.record.trim();
            if self.record.iter().all(<[u8]>::is_empty) {
                continue;
            }
            self.number += 1;
            let end = self.reader.position();
            let own_break = u64::from(self.open_end != Some(end.byte()));
            return Ok(Some(Row {
                number: self.number,
                line: end.line().saturating_sub(breaks + own_break),
                cells: self.cells(breaks),
            }));
        }
    }

    fn cells(&self, breaks: u64) -> Result<StringRecord, String> {
        let (found, wanted) = (self.record.len(), self.columns.len());
        // What a spreadsheet adds at the end of a row is no cell.
        let beyond = self.record.iter().skip(wanted).any(|cell| !cell.is_empty());
        if breaks > LONG_ROW && (found != wanted || beyond) {
            return Err(format!("the row goes on for {breaks} lines: is a quote not closed?"));
        }
        if found < wanted || beyond {
            return Err(format!("the row has {found} cells, the header has {wanted}"));
        }
        let mut record = self.record.clone();
        record.truncate(wanted);
        StringRecord::from_byte_record(record).map_err(|error| {
            let column = &self.columns[error.utf8_error().field().min(wanted - 1)];
            format!("column {column:?} is not UTF-8; save the file as \"CSV UTF-8\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Number, line and cells of a row.
    type Read = (u64, u64, Result<Vec<String>, String>);

    fn rows(bytes: &[u8], delimiter: u8) -> (Vec<String>, Vec<Read>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let source = Source::read(file.path(), delimiter).unwrap();
        let mut table = source.open().unwrap();
        let mut rows = Vec::new();
        while let Some(row) = table.next().unwrap() {
            let cells = row.cells.map(|cells| cells.iter().map(str::to_owned).collect());
            rows.push((row.number, row.line, cells));
        }
        assert_eq!(table.position(), bytes.len() as u64);
        (table.columns().to_vec(), rows)
    }

    #[test]
    fn a_spreadsheets_file_is_read_with_its_mark_blank_rows_and_line_breaks() {
        let (columns, rows) = rows(
            "\u{feff}to; text\r\n a ;\"x;\"\"y\"\"\r\nz\"\r\n;\r\n\r\nb;ü;;\r\n".as_bytes(),
            b';',
        );
        assert_eq!(columns, ["to", "text"]);
        let cells = |cells: [&str; 2]| Ok(cells.map(str::to_owned).to_vec());
        assert_eq!(rows, [(1, 2, cells(["a", "x;\"y\"\r\nz"])), (2, 6, cells(["b", "ü"]))]);
    }

    #[test]
    fn a_bad_row_is_named_and_the_next_is_read() {
        let (_, rows) = rows(b"to,text\na\nb,c,d\ne,\xff\nf,g", b',');
        let errors: Vec<_> = rows.iter().filter_map(|row| row.2.clone().err()).collect();
        assert_eq!(
            errors[..2],
            [
                "the row has 1 cells, the header has 2",
                "the row has 3 cells, the header has 2"
            ]
        );
        assert!(errors[2].starts_with("column \"text\" is not UTF-8"), "{}", errors[2]);
        let lines: Vec<_> = rows.iter().map(|row| (row.0, row.1)).collect();
        assert_eq!(lines, [(1, 2), (2, 3), (3, 4), (4, 5)]);
        assert!(rows[3].2.is_ok());
    }

    #[test]
    fn a_file_without_a_header_or_with_a_name_twice_is_refused() {
        for (content, word) in [
            ("", "no header"),
            ("a,b,a\n", "two columns"),
            ("a,b\rc,d\r", "CR alone"),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            let source = Source::read(file.path(), b',').unwrap();
            let error = format!("{:#}", source.open().err().unwrap());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_file_that_changes_between_two_readings_is_noticed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a\n1\n").unwrap();
        let path = file.path().to_owned();
        let source = Source::read(&path, b',').unwrap();
        file.write_all(b"2\n").unwrap();
        assert!(source.open().err().unwrap().to_string().contains("changed"));
    }
}
