//! What can be wrong with a setting, said in one line: which setting, where it came from, what would be right.

use super::Origin;

fn hint(suggestion: Option<&str>) -> String {
    match suggestion {
        Some(suggestion) => format!("; did you mean {suggestion}?"),
        None => "; `im-dispatcher config show` lists every setting".to_owned(),
    }
}

/// An error of the configuration. Its text is one line and never holds a secret's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named, or that a setting names, can't be read.
    #[error("{name} from {origin}: can't read {path}: {reason}")]
    Unreadable {
        /// The setting that names the file.
        name: String,
        /// Where the name came from.
        origin: Origin,
        /// The file.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// The file isn't TOML.
    #[error("configuration file {path}, line {line}: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What the parser expected; never the line itself.
        reason: String,
    },
    /// A setting that doesn't exist.
    #[error("unknown setting {name} from {origin}{}", hint(suggestion.as_deref()))]
    Unknown {
        /// As it was spelled.
        name: String,
        /// Where it came from.
        origin: Origin,
        /// The nearest name that exists, spelled for the same place.
        suggestion: Option<String>,
    },
    /// A value that can't be used.
    #[error("{name} from {origin}: expected {expected}{}", given.as_ref().map(|g| format!(", got {g}")).unwrap_or_default())]
    Invalid {
        /// The setting.
        name: String,
        /// Where the value came from.
        origin: Origin,
        /// What would be right.
        expected: String,
        /// The value, quoted; `None` for secrets.
        given: Option<String>,
    },
    /// A setting that this command needs has no value.
    #[error("{name} is not set: {hint}")]
    Missing {
        /// The setting.
        name: String,
        /// How to set it.
        hint: String,
    },
    /// Two settings that exclude each other, or that only fit together in another way.
    #[error("{name} from {origin}: {reason}")]
    Conflict {
        /// The setting.
        name: String,
        /// Where it came from.
        origin: Origin,
        /// What contradicts it and what would be right.
        reason: String,
    },
}
