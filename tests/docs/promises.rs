//! A test that a document names is there: a promise without its test would be a claim.

use std::fs;

use crate::markdown::{path, prose, text};

/// Documents that name tests as `module::name`, the end of which may be left out (`…`).
const NAMING: [&str; 2] = ["README.md", "docs/chaos.md"];

/// Where tests are.
const FOLDERS: [&str; 5] = ["tests/it/worker", "tests/it", "tests/broker", "src", "src/store"];

/// The source of a module, wherever it is, with that of its submodules; `None` if there is no such module.
fn source(module: &str) -> Option<String> {
    let mut found = String::new();
    for folder in FOLDERS {
        let (file, inner) = (
            path(&format!("{folder}/{module}.rs")),
            path(&format!("{folder}/{module}")),
        );
        found += &fs::read_to_string(file).unwrap_or_default();
        for entry in fs::read_dir(inner).into_iter().flatten() {
            // A folder in it is read when it is named.
            found += &fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        }
    }
    Some(found).filter(|found| !found.is_empty())
}

/// Whether a name leads to a test: `fn NAME`, or for a module of that name, anything.
fn is_there(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let Some(source) = source(parts[0]) else { return false };
    let last = parts[parts.len() - 1];
    match last.strip_suffix('…') {
        Some(begin) => source.contains(&format!("fn {begin}")),
        None => source.contains(&format!("fn {last}(")) || self::source(&format!("{}/{last}", parts[0])).is_some(),
    }
}

#[test]
fn each_test_that_a_document_names_is_there() {
    let mut count = 0;
    for document in NAMING {
        let whole = prose(&text(document));
        for span in whole.split('`').skip(1).step_by(2).filter(|span| span.contains("::")) {
            // Types of the library are named, too: `Producer::pipeline`.
            if span.starts_with(char::is_uppercase) {
                continue;
            }
            count += 1;
            assert!(is_there(span), "{document}: there is no test {span}");
        }
    }
    assert!(count > 25, "only {count} tests are named: has the search broken?");
    assert!(!is_there("crashes::no_such_test") && !is_there("no_such_module::at_all"));
}
