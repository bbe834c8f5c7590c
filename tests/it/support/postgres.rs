//! A Postgres of a test's own that speaks TLS, from the Debian package, with an authority of the test's own.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::{eventually, free_port};

/// What a start may take on a machine that does much else.
const START: Duration = Duration::from_mins(1);

/// The server. It is ended, and its data removed, with this value.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    dir: TempDir,
    port: u16,
    child: Child,
    owner: Option<Owner>,
}

/// Postgres refuses to run as root: then it runs as the package's user.
#[derive(Debug, Clone, Copy)]
struct Owner {
    user: u32,
    group: u32,
}

impl PrivatePostgres {
    /// Starts one whose certificate is a new authority's; `None` where Postgres' package isn't installed.
    pub(crate) async fn start() -> Option<Self> {
        let bin = bin()?;
        let owner = rustix::process::geteuid().is_root().then(Owner::find);
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        if let Some(owner) = owner {
            owner.own(dir.path());
        }
        let data = dir.path().join("data");
        let made = run_as(owner, &bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "--auth=trust", "--no-sync"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        certify(dir.path(), owner);
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = run_as(owner, &bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=off", "-c", "ssl=on"])
            .arg("-c")
            .arg(format!("ssl_cert_file={}", dir.path().join("server.pem").display()))
            .arg("-c")
            .arg(format!("ssl_key_file={}", dir.path().join("server.key").display()))
            .stderr(log)
            .spawn()
            .unwrap();
        let postgres = Self {
            dir,
            port,
            child,
            owner,
        };
        eventually(START, "the private Postgres answers", || async {
            postgres.connect().await.ok()
        })
        .await
        .close()
        .await
        .unwrap();
        Some(postgres)
    }

    /// A URL of its database `postgres`, with these parameters.
    pub(crate) fn url(&self, parameters: &str) -> String {
        format!("postgres://postgres@localhost:{}/postgres?{parameters}", self.port)
    }

    /// The certificate of the authority that signed the server's, in PEM.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A new authority signs a new certificate; both replace the old ones, and connections to come see them.
    pub(crate) fn certify_anew(&self) {
        certify(self.dir.path(), self.owner);
        // The server reads the files at its SIGHUP.
        kill_process(self.pid(), Signal::HUP).unwrap();
    }

    /// Ends every other session.
    pub(crate) async fn end_sessions(&self) {
        let mut connection = self.connect().await.unwrap();
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }

    /// The number of sessions with TLS and without it, the asking one left out.
    pub(crate) async fn sessions(&self) -> (i64, i64) {
        let mut connection = self.connect().await.unwrap();
        let counts = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE s.ssl), count(*) FILTER (WHERE NOT s.ssl)
             FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
             WHERE a.backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        connection.close().await.unwrap();
        counts
    }

    /// Without TLS, which this server allows, too: it is the client that must insist.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options: PgConnectOptions = self.url("sslmode=disable").parse()?;
        options.disable_statement_logging().connect().await
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap()).unwrap()
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- what the private Postgres printed:\n{log}---");
        }
        // Its own processes end with it; SIGQUIT asks for no checkpoint.
        kill_process(self.pid(), Signal::QUIT).ok();
        self.child.wait().ok();
    }
}

impl Owner {
    fn find() -> Self {
        let users = std::fs::read_to_string("/etc/passwd").unwrap();
        let line = users.lines().find(|line| line.starts_with("postgres:"));
        let mut numbers = line.expect("the package's user postgres").split(':').skip(2);
        let mut number = || numbers.next().unwrap().parse().unwrap();
        Self {
            user: number(),
            group: number(),
        }
    }

    fn own(self, path: &Path) {
        chown(path, Some(self.user), Some(self.group)).unwrap();
    }
}

/// The newest of the package's programs.
fn bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut bins: Vec<PathBuf> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    bins.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    bins.sort();
    bins.pop()
}

fn run_as(owner: Option<Owner>, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    if let Some(owner) = owner {
        command.uid(owner.user).gid(owner.group);
    }
    command
}

/// Writes a new authority's certificate, and one that it made for `localhost` with its key, into `dir`.
fn certify(dir: &Path, owner: Option<Owner>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A name of its own: two authorities of one name would be told apart by their signatures only.
    let name = format!("authority {:08x}", rand::random::<u32>());
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let of_server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = of_server.signed_by(&key, &issuer).unwrap();
    std::fs::write(dir.join("ca.pem"), own.pem()).unwrap();
    std::fs::write(dir.join("server.pem"), certificate.pem()).unwrap();
    let key_file = dir.join("server.key");
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    // Postgres takes a key only that its user alone can read.
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    if let Some(owner) = owner {
        owner.own(&key_file);
    }
}
