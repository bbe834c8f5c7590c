//! The files of `deploy/`, the compose file and what is said of them: that they name what exists, and agree with each
//! other. They need no services; what their own tools say is checked by `scripts/check-deploy.sh`.

#[cfg(test)]
mod alerts;
#[cfg(test)]
mod metric_names;
#[cfg(test)]
mod settings;

#[cfg(test)]
use std::path::{Path, PathBuf};

/// A path of this repository.
#[cfg(test)]
fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A file of this repository.
#[cfg(test)]
#[expect(clippy::panic, reason = "a helper of tests: the file's name belongs to its failure")]
fn text(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}
