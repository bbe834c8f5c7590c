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

/// Whether a name leads to a test: `fn NAME`, or a line of a macro that makes it; or, for a module of that name, to anything.
fn is_there(name: &str) -> bool {
    let (module, last) = name.rsplit_once("::").unwrap();
    let module = module.replace("::", "/");
    let named = source(&module).is_some_and(|source| {
        let (begin, end) = last.strip_suffix('…').map_or((last, "("), |begin| (begin, ""));
        source.contains(&format!("fn {begin}{end}"))
            || source.contains(&format!("\n    {begin}{}", if end.is_empty() { "" } else { ":" }))
    });
    named || source(&format!("{module}/{last}")).is_some()
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
