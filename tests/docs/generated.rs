//! The pages of `docs/reference/`, made of what the program itself knows: its command line, its schemas, its default
//! settings, and its table of words and codes.

mod commands;
mod schemas;
mod settings;
mod words;

use std::fs;

use crate::markdown::{path, text};

/// What stands on top of each of them.
fn page(title: &str, source: &str, introduction: &str, body: &str) -> String {
    format!(
        "<!-- Generated from {source} by `UPDATE_DOCS=1 cargo test --test docs`: change that, not this. -->\n\n# {title}\n\n\
         {introduction}\n\n{}\n",
        body.trim()
    )
}

/// A page as it should be. With `UPDATE_DOCS` in the environment it is written, else compared.
#[track_caller]
fn check(name: &str, fresh: &str) {
    let file = format!("docs/reference/{name}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path("docs/reference")).unwrap();
        fs::write(path(&file), fresh).unwrap();
    }
    assert!(
        text(&file) == fresh,
        "{file} is stale: run UPDATE_DOCS=1 cargo test --test docs"
    );
}

/// A text in a cell of a table: in one line, with nothing that ends the cell or becomes a tag.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = line.split('`').enumerate().map(|(index, part)| {
        // Between backticks everything stands for itself, but for what parts two cells.
        let part = part.replace('|', "\\|");
        if index % 2 == 0 {
            part.replace('<', "&lt;").replace('*', "\\*")
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

/// A sentence with its full stop.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '!', '?', ':']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

/// The same beginning with a capital.
fn capital(text: &str) -> String {
    let mut letters = text.trim().chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    sentence(&format!("{}{}", first.unwrap_or_default(), letters.as_str()))
}

#[test]
fn a_cell_is_one_line_and_ends_where_it_should() {
    assert_eq!(cell("a <b> |\n c `d|<e>`"), "a &lt;b> \\| c `d\\|<e>`");
    assert_eq!(capital("one"), "One.");
    assert_eq!(sentence("one."), "one.");
    assert_eq!(sentence(""), "");
}
