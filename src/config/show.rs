//! The effective settings with their origins, secrets hidden.

use secrecy::{ExposeSecret, SecretString};
use toml::Value;
use url::Url;

use crate::domain::split_urls;

use super::{
    ConfigError, Settings,
    known::{APP_SETTINGS, Known, SETTINGS},
};

/// A setting as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// `section.field`.
    pub name: String,
    /// The value; `None` where it has none. Secrets are hidden.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Option<String>,
}

/// What is printed for a secret.
pub const HIDDEN: &str = "(hidden)";

impl Settings {
    /// Every setting, in the order of the default file, apps last.
    pub fn effective(&self) -> Vec<EffectiveSetting> {
        let mut rows: Vec<EffectiveSetting> = SETTINGS
            .iter()
            .map(|known| self.effective_setting(known.path.to_owned(), known))
            .collect();
        for app in self.layers.app_names() {
            rows.extend(
                APP_SETTINGS
                    .iter()
                    .map(|known| self.effective_setting(format!("apps.{app}.{}", known.path), known))
                    .filter(|row| row.value.is_some()),
            );
        }
        rows
    }

    /// What keeps an app, the database or the HTTP server from being used, as it stands.
    pub fn problems(&self) -> Vec<&ConfigError> {
        self.incomplete
            .values()
            .chain(&self.database_error)
            .chain(&self.http_error)
            .collect()
    }

    fn effective_setting(&self, name: String, known: &Known) -> EffectiveSetting {
        let file = format!("{name}_file");
        let entry = if known.secret {
            [self.layers.get(&name), self.layers.get(&file)]
                .into_iter()
                .flatten()
                .max_by_key(|entry| entry.origin.layer())
        } else {
            self.layers.get(&name)
        };
        EffectiveSetting {
            value: entry.map(|entry| match (&entry.value, known.path) {
                (Value::String(text), "database_url" | "amqp_url") => mask(text),
                _ if known.secret => HIDDEN.to_owned(),
                (Value::String(text), _) => text.clone(),
                (value, _) => value.to_string(),
            }),
            origin: entry.map(|entry| entry.origin.to_string()),
            name,
        }
    }
}

/// A URL, or each of a list, without its password, or [`HIDDEN`] where it can't be told apart: for people who must know which host is meant.
pub fn mask_url(url: &SecretString) -> String {
    mask(url.expose_secret())
}

fn mask(url: &str) -> String {
    let urls: Vec<String> = split_urls(url).into_iter().map(mask_one).collect();
    urls.join(",")
}

fn mask_one(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return HIDDEN.to_owned();
    };
    if url.host().is_none() || (url.password().is_some() && url.set_password(Some("***")).is_err()) {
        return HIDDEN.to_owned();
    }
    // Postgres takes `?password=` as well.
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
