//! What an operator meets is in the runbook: each dead-letter word, each reason of /readyz, each thing that a job can wait for,
//! each state and each class.

use std::collections::BTreeSet;

use im_dispatcher::{
    domain::{ErrorClass, Lane, event::Outcome, job::JobType, status::MessageState},
    explain::{self, Event, Reason},
    im::ImErrorKind,
};
use serde::Serialize;

use crate::markdown::text;

const RUNBOOK: &str = "docs/operations.md";

/// A section of a document, by its heading.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, behind) = document
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("there is no section {heading:?}"));
    behind.split("\n## ").next().unwrap()
}

/// The first cells of a section's table rows, each with whether every other cell says something.
fn rows(section: &str) -> Vec<(String, bool)> {
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            (
                cells[0].to_owned(),
                cells.len() > 2 && cells.iter().all(|cell| cell.len() > 3),
            )
        })
        .collect()
}

#[track_caller]
fn has_a_row_for_each(heading: &str, words: impl IntoIterator<Item = String>) {
    let document = text(RUNBOOK);
    let rows = rows(section(&document, heading));
    assert!(
        rows.iter().all(|(_, whole)| *whole),
        "{heading}: a row without meaning or advice: {rows:?}"
    );
    let mut count = 0;
    for word in words {
        count += 1;
        assert!(
            rows.iter()
                .any(|(cell, _)| cell.split('`').skip(1).step_by(2).any(|span| span == word)),
            "{RUNBOOK}, {heading}: no row for {word:?}"
        );
    }
    assert!(count > 3);
}

/// The word that a value is serialised as.
fn word(value: impl Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn each_word_of_a_dead_letter_has_a_meaning_and_what_to_do() {
    // The words of attempts, of the history's answers and of policy never end on a letter.
    let elsewhere: BTreeSet<&str> = ImErrorKind::ALL
        .into_iter()
        .map(ImErrorKind::as_str)
        .chain(["found", "absent", "cannot-tell", "capped"])
        .collect();
    let letters = explain::words()
        .map(|(word, _)| word)
        .filter(|word| !elsewhere.contains(word));
    let spelled = letters.map(|word| if word == "broker" { "broker-…" } else { word }.to_owned());
    has_a_row_for_each("Dead letters", spelled.chain(["im-…".to_owned()]));
}

#[test]
fn each_thing_that_a_job_waits_for_has_a_meaning_and_what_to_do() {
    has_a_row_for_each("A job that waits", Reason::ALL.map(word));
}

#[test]
fn each_class_of_error_has_a_meaning_and_what_to_do() {
    has_a_row_for_each("Failed calls", ErrorClass::ALL.map(|class| class.as_str().to_owned()));
}

#[test]
fn the_words_of_jobs_states_outcomes_and_timelines_are_explained() {
    let concepts = text("docs/concepts.md");
    let explained = |word: &str| concepts.contains(&format!("`{word}`"));
    let states = MessageState::ALL.into_iter().map(word);
    let types = JobType::ALL.into_iter().map(|job_type| job_type.as_str().to_owned());
    let lanes = Lane::ALL.into_iter().map(|lane| lane.as_str().to_owned());
    let outcomes = Outcome::ALL.into_iter().map(|outcome| outcome.as_str().to_owned());
    let entries = Event::ALL.into_iter().map(word);
    for word in states.chain(types).chain(lanes).chain(outcomes).chain(entries) {
        assert!(explained(&word), "docs/concepts.md doesn't explain `{word}`");
    }
}

/// The sentences that /readyz can give, as the sources spell them, with … for what is filled in.
fn sentences() -> BTreeSet<String> {
    // Where reasons and notes are made. A test of each file's behaviour is beside it; here only their wording is read.
    const SOURCES: [(&str, &str); 3] = [
        ("src/app.rs", "fn readiness(&self)"),
        ("src/worker/context.rs", "pub(crate) fn readiness(&self)"),
        ("src/broker/shared.rs", "pub(super) fn readiness(&self)"),
    ];
    let mut found = BTreeSet::new();
    for (file, function) in SOURCES {
        let source = text(file);
        let (_, behind) = source
            .split_once(function)
            .unwrap_or_else(|| panic!("{file}: no {function}"));
        // Up to the function's own closing brace.
        let body = behind.split("\n    }\n").next().unwrap();
        for literal in body
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|literal| literal.contains(' '))
        {
            let mut pieces = literal.split(['{', '}']);
            let mut sentence = String::new();
            while let Some(fixed) = pieces.next() {
                sentence.push_str(fixed);
                if pieces.next().is_some() {
                    sentence.push('…');
                }
            }
            found.insert(sentence);
        }
    }
    found
}

#[test]
fn each_reason_of_readiness_has_a_meaning_and_what_to_do() {
    // Ends of sentences that are documented whole.
    let ends = ["until it is resumed", "until …", "is paused", "is being paused"];
    let sentences: Vec<String> = sentences()
        .into_iter()
        .filter(|sentence| !ends.contains(&sentence.as_str()))
        .collect();
    assert!(
        sentences.len() > 8,
        "the sentences of /readyz have moved: {sentences:?}"
    );
    has_a_row_for_each("Not ready", sentences);
}
