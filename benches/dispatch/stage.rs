//! One run's surroundings: a database, a namespace, a simulator, and the processes that are measured.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use im_dispatcher::{
    domain::{AccountId, SdkAppId},
    im::user_sig,
    simulator::{SAMPLE_SDK_APP_ID, SAMPLE_SECRET},
};
use serde::Deserialize;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{Arguments, jobs::Producer, process};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(8);

/// What all runs share.
pub(crate) struct Lab {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) worker: PathBuf,
    pub(crate) reference: PathBuf,
    database_url: String,
    pub(crate) amqp_url: String,
    postmaster: u32,
    broker: u32,
    runs: AtomicU32,
}

/// CPU seconds of the services.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServiceCpu {
    pub(crate) postgres: f64,
    pub(crate) broker: f64,
}

impl Lab {
    pub(crate) async fn open(arguments: &Arguments) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(&arguments.database_url).await?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut connection)
            .await?;
        let postmaster = process::parent(backend as u32).context("Postgres runs on this machine")?;
        Ok(Self {
            directory: tempfile::tempdir()?,
            worker: arguments.worker.clone(),
            reference: arguments.reference.clone(),
            database_url: arguments.database_url.clone(),
            amqp_url: arguments.amqp_url.clone(),
            postmaster,
            broker: arguments.broker_pid,
            runs: AtomicU32::new(0),
        })
    }

    pub(crate) fn service_cpu(&self) -> ServiceCpu {
        ServiceCpu {
            postgres: process::cpu_seconds_of_family(self.postmaster),
            broker: process::cpu_seconds_of_family(self.broker),
        }
    }

    /// The services' versions in words.
    pub(crate) async fn versions(&self, broker: &str) -> anyhow::Result<String> {
        let mut connection = PgConnection::connect(&self.database_url).await?;
        let postgres: String = sqlx::query_scalar("SHOW server_version")
            .fetch_one(&mut connection)
            .await?;
        Ok(format!("PostgreSQL {postgres}, RabbitMQ {broker}"))
    }
}

/// A process of ours, ended when it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pid: u32,
}

impl Running {
    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { pid: child.id(), child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGTERM, and waits until it has ended: its last CPU seconds, and when it was seen to have ended.
    pub(crate) async fn end(mut self) -> anyhow::Result<(f64, Instant)> {
        let pid = rustix::process::Pid::from_raw(self.pid as i32).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while !process::has_ended(self.pid) {
            ensure!(Instant::now() < deadline, "a process doesn't end");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (cpu, at) = (process::cpu_seconds(self.pid), Instant::now());
        let status = self.child.wait()?;
        ensure!(status.success(), "a process ended with {status}");
        Ok((cpu, at))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// A call as the simulator lists it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Call {
    /// Microseconds since the simulator's start.
    pub(crate) at: u64,
    pub(crate) code: i32,
    pub(crate) first_recipient: Option<String>,
}

/// One run's surroundings.
pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) database_url: String,
    pub(crate) namespace: String,
    pub(crate) producer: Producer,
    database: String,
    simulator: Option<Running>,
    pub(crate) im_url: String,
    http: reqwest::Client,
    http_port: u16,
}

impl<'a> Stage<'a> {
    /// A new database, a new namespace, and a simulator that takes `latency` for each call.
    pub(crate) async fn open(lab: &'a Lab, latency: Duration) -> anyhow::Result<Self> {
        let run = lab.runs.fetch_add(1, Ordering::Relaxed);
        let database = format!("bench_{}_{run}", std::process::id());
        let mut connection = PgConnection::connect(&lab.database_url).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}")))
            .execute(&mut connection)
            .await?;
        let mut url = url::Url::parse(&lab.database_url)?;
        url.set_path(&database);
        let namespace = database.replace('_', "-");
        let producer = Producer::connect(&lab.amqp_url, &namespace).await?;
        let mut stage = Self {
            lab,
            database_url: url.to_string(),
            namespace,
            producer,
            database,
            simulator: None,
            im_url: String::new(),
            http: reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only(Vec::new())
                .build()?,
            http_port: free_port()?,
        };
        stage.start_simulator(latency).await?;
        Ok(stage)
    }

    async fn start_simulator(&mut self, latency: Duration) -> anyhow::Result<()> {
        let file = self.lab.directory.path().join(format!("{}.url", self.database));
        let mut command = Command::new(&self.lab.worker);
        command
            .args([
                "simulate",
                "--listen",
                "127.0.0.1:0",
                "--threads",
                "1",
                "--rate-limit",
                "0",
            ])
            .args(["--batch-recipients-per-minute", "0", "--keep-calls", "2000000"])
            .args(["--latency", &format!("{}ms", latency.as_millis())])
            .arg("--url-file")
            .arg(&file)
            .env_clear()
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null());
        self.simulator = Some(Running::spawn(&mut command)?);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(url) = std::fs::read_to_string(&file)
                && !url.trim().is_empty()
            {
                url.trim().clone_into(&mut self.im_url);
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the simulator doesn't listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Applies the migrations, so that no run pays for them, and lets Postgres write out what it has.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        let status = self.worker_command(&["migrate"], 0).status()?;
        ensure!(status.success(), "migrate: {status}");
        let mut connection = self.database().await?;
        sqlx::query("CHECKPOINT").execute(&mut connection).await?;
        Ok(())
    }

