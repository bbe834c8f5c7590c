//! Lays flags over environment over file over defaults, keeps where each value came from, and refuses names that don't
//! exist. Knows no type of a setting: that is `load.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use toml::Value;

use super::{
    ConfigError, Environment, Origin,
    environment::{self, Meaning},
    known,
};

/// The defaults, which are documentation too.
pub(super) const DEFAULTS: &str = include_str!("im-dispatcher.toml");

/// A value and where it came from. No `Debug` of the value: it may be a secret.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Every value that was given, by path; of each the one that wins.
#[derive(Clone, Default)]
pub(super) struct Layers {
    entries: BTreeMap<String, Entry>,
    /// What deserves a line in the log but doesn't stop the start.
    pub(super) warnings: Vec<String>,
}

impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.entries.iter().map(|(path, entry)| (path, &entry.origin)))
            .finish()
    }
}

impl Layers {
    /// The defaults that are compiled in.
    pub(super) fn defaults() -> Result<Self, ConfigError> {
        let mut layers = Self::default();
        layers.add_toml(DEFAULTS, "im-dispatcher.toml", &Origin::Default)?;
        Ok(layers)
    }

    /// A file. `named_by` is the setting that names it.
    pub(super) fn add_file(&mut self, path: &Path, named_by: (&str, Origin)) -> Result<(), ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            name: named_by.0.to_owned(),
            origin: named_by.1,
            path: shown.clone(),
            reason: error.to_string(),
        })?;
        self.add_toml(&text, &shown, &Origin::File(shown.as_str().into()))
    }

    fn add_toml(&mut self, text: &str, path: &str, origin: &Origin) -> Result<(), ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| {
                1 + text.get(..span.start).unwrap_or_default().matches('\n').count()
            }),
            // Not the whole error, which shows the line and with it perhaps a secret.
            reason: error.message().replace('\n', " "),
        })?;
        self.add_table("", table, origin)
    }

    fn add_table(&mut self, prefix: &str, table: toml::Table, origin: &Origin) -> Result<(), ConfigError> {
        for (key, value) in table {
            let path = if prefix.is_empty() {
                key.clone()
            } else {
                format!("{prefix}.{key}")
            };
            if prefix == "apps" && !is_app_name(&key) {
                return Err(ConfigError::Invalid {
                    name: format!("apps.{key:?}"),
                    origin: origin.clone(),
                    expected: "an app name of 1 to 64 letters, digits, - and _".into(),
                    given: None,
                });
            }
            match value {
                Value::Table(below) if known::is_section(&path) => self.add_table(&path, below, origin)?,
                _ if known::is_section(&path) => {
                    return Err(ConfigError::Invalid {
                        name: path.clone(),
                        origin: origin.clone(),
                        expected: format!("a section, [{path}]"),
                        given: None,
                    });
                }
                value => self.set(path, value, origin.clone())?,
            }
        }
        Ok(())
    }

    /// Every variable of the environment that is ours.
    pub(super) fn add_environment(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        let apps: BTreeSet<String> = self.app_names().map(str::to_owned).collect();
        let mut by_path: BTreeMap<String, (&str, &str)> = BTreeMap::new();
        for (name, value) in environment.iter() {
            let path = match environment::meaning(name, apps.iter().map(String::as_str)) {
                Meaning::Other => continue,
                Meaning::UnknownShort(suggestion) => {
                    let hint = suggestion.map(|s| format!("; did you mean {s}?")).unwrap_or_default();
                    self.warnings.push(format!(
                        "environment variable {name} is no setting and is ignored{hint}"
                    ));
                    continue;
                }
                Meaning::Setting(path) => path,
            };
            // An empty variable is unset, but an empty address is a way to say "off".
            if value.is_empty() && path != "http.addr" {
                if known::find(&path).is_none() {
                    return Err(unknown(&path, &Origin::Environment(name.into())));
                }
                continue;
            }
            match by_path.get(&path) {
                // `IM_DISPATCHER__…` sorts after no short name in particular, so which wins is said, not found out.
                Some((other, same)) if *same != value => {
                    return Err(ConfigError::Conflict {
                        name: path,
                        origin: Origin::Environment(name.into()),
                        reason: format!("{other} sets it too, to another value; set one of them"),
                    });
                }
                _ => {
                    by_path.insert(path, (name, value));
                }
            }
        }
        for (path, (name, value)) in by_path {
            if let Some((app, _)) = path.strip_prefix("apps.").and_then(|rest| rest.split_once('.'))
                && !is_app_name(app)
            {
                return Err(unknown(&path, &Origin::Environment(name.into())));
            }
            self.set(path, Value::String(value.to_owned()), Origin::Environment(name.into()))?;
        }
        Ok(())
    }

    /// A flag of the command line.
    pub(super) fn add_flag(&mut self, path: &str, flag: &str, value: &str) -> Result<(), ConfigError> {
        self.set(
            path.to_owned(),
            Value::String(value.to_owned()),
            Origin::Flag(flag.into()),
        )
    }

    /// Lays one value over what was there; layers are added from the weakest to the strongest.
    fn set(&mut self, path: String, value: Value, origin: Origin) -> Result<(), ConfigError> {
        if known::find(&path).is_none() {
            return Err(unknown(&path, &origin));
        }
        self.entries.insert(path, Entry { value, origin });
        Ok(())
    }

    /// The value in force.
    pub(super) fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The names of the apps that any layer mentions.
    pub(super) fn app_names(&self) -> impl Iterator<Item = &str> {
        let mut last = None;
        self.entries.keys().filter_map(move |path| {
            let app = path.strip_prefix("apps.")?.split_once('.')?.0;
            (last != Some(app)).then(|| {
                last = Some(app);
                app
            })
        })
    }
}

/// Whether a name can be an app's: it becomes part of queue names and of variables.
fn is_app_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn unknown(path: &str, origin: &Origin) -> ConfigError {
    let suggestion = known::suggest(path);
    ConfigError::Unknown {
        name: path.to_owned(),
        suggestion: match origin {
            Origin::Environment(_) => suggestion.map(|path| environment::long_name(&path)),
            _ => suggestion,
        },
        origin: origin.clone(),
    }
}
