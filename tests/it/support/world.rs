//! The world of one test: its database, its namespace, its broker client, and the environment of the binary in it.

use std::{collections::BTreeMap, path::Path, process::Output, time::Duration};

use im_dispatcher::simulator::{SAMPLE_SDK_APP_ID, SAMPLE_SECRET, Simulator, SimulatorOptions};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Services, TestBroker, TestDatabase,
    process::{binary, command},
};

/// What a test has to itself. Start processes after it, so that they end before it does.
#[derive(Debug)]
pub(crate) struct World {
    /// A producer and observer on RabbitMQ.
    pub(crate) broker: TestBroker,
    /// The IM API: what it accepted is what counts.
    pub(crate) simulator: Simulator,
    /// The records.
    pub(crate) database: TestDatabase,
    /// The prefix of every exchange and queue.
    pub(crate) namespace: String,
    /// The services that everybody shares.
    pub(crate) services: Services,
    settings: BTreeMap<String, String>,
    directory: TempDir,
}

impl World {
    /// A new world on the services of the environment, with an IM service that has its documented limits.
    pub(crate) async fn new() -> Self {
        Self::with(SimulatorOptions::default()).await
    }

    /// The same with a service that drops no repeats, so that only our own care counts, and short times of our own.
    pub(crate) async fn careless() -> Self {
        let mut world = Self::with(SimulatorOptions {
            dedup: Duration::ZERO,
            ..SimulatorOptions::default()
        })
        .await;
        world
            .set("IM_DISPATCHER__IM__TOTAL_TIMEOUT", "1s")
            .set("IM_DISPATCHER__RECONCILE__SETTLE", "500ms");
        world
    }

    /// The same with a service that behaves otherwise. Its first app must be the sample app.
    pub(crate) async fn with(service: SimulatorOptions) -> Self {
        let services = Services::from_env();
        let namespace = format!("t{:08x}", rand::random::<u32>());
        let database = TestDatabase::create(&services).await;
        let broker = TestBroker::connect(&services.amqp_url, &namespace).await;
        let simulator = Simulator::start(service).unwrap();
        let (base_url, sdk_app_id) = (simulator.base_url(), SAMPLE_SDK_APP_ID.to_string());
        let settings = [
            ("IM_BASE_URL", base_url.as_str()),
            ("IM_SDK_APP_ID", &sdk_app_id),
            ("IM_SECRET_KEY", SAMPLE_SECRET),
            ("DATABASE_URL", database.url()),
            ("AMQP_URL", &services.amqp_url),
            ("IM_DISPATCHER_NAMESPACE", &namespace),
            ("IM_DISPATCHER_HTTP_ADDR", ""),
            ("RUST_LOG", "info"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self {
            broker,
            simulator,
            database,
            namespace,
            services,
            settings,
            directory: TempDir::new().unwrap(),
        }
    }

    /// Sets a variable for every process that is started from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a variable out for every process that is started from now on.
    pub(crate) fn unset(&mut self, name: &str) -> &mut Self {
        self.settings.remove(name);
        self
    }

    /// The environment of the binary in this world.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        self.settings.clone()
    }

    /// An empty folder, the working directory of this world's processes: no configuration file of a developer's is found.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command of the binary to its end, for at most a minute.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with_input(arguments, b"").await
    }

    /// The same with something to read.
    pub(crate) async fn cli_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        use tokio::io::AsyncWriteExt;

        let command = command(&binary(), arguments, self.environment(), self.directory());
        let mut command = tokio::process::Command::from(command);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = tokio::spawn(async move {
            // A command that doesn't read, or ends early, closes the pipe: its exit code and output tell.
            drop(stdin.write_all(&input).await);
        });
        let ended = tokio::time::timeout(Duration::from_mins(1), child.wait_with_output()).await;
        feed.abort();
        ended
            .unwrap_or_else(|_| panic!("im-dispatcher {arguments:?} didn't end within a minute"))
            .unwrap()
    }

    /// `status JOB --json`; `None` for an unknown job. Panics on any other failure.
    pub(crate) async fn status_json(&self, job: &str) -> Option<Value> {
        let output = self.cli(&["status", job, "--json"]).await;
        match output.status.code() {
            Some(0) => Some(serde_json::from_slice(&output.stdout).expect("status prints JSON")),
            Some(1) if output.stdout.is_empty() => None,
            _ => panic!(
                "status {job}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
}
