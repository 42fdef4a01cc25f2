//! What can be done to the disk that all database servers are on.
//!
//! `script/chaos` gives them a file system of their own, if it may, and says in `CHAOS_DISK` where that is mounted.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use futures_util::future::join_all;

use crate::{
    postgres,
    scene::{Armed, Undo},
    server::Server,
};

/// Harm to the disk.
#[derive(Debug, Clone, Copy)]
pub enum Disk {
    /// Not a byte is left, for data or log.
    Full,
    /// Every write waits.
    Frozen,
    /// The next time that anybody makes the log durable, the disk says that it failed.
    SyncFails,
}

/// What a server writes to its log when it finds no room.
const FULL: &str = "No space left on device";

impl Disk {
    /// What this machine lacks for it.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        match self {
            Self::Full | Self::Frozen => mount().is_none().then_some("a file system of its own, as root"),
            Self::SyncFails => {
                let version = Command::new("strace").arg("--version").output();
                (!version.is_ok_and(|done| done.status.success())).then_some("strace")
            }
        }
    }

    pub(crate) async fn arm(&self, servers: &[Server], armed: &mut Armed) {
        let mount = || mount().expect("CHAOS_DISK is not set: run script/chaos as root");
        match self {
            Self::Full => {
                armed.before = found_full(servers);
                let ballast = mount().join("ballast");
                fill(&ballast);
                armed.undo.push(Undo::with(move || drop(std::fs::remove_dir_all(&ballast))));
            }
            Self::Frozen => {
                run("fsfreeze", &["--freeze", &mount().display().to_string()]);
                let thaw = move || run("fsfreeze", &["--unfreeze", &mount().display().to_string()]);
                armed.undo.push(Undo::with(thaw));
            }
            Self::SyncFails => {
                armed.fired = join_all(servers.iter().map(Server::fail_sync)).await.into_iter().sum();
            }
        }
    }

    /// Ends it, before it is undone; how often it hit something.
    pub(crate) async fn heal(&self, servers: &[Server], armed: &Armed) -> u64 {
        match self {
            Self::Full => found_full(servers) - armed.before,
            Self::Frozen => join_all(servers.iter().map(postgres::waiting_for_disk)).await.into_iter().sum(),
            Self::SyncFails => armed.fired,
        }
    }
}

/// How often any server has found no room.
fn found_full(servers: &[Server]) -> u64 {
    servers.iter().map(|server| server.logged(FULL)).sum()
}

fn mount() -> Option<PathBuf> {
    std::env::var_os("CHAOS_DISK").map(PathBuf::from)
}

/// Takes all that is left, in ever smaller pieces.
fn fill(ballast: &Path) {
    std::fs::create_dir_all(ballast).expect("a folder");
    for size in ["512M", "32M", "2M", "128K", "4K"] {
        let mut pieces = 0..;
        let take = |piece: u32| {
            let file = ballast.join(format!("{size}-{piece}"));
            Command::new("fallocate").args(["-l", size]).arg(file).stderr(Stdio::null()).status()
        };
        while pieces.next().is_some_and(|piece| take(piece).is_ok_and(|done| done.success())) {}
    }
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).status();
    assert!(done.is_ok_and(|status| status.success()), "{program} {arguments:?} failed");
}
