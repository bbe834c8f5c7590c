//! The settings as the rest of the crate reads them: typed, checked, secrets wrapped.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;
use url::Url;

use crate::domain::{AccountId, AppName, Command, Lane, SdkAppId, policy::LanePolicy};

use super::{ConfigError, layers::Layers};

/// Everything that can be set. Made by [`Settings::load`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix of every exchange and queue name: letters, digits and `-_.`, at most 64 characters.
    pub namespace: String,
    /// Postgres, where it is configured; see [`Settings::require_database`].
    pub database_url: Option<SecretString>,
    /// RabbitMQ; of a cluster the URL of each node, with commas between.
    pub amqp_url: SecretString,
    /// What those connections trust.
    pub amqp: AmqpSettings,
    /// Every app that is configured completely; see [`Settings::require_apps`].
    pub apps: BTreeMap<AppName, AppSettings>,
    /// Health, metrics, API.
    pub http: HttpSettings,
    /// The worker process.
    pub worker: WorkerSettings,
    /// By [`Lane::index`]; see [`Settings::lane`].
    pub lanes: [LaneSettings; 3],
    /// The HTTP client of the IM API.
    pub im: ImSettings,
    /// The rate budget.
    pub budget: BudgetSettings,
    /// The reconciliation of calls whose answer was lost.
    pub reconcile: ReconcileSettings,
    /// Delays between attempts.
    pub retry: RetrySettings,
    /// What becomes a dead letter.
    pub dead_letters: DeadLetterSettings,
    /// How long records are kept.
    pub retention: RetentionSettings,
    /// Logging.
    pub log: LogSettings,
    /// Traces.
    pub otel: OtelSettings,
    /// Apps that are mentioned but not complete, with what is missing.
    pub(super) incomplete: BTreeMap<AppName, ConfigError>,
    /// Why the HTTP server can't be started.
    pub(super) http_error: Option<ConfigError>,
    /// Why the database's setting can't be used.
    pub(super) database_error: Option<ConfigError>,
    /// Every value with its origin, for `config show`.
    pub(super) layers: Layers,
}

/// An app of the IM service.
#[derive(Debug, Clone)]
pub struct AppSettings {
    /// The number that Tencent gave it.
    pub sdk_app_id: SdkAppId,
    /// The app administrator that calls are made as, and the sender of messages that name none.
    pub admin_account: AccountId,
    /// The key that its `UserSigs` are signed with.
    pub secret: SecretString,
    /// The REST host of its region.
    pub base_url: Url,
    /// Its frequency limits.
    pub limits: AppLimits,
    /// Whether it has lane queues of its own.
    pub queues: bool,
}

/// The frequency limits of an app. 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppLimits {
    /// Calls per second, by [`Command::index`].
    pub(super) calls: [u32; 7],
    /// Recipients of batchsendmsg per sliding minute.
    pub recipients_per_minute: u32,
}

impl AppLimits {
    /// The same limit for every command.
    pub const fn uniform(calls_per_second: u32, recipients_per_minute: u32) -> Self {
        Self {
            calls: [calls_per_second; 7],
            recipients_per_minute,
        }
    }

    /// Calls per second of one command; 0: no limit.
    pub const fn calls_per_second(&self, command: Command) -> u32 {
        self.calls[command.index()]
    }
}

/// The HTTP server.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Where it listens; `None`: off.
    pub addr: Option<SocketAddr>,
    /// The bearer token that may do everything.
    pub admin_token: Option<SecretString>,
    /// The bearer token that may look.
    pub readonly_token: Option<SecretString>,
}

/// The worker process.
#[derive(Debug, Clone, Copy)]
pub struct WorkerSettings {
    /// HTTP calls in flight at most.
    pub max_in_flight: u32,
    /// How long a stop waits for calls in flight.
    pub drain_timeout: Duration,
    /// Whether the start applies migrations.
    pub migrate: bool,
}

/// A lane.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneSettings {
    /// Unfinished deliveries that a worker holds at most; `None`: derived from the calls in flight.
    pub prefetch: Option<u16>,
    /// The share of the budget, 0 to 1, that the lane gets whatever the more urgent ones want.
    pub floor: f64,
    /// When the lane's messages may go out, and how many a recipient may get.
    pub policy: LanePolicy,
}

/// The HTTP client of the IM API.
#[derive(Debug, Clone)]
pub struct ImSettings {
    /// Until a connection is made.
    pub connect_timeout: Duration,
    /// A whole call, connecting included.
    pub total_timeout: Duration,
    /// Validity of a UserSig.
    pub usersig_lifetime: Duration,
    /// Certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// `SyncFromOldSystem` of an import that counts as unread: 5, or 1 on older services.
    pub import_unread: u8,
    /// `SyncFromOldSystem` of an import that doesn't count as unread: 2.
    pub import_read: u8,
}

/// The rate budget.
#[derive(Debug, Clone, Copy)]
pub struct BudgetSettings {
    /// What two calls a second apart may drift on their way.
    pub guard: Duration,
    /// When a slot opens again.
    pub window: WindowMode,
    /// Whether all workers share one budget through Postgres.
    pub fleet: bool,
}

