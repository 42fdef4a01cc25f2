//! One process, and the signals that it may get.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// What `abort` ends a process with.
const SIGABRT: i32 = 6;

/// A running program. Dropped, it is killed.
pub struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a binary of this workspace, or the one of that name in `folder`; its log goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started: `cargo build --bins` was not run.
    #[must_use]
    pub fn start(
        name: &str,
        folder: Option<PathBuf>,
        environment: Vec<(String, String)>,
        log: &Path,
    ) -> Self {
        Self::spawn(binary(name, folder), Vec::new(), environment, log)
    }

    /// Starts a program of the system.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of_system(program: &str, arguments: Vec<String>, log: &Path) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        Self::spawn(program.into(), arguments, vec![("PATH".to_owned(), path)], log)
    }

    fn spawn(
        program: PathBuf,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        log: &Path,
    ) -> Self {
        let child = spawn(&program, &arguments, &environment, log);
        Self { program, arguments, environment, log: log.to_owned(), child }
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it has ended before: the fault would not have fired.
    pub fn kill(&mut self) {
        assert!(
            self.is_alive(),
            "{} ended by itself; its log is {}",
            self.program.display(),
            self.log.display()
        );
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("an end");
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts it again, as it was started before.
    pub fn restart(&mut self) {
        self.child = spawn(&self.program, &self.arguments, &self.environment, &self.log);
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

    /// Waits for it to end by itself, in good order.
    ///
    /// # Panics
    /// When it does not within `limit`, or when it fails.
    pub async fn ended(&mut self, limit: Duration) {
        let status = self.end(limit).await;
        let status = status.unwrap_or_else(|| panic!("{} does not end", self.program.display()));
        assert!(status.success(), "{}: {status}", self.program.display());
    }

    /// Waits for it to abort, as a fail point makes it; false if it is alive after `limit`.
    ///
    /// # Panics
    /// When it ends in another way.
    pub async fn aborted(&mut self, limit: Duration) -> bool {
        let Some(status) = self.end(limit).await else { return false };
        assert_eq!(status.signal(), Some(SIGABRT), "{}: {status}", self.program.display());
        true
    }

    async fn end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Whether it runs, or is stopped.
    ///
    /// # Panics
    /// When the system does not know.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, by its name.
///
/// # Panics
/// When there is no such process.
pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("kill");
    assert!(done.success(), "SIG{name} was not delivered");
}

/// `CHAOS_BINARIES` says where the services are that have fail points; without it they are those of the profile that this
/// was built with. Test binaries are in `target/<profile>/deps`; the services' are one folder up.
fn binary(name: &str, folder: Option<PathBuf>) -> PathBuf {
    let folder = folder.or_else(|| std::env::var_os("CHAOS_BINARIES").map(PathBuf::from));
    let binary = folder.unwrap_or_else(built).join(name);
    assert!(binary.exists(), "{} is not there: run `cargo build --bins` first", binary.display());
    binary
}

fn built() -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    let folder = own.parent().expect("a folder");
    if folder.ends_with("deps") { folder.parent().expect("a target folder") } else { folder }.to_owned()
}

fn spawn(program: &Path, arguments: &[String], environment: &[(String, String)], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("a log file");
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}
