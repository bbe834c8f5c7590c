//! What was set, by whom, and is it right? Flags over environment over file over the defaults that are compiled in.
//!
//! The only module that reads the environment. Knows no broker, no database and no IM API.
//!
//! ```
//! use im_dispatcher::config::{Environment, LoadOptions, Settings};
//!
//! let environment: Environment = [("IM_RATE_LIMIT", "50"), ("IM_DISPATCHER_NAMESPACE", "test")]
//!     .map(|(name, value)| (name.to_owned(), value.to_owned()))
//!     .into_iter()
//!     .collect();
//! let settings = Settings::load(&LoadOptions { environment, ..LoadOptions::default() })?;
//! assert_eq!(settings.namespace, "test");
//!
//! // A setting that doesn't exist stops the start, with a suggestion.
//! let environment = [("IM_DISPATCHER__BUDGET__GARD".to_owned(), "8ms".to_owned())].into_iter().collect();
//! let refused = Settings::load(&LoadOptions { environment, ..LoadOptions::default() }).unwrap_err();
//! assert!(refused.to_string().ends_with("did you mean IM_DISPATCHER__BUDGET__GUARD?"), "{refused}");
//! # Ok::<(), im_dispatcher::config::ConfigError>(())
//! ```

mod environment;
mod error;
mod known;
mod layers;
mod load;
mod origin;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod values;

pub use environment::Environment;
pub use error::ConfigError;
pub use load::{FlagValue, LoadOptions};
pub use origin::Origin;
pub use settings::{
    AmqpSettings, AppLimits, AppSettings, BudgetSettings, DeadLetterSettings, HttpSettings, ImSettings, LaneSettings,
    LogFormat, LogSettings, OtelSettings, ReconcileSettings, RetentionSettings, RetrySettings, Settings, WindowMode,
    WorkerSettings,
};
pub use show::{EffectiveSetting, HIDDEN, mask_url};

/// The default file, with a comment for each setting.
pub const DEFAULT_FILE_TEXT: &str = layers::DEFAULTS;
