//! What the broker layer needs to know before it starts, with the source of each default.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::domain::{AppName, Lane};

/// Settings of the broker layer.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// `amqp://` or `amqps://`, with login and virtual host; of a cluster the URL of each node, with commas between: the
    /// first attempt goes to one of them at random, each further one to the next.
    pub url: SecretString,
    /// Prefix of every exchange and queue name.
    pub namespace: String,
    /// The most unsettled deliveries of each queue of a lane, by [`Lane::index`]; at least 1.
    pub prefetch: [u16; 3],
    /// Lanes whose prefetch stays as it is, since an operator set it.
    pub fixed_prefetch: [bool; 3],
    /// Apps that have queues of their own.
    pub app_queues: Vec<(Lane, AppName)>,
    /// Heartbeat in seconds. With 10 a frozen worker's jobs came back after 27 s instead of 177 (design, tried).
    pub heartbeat_secs: u16,
    /// PEM certificates that are trusted besides the system's.
    pub extra_ca: Option<Vec<u8>>,
    /// A file with more of them, read anew for each attempt to connect: an authority can be replaced while connections stand.
    pub ca_file: Option<PathBuf>,
    /// Each queue starts with one delivery, and the number doubles as deliveries are acknowledged: for the start after
    /// an unclean exit, when one of the next jobs may be the one that caused it.
    pub slow_start: bool,
    /// Whether job queues are consumed at all; `submit` and the operator's commands only publish.
    pub consume: bool,
    /// What the connections are called in RabbitMQ's management, before `consume <instance>` and `publish <instance>`.
    pub program: String,
    /// The process, `<host>:<pid>`.
    pub instance: String,
    /// How long one attempt to connect and declare may take.
    pub attempt_timeout: Duration,
    /// The longest pause between two attempts; the first is a tenth of a second.
    pub max_backoff: Duration,
    /// How often the watchdog asks the broker something on each connection.
    pub probe_interval: Duration,
    /// How long the broker may take to answer the watchdog, or to confirm, before its connection is given up.
    pub stall_timeout: Duration,
    /// How long a publish waits for its confirm.
    pub confirm_timeout: Duration,
    /// How long an event may wait before its caller turns to the outbox (design: over 2 s).
    pub event_timeout: Duration,
}

impl BrokerOptions {
    /// The defaults for one broker and namespace: a consumer with the prefetch of the default limits (high 16, normal
    /// and bulk twice the calls in flight, 50 at 200 calls a second).
    pub fn new(url: SecretString, namespace: impl Into<String>) -> Self {
        Self {
            url,
            namespace: namespace.into(),
            prefetch: [16, 50, 50],
            fixed_prefetch: [false; 3],
            app_queues: Vec::new(),
            heartbeat_secs: 10,
            extra_ca: None,
            ca_file: None,
            slow_start: false,
            consume: true,
            program: "im-dispatcher".to_owned(),
            instance: instance(),
            attempt_timeout: Duration::from_secs(10),
            max_backoff: Duration::from_secs(5),
            probe_interval: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(15),
            confirm_timeout: Duration::from_secs(10),
            event_timeout: Duration::from_secs(2),
        }
    }

    /// The same, for a process that publishes and never consumes.
    #[must_use]
    pub fn publishing_only(mut self) -> Self {
        self.consume = false;
        self
    }
}

/// `<host>:<pid>`; the host is `localhost` where the system doesn't say.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "localhost",
        host => host,
    };
    format!("{host}:{}", std::process::id())
}
