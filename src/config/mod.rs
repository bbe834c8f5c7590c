//! What was set, by whom, and is it right? Flags over environment over file over the defaults that are compiled in.
//!
//! The only module that reads the environment. Knows no broker, no database and no IM API.

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
