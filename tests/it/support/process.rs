//! A process that a test started: what it prints, whether it lives, and signals to it by its own pid.

use std::{
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::eventually;

/// A running process. Killed and reaped when it is dropped; the end of its log is printed if the test failed.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: NamedTempFile,
}

impl Process {
    /// Starts a program in `directory` with exactly this environment, PATH and HOME apart. Its stdout and stderr are kept.
    pub(crate) fn spawn<E, K, V>(
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: E,
        directory: &Path,
    ) -> Self
    where
        E: IntoIterator<Item = (K, V)>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let log = NamedTempFile::new().unwrap();
        let child = command(program, arguments, environment, directory)
            .stdin(Stdio::null())
            .stdout(log.as_file().try_clone().unwrap())
            .stderr(log.as_file().try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM: asks it to drain and end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: freezes it.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Whether it is stopped, by SIGSTOP or by itself at a fault point.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state is behind the name, which stands in parentheses and may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// SIGCONT: lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGHUP: tells it to read its limits anew.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGKILL, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, or the child would not be waited for: the pid is still its own.
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
    }

    /// Waits for its end.
    pub(crate) async fn exit(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let child = std::cell::RefCell::new(&mut self.child);
        eventually(within, &what, || async { child.borrow_mut().try_wait().unwrap() }).await
    }

    /// Everything that it has printed.
    pub(crate) fn log(&self) -> String {
        let mut text = Vec::new();
        // Reopened: the first handle shares its position with what the process writes.
        self.log.reopen().unwrap().read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the end of what {} printed:\n{tail}\n---", self.name);
        }
    }
}

/// A command with exactly this environment, PATH and HOME apart.
pub(crate) fn command<E, K, V>(program: &Path, arguments: &[&str], environment: E, directory: &Path) -> Command
where
    E: IntoIterator<Item = (K, V)>,
    K: Into<OsString>,
    V: Into<OsString>,
{
    let inherited = ["PATH", "HOME", "LLVM_PROFILE_FILE"];
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs(
            inherited
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .envs(environment.into_iter().map(|(name, value)| (name.into(), value.into())));
    command
}

/// The built binary.
pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_im-dispatcher"))
}

/// Carries a future out to its end on a thread and a runtime of its own: for `Drop`, which can't await. A failure is
/// printed and not raised, since a second panic would abort the whole run.
pub(crate) fn on_another_thread(work: impl Future<Output = ()> + Send + 'static) {
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(30), work)
                .await
                .expect("takes too long");
        });
    });
    if worker.join().is_err() {
        eprintln!("a test's clean-up failed, see above");
    }
}
