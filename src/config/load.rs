//! From layers to [`Settings`]: which type, range and neighbours each setting has.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::domain::{AccountId, AppName, Command, Lane, SdkAppId, policy::MAX_PERIOD, split_urls};

use super::{
    AmqpSettings, AppLimits, AppSettings, BudgetSettings, ConfigError, DeadLetterSettings, Environment, HttpSettings,
    ImSettings, LaneSettings, LogFormat, LogSettings, Origin, OtelSettings, ReconcileSettings, RetentionSettings,
    RetrySettings, Settings, WindowMode, WorkerSettings, environment::CONFIG_VARIABLE, known::limit_path,
    layers::Layers, values::Setting,
};

mod policy;

/// The file that is read where none is named, if it is there.
const DEFAULT_FILE: &str = "im-dispatcher.toml";
/// A rate above it is taken for a slip: the service's own packs go by hundreds.
const MAX_CALLS_PER_SECOND: u64 = 1_000_000;
/// Likewise for recipients: 60 times the former.
const MAX_RECIPIENTS_PER_MINUTE: u64 = 60_000_000;
/// A hundred years: longer than anyone keeps records.
const MAX_RETENTION: Duration = Duration::from_hours(100 * 365 * 24);

/// What [`Settings::load`] starts from.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Where `im-dispatcher.toml` is looked for if no file is named; `None`: nowhere.
    pub directory: Option<PathBuf>,
    /// Flags that set something.
    pub flags: Vec<FlagValue>,
    /// The environment.
    pub environment: Environment,
}

/// A flag of the command line that sets something.
#[derive(Clone)]
pub struct FlagValue {
    /// The setting's path, `section.field`.
    pub path: String,
    /// The flag with its dashes, for errors.
    pub flag: String,
    /// The value, as it was typed.
    pub value: String,
}

impl std::fmt::Debug for FlagValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlagValue({} by {})", self.path, self.flag)
    }
}

impl Settings {
    /// Lays flags over environment over file over defaults and checks every value. What only some commands need is
    /// checked when they ask for it: [`Settings::require_database`], [`Settings::require_apps`] and the others.
    pub fn load(options: &LoadOptions) -> Result<Self, ConfigError> {
        let mut layers = Layers::defaults()?;
        match (
            &options.config,
            options.environment.get(CONFIG_VARIABLE),
            &options.directory,
        ) {
            (Some(path), _, _) => layers.add_file(path, ("config", Origin::Flag("--config".into())))?,
            (None, Some(path), _) => {
                layers.add_file(Path::new(path), ("config", Origin::Environment(CONFIG_VARIABLE.into())))?;
            }
            (None, None, Some(directory)) => {
                let path = directory.join(DEFAULT_FILE);
                if path.exists() {
                    layers.add_file(&path, ("config", Origin::Default))?;
                }
            }
            (None, None, None) => {}
        }
        layers.add_environment(&options.environment)?;
        for flag in &options.flags {
            layers.add_flag(&flag.path, &flag.flag, &flag.value)?;
        }
        Self::from_layers(layers)
    }

    fn from_layers(layers: Layers) -> Result<Self, ConfigError> {
        let (apps, incomplete) = apps(&layers)?;
        let lanes = lanes(&layers)?;
        let retention = retention(&layers, &lanes)?;
        let (http, http_error) = http(&layers)?;
        let (database_url, database_error) = match database_url(&layers) {
            Ok(url) => (url, None),
            Err(error) => (None, Some(error)),
        };
        Ok(Self {
            namespace: namespace(&layers)?,
            database_url,
            amqp_url: amqp_url(&layers)?,
            amqp: AmqpSettings {
                ca_file: layers.setting("amqp.ca_file").map(Setting::file).transpose()?,
            },
            apps,
            http,
            worker: WorkerSettings {
                max_in_flight: layers.defaulted("worker.max_in_flight")?.whole(1, 65_536)?,
                drain_timeout: layers
                    .defaulted("worker.drain_timeout")?
                    .duration(Duration::ZERO, Duration::from_hours(1))?,
                migrate: layers.defaulted("worker.migrate")?.switch()?,
            },
            lanes,
            im: im(&layers)?,
            budget: BudgetSettings {
                guard: layers
                    .defaulted("budget.guard")?
                    .duration(Duration::ZERO, Duration::from_millis(500))?,
                window: layers
                    .defaulted("budget.window")?
                    .parse("sent or answered", |text| match text {
                        "sent" => Some(WindowMode::Sent),
                        "answered" => Some(WindowMode::Answered),
                        _ => None,
                    })?,
                fleet: layers.defaulted("budget.fleet")?.switch()?,
            },
            reconcile: ReconcileSettings {
                settle: layers
                    .defaulted("reconcile.settle")?
                    .duration(Duration::ZERO, Duration::from_mins(1))?,
                listed_after: layers
                    .defaulted("reconcile.listed_after")?
                    .duration(Duration::ZERO, Duration::from_mins(30))?,
            },
            retry: retry(&layers)?,
            dead_letters: DeadLetterSettings {
                recipients: layers.defaulted("dead_letters.recipients")?.switch()?,
            },
            retention,
            log: log(&layers)?,
            otel: otel(&layers)?,
            incomplete,
            http_error,
            database_error,
            layers,
        })
    }

