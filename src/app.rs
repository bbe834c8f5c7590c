//! The composition root: the only place that builds everything and knows every module.

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, BrokerOptions},
    budget::{Budget, BudgetKey, BudgetOptions, Fleet, Limits, Pacer},
    config::{AppSettings, HttpSettings, Settings, WindowMode},
    domain::{
        AppName, Command, JobId, Lane, SdkAppId,
        job::{Job, RevokeTarget, Task},
        retry::RetryPolicy,
    },
    fleet,
    http::{HealthSource, HttpState, Letters, Readiness, RevokeError, Revoker, Server, Tokens},
    im::{ClientOptions, ImApp, ImClient},
    store::{NewRevocation, RevocationAdded, Store, StoreOptions, WorkerRun},
    telemetry::{Metrics, Traces},
    worker::{Context, LanePolicies, Parts, StoreLedger, Worker},
};
use reload::{Reloads, Secrets, policies_of};

mod reload;

/// In-flight calls that are kept for the high lane, whatever the others do.
const HIGH_IN_FLIGHT: u32 = 16;
/// The largest prefetch of a lane, with limits off.
const MOST_PREFETCH: u32 = 2_000;

/// Runs a worker until SIGTERM or SIGINT, then drains; a second signal skips the wait. On SIGHUP it takes the limits,
/// send windows, caps and secrets of what `reload` reads, and nothing else of it.
///
/// # Errors
/// What stops a start: settings, an address that is taken. A service that is away does not.
pub async fn run_worker(
    settings: Settings,
    reload: impl Fn() -> anyhow::Result<Settings> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
    watch_signals(draining.clone(), stopping.clone())?;
    let hangups = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    let metrics = Arc::new(Metrics::new());
    let (traces, export) = Traces::start(&settings.otel, &settings.namespace)?;
    let database = StoreOptions::for_worker(settings.require_database()?.clone());
    let store = Store::new(&database)?;
    let http = settings.require_http()?;
    let clients = clients(&settings)?;
    let (broker, deliveries) = Broker::start(broker_options(&settings)?)?;
    // Nothing is taken before the database is there to record it.
    broker.pause_consuming(true);
    let health = Arc::new(Health {
        migrated: AtomicBool::new(false),
        broker: broker.clone(),
        draining: draining.clone(),
        context: std::sync::OnceLock::new(),
    });
    let identity = fleet::identity(http.addr.map(|address| address.to_string()));
    let http_store = Store::for_http(&database)?;
    let tokens = Tokens::new(http.admin_token.as_ref(), http.readonly_token.as_ref());
    let secrets = Secrets::of(&clients, [&store, &http_store], &broker, &tokens);
    let parts = (Arc::clone(&health), Arc::clone(&metrics), http_store.clone(), tokens);
    let server = start_http(&settings, http, parts, identity.id, &stopping).await?;
    if !prepare_database(&store, settings.worker.migrate, &draining).await {
        broker.close().await;
        return Ok(ExitCode::SUCCESS);
    }
    health.migrated.store(true, Ordering::Relaxed);
    let run = begin_run(&store, &broker, &draining).await;
    let limits = SharedLimits::new(parking_lot::Mutex::new(limits_of(&settings)));
    let budget = budget(&settings, &store, Arc::clone(&limits))?;
    let policies = LanePolicies::new(arc_swap::ArcSwap::from_pointee(policies_of(&settings)));
    let reloads = Reloads {
        limits: Arc::clone(&limits),
        budget: budget.clone(),
        policies: Arc::clone(&policies),
        store: store.clone(),
        stopping: stopping.clone(),
        secrets,
    };
    tokio::spawn(reloads.follow(hangups, reload));
    let beat = tokio::spawn(fleet::beat(
        http_store.clone(),
        identity,
        reporter(&settings, &health, &metrics, &budget),
        stopping.clone(),
    ));
    let context = Context::new(Parts {
        namespace: settings.namespace.clone(),
        store,
        budget,
        clients,
        broker: broker.clone(),
        retry: retry(&settings)?,
        total_timeout: settings.im.total_timeout,
        settle: settings.reconcile.settle,
        listed_after: settings.reconcile.listed_after,
        usersig_lifetime: settings.im.usersig_lifetime,
        import_words: (settings.im.import_unread, settings.im.import_read),
        recipient_letters: settings.dead_letters.recipients,
        max_in_flight: settings.worker.max_in_flight,
        high_in_flight: HIGH_IN_FLIGHT,
        limits,
        policies,
        metrics,
        traces,
        draining: draining.clone(),
        stopping: stopping.clone(),
        run,
    });
    // Before anything is taken.
    context.refresh_pauses().await;
    let worker = Worker::start(context, deliveries);
    drop(health.context.set(Arc::clone(worker.context())));
    broker.pause_consuming(false);
    tracing::info!(namespace = %settings.namespace, apps = settings.apps.len(), "the worker takes jobs");
    draining.cancelled().await;
    tracing::info!("draining: no new jobs, what was begun is finished");
    let finished = worker.drain(settings.worker.drain_timeout).await;
    if let Some(server) = server
        && let Err(error) = server.await
    {
        tracing::warn!(%error, "the HTTP server ended badly");
    }
    if let Err(error) = beat.await {
        tracing::warn!(%error, "the reports of this worker ended badly");
    }
    http_store.close().await;
    if let Some(export) = export {
        export.end().await;
    }
    if finished {
        tracing::info!("drained");
    } else {
        tracing::warn!("stopped before everything was finished: what was open is delivered or taken again");
    }
    Ok(ExitCode::SUCCESS)
}

