//! A worker process of the built binary in a test's world.

use std::{net::SocketAddr, process::ExitStatus, time::Duration};

use serde_json::Value;

use super::{
    World, eventually, free_port,
    process::{Process, binary},
};

/// How long a start may take on a machine that does much else.
const START: Duration = Duration::from_mins(1);

/// `im-dispatcher worker`, with its own HTTP port. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The process: freeze it, kill it, read its log.
    pub(crate) process: Process,
    http: SocketAddr,
    client: reqwest::Client,
}

impl Worker {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(world: &World) -> Self {
        let mut worker = Self::spawn(world, &[]);
        worker.until_ready().await;
        worker
    }

    /// Starts one, with variables of its own, and doesn't wait.
    pub(crate) fn spawn(world: &World, extra: &[(&str, &str)]) -> Self {
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut environment = world.environment();
        environment.insert("IM_DISPATCHER_HTTP_ADDR".to_owned(), http.to_string());
        environment.extend(
            extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let process = Process::spawn("the worker", &binary(), &["worker"], environment, world.directory());
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        Self { process, http, client }
    }

    /// Waits until /readyz says 200; panics if the process ends before that.
    pub(crate) async fn until_ready(&mut self) {
        let began = std::time::Instant::now();
        while !matches!(self.readiness().await, Some((200, _))) {
            assert!(self.process.is_running(), "the worker ended before it was ready");
            assert!(
                began.elapsed() < START,
                "the worker isn't ready after {START:?}: {:?}",
                self.readiness().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until /readyz says 503 with a reason that contains `word`.
    pub(crate) async fn until_unready(&self, word: &str, within: Duration) -> Value {
        eventually(within, &format!("/readyz says no because of {word}"), || async {
            let (status, body) = self.readiness().await?;
            (status == 503 && body["reasons"].to_string().contains(word)).then_some(body)
        })
        .await
    }

    /// Status and body of /readyz; `None` while nobody answers.
    pub(crate) async fn readiness(&self) -> Option<(u16, Value)> {
        let response = self.client.get(self.url("/readyz")).send().await.ok()?;
        Some((response.status().as_u16(), response.json().await.ok()?))
    }

    /// An address of its HTTP server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// The value of a metric, `name{labels}` as /metrics prints it; `None` where it isn't there.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self
            .client
            .get(self.url("/metrics"))
            .send()
            .await
            .ok()?
            .text()
            .await
            .ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.process.terminate();
        self.process.exit(START).await
    }
}
