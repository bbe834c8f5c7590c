//! What can be chosen about a simulator, and what is it if nobody chooses?

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::fault_rule::FaultRule;
use crate::domain::{Command, SdkAppId};

/// The key of the public UserSig sample: the secret of the default app, so that a simulator needs no configuration.
pub const SAMPLE_SECRET: &str = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e";
/// The default app's number, the one of the documentation's samples.
pub const SAMPLE_SDK_APP_ID: SdkAppId = SdkAppId(1_400_000_000);

/// How a simulator behaves. The default is the documented service with every account existing and no faults, on a free
/// loopback port.
#[derive(Debug, Clone)]
pub struct SimulatorOptions {
    /// Where to listen. Default: a free port of 127.0.0.1.
    pub listen: SocketAddr,
    /// Threads that serve connections, at least 1. Default 1.
    pub threads: usize,
    /// The apps. Default: one, [`SAMPLE_SDK_APP_ID`] with `administrator` and [`SAMPLE_SECRET`].
    pub apps: Vec<AppOptions>,
    /// The frequency limits of every app. Default: the documented ones.
    pub limits: Limits,
    /// How long a send is remembered for de-duplication; zero: never. Default 120 s, as documented since 2026.
    pub dedup: Duration,
    /// Which accounts exist.
    pub accounts: AccountRules,
    /// How long an accepted message stays invisible in the history. Default zero.
    pub roam_lag: Duration,
    /// How far back the history reaches. Default 7 days, as documented for the basic edition.
    pub roam_retention: Duration,
    /// `SyncFromOldSystem` as older services had it: 1 and 2 instead of 5 and 2.
    pub legacy_import: bool,
    /// What every call takes at least. Default zero.
    pub latency: Duration,
    /// Faults from the start.
    pub faults: Vec<FaultRule>,
    /// The seed of everything that is drawn: fault probabilities. Default 1.
    pub seed: u64,
    /// How many calls per app and command are kept to look at; `None`: all. Default 100,000.
    pub keep_calls: Option<usize>,
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: 1,
            apps: vec![AppOptions::default()],
            limits: Limits::default(),
            dedup: Duration::from_mins(2),
            accounts: AccountRules::default(),
            roam_lag: Duration::ZERO,
            roam_retention: Duration::from_hours(7 * 24),
            legacy_import: false,
            latency: Duration::ZERO,
            faults: Vec::new(),
            seed: 1,
            keep_calls: Some(100_000),
        }
    }
}

/// An app of the service.
#[derive(Debug, Clone)]
pub struct AppOptions {
    /// Its number.
    pub sdk_app_id: SdkAppId,
    /// Its administrators: who may call.
    pub admins: Vec<String>,
    /// Its secret key, against which `UserSigs` are verified.
    pub secret: SecretString,
}

impl Default for AppOptions {
    fn default() -> Self {
        Self {
            sdk_app_id: SAMPLE_SDK_APP_ID,
            admins: vec!["administrator".to_owned()],
            secret: SAMPLE_SECRET.into(),
        }
    }
}

/// Frequency limits of an app. Zero: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Calls in any 1,000 ms, by [`Command::index`].
    pub calls_per_second: [u32; 7],
    /// Recipients of batchsendmsg in any 60 s.
    pub recipients_per_minute: u32,
    /// Calls in any 1,000 ms over all commands of the app (60011 beyond).
    pub app_calls_per_second: u32,
}

impl Default for Limits {
    /// The documented limits: 200 calls a second for each command, 12,000 recipients a minute; no number is documented
    /// for the whole app, so there is none.
    fn default() -> Self {
        Self {
            recipients_per_minute: 12_000,
            ..Self::calls(200)
        }
    }
}

impl Limits {
    /// No limits at all.
    pub const fn none() -> Self {
        Self::calls(0)
    }

    /// The same limit of calls per second for each command, and no other.
    pub const fn calls(per_second: u32) -> Self {
        Self {
            calls_per_second: [per_second; 7],
            recipients_per_minute: 0,
            app_calls_per_second: 0,
        }
    }

    /// These limits with another for one command.
    #[must_use]
    pub const fn with(mut self, command: Command, per_second: u32) -> Self {
        self.calls_per_second[command.index()] = per_second;
        self
    }

    /// These limits with another for the recipients of batches.
    #[must_use]
    pub const fn with_recipients_per_minute(mut self, recipients: u32) -> Self {
        self.recipients_per_minute = recipients;
        self
    }
}

/// Which accounts exist. Administrators always do; an account over 32 bytes never does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountRules {
    /// Accounts that begin like this don't exist. Default `unknown` and `missing_`.
    pub unknown_prefixes: Vec<String>,
    /// These don't exist.
    pub unknown: HashSet<String>,
    /// If given: only these exist, as if they alone had been imported.
    pub only: Option<HashSet<String>>,
}

impl Default for AccountRules {
    fn default() -> Self {
        Self {
            unknown_prefixes: vec!["unknown".to_owned(), "missing_".to_owned()],
            unknown: HashSet::new(),
            only: None,
        }
    }
}

impl AccountRules {
    /// The longest account, in bytes.
    const MAX_BYTES: usize = 32;

    /// Whether the rules let an account exist.
    pub fn exists(&self, account: &str) -> bool {
        !account.is_empty()
            && account.len() <= Self::MAX_BYTES
            && self.only.as_ref().is_none_or(|only| only.contains(account))
            && !self.unknown.contains(account)
            && !self
                .unknown_prefixes
                .iter()
                .any(|prefix| account.starts_with(prefix.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_exist_unless_a_prefix_a_list_or_their_length_says_no() {
        let mut rules = AccountRules::default();
        assert!(rules.exists("alice"));
        assert!(!rules.exists("unknown7") && !rules.exists("missing_1") && !rules.exists(""));
        assert!(rules.exists(&"a".repeat(32)) && !rules.exists(&"a".repeat(33)));
        rules.unknown.insert("alice".to_owned());
        assert!(!rules.exists("alice"));
        rules.only = Some(["bob".to_owned()].into());
        assert!(rules.exists("bob") && !rules.exists("carol"));
    }
}
