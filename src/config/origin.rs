//! Where a value came from.

use std::{fmt, sync::Arc};

/// The place that gave a setting its value. The order is the order of precedence: the greater wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The defaults that are compiled in.
    Default,
    /// A configuration file.
    File(Arc<str>),
    /// An environment variable, by its name.
    Environment(Arc<str>),
    /// A command-line flag, with its dashes.
    Flag(Arc<str>),
}

impl Origin {
    /// The layer without its name: 0 defaults, 1 file, 2 environment, 3 flag.
    pub(super) const fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}
