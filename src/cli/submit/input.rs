//! Reads lines of bounded length from a file or standard input.

use std::{io, path::Path};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader},
};

/// The longest line: RabbitMQ 4 takes messages of at most 16 MiB.
const MAX_LINE: usize = 16 * 1024 * 1024;
/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// A line that isn't blank.
pub(super) struct Line {
    /// Counted from 1, blank ones too.
    pub(super) number: u64,
    /// Its bytes without the line break, or why it isn't read.
    pub(super) body: Result<Bytes, String>,
}

/// The lines of a file or of standard input.
pub(super) struct Lines {
    reader: Box<dyn AsyncBufRead + Unpin + Send>,
    number: u64,
    position: u64,
    bytes: Option<u64>,
    max_line: usize,
}

/// Whether a path can be read twice.
pub(super) fn is_file(path: &Path) -> bool {
    path != Path::new("-") && path.is_file()
}

impl Lines {
    pub(super) async fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(tokio::io::stdin(), None, MAX_LINE));
        }
        let file = File::open(path)
            .await
            .with_context(|| format!("open {}", path.display()))?;
        let bytes = file
            .metadata()
            .await
            .ok()
            .filter(std::fs::Metadata::is_file)
            .map(|metadata| metadata.len());
        Ok(Self::new(file, bytes, MAX_LINE))
    }

    fn new(reader: impl AsyncRead + Unpin + Send + 'static, bytes: Option<u64>, max_line: usize) -> Self {
        Self {
            reader: Box::new(BufReader::with_capacity(BUFFER, reader)),
            number: 0,
            position: 0,
            bytes,
            max_line,
        }
    }

    /// How long the file is, where that is known.
    pub(super) const fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Bytes read so far.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The next line that isn't blank; `None` at the end. Of a line that is too long only the number is kept.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some((mut line, too_long)) = self.read_line().await? else {
                return Ok(None);
            };
            self.number += 1;
            let number = self.number;
            if too_long {
                let body = Err(format!("the line is longer than {} bytes", self.max_line));
                return Ok(Some(Line { number, body }));
            }
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Line {
                    number,
                    body: Ok(line.into()),
                }));
            }
        }
    }

    /// A line with its break, and whether its end was thrown away.
    async fn read_line(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let (mut line, mut too_long, mut any) = (Vec::new(), false, false);
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(any.then_some((line, too_long)));
            }
            any = true;
            let end = available.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(available.len());
            // Two more than the limit, for the line break.
            if too_long || line.len() + taken > self.max_line + 2 {
                too_long = true;
                line = Vec::new();
            } else {
                line.extend_from_slice(&available[..taken]);
            }
            self.reader.consume(taken);
            self.position += taken as u64;
            if end.is_some() {
                return Ok(Some((line, too_long)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &'static str, max_line: usize) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Lines::new(text.as_bytes(), None, max_line);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push((
                line.number,
                line.body.map(|body| String::from_utf8(body.to_vec()).unwrap()),
            ));
        }
        assert_eq!(lines.position(), text.len() as u64);
        found
    }

    #[tokio::test]
    async fn blank_lines_are_passed_over_and_counted() {
        let lines = read("{\"a\":1}\n\n  \r\n{\"b\":2}\r\nlast", 100).await;
        let expected = [(1, "{\"a\":1}"), (4, "{\"b\":2}"), (5, "last")];
        assert_eq!(lines, expected.map(|(number, text)| (number, Ok(text.to_owned()))));
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_reported_and_the_next_is_read() {
        let lines = read("1234567890\n12345678901\n123", 10).await;
        assert_eq!(lines[0], (1, Ok("1234567890".to_owned())));
        assert!(
            read("12345678901234\n123", 10).await[0]
                .1
                .as_ref()
                .unwrap_err()
                .contains("longer than 10")
        );
        assert_eq!(lines.last(), Some(&(3, Ok("123".to_owned()))));
    }
}
