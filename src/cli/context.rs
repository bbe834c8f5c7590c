//! What several commands start from: the settings by the global flags, and a store, a broker or a client by the
//! settings.

use std::{env, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;

use crate::{
    broker::{Broker, BrokerOptions},
    config::{Environment, FlagValue, LoadOptions, Settings},
    domain::{AppName, Lane},
    im::{ClientOptions, ImApp, ImClient},
    producer::Producer,
    store::{Store, StoreOptions},
};

use super::output::{Usage, usage};

/// How long a command waits for RabbitMQ before it gives up.
const BROKER_PATIENCE: Duration = Duration::from_secs(15);

/// Flags of every command.
#[derive(Debug, Args)]
pub(super) struct GlobalArgs {
    /// The TOML file with the settings [default: ./im-dispatcher.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    config: Option<PathBuf>,
    /// Prefix of exchange and queue names
    #[arg(long, global = true, value_name = "NAME", help_heading = "Settings")]
    namespace: Option<String>,
    /// text or json
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Settings")]
    log_format: Option<String>,
    /// Any setting by its name, `section.field=value`; may be given several times
    #[arg(long, global = true, value_name = "NAME=VALUE", help_heading = "Settings")]
    set: Vec<String>,
}

impl GlobalArgs {
    /// The flags that set something.
    pub(super) fn flags(&self) -> Result<Vec<FlagValue>, Usage> {
        let mut flags = Vec::new();
        for assignment in &self.set {
            let (path, value) = assignment
                .split_once('=')
                .ok_or_else(|| usage("--set takes NAME=VALUE, such as --set budget.guard=8ms"))?;
            flags.push(flag(path, "--set", value));
        }
        flags.extend(
            self.namespace
                .iter()
                .map(|value| flag("namespace", "--namespace", value)),
        );
        flags.extend(
            self.log_format
                .iter()
                .map(|value| flag("log.format", "--log-format", value)),
        );
        Ok(flags)
    }

    /// Loads the settings.
    pub(super) fn load(&self, flags: Vec<FlagValue>) -> anyhow::Result<Settings> {
        Ok(Settings::load(&LoadOptions {
            config: self.config.clone(),
            directory: env::current_dir().ok(),
            flags,
            environment: Environment::of_process(),
        })?)
    }
}

/// A flag that sets something.
pub(super) fn flag(path: &str, name: &str, value: &str) -> FlagValue {
    FlagValue {
        path: path.to_owned(),
        flag: name.to_owned(),
        value: value.to_owned(),
    }
}

/// The app whose credentials a command uses.
#[derive(Debug, Args)]
pub(super) struct AppArg {
    /// The configured app
    #[arg(long, value_name = "NAME", default_value = "default")]
    app: String,
}

impl AppArg {
    /// Its name.
    pub(super) fn name(&self) -> Result<AppName, Usage> {
        AppName::parse(&self.app).map_err(|error| usage(format!("--app {error}")))
    }
}

/// The database, by the settings. Nothing connects yet.
pub(super) fn store(settings: &Settings) -> anyhow::Result<Store> {
    Ok(Store::new(&StoreOptions::new(settings.require_database()?.clone()))?)
}

/// The broker, for publishing and looking; waits until it is there.
pub(super) async fn broker(settings: &Settings) -> anyhow::Result<Broker> {
    let broker = start_broker(settings)?;
    if let Err(readiness) = broker.wait_until_ready(BROKER_PATIENCE).await {
        broker.close().await;
        anyhow::bail!(
            "RabbitMQ can't be used: {}; AMQP_URL is {}, and `im-dispatcher check` tries it",
            readiness.reasons.join("; "),
            crate::config::mask_url(&settings.amqp_url)
        );
    }
    Ok(broker)
}

/// The broker, for publishing and looking, on its way to being there.
pub(super) fn start_broker(settings: &Settings) -> anyhow::Result<Broker> {
    let mut options = BrokerOptions::new(settings.amqp_url.clone(), settings.namespace.clone()).publishing_only();
    options.ca_file.clone_from(&settings.amqp.ca_file);
    options.app_queues = app_queues(settings);
    let (broker, _no_deliveries) = Broker::start(options)?;
    Ok(broker)
}

/// A producer by the settings; waits until the broker is there. `patience` is how long a job is tried.
pub(super) async fn producer(settings: &Settings, patience: Duration) -> anyhow::Result<Producer> {
    let broker = broker(settings).await?;
    Ok(Producer::over(broker, own_queues(settings).cloned(), patience))
}

/// The lane queues of apps that have their own.
fn app_queues(settings: &Settings) -> Vec<(Lane, AppName)> {
    own_queues(settings)
        .flat_map(|name| Lane::ALL.map(|lane| (lane, name.clone())))
        .collect()
}

/// The apps that have queues of their own.
fn own_queues(settings: &Settings) -> impl Iterator<Item = &AppName> {
    let own = settings.apps.iter().filter(|(_, app)| app.queues);
    own.map(|(name, _)| name)
}

/// A client of one app.
pub(super) fn im_client(settings: &Settings, name: &AppName) -> anyhow::Result<ImClient> {
    let app = settings.require_app(name)?;
    let extra_ca_pem = settings
        .im
        .ca_file
        .as_ref()
        .map(|path| std::fs::read(path).with_context(|| format!("read im.ca_file {}", path.display())))
        .transpose()?;
    Ok(ImClient::new(
        ImApp {
            name: name.clone(),
            sdk_app_id: app.sdk_app_id,
            admin: app.admin_account.clone(),
            base_url: app.base_url.clone(),
            secret: app.secret.clone(),
        },
        ClientOptions {
            connect_timeout: settings.im.connect_timeout,
            total_timeout: settings.im.total_timeout,
            usersig_lifetime: settings.im.usersig_lifetime,
            extra_ca_pem,
            ..ClientOptions::default()
        },
    )?)
}