    /// What deserves a line in the log but doesn't stop the start: variables with our prefix that are no settings.
    pub fn warnings(&self) -> &[String] {
        &self.layers.warnings
    }
}

fn namespace(layers: &Layers) -> Result<String, ConfigError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    layers
        .defaulted("namespace")?
        .parse("1 to 64 letters, digits and the signs - _ .", |text| {
            ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.to_owned())
        })
}

fn database_url(layers: &Layers) -> Result<Option<SecretString>, ConfigError> {
    let url = layers.secret("database_url")?;
    check_scheme(layers, "database_url", url.as_ref(), &["postgres", "postgresql"])?;
    Ok(url)
}

fn amqp_url(layers: &Layers) -> Result<SecretString, ConfigError> {
    let url = layers.secret("amqp_url")?;
    let urls = url.as_ref().map(|url| split_urls(url.expose_secret()));
    for url in urls.into_iter().flatten() {
        check_scheme(layers, "amqp_url", Some(&url.into()), &["amqp", "amqps"])?;
    }
    url.ok_or_else(|| ConfigError::Missing {
        name: "amqp_url".into(),
        hint: "set AMQP_URL to amqp://user:password@host:5672/%2f".into(),
    })
}

fn check_scheme(layers: &Layers, path: &str, url: Option<&SecretString>, schemes: &[&str]) -> Result<(), ConfigError> {
    let right = url.is_none_or(|url| Url::parse(url.expose_secret()).is_ok_and(|url| schemes.contains(&url.scheme())));
    if right {
        return Ok(());
    }
    let file = format!("{path}_file");
    let origin = [path, &file]
        .into_iter()
        .filter_map(|path| layers.get(path))
        .map(|entry| entry.origin.clone())
        .max()
        .unwrap_or(Origin::Default);
    Err(ConfigError::Invalid {
        name: path.to_owned(),
        origin,
        expected: format!("a URL that starts with {}://", schemes.join(":// or ")),
        given: None,
    })
}

fn http(layers: &Layers) -> Result<(HttpSettings, Option<ConfigError>), ConfigError> {
    let addr = layers.defaulted("http.addr")?;
    let mut http = HttpSettings {
        addr: addr.listen_address()?,
        admin_token: None,
        readonly_token: None,
    };
    let mut read = || {
        http.admin_token = layers.secret("http.admin_token")?;
        http.readonly_token = layers.secret("http.readonly_token")?;
        if http.addr.is_some_and(|addr| !addr.ip().is_loopback()) && http.admin_token.is_none() {
            return Err(addr.conflict(
                "beyond loopback an admin token is required: set IM_DISPATCHER_ADMIN_TOKEN, or listen on 127.0.0.1",
            ));
        }
        Ok(())
    };
    let error = read().err();
    Ok((http, error))
}

fn lanes(layers: &Layers) -> Result<[LaneSettings; 3], ConfigError> {
    let lane = |lane: Lane| -> Result<LaneSettings, ConfigError> {
        let prefetch = format!("lanes.{lane}.prefetch");
        let floor = format!("lanes.{lane}.floor");
        Ok(LaneSettings {
            prefetch: layers
                .setting(&prefetch)
                .map(|setting| setting.whole(1, u64::from(u16::MAX)))
                .transpose()?,
            floor: layers.defaulted(&floor)?.number(0.0, 1.0)?,
            policy: policy::of_lane(layers, lane)?,
        })
    };
    let lanes = [lane(Lane::High)?, lane(Lane::Normal)?, lane(Lane::Bulk)?];
    let sum: f64 = lanes.iter().map(|lane| lane.floor).sum();
    if sum > 1.0 {
        // The strongest origin is the one that was meant to change something.
        let names = Lane::ALL.map(|lane| format!("lanes.{lane}.floor"));
        let strongest = names
            .iter()
            .filter_map(|name| layers.setting(name))
            .max_by_key(|setting| setting.entry.origin.layer());
        if let Some(setting) = strongest {
            return Err(setting.conflict(format!(
                "the floors of the lanes sum up to {sum}; at most 1 is there to share"
            )));
        }
    }
    Ok(lanes)
}

