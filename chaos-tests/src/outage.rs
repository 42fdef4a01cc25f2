//! What can be done to database servers, and undone.

use std::time::Duration;

use futures_util::future::join_all;
use schema::Database;

use crate::{
    postgres,
    scene::{Armed, Scene},
    server::{Server, faketime},
};

/// Which servers: those of these databases.
pub type Servers = &'static [Database];

/// Every server.
pub const ALL: Servers = &Database::ALL;

/// Harm to database servers, each of them at the same time.
#[derive(Debug, Clone, Copy)]
pub enum Outage {
    /// It stops without a checkpoint and starts, so many times.
    Restarts(u32),
    /// One backend is killed, and takes all others with it.
    BackendKilled,
    /// Sessions are ended in the middle of what they do, so many times.
    SessionsEnded(u32),
    /// Statements are cancelled in the middle of what they do, so many times.
    StatementsCancelled(u32),
    /// Somebody else holds the locks of every account and every saga.
    RowsLocked,
    /// Somebody else holds whole tables, as a migration does.
    TablesLocked,
    /// Somebody else takes the locks of accounts in the opposite order, so often.
    Deadlocks(u32),
    /// Its clock is off by each of these, one after the other, and right in the end.
    ClockJumps(&'static [&'static str]),
    /// The last half second of what it has acknowledged is lost, as in a failover: tills may have been told what is not so.
    Forgets,
    /// Its databases may only be read, as on a standby.
    ReadOnly,
    /// No connection is left.
    Exhausted,
    /// All its backends are stopped.
    Frozen,
}

/// The servers of these databases, each once.
fn on(servers: &[Server], named: Servers) -> Vec<&Server> {
    servers.iter().filter(|server| named.iter().any(|database| server.has(*database))).collect()
}

impl Outage {
    /// What this machine lacks for it.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        matches!(self, Self::ClockJumps(_)).then(|| faketime().is_none().then_some("libfaketime")).flatten()
    }

    /// Begins it. `hold`: how long it is to last, for what takes its time here.
    pub(crate) async fn arm(&self, named: Servers, scene: &mut Scene<'_>, hold: Duration) -> Armed {
        let Scene { cluster, dice, .. } = scene;
        let servers = on(&cluster.servers, named);
        let mut armed = Armed::default();
        armed.fired = match *self {
            Self::Restarts(times) => {
                for _ in 0..times {
                    join_all(servers.iter().map(|server| server.restart())).await;
                    tokio::time::sleep(Duration::from_millis(1_000 + dice.below(1_500))).await;
                }
                u64::from(times)
            }
            Self::BackendKilled => sum(servers.iter().map(|server| postgres::kill_backend(server))).await,
            Self::SessionsEnded(times) => {
                let mut ended = 0;
                for _ in 0..times {
                    ended += sum(servers.iter().map(|server| postgres::terminate_sessions(server))).await;
                    tokio::time::sleep(Duration::from_millis(100 + dice.below(200))).await;
                }
                ended
            }
            Self::StatementsCancelled(times) => {
                let mut cancelled = 0;
                for _ in 0..times {
                    cancelled += sum(servers.iter().map(|server| postgres::cancel_statements(server))).await;
                    tokio::time::sleep(Duration::from_millis(20 + dice.below(40))).await;
                }
                cancelled
            }
            Self::RowsLocked => {
                let mut rows = 0;
                for server in servers {
                    let (holders, locked) = postgres::lock(server).await;
                    armed.taken.extend(holders);
                    rows += locked;
                }
                rows
            }
            Self::TablesLocked => {
                for server in servers {
                    armed.taken.extend(postgres::lock_tables(server).await);
                }
                armed.taken.len() as u64
            }
            Self::Deadlocks(times) => {
                sum(servers.iter().map(|server| postgres::deadlock(server, times))).await
            }
            Self::ClockJumps(offsets) => {
                sum(servers.iter().map(|server| clock_jumps(server, offsets, hold))).await
            }
            Self::Forgets => sum(servers.iter().map(|server| postgres::forget(server))).await,
            Self::ReadOnly => sum(servers.iter().map(|server| postgres::set_read_only(server, true))).await,
            Self::Exhausted => {
                let taken = join_all(servers.iter().map(|server| postgres::exhaust(server))).await;
                armed.taken = taken.into_iter().flatten().collect();
                armed.taken.len() as u64
            }
            Self::Frozen => {
                for server in servers {
                    armed.frozen.extend(postgres::freeze(server).await);
                }
                armed.frozen.len() as u64
            }
        };
        armed
    }

    /// Ends it.
    pub(crate) async fn heal(&self, named: Servers, scene: &Scene<'_>, armed: &mut Armed) {
        armed.taken.clear();
        for server in on(&scene.cluster.servers, named) {
            match *self {
                Self::Frozen => postgres::thaw(&std::mem::take(&mut armed.frozen)),
                Self::ReadOnly => drop(postgres::set_read_only(server, false).await),
                Self::Restarts(_) | Self::BackendKilled | Self::ClockJumps(_) => {
                    postgres::until_ready(server).await;
                }
                _ => {}
            }
        }
    }
}

/// Of all servers at once.
async fn sum(counts: impl Iterator<Item = impl Future<Output = u64>>) -> u64 {
    join_all(counts).await.into_iter().sum()
}

/// A server's clock jumps, each time under load; how many of the offsets were seen.
async fn clock_jumps(server: &Server, offsets: &'static [&'static str], hold: Duration) -> u64 {
    let mut seen = Vec::new();
    for (nth, offset) in offsets.iter().enumerate() {
        if nth == 0 {
            server.restart_with_clock(offset).await;
        } else {
            server.set_clock(offset);
        }
        tokio::time::sleep(hold / u32::try_from(offsets.len()).unwrap_or(1)).await;
        seen.push(postgres::clock_ahead(server).await);
    }
    server.restart().await;
    // By a minute: what is seen late is seen within a second or two.
    let jumps = seen.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 60).count();
    (jumps + usize::from(seen.first().is_some_and(|first| first.abs() > 60))) as u64
}
