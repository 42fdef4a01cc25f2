//! Postgres servers as processes: how each is stopped and started, its clock, its log and its system calls.
//!
//! `script/chaos` starts one for each database. `CHAOS_PG_URL_<DATABASE>` says where it is, and `CHAOS_PG_CTL_<DATABASE>` how it is
//! controlled: `pg_ctl` with its data folder and log, and whatever has to stand before it. Without these, all databases
//! are on the server that `TEST_DATABASE_URL` names, which nobody may stop.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use schema::Database;
use sqlx::postgres::PgConnectOptions;
use testkit::TestDatabase;

/// How long the server may take to meet an error that waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a database is to be made: the URL of its server.
///
/// # Panics
/// When neither its own nor `TEST_DATABASE_URL` is set.
#[must_use]
pub fn url_for(database: Database) -> String {
    let own = std::env::var(variable("URL", database)).or_else(|_| std::env::var("TEST_DATABASE_URL"));
    own.expect("neither CHAOS_PG_URL_… nor TEST_DATABASE_URL is set: run script/chaos or script/test")
}

fn variable(what: &str, database: Database) -> String {
    format!("CHAOS_PG_{what}_{}", database.name().to_uppercase())
}

/// A server with its databases.
#[derive(Debug, Clone)]
pub struct Server {
    /// The databases of the system that are on it, and how their owner connects.
    pub databases: Vec<(Database, PgConnectOptions)>,
    /// How it is controlled.
    control: Option<Vec<String>>,
}

/// The servers that databases are on, each once.
#[must_use]
pub fn servers(databases: &[(Database, TestDatabase)]) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    for (database, test) in databases {
        let options = test.admin();
        let is_there = |server: &&mut Server| server.is_at(&options);
        if let Some(server) = servers.iter_mut().find(is_there) {
            server.databases.push((*database, options));
        } else {
            let control = std::env::var(variable("CTL", *database)).ok();
            let control = control.map(|words| words.split(' ').map(str::to_owned).collect());
            servers.push(Server { databases: vec![(*database, options)], control });
        }
    }
    servers
}

impl Server {
    fn is_at(&self, options: &PgConnectOptions) -> bool {
        let (_, own) = &self.databases[0];
        (own.get_host(), own.get_port()) == (options.get_host(), options.get_port())
    }

    /// Whether a database is on it.
    #[must_use]
    pub fn has(&self, database: Database) -> bool {
        self.databases.iter().any(|(own, _)| *own == database)
    }

    /// Stops the server at once, without a checkpoint, and starts it again.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn restart(&self) {
        self.restart_with(Vec::new()).await;
    }

    async fn restart_with(&self, environment: Vec<(&'static str, String)>) {
        self.pg_ctl(&["-m", "immediate", "stop"], Vec::new()).await;
        self.pg_ctl(&["start"], environment).await;
    }

    /// Starts the server if it has given up.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn start_if_down(&self) {
        if std::fs::metadata(self.data().join("postmaster.pid")).is_err() {
            self.pg_ctl(&["start"], Vec::new()).await;
        }
    }

    async fn pg_ctl(&self, action: &'static [&'static str], environment: Vec<(&'static str, String)>) {
        let words = self.words().to_owned();
        let run = move || {
            let done = Command::new(&words[0])
                .args(&words[1..])
                .args(action)
                .envs(environment)
                .current_dir(Path::new("/"))
                .status();
            assert!(done.is_ok_and(|status| status.success()), "pg_ctl {action:?} failed");
        };
        tokio::task::spawn_blocking(run).await.expect("pg_ctl");
    }

    /// Starts the server again with a clock of its own, which is off by what [`set_clock`](Self::set_clock) says.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn restart_with_clock(&self, offset: &str) {
        let library = faketime().expect("libfaketime");
        self.set_clock(offset);
        self.restart_with(vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.clock_file().display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ])
        .await;
    }

    /// By how much the server's clock is off, such as `-1h`; it is seen within a second.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set_clock(&self, offset: &str) {
        let file = self.clock_file();
        std::fs::write(&file, offset).expect("a file for the clock");
        // The server may be somebody else.
        std::fs::set_permissions(&file, Permissions::from_mode(0o644))
            .expect("a file that everybody may read");
    }

    fn clock_file(&self) -> PathBuf {
        self.data().join("clock")
    }

    /// How often the server has logged this.
    ///
    /// # Panics
    /// When its log cannot be read.
    #[must_use]
    pub fn logged(&self, text: &str) -> u64 {
        let log = std::fs::read(self.option("-l")).expect("the server's log");
        String::from_utf8_lossy(&log).matches(text).count() as u64
    }

    /// The next time that a process of the server makes the log durable, the disk says that it failed; how many were told
    /// so.
    ///
    /// # Panics
    /// When they cannot be traced.
    pub async fn fail_sync(&self) -> u64 {
        let trace = std::env::temp_dir().join(format!("chaos-{}.strace", uuid::Uuid::new_v4()));
        let mut command = Command::new("strace");
        command.args(["-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "-o"]).arg(&trace);
        for pid in self.children() {
            command.args(["-p", &pid.to_string()]);
        }
        let mut strace = command.stderr(Stdio::null()).spawn().expect("strace");
        let begun = Instant::now();
        // It ends with those that it traces: one that could not make the log durable takes the server down.
        while strace.try_wait().expect("a status").is_none() && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = (strace.kill(), strace.wait());
        let injected = std::fs::read_to_string(&trace).map_or(0, |text| text.matches("(INJECTED)").count());
        let _ = std::fs::remove_file(&trace);
        injected as u64
    }

    /// The server's processes, but for the first.
    fn children(&self) -> Vec<u32> {
        let postmaster = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("postmaster.pid");
        let pid = postmaster.lines().next().unwrap_or_default();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn data(&self) -> PathBuf {
        self.option("-D").into()
    }

    /// What follows an option in the command that controls the server.
    fn option(&self, name: &str) -> &str {
        let words = self.words();
        let at = words.iter().position(|word| word == name);
        at.and_then(|at| words.get(at + 1)).expect("an option of pg_ctl")
    }

    fn words(&self) -> &[String] {
        self.control.as_deref().expect("CHAOS_PG_CTL_… is not set: run script/chaos")
    }
}

/// The library that lies about the time, if it is installed.
#[must_use]
pub fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|library| library.exists())
}
