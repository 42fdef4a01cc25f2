//! One process of ours, and the signals that it may get.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A running binary. Dropped, it is killed.
pub struct Process {
    binary: PathBuf,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a binary of this workspace; its log goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started: `cargo build --bins` was not run.
    #[must_use]
    pub fn start(name: &str, environment: Vec<(String, String)>, log: &Path) -> Self {
        let binary = binary(name);
        let child = spawn(&binary, &environment, log);
        Self { binary, environment, log: log.to_owned(), child }
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it has ended before: the fault would not have fired.
    pub fn kill(&mut self) {
        assert!(
            self.is_alive(),
            "{} ended by itself; its log is {}",
            self.binary.display(),
            self.log.display()
        );
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("an end");
    }

    /// Starts it again, as it was started before.
    pub fn restart(&mut self) {
        self.child = spawn(&self.binary, &self.environment, &self.log);
    }

    /// SIGSTOP: it keeps its sockets and answers nothing.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// SIGTERM: it is told to stop, and stops in its own time.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// When it does not within `limit`, or when it fails.
    pub async fn ended(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                assert!(status.success(), "{}: {status}", self.binary.display());
                return;
            }
            assert!(Instant::now() < until, "{} does not end", self.binary.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([format!("-{signal}"), pid]).status().expect("kill");
        assert!(done.success(), "SIG{signal} was not delivered");
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Test binaries are in `target/<profile>/deps`; the services' are one folder up.
fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    let folder = own.parent().and_then(Path::parent).expect("a target folder");
    let binary = folder.join(name);
    assert!(binary.exists(), "{} is not there: run `cargo build --bins` first", binary.display());
    binary
}

fn spawn(binary: &Path, environment: &[(String, String)], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("a log file");
    Command::new(binary)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .expect("a process")
}
