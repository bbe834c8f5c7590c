//! The process environment: the only place that reads it, and how its variables name settings.

use std::collections::BTreeMap;

use super::known::{self, APP_SETTINGS, SETTINGS};

/// Prefix of the environment form of every setting.
pub(super) const LONG_PREFIX: &str = "IM_DISPATCHER__";
/// Prefix of this program's own short names.
const SHORT_PREFIX: &str = "IM_DISPATCHER_";
/// Names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "IM_DISPATCHER_CONFIG";

/// A copy of the environment, so that tests bring their own.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The environment of this process. Variables that aren't UTF-8 are none of ours.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// A variable that has a value. An empty one counts as unset, as Compose writes `${VAR:-}`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Every variable.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        Self {
            variables: iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        }
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values hold secrets.
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// What a variable means to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// None of ours.
    Other,
    /// The setting of that path.
    Setting(String),
    /// Has our prefix, but is no name of ours: a warning, with what may have been meant.
    UnknownShort(Option<String>),
}

/// Reads a variable's name. `apps` are the names that the file gives, since the environment knows no case and no dash.
pub(super) fn meaning<'a>(name: &str, apps: impl Iterator<Item = &'a str>) -> Meaning {
    if let Some(rest) = name.strip_prefix(LONG_PREFIX) {
        return Meaning::Setting(long_path(rest, apps));
    }
    if name == CONFIG_VARIABLE {
        return Meaning::Other;
    }
    if let Some(path) = short_path(name) {
        return Meaning::Setting(path);
    }
    if name.starts_with(SHORT_PREFIX) {
        let names = SETTINGS
            .iter()
            .filter_map(|known| known.short)
            .chain([CONFIG_VARIABLE])
            .filter(|short| short.starts_with(SHORT_PREFIX))
            .map(str::to_owned);
        return Meaning::UnknownShort(known::nearest(name, names).filter(|near| {
            // The prefix alone makes any two names look near.
            strsim::levenshtein(name, near) <= 3
        }));
    }
    Meaning::Other
}

fn short_path(name: &str) -> Option<String> {
    let matches = |short: Option<&str>, secret: bool| match short {
        Some(short) if short == name => Some(""),
        Some(short) if secret && name.strip_suffix("_FILE") == Some(short) => Some("_file"),
        _ => None,
    };
    SETTINGS
        .iter()
        .find_map(|known| Some(format!("{}{}", known.path, matches(known.short, known.secret)?)))
        .or_else(|| {
            APP_SETTINGS.iter().find_map(|known| {
                Some(format!(
                    "apps.default.{}{}",
                    known.path,
                    matches(known.short, known.secret)?
                ))
            })
        })
}

fn long_path<'a>(rest: &str, mut apps: impl Iterator<Item = &'a str>) -> String {
    let mut segments: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    if segments.len() > 2 && segments[0] == "apps" {
        let plain = |name: &str| name.to_lowercase().replace('-', "_");
        let wanted = plain(&segments[1]);
        if let Some(app) = apps.find(|app| plain(app) == wanted) {
            app.clone_into(&mut segments[1]);
        }
    }
    segments.join(".")
}

/// The environment form of a path.
pub(super) fn long_name(path: &str) -> String {
    format!("{LONG_PREFIX}{}", path.replace('.', "__").to_uppercase())
}
