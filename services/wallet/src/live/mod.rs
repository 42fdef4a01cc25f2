//! Live balances: what was read a moment ago, and who hears of what changes.
//!
//! | file | what |
//! |---|---|
//! | [`account_balance`] | what a tender says of one account |
//! | `redis_connection`, [`cache`] | balances in Redis, which no invalidation can leave stale |
//! | [`hub`] | who watches whom, and the latest state of each |
//! | `admission` | how many may watch at once |
//! | `subscriber` | changes as they are published |
//! | `compare` | changes that were missed |
//! | [`origin`] | which pages may open streams |
//!
//! Redis may be away at any time: balances are then read from the tenders, and changes reach clients by comparison.

pub mod account_balance;
mod admission;
pub mod cache;
mod compare;
pub mod hub;
pub mod origin;
mod redis_connection;
mod subscriber;

use std::sync::Arc;

use anyhow::Context;
use redis::{Client, IntoConnectionInfo as _, io::tcp::TcpSettings};
use service::Supervisor;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::admission::ClientLimits;
use self::{cache::Cache, hub::Hub, origin::Origins};
use crate::tenders::Tenders;

/// Most snapshots that are read at once.
const SNAPSHOTS: usize = 64;

/// What live balances are told at the start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Redis, if there is one.
    pub redis: Option<Client>,
    /// Most clients of this process.
    pub clients: ClientLimits,
    /// Pages that may open streams.
    pub origins: Origins,
}

/// The live side of one process. Clones share it.
#[derive(Debug, Clone)]
pub struct Live {
    /// Balances that were read a moment ago.
    pub cache: Cache,
    /// Who watches whom.
    pub hub: Hub,
    /// Who may open streams.
    pub origins: Origins,
    /// Cancelled when clients should go elsewhere.
    pub draining: CancellationToken,
    /// Turns of new clients to read their snapshots.
    pub snapshots: Arc<Semaphore>,
    /// Owns the connections that outlive their request, so that a stop waits for their last words.
    pub sockets: TaskTracker,
}

impl Live {
    /// Starts what serves live balances, beside the cache that `tenders` keep up to date; `draining` sends its clients away.
    #[must_use]
    pub fn start(
        options: Options,
        cache: Cache,
        tenders: Tenders,
        supervisor: &Supervisor,
        draining: CancellationToken,
    ) -> Self {
        let hub = Hub::new(options.clients);
        if let Some(redis) = options.redis {
            let hub = hub.clone();
            supervisor.supervise("subscriber", move || subscriber::run(hub.clone(), redis.clone()));
        }
        let compared = hub.clone();
        supervisor.supervise("compare_balances", move || compare::run(compared.clone(), tenders.clone()));
        let snapshots = Arc::new(Semaphore::new(SNAPSHOTS));
        let sockets = supervisor.tasks().clone();
        Self { cache, hub, origins: options.origins, draining, snapshots, sockets }
    }
}

/// A client of the Redis at `url`. Whether Redis answers is not asked. Its connections send at once: calls of many share one,
/// and without that a call waits until an earlier one's bytes are acknowledged, for 40 ms at worst.
///
/// # Errors
/// When the URL cannot be read.
pub fn redis(url: Option<&str>) -> anyhow::Result<Option<Client>> {
    // The URL may hold a password, and redis repeats it in its error.
    let open = |url: &str| {
        let settings = TcpSettings::default().set_nodelay(true);
        url.into_connection_info().and_then(|info| Client::open(info.set_tcp_settings(settings)))
    };
    url.map(|url| open(url).ok().context("REDIS_URL cannot be read")).transpose()
}
