//! Identifiers: parsed once at the edge, trusted inside.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::by_text::deserialize_by_text;

/// Why a string is not a valid identifier. The text names the rule, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The string is empty.
    #[error("must not be empty")]
    Empty,
    /// Longer than the limit, in the unit that the limit counts.
    #[error("is {actual} {unit} long, the limit is {limit}")]
    TooLong {
        /// What was given.
        actual: usize,
        /// What is allowed.
        limit: usize,
        /// `bytes` or `characters`.
        unit: &'static str,
    },
    /// U+0000, which Postgres text can't hold.
    #[error("must not contain NUL")]
    Nul,
}

/// How a limit counts.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Characters,
}

fn check(value: &str, limit: usize, unit: Unit) -> Result<(), IdError> {
    if value.is_empty() {
        return Err(IdError::Empty);
    }
    if value.contains('\0') {
        return Err(IdError::Nul);
    }
    let (actual, unit) = match unit {
        Unit::Bytes => (value.len(), "bytes"),
        Unit::Characters => (value.chars().count(), "characters"),
    };
    if actual > limit {
        return Err(IdError::TooLong { actual, limit, unit });
    }
    Ok(())
}

macro_rules! string_id {
    ($(#[doc = $about:literal])* $name:ident, $limit:expr, $unit:expr) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest value, in the unit that the type's documentation names.
            pub const LIMIT: usize = $limit;

            /// Checks and wraps a value.
            pub fn parse(value: impl AsRef<str>) -> Result<Self, IdError> {
                let value = value.as_ref();
                check(value, $limit, $unit)?;
                Ok(Self(value.into()))
            }

            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        deserialize_by_text!($name);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            /// JSON Schema counts characters, so where the limit counts bytes it says no more than an upper bound.
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $limit,
                    "pattern": "^[^\\u0000]*$",
                    "description": concat!($($about),+).trim(),
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::parse(value)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

string_id!(
    /// A job's idempotency key: 1 to 128 characters, unique in the namespace.
    JobId, 128, Unit::Characters
);
string_id!(
    /// A label such as a campaign's name: 1 to 128 characters.
    GroupName, 128, Unit::Characters
);
string_id!(
    /// An IM account (UserID): 1 to 32 bytes, compared byte by byte.
    AccountId, 32, Unit::Bytes
);
string_id!(
    /// The name under which the configuration knows an app: 1 to 64 characters.
    AppName, 64, Unit::Characters
);
string_id!(
    /// The IM service's key of a message, opaque, up to 50 characters by its documentation (128 accepted).
    /// Its form is `MsgSeq_MsgRandom_MsgTime`; it is unique at most inside one conversation.
    MsgKey, 128, Unit::Characters
);

impl AppName {
    /// The app of a job that names none.
    pub fn default_app() -> Self {
        Self("default".into())
    }
}

/// The number that Tencent gave an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SdkAppId(pub u64);

impl fmt::Display for SdkAppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_limit_counts_bytes_and_job_id_limit_counts_characters() {
        assert!(AccountId::parse("é".repeat(16)).is_ok());
        assert!(matches!(
            AccountId::parse("é".repeat(17)),
            Err(IdError::TooLong { actual: 34, .. })
        ));
        assert!(JobId::parse("é".repeat(128)).is_ok());
        assert!(JobId::parse("é".repeat(129)).is_err());
    }

    #[test]
    fn empty_and_nul_are_refused() {
        assert_eq!(JobId::parse(""), Err(IdError::Empty));
        assert_eq!(GroupName::parse("a\0b"), Err(IdError::Nul));
    }
}