fn im(layers: &Layers) -> Result<ImSettings, ConfigError> {
    let minute = Duration::from_mins(1);
    let total_timeout = layers
        .defaulted("im.total_timeout")?
        .duration(Duration::from_millis(50), minute)?;
    Ok(ImSettings {
        // A connect time-out beyond the total is the total.
        connect_timeout: layers
            .defaulted("im.connect_timeout")?
            .duration(Duration::from_millis(10), minute)?
            .min(total_timeout),
        total_timeout,
        // The service accepts up to 50 years (im-api: at most 50 years).
        usersig_lifetime: layers
            .defaulted("im.usersig_lifetime")?
            .duration(Duration::from_secs(4), Duration::from_hours(50 * 365 * 24))?,
        ca_file: layers.setting("im.ca_file").map(Setting::file).transpose()?,
        import_unread: layers.defaulted("im.import_unread")?.whole(0, 255)?,
        import_read: layers.defaulted("im.import_read")?.whole(0, 255)?,
    })
}

fn retry(layers: &Layers) -> Result<RetrySettings, ConfigError> {
    let day = Duration::from_hours(24);
    let initial = layers
        .defaulted("retry.initial")?
        .duration(Duration::from_millis(1), day)?;
    let max_setting = layers.defaulted("retry.max")?;
    let max = max_setting.duration(Duration::from_millis(1), day)?;
    if max < initial {
        return Err(max_setting.conflict(format!(
            "it is shorter than retry.initial ({}); the longest delay can't be below the first",
            humantime::format_duration(initial)
        )));
    }
    Ok(RetrySettings {
        initial,
        max,
        factor: layers.defaulted("retry.factor")?.number(1.0, 100.0)?,
        jitter: layers.defaulted("retry.jitter")?.number(0.0, 1.0)?,
        max_attempts: layers.defaulted("retry.max_attempts")?.whole(1, 10_000)?,
    })
}

fn retention(layers: &Layers, lanes: &[LaneSettings; 3]) -> Result<RetentionSettings, ConfigError> {
    let day = Duration::from_hours(24);
    let ids_setting = layers.defaulted("retention.ids")?;
    let ids = ids_setting.duration(day, MAX_RETENTION)?;
    let messages = layers.defaulted("retention.messages")?.duration(day, MAX_RETENTION)?;
    if ids < messages {
        return Err(ids_setting.conflict("it is shorter than retention.messages; a message needs its job's record"));
    }
    let uses_setting = layers.defaulted("retention.cap_uses")?;
    let cap_uses = uses_setting.duration(Duration::from_secs(1), MAX_PERIOD)?;
    let periods = lanes.iter().filter_map(|lane| lane.policy.cap.as_ref());
    if let Some(longest) = periods
        .map(|cap| cap.period.span())
        .max()
        .filter(|period| *period > cap_uses)
    {
        return Err(uses_setting.conflict(format!(
            "it is shorter than a lane's cap counts back ({})",
            humantime::format_duration(longest)
        )));
    }
    Ok(RetentionSettings {
        ids,
        messages,
        audit: layers.defaulted("retention.audit")?.duration(day, MAX_RETENTION)?,
        cap_uses,
    })
}

fn log(layers: &Layers) -> Result<LogSettings, ConfigError> {
    Ok(LogSettings {
        filter_is_set: layers.defaulted("log.filter")?.entry.origin != Origin::Default,
        format: layers
            .setting("log.format")
            .map(|setting| {
                setting.parse("text or json", |text| match text {
                    "text" => Some(LogFormat::Text),
                    "json" => Some(LogFormat::Json),
                    _ => None,
                })
            })
            .transpose()?,
        filter: layers
            .defaulted("log.filter")?
            .parse("levels such as info or info,im_dispatcher=debug", |text| {
                tracing_subscriber::EnvFilter::builder().parse(text).ok()?;
                Some(text.to_owned())
            })?,
    })
}