/// When the slot of a call opens again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowMode {
    /// A second after the call was sent.
    Sent,
    /// A second after it was answered.
    Answered,
}

/// The reconciliation.
#[derive(Debug, Clone, Copy)]
pub struct ReconcileSettings {
    /// What is waited beyond a call's own time-outs before its absence from the history counts.
    pub settle: Duration,
    /// How long the service may take to list a message that it accepted.
    pub listed_after: Duration,
}

/// Delays between attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrySettings {
    /// Before the second attempt.
    pub initial: Duration,
    /// The longest.
    pub max: Duration,
    /// Growth from one delay to the next, at least 1.
    pub factor: f64,
    /// The share by which a delay is varied either way, 0 to 1.
    pub jitter: f64,
    /// Attempts that count, per job and generation.
    pub max_attempts: u32,
}

/// The connections to RabbitMQ, beside their URL.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// Certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// What becomes a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetterSettings {
    /// Also recipients that can't be reached.
    pub recipients: bool,
}

/// How long records are kept.
#[derive(Debug, Clone, Copy)]
pub struct RetentionSettings {
    /// Job ids, within which a repeat isn't sent again.
    pub ids: Duration,
    /// Messages and attempts.
    pub messages: Duration,
    /// The audit log.
    pub audit: Duration,
    /// Counts against caps.
    pub cap_uses: Duration,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The format; `None`: text on a terminal, else JSON.
    pub format: Option<LogFormat>,
    /// Directives of an `EnvFilter`.
    pub filter: String,
    /// Whether someone chose the filter.
    pub filter_is_set: bool,
}

/// Traces by OpenTelemetry.
#[derive(Debug, Clone)]
pub struct OtelSettings {
    /// The collector's base address; `None`: no traces.
    pub endpoint: Option<Url>,
    /// `service.name` of every span.
    pub service_name: String,
    /// The share of traces that are exported, of those that no producer began: 0 to 1.
    pub sample: f64,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Settings {
    /// The settings of a lane.
    pub const fn lane(&self, lane: Lane) -> &LaneSettings {
        &self.lanes[lane.index()]
    }

    /// Postgres, or what is missing.
    pub fn require_database(&self) -> Result<&SecretString, ConfigError> {
        if let Some(error) = &self.database_error {
            return Err(error.clone());
        }
        self.database_url.as_ref().ok_or_else(|| ConfigError::Missing {
            name: "database_url".into(),
            hint: "set DATABASE_URL to postgres://user:password@host:port/database".into(),
        })
    }

    /// The HTTP server's settings, or why it may not start: a token that can't be read, an address beyond loopback
    /// without one. What a worker needs.
    pub fn require_http(&self) -> Result<&HttpSettings, ConfigError> {
        match &self.http_error {
            Some(error) => Err(error.clone()),
            None => Ok(&self.http),
        }
    }

    /// One app by name, or why it can't be used.
    pub fn require_app(&self, name: &AppName) -> Result<&AppSettings, ConfigError> {
        if let Some(app) = self.apps.get(name) {
            return Ok(app);
        }
        Err(self
            .incomplete
            .get(name)
            .cloned()
            .unwrap_or_else(|| self.no_such_app(name)))
    }

    /// The app of jobs that name none, or what is missing.
    pub fn require_default_app(&self) -> Result<&AppSettings, ConfigError> {
        self.require_app(&AppName::default_app())
    }

    /// Every app: at least one, and each complete. What a worker needs.
    pub fn require_apps(&self) -> Result<&BTreeMap<AppName, AppSettings>, ConfigError> {
        if let Some(error) = self.incomplete.values().next() {
            return Err(error.clone());
        }
        if self.apps.is_empty() {
            return Err(self.no_such_app(&AppName::default_app()));
        }
        Ok(&self.apps)
    }

    /// Whether any app is mentioned at all: a producer's machine often knows none.
    pub fn knows_apps(&self) -> bool {
        !(self.apps.is_empty() && self.incomplete.is_empty())
    }

    /// Whether an app of that name is mentioned, complete or not.
    pub fn mentions_app(&self, name: &AppName) -> bool {
        self.apps.contains_key(name) || self.incomplete.contains_key(name)
    }

    /// Logging of a service, or of a command that is over soon: unless someone chose a filter, the latter only warns, so
    /// that news don't stand between its tables.
    pub fn log_for(&self, service: bool) -> LogSettings {
        let mut log = self.log.clone();
        if !service && !log.filter_is_set {
            "warn".clone_into(&mut log.filter);
        }
        log
    }

    fn no_such_app(&self, name: &AppName) -> ConfigError {
        let default = *name == AppName::default_app();
        let known: Vec<&str> = self
            .apps
            .keys()
            .chain(self.incomplete.keys())
            .map(AppName::as_str)
            .collect();
        ConfigError::Missing {
            name: format!("apps.{name}"),
            hint: if default {
                "set IM_SDK_APP_ID and IM_SECRET_KEY or IM_SECRET_KEY_FILE, or [apps.default] in the file".into()
            } else if known.is_empty() {
                format!("no app is configured; add [apps.{name}] to the file")
            } else {
                format!("configured are {}; or add [apps.{name}] to the file", known.join(", "))
            },
        }
    }
}
