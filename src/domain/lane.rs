//! Lanes: job queues by urgency.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A job queue by urgency. The order is the order of urgency: `High` first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// One-time passwords and revocations: never waits behind the others.
    High,
    /// Notifications.
    Normal,
    /// Campaigns.
    Bulk,
}

impl Lane {
    /// Every lane, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Bulk];

    /// The routing key, label and configuration name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// A small number for arrays and for the database: 0 is the most urgent.
    pub const fn index(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Bulk => 2,
        }
    }

    /// The inverse of [`Lane::index`]; anything else is read as the least urgent.
    pub const fn from_index(index: i16) -> Self {
        match index {
            0 => Self::High,
            1 => Self::Normal,
            _ => Self::Bulk,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lane {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|lane| lane.as_str() == s)
            .ok_or_else(|| format!("unknown lane {s:?}: use high, normal or bulk"))
    }
}
