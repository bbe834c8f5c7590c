//! Where a row takes place: a database, a namespace and a simulator of its own.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use im_dispatcher::{
    domain::Command,
    simulator::{Arrival, Limits, SAMPLE_SDK_APP_ID, SAMPLE_SECRET, Simulator, SimulatorOptions},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    Arguments,
    producer::Producer,
    workers::{STAMPS, Workers},
};

/// What a row sets.
pub(crate) struct Plan {
    /// What the service grants.
    pub(crate) service: Limits,
    /// Settings of the workers.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// The lanes that are paused until everything is there.
    pub(crate) lanes: &'static [&'static str],
    /// Whether the logs have a line for each write.
    pub(crate) stamps: bool,
}

/// A row's place.
pub(crate) struct Scene {
    /// The IM API.
    pub(crate) simulator: Simulator,
    /// The worker processes.
    pub(crate) workers: Workers,
    /// The producer.
    pub(crate) producer: Producer,
    /// When the simulator's clock showed 0.
    epoch: Instant,
    database: String,
    database_url: String,
    lanes: &'static [&'static str],
}

fn environment(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} isn't set: start this by scripts/bench.sh budget"))
}

impl Scene {
    /// Sets everything up; the lanes of the plan are paused.
    pub(crate) async fn open(arguments: &Arguments, name: &str, binary: &Path, plan: Plan) -> anyhow::Result<Self> {
        let (database_url, amqp_url) = (environment("DATABASE_URL")?, environment("AMQP_URL")?);
        let namespace = format!("bench{:08x}", rand::random::<u32>());
        let mut admin = PgConnection::connect(&database_url).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {namespace}")))
            .execute(&mut admin)
            .await?;
        admin.close().await?;
        let mut own = url::Url::parse(&database_url)?;
        own.set_path(&namespace);
        let simulator = Simulator::start(SimulatorOptions {
            limits: plan.service,
            keep_calls: None,
            ..SimulatorOptions::default()
        })?;
        let uptime = Duration::from_micros(simulator.report().uptime_micros);
        let epoch = Instant::now()
            .checked_sub(uptime)
            .context("the simulator is older than the clock")?;
        let settings: BTreeMap<String, String> = [
            ("AMQP_URL", amqp_url.clone()),
            ("DATABASE_URL", own.to_string()),
            ("IM_BASE_URL", simulator.base_url()),
            ("IM_SDK_APP_ID", SAMPLE_SDK_APP_ID.to_string()),
            ("IM_SECRET_KEY", SAMPLE_SECRET.to_owned()),
            ("IM_DISPATCHER_NAMESPACE", namespace.clone()),
            ("IM_DISPATCHER_LOG_FORMAT", "json".to_owned()),
            ("RUST_LOG", if plan.stamps { STAMPS } else { "warn" }.to_owned()),
        ]
        .into_iter()
        .chain(plan.settings)
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let directory = arguments.directory.join(name);
        // What an earlier run left there.
        drop(std::fs::remove_dir_all(&directory));
        std::fs::create_dir_all(&directory)?;
        let binary = binary.canonicalize().with_context(|| format!("{}", binary.display()))?;
        let workers = Workers::new(&binary, &directory.canonicalize()?, settings)?;
        workers.run("migrate", &[])?;
        for lane in plan.lanes {
            workers.run("pause", &["--lane", lane])?;
        }
        Ok(Self {
            simulator,
            workers,
            producer: Producer::connect(&amqp_url, &namespace).await?,
            epoch,
            database: namespace,
            database_url,
            lanes: plan.lanes,
        })
    }

    /// Ends the pause of every lane.
    pub(crate) async fn begin(&self) -> anyhow::Result<()> {
        for lane in self.lanes {
            self.workers.resume(lane).await?;
        }
        Ok(())
    }

    /// The calls of a command, in order of their arrival.
    pub(crate) fn arrivals(&self, command: Command) -> Vec<Arrival> {
        let mut arrivals = self.simulator.arrivals(command);
        arrivals.sort_by_key(|arrival| arrival.at);
        arrivals
    }

    /// An instant on the simulator's clock, in microseconds.
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Waits until so many messages have appeared.
    pub(crate) async fn until_delivered(&self, messages: u64, within: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.simulator.delivered_total() < messages {
            ensure!(
                began.elapsed() < within,
                "{} of {messages} messages after {within:?}",
                self.simulator.delivered_total()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Calls of a command that were answered with a throttling code.
    pub(crate) fn throttled(&self, command: Command) -> u64 {
        let report = self.simulator.report();
        let app = report.apps.get(&SAMPLE_SDK_APP_ID.0);
        app.and_then(|commands| commands.get(command.as_str()))
            .map_or(0, |report| report.throttled)
    }

    /// Ends everything, and leaves nothing behind but logs.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.workers.stop().await?;
        self.producer.clean_up().await?;
        let mut admin = PgConnection::connect(&self.database_url).await?;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.database)))
            .execute(&mut admin)
            .await?;
        admin.close().await?;
        Ok(())
    }
}
