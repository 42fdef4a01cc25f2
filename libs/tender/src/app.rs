use std::{sync::Arc, time::Duration};

use clap::Args;
use events::{Outbox, Relay};
use service::{ApiError, Process, auth::Caller, config::Secret, db, limit::RateLimit};
use sqlx::{PgPool, postgres::PgConnectOptions};

use crate::{
    executor::{Executor, ExecutorConfig},
    rules::{Issuer, Rules},
};

/// Connections of the outbox relay: it works on one at a time.
const RELAY_CONNECTIONS: u32 = 1;

/// Connections for the calls between services that look a few rows up by key: codes, accounts, versions, legs. Lists of entries, and
/// the making of codes, never take them, whichever listener they come from; so few are enough.
const INTERNAL_CONNECTIONS: u32 = 6;

/// Reads a minute that a customer's own token may make; staff and tills have no such limit.
const CUSTOMER_READS: u32 = 60;

/// Options of a tender's process.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Executor shards, each with a connection and a queue. More than one needs cores to spare.
    #[arg(long = "tender-shards", env = "TENDER_SHARDS", default_value_t = 1)]
    pub shards: usize,
    /// Most commands of one business that wait in one shard, and a fourth of what waits of all; past that the answer is 503 at once.
    #[arg(long = "tender-queue", env = "TENDER_QUEUE", default_value_t = 4096)]
    pub queue: usize,
}

/// A tender: its rules, its executor, and connections for reading. Clones share them.
#[derive(Clone)]
pub struct App {
    pub(crate) rules: Arc<dyn Rules>,
    pub(crate) executor: Executor,
    pub(crate) pool: PgPool,
    pub(crate) public_pool: PgPool,
    pub(crate) issuer: Option<Arc<dyn Issuer>>,
    reads: RateLimit,
}

impl App {
    /// A tender of these rules. `pool` serves what the wallet looks up, `public_pool` everything else: what one business reads never
    /// keeps the wallet waiting, which plans here for all of them.
    #[must_use]
    pub fn new(rules: Arc<dyn Rules>, executor: Executor, pool: PgPool, public_pool: PgPool) -> Self {
        let reads = RateLimit::new(CUSTOMER_READS, Duration::from_mins(1));
        Self { rules, executor, pool, public_pool, issuer: None, reads }
    }

    /// The same, whose credits are rewards with codes.
    #[must_use]
    pub fn with_issuer(mut self, issuer: Arc<dyn Issuer>) -> Self {
        self.issuer = Some(issuer);
        self
    }

    /// Starts what a tender's process needs, and has its health watched.
    ///
    /// # Errors
    /// When the configuration names no database, or a URL cannot be read.
    pub fn start(process: &Process, options: &Options, rules: Arc<dyn Rules>) -> anyhow::Result<Self> {
        let name = rules.name();
        let database = process.config().database.clone();
        let connect = db::connect_options(&database.url()?, name)?;
        // Every statement here is answered by an index, whenever it was planned.
        let connect = db::for_executor(connect);
        let public_pool = db::pool(connect.clone(), database.database_pool);
        let pool = db::pool(connect.clone(), INTERNAL_CONNECTIONS);
        let config = ExecutorConfig {
            tender: name,
            shards: options.shards,
            queue: options.queue,
            database: connect.clone(),
        };
        let executor = Executor::start(&config, process.tasks(), &process.stopping());
        let redis_url = process.config().redis_url.as_ref().map(Secret::expose);
        let database = db::pool(connect.clone(), RELAY_CONNECTIONS);
        let relay = Relay::new(Outbox::Balances, database, redis_url, executor.outbox_wake())?;
        process.supervisor().supervise_to_end("relay", move |stopping| relay.clone().run(stopping));
        check_readiness(process, connect, executor.clone());
        Ok(Self::new(rules, executor, pool, public_pool))
    }

    /// Admits one more read of this caller.
    ///
    /// # Errors
    /// 503 while the database is known to be away, 429 for a customer who reads too much.
    pub(crate) fn admit_read(&self, caller: &Caller) -> Result<(), ApiError> {
        if !self.executor.is_available() {
            return Err(ApiError::overloaded());
        }
        match &caller.own_customer {
            Some(own) => self.reads.admit(&format!("{} {own}", caller.business_id)),
            None => Ok(()),
        }
    }

    /// Connections for what the wallet looks up.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Connections for everything else.
    #[must_use]
    pub fn public_pool(&self) -> &PgPool {
        &self.public_pool
    }

    /// Where commands go.
    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.executor
    }
}

/// The process can serve while its database answers, asked on a connection of its own, and its executor commits.
fn check_readiness(process: &Process, options: PgConnectOptions, executor: Executor) {
    let probe = Arc::new(db::Probe::new(options));
    process.health().require("database", move || {
        let probe = probe.clone();
        async move { probe.ask().await }
    });
    process.health().require("executor", move || {
        let is_ready = executor.is_available() && executor.is_committing();
        async move { if is_ready { Ok(()) } else { Err("nothing is committed") } }
    });
}
