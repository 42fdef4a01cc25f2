//! The private Postgres as processes: how it is stopped and started, its clock, its log and its system calls.
//!
//! `script/chaos` starts it and says in `CHAOS_PG_CTL` how it is controlled: `pg_ctl` with its data folder and log, and
//! whatever has to stand before it.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long the server may take to meet an error that waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stops the server at once, without a checkpoint, and starts it again.
///
/// # Panics
/// When it does not come back.
pub async fn restart() {
    restart_with(Vec::new()).await;
}

async fn restart_with(environment: Vec<(&'static str, String)>) {
    pg_ctl(&["-m", "immediate", "stop"], Vec::new()).await;
    pg_ctl(&["start"], environment).await;
}

/// Starts the server if it has given up.
///
/// # Panics
/// When it does not come back.
pub async fn start_if_down() {
    if std::fs::metadata(data().join("postmaster.pid")).is_err() {
        pg_ctl(&["start"], Vec::new()).await;
    }
}

async fn pg_ctl(action: &'static [&'static str], environment: Vec<(&'static str, String)>) {
    let run = move || {
        let words = words();
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

/// Starts the server again with a clock of its own, which is off by what [`set_clock`] says.
///
/// # Panics
/// When it does not come back.
pub async fn restart_with_clock(offset: &str) {
    let library = faketime().expect("libfaketime");
    set_clock(offset);
    restart_with(vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock_file().display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
    .await;
}

/// By how much the server's clock is off, such as `-1h`; it is seen within a second.
///
/// # Panics
/// When the file cannot be written.
pub fn set_clock(offset: &str) {
    let file = clock_file();
    std::fs::write(&file, offset).expect("a file for the clock");
    // The server may be somebody else.
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("a file that everybody may read");
}

fn clock_file() -> PathBuf {
    data().join("clock")
}

/// The library that lies about the time, if it is installed.
#[must_use]
pub fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|library| library.exists())
}

/// How often the server has logged this.
///
/// # Panics
/// When its log cannot be read.
#[must_use]
pub fn logged(text: &str) -> u64 {
    let log = std::fs::read(option("-l")).expect("the server's log");
    String::from_utf8_lossy(&log).matches(text).count() as u64
}

/// The next time that a process of the server makes the log durable, the disk says that it failed; how many were told so.
///
/// # Panics
/// When they cannot be traced.
pub async fn fail_sync() -> u64 {
    let trace = std::env::temp_dir().join(format!("chaos-{}.strace", uuid::Uuid::new_v4()));
    let mut command = Command::new("strace");
    command.args(["-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "-o"]).arg(&trace);
    for pid in children() {
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
fn children() -> Vec<u32> {
    let postmaster = std::fs::read_to_string(data().join("postmaster.pid")).expect("postmaster.pid");
    let pid = postmaster.lines().next().unwrap_or_default();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn data() -> PathBuf {
    option("-D").into()
}

/// What follows an option in the command that controls the server.
fn option(name: &str) -> String {
    let words = words();
    let at = words.iter().position(|word| word == name);
    at.and_then(|at| words.get(at + 1)).expect("an option of pg_ctl").clone()
}

fn words() -> Vec<String> {
    let command = std::env::var("CHAOS_PG_CTL").expect("CHAOS_PG_CTL is not set: run script/chaos");
    command.split(' ').map(str::to_owned).collect()
}