/// Listens, if the settings say where. A taken address stops the start.
async fn start_http(
    settings: &Settings,
    http: &HttpSettings,
    (health, metrics, store, tokens): (Arc<Health>, Arc<Metrics>, Store, Tokens),
    worker: uuid::Uuid,
    stopping: &CancellationToken,
) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let Some(address) = http.addr else { return Ok(None) };
    let server = Server::bind(address)
        .await
        .with_context(|| format!("listen on {address} (http.addr)"))?;
    let apps: Vec<AppName> = settings.apps.keys().cloned().collect();
    let broker = health.broker.clone();
    let state = HttpState {
        metrics,
        revoker: Arc::new(Tombstones {
            store: store.clone(),
            apps: apps.clone(),
        }),
        tokens,
        namespace: settings.namespace.as_str().into(),
        apps: apps.into(),
        letters: Letters::of(broker.dead_letters()),
        fleet: fleet::View::start(store.clone(), Some(broker), stopping.clone()),
        worker,
        health: health as Arc<dyn HealthSource>,
        store,
    };
    tracing::info!(%address, "HTTP listens");
    Ok(Some(tokio::spawn(server.run(state, stopping.clone()))))
}

/// First signal: drain. Second: stop now.
fn watch_signals(draining: CancellationToken, stopping: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    tokio::spawn(async move {
        for token in [draining, stopping] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}

/// Waits for the database, applies or awaits migrations. False: asked to stop meanwhile.
async fn prepare_database(store: &Store, migrate: bool, draining: &CancellationToken) -> bool {
    let mut told = false;
    loop {
        let error = match prepare_once(store, migrate).await {
            Ok(None) => return true,
            Ok(Some(version)) => format!("migration {version} is missing: run `im-dispatcher migrate`"),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        if !told {
            tracing::warn!(reason = %error, "the database isn't ready yet: waiting for it");
            told = true;
        }
        tokio::select! {
            () = draining.cancelled() => return false,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Puts this process on record. After an unclean exit one of the next jobs may be what caused it: each queue then starts
/// with one delivery, so that no more than that one is in the hands of a worker that dies of it.
async fn begin_run(store: &Store, broker: &Broker, draining: &CancellationToken) -> WorkerRun {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let run = WorkerRun {
        id: uuid::Uuid::new_v4(),
        host: host.trim().to_owned(),
        pid: std::process::id(),
    };
    // A process that is dead and not yet waited for has no command line.
    let lives = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    loop {
        match store.begin_run(&run, lives).await {
            Ok(false) => return run,
            Ok(true) => {
                tracing::warn!("a worker ended uncleanly: each queue starts with one delivery, and the number doubles");
                broker.start_slowly();
                return run;
            }
            Err(error) => tracing::debug!(%error, "this start could not be put on record yet"),
        }
        tokio::select! {
            () = draining.cancelled() => return run,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

async fn prepare_once(store: &Store, migrate: bool) -> Result<Option<i64>, crate::store::StoreError> {
    if migrate {
        store.migrate().await?;
    }
    let missing = store.missing_migration().await?;
    if missing.is_none() {
        store.ensure_partitions().await?;
    }
    Ok(missing)
}

/// The client options of the settings.
pub fn client_options(settings: &Settings) -> anyhow::Result<ClientOptions> {
    let extra_ca_pem = match &settings.im.ca_file {
        Some(path) => Some(
            std::fs::read(path).with_context(|| format!("read the certificates of im.ca_file, {}", path.display()))?,
        ),
        None => None,
    };
    Ok(ClientOptions {
        connect_timeout: settings.im.connect_timeout,
        total_timeout: settings.im.total_timeout,
        usersig_lifetime: settings.im.usersig_lifetime,
        max_idle_per_host: settings.worker.max_in_flight as usize + HIGH_IN_FLIGHT as usize,
        // Each HTTP call has a slot of its own: the repeat after a new signature goes through the budget like any other.
        repeat_when_signed_anew: false,
        extra_ca_pem,
        ..ClientOptions::default()
    })
}

/// The client of one app.
pub fn client(name: &AppName, app: &AppSettings, options: ClientOptions) -> anyhow::Result<ImClient> {
    let app = ImApp {
        name: name.clone(),
        sdk_app_id: app.sdk_app_id,
        admin: app.admin_account.clone(),
        base_url: app.base_url.clone(),
        secret: app.secret.clone(),
    };
    ImClient::new(app, options).with_context(|| format!("set up the app {name}"))
}

fn clients(settings: &Settings) -> anyhow::Result<Vec<ImClient>> {
    let options = client_options(settings)?;
    settings
        .require_apps()?
        .iter()
        .map(|(name, app)| client(name, app, options.clone()))
        .collect()
}

/// The broker options of the settings.
pub fn broker_options(settings: &Settings) -> anyhow::Result<BrokerOptions> {
    let mut options = BrokerOptions::new(settings.amqp_url.clone(), settings.namespace.clone());
    options.ca_file.clone_from(&settings.amqp.ca_file);
    options.prefetch = prefetch(settings);
    options.fixed_prefetch = Lane::ALL.map(|lane| settings.lane(lane).prefetch.is_some());
    options.app_queues = settings
        .apps
        .iter()
        .filter(|(_, app)| app.queues)
        .flat_map(|(name, _)| Lane::ALL.map(|lane| (lane, name.clone())))
        .collect();
    Ok(options)
}

/// High 16; the others half a second's worth of their limit, or a job that takes longer than usual costs rate; with limits off
/// four times the calls in flight, for those whose claim or outcome is being written, up to 2,000.
fn prefetch(settings: &Settings) -> [u16; 3] {
    let limit = settings
        .apps
        .values()
        .map(|app| match app.limits.calls_per_second(Command::SendMsg) {
            0 => MOST_PREFETCH,
            limit => limit / 2,
        })
        .max()
        .unwrap_or(50);
    let most = limit.clamp(50, MOST_PREFETCH.min(4 * settings.worker.max_in_flight.max(25))) as u16;
    let default = [16, most, most];
    Lane::ALL.map(|lane| settings.lanes[lane.index()].prefetch.unwrap_or(default[lane.index()]))
}

type LimitTable = HashMap<(u64, Command), Limits>;
/// The limits in force; a SIGHUP replaces them.
type SharedLimits = Arc<parking_lot::Mutex<LimitTable>>;

fn limits_of(settings: &Settings) -> LimitTable {
    settings
        .apps
        .values()
        .flat_map(|app| {
            Command::ALL.map(|command| {
                let limits = Limits {
                    calls_per_second: app.limits.calls_per_second(command),
                    recipients_per_minute: if command == Command::BatchSendMsg {
                        app.limits.recipients_per_minute
                    } else {
                        0
                    },
                };
                ((app.sdk_app_id.0, command), limits)
            })
        })
        .collect()
}

/// The budget: of the fleet, or of this process alone.
fn budget(settings: &Settings, store: &Store, limits: SharedLimits) -> anyhow::Result<Budget> {
    let answered = settings.budget.window == WindowMode::Answered;
    let mut options = BudgetOptions {
        guard: settings.budget.guard,
        window: if answered {
            crate::budget::WindowMode::Answered
        } else {
            crate::budget::WindowMode::Sent
        },
        pacer: if settings.budget.fleet {
            Pacer::Window
        } else {
            Pacer::Governor
        },
        floors: Lane::ALL.map(|lane| settings.lanes[lane.index()].floor),
        ..BudgetOptions::default()
    };
    options.check().context("the budget's settings")?;
    let limits_of = move |key: &BudgetKey| {
        let limits = limits.lock().get(&(key.sdk_app_id.0, key.command)).copied();
        limits.unwrap_or(Limits::NONE)
    };
    if !settings.budget.fleet {
        return Ok(Budget::new(options, limits_of));
    }
    // Whatever a call's end, it is known by then; a second for our own tasks to say so.
    let call_time = settings.im.total_timeout + Duration::from_secs(1);
    let fleet = Fleet::new(StoreLedger(store.clone()), &options, call_time);
    // The row halves the rate for all workers; one that did so as well would halve it twice.
    options.throttle.share = 1.0;
    Ok(Budget::with_sources(options, limits_of, fleet))
}

fn retry(settings: &Settings) -> anyhow::Result<RetryPolicy> {
    let policy = RetryPolicy {
        initial_delay: settings.retry.initial,
        multiplier: settings.retry.factor,
        max_delay: settings.retry.max,
        max_attempts: settings.retry.max_attempts,
        jitter: settings.retry.jitter,
        ..RetryPolicy::default()
    };
    policy.validate().context("the settings of retry")?;
    Ok(policy)
}

/// What this worker says of itself, each time anew.
fn reporter(
    settings: &Settings,
    health: &Arc<Health>,
    metrics: &Arc<Metrics>,
    budget: &Budget,
) -> impl Fn() -> fleet::Report + Send + Sync + 'static {
    let apps: Vec<(u64, String)> = settings
        .apps
        .iter()
        .map(|(name, app)| (app.sdk_app_id.0, name.to_string()))
        .collect();
    let (health, metrics, budget) = (Arc::clone(health), Arc::clone(metrics), budget.clone());
    move || {
        let Readiness { ready, reasons, notes } = health.readiness();
        // Apps of one SDKAppID share its budget.
        let app_of = |id: SdkAppId| {
            let names: Vec<&str> = apps
                .iter()
                .filter(|(own, _)| *own == id.0)
                .map(|(_, name)| name.as_str())
                .collect();
            names.join(", ")
        };
        fleet::Report {
            ready,
            reasons,
            notes,
            draining: health.draining.is_cancelled(),
            ..fleet::Report::of(&metrics, Some(&budget), app_of)
        }
    }
}

/// What `/readyz` answers from.
struct Health {
    migrated: AtomicBool,
    broker: Broker,
    draining: CancellationToken,
    context: std::sync::OnceLock<Arc<Context>>,
}

impl HealthSource for Health {
    fn readiness(&self) -> Readiness {
        let broker = self.broker.readiness();
        let (mut reasons, mut notes) = (broker.reasons, broker.notes);
        if self.draining.is_cancelled() {
            reasons.push("draining: the worker was asked to stop".to_owned());
        }
        if !self.migrated.load(Ordering::Relaxed) {
            reasons.push("Postgres is away, or its migrations are missing".to_owned());
        }
        if let Some(context) = self.context.get() {
            let (more_reasons, more_notes) = context.readiness();
            reasons.extend(more_reasons);
            notes.extend(more_notes);
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
            notes,
        }
    }

    fn dependencies(&self) -> Vec<(&'static str, bool)> {
        let away = self.context.get().is_some_and(|context| context.database_is_away());
        vec![
            ("postgres", self.migrated.load(Ordering::Relaxed) && !away),
            ("rabbitmq", self.broker.is_connected()),
        ]
    }
}

/// Writes the tombstones of the API and the command line at once, without the way round the broker.
pub struct Tombstones {
    /// The records.
    pub store: Store,
    /// The configured apps.
    pub apps: Vec<AppName>,
}

#[async_trait]
impl Revoker for Tombstones {
    async fn revoke(&self, id: JobId, app: AppName, target: RevokeTarget) -> Result<(), RevokeError> {
        if !self.apps.contains(&app) {
            return Err(RevokeError::UnknownApp(app));
        }
        // The digest that the same revocation has as a job.
        let job = Job {
            app,
            ..Job::new(id, Task::Revoke(target.clone()))
        };
        let revocation = NewRevocation {
            id: &job.id,
            digest: job.digest(),
            app: &job.app,
            group: None,
            lane: Lane::High,
            target: &target,
            reply_to: None,
            correlation_id: None,
        };
        match self.store.add_revocation(&revocation).await {
            Ok(RevocationAdded::Added | RevocationAdded::Repeated) => Ok(()),
            Ok(RevocationAdded::Conflict) => Err(RevokeError::IdConflict(job.id)),
            Err(error) if error.is_unavailable() => Err(RevokeError::Unavailable),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a revocation could not be written"
                );
                Err(RevokeError::Internal)
            }
        }
    }
}
