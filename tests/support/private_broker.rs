//! A RabbitMQ of a test's own, from the Debian package: node name, ports and directories apart from any other's.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";
/// Booting takes about 10 s on two busy cores; several times that is a failure.
const BOOT_TIMEOUT: Duration = Duration::from_mins(2);

/// A private broker. It is killed, and its directory removed, with its handle.
pub(crate) struct PrivateBroker {
    dir: tempfile::TempDir,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    child: Child,
}

impl PrivateBroker {
    /// Starts one and waits until it takes connections; `None` where RabbitMQ's package isn't installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(|_| String::new())
    }

    /// The same with more lines of configuration, made for the broker's directory.
    pub(crate) fn start_with(more: impl FnOnce(&Path) -> String) -> Option<Self> {
        if !Path::new(SCRIPTS).join("rabbitmq-server").exists() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let [port, dist_port, epmd_port] = free_ports();
        let more = more(dir.path());
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users.guest = true\ndisk_free_limit.absolute = 20MB\n\
             log.console = false\n{more}"
        );
        std::fs::write(dir.path().join("rabbitmq.conf"), config).unwrap();
        std::fs::write(dir.path().join("enabled_plugins"), "[].").unwrap();
        std::fs::write(dir.path().join("env.conf"), "").unwrap();
        let child = boot(dir.path(), port, dist_port, epmd_port);
        let mut broker = Self {
            dir,
            port,
            dist_port,
            epmd_port,
            child,
        };
        broker.wait();
        Some(broker)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// SIGKILL, for the node and everything that it started.
    pub(crate) fn kill(&mut self) {
        // The package's script waits for the emulator as its child, so the whole process group goes.
        let group = format!("-{}", self.child.id());
        Command::new("kill").args(["-9", "--", &group]).output().ok();
        self.child.wait().ok();
    }

    /// Starts it again with what it had on disk.
    pub(crate) fn restart(&mut self) {
        self.child = boot(self.dir.path(), self.port, self.dist_port, self.epmd_port);
        self.wait();
    }

    /// Runs `rabbitmqctl`.
    pub(crate) fn ctl(&self, arguments: &[&str]) {
        let mut command = Command::new(Path::new(SCRIPTS).join("rabbitmqctl"));
        environment(&mut command, self.dir.path(), self.port, self.dist_port, self.epmd_port);
        let output = command.args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + BOOT_TIMEOUT;
        while std::net::TcpStream::connect(self.address()).is_err() {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "the private broker ended while booting"
            );
            assert!(Instant::now() < deadline, "the private broker did not boot in time");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for PrivateBroker {
    fn drop(&mut self) {
        self.kill();
        // Erlang's port mapper was started by our node, on a port of our own. It stays while it knows of a node.
        for _ in 0..50 {
            let port = self.epmd_port.to_string();
            match Command::new("epmd").args(["-port", &port, "-kill"]).output() {
                Ok(answer) if !answer.stdout.starts_with(b"Killed") => std::thread::sleep(Duration::from_millis(100)),
                _ => return,
            }
        }
    }
}

fn boot(dir: &Path, port: u16, dist_port: u16, epmd_port: u16) -> Child {
    let mut command = Command::new(Path::new(SCRIPTS).join("rabbitmq-server"));
    environment(&mut command, dir, port, dist_port, epmd_port);
    command.process_group(0);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn environment(command: &mut Command, dir: &Path, port: u16, dist_port: u16, epmd_port: u16) {
    let path = |name: &str| -> PathBuf { dir.join(name) };
    command
        .current_dir(dir)
        .env("HOME", dir)
        .env("RABBITMQ_NODENAME", format!("imd-test-{port}@localhost"))
        .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
        .env("RABBITMQ_LOG_BASE", path("log"))
        .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
        .env("RABBITMQ_CONF_ENV_FILE", path("env.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
        .env("RABBITMQ_DIST_PORT", dist_port.to_string())
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1}",
        );
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