fn otel(layers: &Layers) -> Result<OtelSettings, ConfigError> {
    Ok(OtelSettings {
        endpoint: layers
            .setting("otel.endpoint")
            .map(|setting| {
                setting.parse(
                    "the http:// or https:// address of a collector, such as http://127.0.0.1:4318",
                    |text| {
                        let url = Url::parse(text).ok()?;
                        (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
                    },
                )
            })
            .transpose()?,
        service_name: layers
            .defaulted("otel.service_name")?
            .parse("a name", |text| (!text.is_empty()).then(|| text.to_owned()))?,
        sample: layers.defaulted("otel.sample")?.number(0.0, 1.0)?,
    })
}

type Apps = (BTreeMap<AppName, AppSettings>, BTreeMap<AppName, ConfigError>);

fn apps(layers: &Layers) -> Result<Apps, ConfigError> {
    let mut complete = BTreeMap::new();
    let mut incomplete = BTreeMap::new();
    // Wrong for every app alike, so wrong even where there is none.
    layers.defaulted("im.base_url")?.base_url()?;
    layers
        .defaulted("im.rate_limit")?
        .whole::<u32>(0, MAX_CALLS_PER_SECOND)?;
    layers
        .defaulted("im.recipients_per_minute")?
        .whole::<u32>(0, MAX_RECIPIENTS_PER_MINUTE)?;
    for name in layers.app_names() {
        let Ok(app) = AppName::parse(name) else { continue };
        match app_settings(layers, name) {
            Ok(settings) => {
                complete.insert(app, settings);
            }
            Err(error) => {
                incomplete.insert(app, error);
            }
        }
    }
    Ok((complete, incomplete))
}

fn app_settings(layers: &Layers, app: &str) -> Result<AppSettings, ConfigError> {
    let path = |field: &str| format!("apps.{app}.{field}");
    let missing = |field: &str, short: &str| ConfigError::Missing {
        name: path(field),
        hint: if app == "default" {
            format!("set {short}, or {field} under [apps.default] in the file")
        } else {
            format!("set {field} under [apps.{app}] in the file")
        },
    };
    // The short variables IM_BASE_URL, IM_RATE_LIMIT … stand for the app `default` too, and so above what the file says
    // of it; of any other app its own value is the more precise one.
    let pick = |field: &str, general: &'static str| -> Result<String, ConfigError> {
        let own = path(field);
        let general_layer = layers.defaulted(general)?.entry.origin.layer();
        Ok(match layers.setting(&own) {
            Some(setting) if app != "default" || setting.entry.origin.layer() >= general_layer => own,
            _ => general.to_owned(),
        })
    };
    let calls_at = pick("limits.calls_per_second", "im.rate_limit")?;
    let recipients_at = pick("limits.recipients_per_minute", "im.recipients_per_minute")?;
    let mut limits = AppLimits::uniform(
        layers.defaulted(&calls_at)?.whole(0, MAX_CALLS_PER_SECOND)?,
        layers.defaulted(&recipients_at)?.whole(0, MAX_RECIPIENTS_PER_MINUTE)?,
    );
    for command in Command::ALL {
        if let Some(setting) = layers.setting(&path(limit_path(command))) {
            limits.calls[command.index()] = setting.whole(0, MAX_CALLS_PER_SECOND)?;
        }
    }
    let base_url = pick("base_url", "im.base_url")?;
    Ok(AppSettings {
        sdk_app_id: SdkAppId(
            layers
                .setting(&path("sdk_app_id"))
                .ok_or_else(|| missing("sdk_app_id", "IM_SDK_APP_ID"))?
                .whole(1, i64::MAX as u64)?,
        ),
        admin_account: match layers.setting(&path("admin_account")) {
            Some(setting) => setting.parse("an account of 1 to 32 bytes", |text| AccountId::parse(text).ok())?,
            None => AccountId::parse("administrator").map_err(|_| missing("admin_account", "IM_ADMIN_ACCOUNT"))?,
        },
        secret: layers
            .secret(&path("secret"))?
            .ok_or_else(|| missing("secret", "IM_SECRET_KEY or IM_SECRET_KEY_FILE"))?,
        base_url: layers.defaulted(&base_url)?.base_url()?,
        limits,
        queues: layers.setting(&path("queues")).map_or(Ok(false), Setting::switch)?,
    })
}
