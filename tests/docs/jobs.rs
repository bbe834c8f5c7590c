//! Every job that a document shows is one that a worker takes.

use im_dispatcher::domain::job::Job;
use serde_json::Value;

use crate::markdown::{blocks, documents, text};

#[test]
fn every_job_that_a_document_shows_is_a_job() {
    let mut count = 0;
    for document in documents() {
        for block in blocks(&text(&document)).iter().filter(|block| block.language == "json") {
            // What is shown as bad says so by its file's name.
            if block.file.as_ref().is_some_and(|name| name.starts_with("bad")) {
                continue;
            }
            for value in serde_json::Deserializer::from_str(&block.text).into_iter::<Value>() {
                let value = value.unwrap_or_else(|error| panic!("{document}:{}: {error}", block.line));
                if value.get("type").is_some_and(Value::is_string) && value.get("specversion").is_none() {
                    count += 1;
                    // A template gets its id with its row.
                    let decoded = Job::decode(value.to_string().as_bytes(), Some("an-id"));
                    assert!(decoded.is_ok(), "{document}:{}: {:?}", block.line, decoded.err());
                }
            }
        }
    }
    assert!(count > 10, "only {count} jobs were found: has the search broken?");
}
