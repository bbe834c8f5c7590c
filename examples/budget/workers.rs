//! The worker processes: started, killed, asked to end; what their logs say of each write, and what CPU they took.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use chrono::DateTime;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::net::free_port;

/// How long a start or an end may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_mins(2);
/// Clock ticks a second in /proc: `USER_HZ`, 100 on every Linux that Rust supports.
const TICKS: f64 = 100.0;

/// What a worker's log filter must let through for [`Workers::stamps`].
pub(crate) const STAMPS: &str = "info,im_dispatcher::wire=trace,im_dispatcher::slots=trace";

/// One worker.
struct Place {
    process: Child,
    port: u16,
}

/// All workers of a row.
pub(crate) struct Workers {
    binary: PathBuf,
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    places: Vec<Place>,
    logs: Vec<PathBuf>,
    client: reqwest::Client,
}

/// When requests were written, and when slots were used, by the workers' own clocks: microseconds since 1970, ascending.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// At which a request was handed to its connection.
    pub(crate) written: Vec<u64>,
    /// At which the budget let a call go.
    pub(crate) slots: Vec<u64>,
}

impl Workers {
    /// None yet.
    pub(crate) fn new(binary: &Path, directory: &Path, environment: BTreeMap<String, String>) -> anyhow::Result<Self> {
        Ok(Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            environment,
            places: Vec::new(),
            logs: Vec::new(),
            client: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(10))
                .build()?,
        })
    }

    /// Starts so many, and waits until all are ready.
    pub(crate) async fn start(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let place = self.spawn()?;
            self.places.push(place);
        }
        for place in 0..self.places.len() {
            self.until_ready(place).await?;
        }
        Ok(())
    }

    fn spawn(&mut self) -> anyhow::Result<Place> {
        let port = free_port();
        let log = self.directory.join(format!("worker-{:03}.log", self.logs.len()));
        let file = File::create(&log)?;
        let process = self
            .command("worker")
            .env("IM_DISPATCHER_HTTP_ADDR", format!("127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("start a worker")?;
        self.logs.push(log);
        Ok(Place { process, port })
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg(subcommand)
            .current_dir(&self.directory)
            .env_clear()
            .envs(
                ["PATH", "HOME"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .envs(&self.environment);
        command
    }

    /// Runs a command of the binary to its end.
    pub(crate) fn run(&self, subcommand: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.command(subcommand).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "{subcommand} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    async fn until_ready(&mut self, place: usize) -> anyhow::Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.places[place].port);
        let began = Instant::now();
        loop {
            if let Ok(answer) = self.client.get(&url).send().await
                && answer.status() == 200
            {
                return Ok(());
            }
            if self.places[place].process.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                bail!("a worker isn't ready; see {}", self.directory.display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends a lane's pause.
    pub(crate) async fn resume(&self, lane: &str) -> anyhow::Result<()> {
        let port = self.places.first().context("no worker")?.port;
        let url = format!("http://127.0.0.1:{port}/api/lanes/{lane}/resume");
        let answer = self.client.post(url).send().await?;
        ensure!(answer.status().is_success(), "resume: {}", answer.text().await?);
        Ok(())
    }

    /// SIGKILL to one worker, and another one in its place at once.
    pub(crate) fn replace(&mut self, place: usize) -> anyhow::Result<()> {
        let place = place % self.places.len();
        let fresh = self.spawn()?;
        let mut old = std::mem::replace(&mut self.places[place], fresh);
        old.process.kill()?;
        old.process.wait()?;
        Ok(())
    }

    /// CPU seconds of all workers that live, user and system.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for place in &self.places {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", place.process.id()))?;
            // The name may have blanks: fields are counted from its closing parenthesis. utime and stime are 14 and 15.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            for index in [11, 12] {
                let ticks: f64 = fields.get(index).context("no times in stat")?.parse()?;
                sum += ticks / TICKS;
            }
        }
        Ok(sum)
    }

    /// What the logs of all workers say, also of those that were killed.
    pub(crate) fn stamps(&self) -> anyhow::Result<Stamps> {
        let mut stamps = Stamps::default();
        for log in &self.logs {
            let text = std::fs::read_to_string(log)?;
            for line in text.lines() {
                let list = if line.contains("\"im_dispatcher::wire\"") {
                    &mut stamps.written
                } else if line.contains("\"im_dispatcher::slots\"") {
                    &mut stamps.slots
                } else {
                    continue;
                };
                let line: Value = serde_json::from_str(line).with_context(|| format!("a line of {}", log.display()))?;
                if line.get("command").is_some_and(|command| command == "admin_getroammsg") {
                    continue;
                }
                let time = line["timestamp"].as_str().context("a line without its time")?;
                list.push(u64::try_from(DateTime::parse_from_rfc3339(time)?.timestamp_micros())?);
            }
        }
        stamps.written.sort_unstable();
        stamps.slots.sort_unstable();
        Ok(stamps)
    }

    /// SIGTERM to all, and SIGKILL to who doesn't heed it in time.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        for place in &self.places {
            // Not reaped yet, so the pid is still its own; it may have ended.
            kill_process(Pid::from_child(&place.process), Signal::TERM).ok();
        }
        let began = Instant::now();
        for mut place in std::mem::take(&mut self.places) {
            while place.process.try_wait()?.is_none() && began.elapsed() < Duration::from_secs(20) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            place.process.kill()?;
            place.process.wait()?;
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for place in &mut self.places {
            drop(place.process.kill());
            drop(place.process.wait());
        }
    }
}
