//! The documents of this repository, read as far as tests need it: fenced blocks, headings, links, code spans.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A path of this repository.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A file of this repository.
pub(crate) fn text(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// What a reader is sent to, by path: the top level, the book, and the examples' own notes.
pub(crate) fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for (folder, deep) in [("", false), ("docs", true), ("examples", true), ("fuzz", false)] {
        collect(folder, deep, &mut found);
    }
    found.sort();
    assert!(found.len() > 15, "the documents have moved: {found:?}");
    found
}

fn collect(folder: &str, deep: bool, found: &mut Vec<String>) {
    for entry in fs::read_dir(path(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let relative = if folder.is_empty() {
            name
        } else {
            format!("{folder}/{name}")
        };
        if entry.file_type().unwrap().is_dir() {
            // What npm and composer unpack is not ours.
            if deep && !["node_modules", "vendor"].iter().any(|other| relative.ends_with(other)) {
                collect(&relative, deep, found);
            }
        } else if is_markdown(&relative) {
            found.push(relative);
        }
    }
}

/// Whether a path is a document's.
pub(crate) fn is_markdown(relative: &str) -> bool {
    Path::new(relative)
        .extension()
        .is_some_and(|extension| extension == "md")
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The line of its fence, counted from 1.
    pub(crate) line: usize,
    /// What its fence names.
    pub(crate) language: String,
    /// The lines between the fences.
    pub(crate) text: String,
    /// `<!-- not run: REASON -->` right before it.
    pub(crate) not_run: Option<String>,
    /// A line that is only a file's name and a colon, such as `` `people.csv`: ``, before it.
    pub(crate) file: Option<String>,
}

/// The fenced blocks of a document.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    let (mut not_run, mut file) = (None, None);
    for (index, line) in document.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some((depth, block)) = &mut open {
            if line.trim() == "```" {
                blocks.extend(open.take().map(|(_, block)| block));
            } else {
                block.text.push_str(line.get(indent.min(*depth)..).unwrap_or_default());
                block.text.push('\n');
            }
        } else if let Some(language) = line.trim_start().strip_prefix("```") {
            let block = Block {
                line: index + 1,
                language: language.trim().to_owned(),
                text: String::new(),
                not_run: not_run.take(),
                file: file.take(),
            };
            open = Some((indent, block));
        } else if !line.trim().is_empty() {
            let inner = |before, after| line.trim().strip_prefix(before)?.strip_suffix(after);
            not_run = inner("<!-- not run: ", " -->").map(str::to_owned);
            file = inner("`", "`:").map(str::to_owned);
        }
    }
    blocks
}

/// A document without its fenced blocks; every line keeps its number.
pub(crate) fn prose(document: &str) -> String {
    let mut fenced = false;
    let lines = document.lines().map(|line| {
        let fence = line.trim_start().starts_with("```");
        let hidden = fenced || fence;
        fenced ^= fence;
        if hidden { "" } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_knows_its_line_its_language_its_mark_and_its_file() {
        let document = "a\n\n<!-- not run: it installs -->\n```sh\nb\n```\n`c.csv`:\n\n  ```csv\n  d\n    e\n  ```\n```sh\nf\n```\n";
        let found = blocks(document);
        let block = |line, language: &str, text: &str, not_run: Option<&str>, file: Option<&str>| Block {
            line,
            language: language.to_owned(),
            text: text.to_owned(),
            not_run: not_run.map(str::to_owned),
            file: file.map(str::to_owned),
        };
        assert_eq!(
            found,
            [
                block(4, "sh", "b\n", Some("it installs"), None),
                block(9, "csv", "d\n  e\n", None, Some("c.csv")),
                block(13, "sh", "f\n", None, None),
            ]
        );
        assert_eq!(prose("x\n```sh\ny\n```\nz"), "x\n\n\n\nz");
    }
}
