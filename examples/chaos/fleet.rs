//! The worker processes: started, killed, frozen, and their links to each service cut.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use im_dispatcher::domain::split_urls;
use im_dispatcher::simulator::{SAMPLE_SDK_APP_ID, SAMPLE_SECRET};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Arguments, net::free_port, relay::Relay, services::Services};

/// The prefix of every exchange and queue.
pub(crate) const NAMESPACE: &str = "chaos";

/// How long a start may take on a machine that does much else.
const START: Duration = Duration::from_mins(2);

/// The links of one worker.
#[derive(Debug)]
pub(crate) struct Links {
    /// To RabbitMQ, one for each node, to Postgres and to the IM API. The last is everybody's, since workers share a budget
    /// for each address of the service.
    pub(crate) relays: [Vec<Arc<Relay>>; 3],
}

/// One worker's place: its process, if it runs, and its links.
#[derive(Debug)]
pub(crate) struct Place {
    process: Option<Child>,
    starts: u32,
    frozen: bool,
    ending: bool,
    port: u16,
    environment: BTreeMap<String, String>,
    /// Its links.
    pub(crate) links: Links,
}

/// All workers.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Each worker's place.
    pub(crate) places: Vec<Place>,
    binary: PathBuf,
    directory: PathBuf,
}

impl Fleet {
    /// Places with links, without processes.
    pub(crate) async fn prepare(
        arguments: &Arguments,
        settings: Vec<(&'static str, String)>,
        services: &Services,
        database: &str,
        base_url: &str,
    ) -> anyhow::Result<Self> {
        let directory = arguments.directory.clone();
        std::fs::create_dir_all(&directory)?;
        let mut places = Vec::new();
        let to_service = Arc::new(Relay::start(address(base_url)?).await);
        for _ in 0..arguments.workers {
            let (mut to_nodes, mut amqp_urls) = (Vec::new(), Vec::new());
            for url in split_urls(&services.amqp_url) {
                let relay = Arc::new(Relay::start(address(url)?).await);
                amqp_urls.push(relay.route(url));
                to_nodes.push(relay);
            }
            let to_postgres = Arc::new(Relay::start(address(database)?).await);
            let port = free_port();
            let mut environment: BTreeMap<String, String> = [
                ("AMQP_URL", amqp_urls.join(",")),
                ("DATABASE_URL", to_postgres.route(database)),
                ("IM_BASE_URL", to_service.route(base_url)),
                ("IM_SDK_APP_ID", SAMPLE_SDK_APP_ID.to_string()),
                ("IM_SECRET_KEY", SAMPLE_SECRET.to_owned()),
                ("IM_DISPATCHER_NAMESPACE", NAMESPACE.to_owned()),
                ("IM_DISPATCHER_HTTP_ADDR", format!("127.0.0.1:{port}")),
                ("IM_DISPATCHER_LOG_FORMAT", "text".to_owned()),
                ("RUST_LOG", arguments.log.clone()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
            environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            places.push(Place {
                process: None,
                starts: 0,
                frozen: false,
                ending: false,
                port,
                environment,
                links: Links {
                    relays: [to_nodes, vec![to_postgres], vec![Arc::clone(&to_service)]],
                },
            });
        }
        Ok(Self {
            places,
            binary: arguments.binary.clone(),
            directory,
        })
    }

    /// Where the logs are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts every worker and waits until all are ready.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        for worker in 0..self.places.len() {
            self.spawn(worker)?;
        }
        let began = Instant::now();
        for worker in 0..self.places.len() {
            while !self.is_ready(worker).await {
                if began.elapsed() > START || !self.is_running(worker)? {
                    bail!("worker {worker} isn't ready; see {}", self.directory.display());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    async fn is_ready(&self, worker: usize) -> bool {
        let url = format!("http://127.0.0.1:{}/readyz", self.places[worker].port);
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build();
        let Ok(client) = client else { return false };
        client.get(url).send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Starts a worker in its place.
    pub(crate) fn spawn(&mut self, worker: usize) -> anyhow::Result<()> {
        let place = &mut self.places[worker];
        place.starts += 1;
        let log = self.directory.join(format!("worker-{worker}-{:03}.log", place.starts));
        let log = File::create(log)?;
        let child = Command::new(&self.binary)
            .arg("worker")
            .current_dir(&self.directory)
            .env_clear()
            .envs(
                ["PATH", "HOME"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .envs(&place.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start a worker")?;
        place.process = Some(child);
        place.frozen = false;
        place.ending = false;
        Ok(())
    }

    /// Whether a worker's process lives. One that ended by itself is a finding, and an error.
    pub(crate) fn is_running(&mut self, worker: usize) -> anyhow::Result<bool> {
        match &mut self.places[worker].process {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, worker: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.places[worker].process.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self, worker: usize) -> anyhow::Result<()> {
        let place = &mut self.places[worker];
        if let Some(child) = &mut place.process
            && child.try_wait()?.is_none()
        {
            kill_process(Pid::from_child(child), Signal::TERM)?;
            place.ending = true;
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn freeze(&mut self, worker: usize, frozen: bool) -> anyhow::Result<()> {
        let place = &mut self.places[worker];
        if let Some(child) = &mut place.process
            && child.try_wait()?.is_none()
        {
            // Not reaped yet, so the pid is still its own.
            kill_process(Pid::from_child(child), if frozen { Signal::STOP } else { Signal::CONT })?;
            place.frozen = frozen;
        }
        Ok(())
    }

    /// Ends the chaos: every worker runs, every link is there.
    pub(crate) async fn mend(&mut self) -> anyhow::Result<()> {
        for place in &self.places {
            place.links.relays.iter().flatten().for_each(|relay| relay.restore());
        }
        for worker in 0..self.places.len() {
            if self.places[worker].frozen {
                self.freeze(worker, false)?;
            }
            let began = Instant::now();
            while self.places[worker].ending && self.is_running(worker)? {
                ensure!(
                    began.elapsed() < START,
                    "worker {worker} doesn't end when it is asked to"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if !self.is_running(worker)? {
                self.spawn(worker)?;
            }
        }
        Ok(())
    }

    /// SIGTERM to all, and SIGKILL to who doesn't heed it.
    pub(crate) async fn stop(mut self) {
        for place in &mut self.places {
            if let Some(child) = &mut place.process
                && matches!(child.try_wait(), Ok(None))
            {
                // It may have ended meanwhile.
                kill_process(Pid::from_child(child), Signal::TERM).ok();
            }
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30)
            && (0..self.places.len()).any(|worker| self.is_running(worker).unwrap_or(false))
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for place in &mut self.places {
            if let Some(child) = &mut place.process {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> anyhow::Result<String> {
    let rest = url.split_once("://").context("no URL")?.1;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    Ok(address.to_owned())
}
