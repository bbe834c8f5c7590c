//! What is written for people: that it leads somewhere, is fresh where it is generated, names every word that they can meet,
//! and that its commands are commands. That they do what is said of them is tested with services (`tests/it/documented.rs`).
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes what is generated.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod generated;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod links;
#[cfg(test)]
#[path = "../support/markdown.rs"]
mod markdown;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod shell;
#[cfg(test)]
mod words;
