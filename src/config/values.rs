//! Reads one value of a layer as a type, and says what would be right where it can't be.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use secrecy::SecretString;
use toml::Value;
use url::{Host, Url};

use super::{
    ConfigError,
    layers::{Entry, Layers},
};

/// A setting with its value, on its way to a type.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    /// Its whole path.
    pub(super) path: &'a str,
    /// Its value and origin.
    pub(super) entry: &'a Entry,
}

impl Layers {
    /// A setting, where it has a value.
    pub(super) fn setting<'a>(&'a self, path: &'a str) -> Option<Setting<'a>> {
        self.get(path).map(|entry| Setting { path, entry })
    }

    /// A setting that has a default.
    pub(super) fn defaulted<'a>(&'a self, path: &'a str) -> Result<Setting<'a>, ConfigError> {
        self.setting(path).ok_or_else(|| ConfigError::Missing {
            name: path.to_owned(),
            hint: "it has no default in this build".into(),
        })
    }

    /// A secret, from its value or from the file that `<path>_file` names, whichever layer is the stronger.
    pub(super) fn secret(&self, path: &str) -> Result<Option<SecretString>, ConfigError> {
        let file_path = format!("{path}_file");
        let (value, file) = (self.setting(path), self.setting(&file_path));
        match (value, file) {
            (Some(value), Some(file)) if value.entry.origin.layer() == file.entry.origin.layer() => {
                Err(ConfigError::Conflict {
                    name: path.to_owned(),
                    origin: value.entry.origin.clone(),
                    reason: format!("{} sets {file_path} too; set one of them", file.entry.origin),
                })
            }
            (Some(value), file) if file.is_none_or(|file| file.entry.origin < value.entry.origin) => {
                match &value.entry.value {
                    Value::String(text) if !text.is_empty() => Ok(Some(text.as_str().into())),
                    _ => Err(value.hidden("a non-empty text")),
                }
            }
            (_, Some(file)) => file.secret_file().map(Some),
            (_, None) => Ok(None),
        }
    }
}

impl Setting<'_> {
    fn hidden(self, expected: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            name: self.path.to_owned(),
            origin: self.entry.origin.clone(),
            expected: expected.into(),
            given: None,
        }
    }

    /// The error that names the setting, its origin, what would be right and what was given.
    pub(super) fn invalid(self, expected: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            name: self.path.to_owned(),
            origin: self.entry.origin.clone(),
            expected: expected.into(),
            given: Some(self.shown()),
        }
    }

    /// The error for a value that is right by itself, but not beside another.
    pub(super) fn conflict(self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Conflict {
            name: self.path.to_owned(),
            origin: self.entry.origin.clone(),
            reason: reason.into(),
        }
    }

    /// The value on one line, of bounded length.
    fn shown(self) -> String {
        let text = match &self.entry.value {
            Value::String(text) => format!("{text:?}"),
            Value::Table(_) => "a table".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            other => other.to_string(),
        };
        if text.chars().count() > 80 {
            text.chars().take(80).chain(['…']).collect()
        } else {
            text
        }
    }

    fn str(&self) -> Option<&str> {
        match &self.entry.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A text, parsed.
    pub(super) fn parse<T>(self, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, ConfigError> {
        self.str().and_then(parse).ok_or_else(|| self.invalid(expected))
    }

    /// A whole number.
    pub(super) fn whole<T>(self, min: u64, max: u64) -> Result<T, ConfigError>
    where
        T: TryFrom<u64>,
    {
        let number = match &self.entry.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (min..=max).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.invalid(format!("a whole number from {min} to {max}")))
    }

    /// A number.
    pub(super) fn number(self, min: f64, max: f64) -> Result<f64, ConfigError> {
        let number = match &self.entry.value {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::String(text) => f64::from_str(text.trim()).ok(),
            _ => None,
        };
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.invalid(format!("a number from {min} to {max}")))
    }

    /// A switch.
    pub(super) fn switch(self) -> Result<bool, ConfigError> {
        match &self.entry.value {
            Value::Boolean(on) => Ok(*on),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(self.invalid("true or false")),
            },
            _ => Err(self.invalid("true or false")),
        }
    }

    /// A duration with its unit.
    pub(super) fn duration(self, min: Duration, max: Duration) -> Result<Duration, ConfigError> {
        self.str()
            .and_then(|text| humantime::parse_duration(text.trim()).ok())
            .filter(|duration| (min..=max).contains(duration))
            .ok_or_else(|| {
                self.invalid(format!(
                    "a duration with its unit, such as 250ms, 5s or 10m, from {} to {}",
                    humantime::format_duration(min),
                    humantime::format_duration(max)
                ))
            })
    }

    /// A path.
    pub(super) fn file(self) -> Result<PathBuf, ConfigError> {
        self.parse("a path", |text| (!text.is_empty()).then(|| PathBuf::from(text)))
    }

    /// An address to listen on; empty is off.
    pub(super) fn listen_address(self) -> Result<Option<SocketAddr>, ConfigError> {
        let parse = |text: &str| match text.strip_prefix("localhost:") {
            Some(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?)),
            None => text.parse().ok(),
        };
        self.parse(
            "an address and port such as 127.0.0.1:8080, or nothing to turn it off",
            |text| {
                if text.is_empty() {
                    Some(None)
                } else {
                    parse(text).map(Some)
                }
            },
        )
    }

    /// The base URL of the IM API: https, or http on this machine.
    pub(super) fn base_url(self) -> Result<Url, ConfigError> {
        let url = self.parse("a URL such as https://console.tim.qq.com", |text| Url::parse(text).ok());
        // A URL can hold a password, so a wrong one isn't repeated.
        let url = url.map_err(|_| self.hidden("a URL such as https://console.tim.qq.com"))?;
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.path() == "/"
            && url.host().is_some();
        match url.scheme() {
            "https" | "http" if !bare => {
                Err(self.hidden("a URL of scheme and host (and port) only, such as https://console.tim.qq.com"))
            }
            "https" => Ok(url),
            "http" if is_loopback(&url) => Ok(url),
            "http" => Err(self.invalid("https://, since http:// is for loopback hosts only")),
            _ => Err(self.hidden("a URL that starts with https://")),
        }
    }

    /// A secret in a file; the line break at its end doesn't belong to it.
    fn secret_file(self) -> Result<SecretString, ConfigError> {
        let path = self.file()?;
        let text = std::fs::read_to_string(&path).map_err(|error| ConfigError::Unreadable {
            name: self.path.to_owned(),
            origin: self.entry.origin.clone(),
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(self.invalid("the path of a file that is not empty"));
        }
        Ok(secret.into())
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