    /// The command line of im-dispatcher with this stage's settings; a rate limit of 0 is none.
    pub(crate) fn worker_command(&self, arguments: &[&str], rate_limit: u32) -> Command {
        let mut command = Command::new(&self.lab.worker);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.lab.directory.path().join("worker.log"));
        command
            .args(arguments)
            .current_dir(self.lab.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.lab.amqp_url)
            .env("IM_SDK_APP_ID", SAMPLE_SDK_APP_ID.to_string())
            .env("IM_SECRET_KEY", SAMPLE_SECRET)
            .env("IM_BASE_URL", &self.im_url)
            .env("IM_RATE_LIMIT", rate_limit.to_string())
            .env("IM_BATCH_RECIPIENTS_PER_MINUTE", "0")
            .env("IM_DISPATCHER_NAMESPACE", &self.namespace)
            .env("IM_DISPATCHER_HTTP_ADDR", format!("127.0.0.1:{}", self.http_port))
            .env("IM_DISPATCHER_MAX_IN_FLIGHT", "200")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        command
    }

    /// Starts a worker.
    pub(crate) fn worker(&self, rate_limit: u32) -> anyhow::Result<Running> {
        Running::spawn(&mut self.worker_command(&["worker"], rate_limit))
    }

    /// Starts the reference on the lane `normal`; its report comes on its stdout.
    pub(crate) fn reference(&self, jobs: usize, stamps: Option<&Path>) -> anyhow::Result<Running> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs();
        let SdkAppId(app) = SAMPLE_SDK_APP_ID;
        let admin = AccountId::parse("administrator")?;
        let sig = user_sig::sign(SAMPLE_SDK_APP_ID, admin.as_str(), &SAMPLE_SECRET.into(), now, 3600);
        let url = format!(
            "{}/v4/openim/sendmsg?sdkappid={app}&identifier={admin}&usersig={}&contenttype=json",
            self.im_url,
            sig.expose()
        );
        let mut command = Command::new(&self.lab.reference);
        command
            .args(["--queue", &self.producer.queue("normal"), "--jobs", &jobs.to_string()])
            .env_clear()
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.lab.amqp_url)
            .env("REFERENCE_CALL_URL", url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(file) = stamps {
            command.arg("--stamps").arg(file);
        }
        Running::spawn(&mut command)
    }

    /// A connection to the run's database.
    pub(crate) async fn database(&self) -> anyhow::Result<PgConnection> {
        let options: PgConnectOptions = self.database_url.parse()?;
        Ok(PgConnection::connect_with(&options).await?)
    }

    /// The value of one of the worker's metrics, named with its labels; 0 while it doesn't answer.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.http_port);
        let Ok(answer) = self.http.get(url).send().await else {
            return Ok(0);
        };
        let text = answer.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0), str::parse)?)
    }

    /// Waits until /readyz says 200.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.http_port);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = self.http.get(&url).send().await
                && answer.status().is_success()
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the worker isn't ready");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a metric has reached a value, looking every few milliseconds.
    pub(crate) async fn reaches(&self, metric: &str, value: u64, worker: &Running) -> anyhow::Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(metric).await?;
            if now >= value {
                return Ok(now);
            }
            if process::has_ended(worker.pid()) {
                bail!(
                    "the worker has ended; its log is {}",
                    self.lab.directory.path().display()
                );
            }
            ensure!(Instant::now() < deadline, "{metric} stays at {now} of {value}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The calls of a command, in the order of their arrival.
    pub(crate) async fn calls(&self, command: &str) -> anyhow::Result<Vec<Call>> {
        let url = format!("{}/_sim/calls?command={command}&limit=2000000", self.im_url);
        Ok(self.http.get(url).send().await?.error_for_status()?.json().await?)
    }

    /// When the simulator's time began, in Unix microseconds.
    pub(crate) async fn epoch(&self) -> anyhow::Result<u64> {
        #[derive(Deserialize)]
        struct Report {
            started_unix_micros: u64,
        }
        let url = format!("{}/_sim/report", self.im_url);
        let report: Report = self.http.get(url).send().await?.error_for_status()?.json().await?;
        Ok(report.started_unix_micros)
    }

    /// Ends the simulator and deletes database and namespace.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        if let Some(simulator) = self.simulator.take() {
            simulator.end().await?;
        }
        let mut connection = PgConnection::connect(&self.lab.database_url).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "DROP DATABASE {} WITH (FORCE)",
            self.database
        )))
        .execute(&mut connection)
        .await?;
        self.producer.delete().await
    }
}

/// Now, in Unix microseconds.
pub(crate) fn unix_micros() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
