//! Starting and stopping an engine: the one place that starts its tasks.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use metrics::{counter, gauge};
use sqlx::{
    Connection as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    admission::UnderWay,
    clock::DatabaseClock,
    config::Config,
    domain::Domain,
    engine::Engine,
    heartbeat::Heartbeat,
    lease::Lease,
    pending::PendingKeys,
    proof::WITHDRAWALS_WAITING,
    reachability::{Reachability, TICK},
    recovery,
    registry::Registry,
    statement::in_time,
    store::Store,
};

const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Connections for recovery and parking.
const RECOVERY_CONNECTIONS: u32 = 4;
/// Connections for callers who wait for sagas.
const LOOKUP_CONNECTIONS: u32 = 8;
/// Connections for operators and replays of many.
const OPS_CONNECTIONS: u32 = 4;
/// A connection that was idle for longer is asked whether it works before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// A connection that is given back and does not answer within this time is dropped.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// Pause before a background task that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

impl<D: Domain> Engine<D> {
    /// Starts the engine: the writers, the heartbeat, recovery. Never fails: without a database every call is
    /// [`crate::StoreError::Unavailable`] until there is one. `options` carry the session limits of each connection; `clock` is set
    /// by the heartbeats.
    #[must_use]
    pub fn start(
        config: Config,
        domain: Arc<D>,
        options: PgConnectOptions,
        clock: DatabaseClock,
    ) -> Arc<Self> {
        let process = Uuid::new_v4();
        let registry = Registry::default();
        let lookups = pool(&options, LOOKUP_CONNECTIONS);
        let (store, writers, lane) =
            Store::new(&options, &domain, process, config.write_batch, registry.clone());
        let engine = Arc::new(Self {
            lease: Arc::new(Lease::new(config.ttl, clock.clone())),
            pending: PendingKeys::default(),
            withdrawals: Semaphore::new(WITHDRAWALS_WAITING),
            recovered_at: AtomicI64::new(clock.local()),
            clock,
            config,
            domain,
            process,
            pool: pool(&options, RECOVERY_CONNECTIONS),
            ops_pool: pool(&options, OPS_CONNECTIONS),
            lookups,
            store,
            reachability: Reachability::default(),
            under_way: UnderWay::default(),
            registry,
            draining: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            crash: CancellationToken::new(),
        });
        let (stop, crash) = (engine.stop.clone(), engine.crash.clone());
        engine.tasks.spawn(async move {
            tokio::select! {
                () = crash.cancelled() => {}
                () = lane.run_aside(stop) => {}
            }
        });
        for writer in writers {
            let (stop, crash) = (engine.stop.clone(), engine.crash.clone());
            engine.tasks.spawn(async move {
                tokio::select! {
                    () = crash.cancelled() => {}
                    () = writer.run(stop) => {}
                }
            });
        }
        engine.supervise("heartbeat", move |engine| engine.heartbeats(options.clone()));
        engine.supervise("recovery", Self::recovery);
        engine.supervise("probes", Self::probes);
        engine.supervise("releases", Self::releases);
        engine.supervise("bulk_replays", Self::bulk_replays);
        engine.supervise("samples", Self::samples);
        engine
    }

    /// Runs a background task until the engine stops. One that panics, or ends, is counted and started again: none of them takes
    /// another along.
    fn supervise<F>(self: &Arc<Self>, name: &'static str, work: impl Fn(Arc<Self>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let engine = self.clone();
        let supervised = async move {
            loop {
                let ended = AssertUnwindSafe(work(engine.clone())).catch_unwind().await;
                if engine.is_draining() {
                    return;
                }
                counter!("background_restarts_total", "task" => name).increment(1);
                tracing::error!(
                    task = name,
                    panicked = ended.is_err(),
                    "a background task ended; started again"
                );
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = supervised => {}
            }
        });
    }

    async fn heartbeats(self: Arc<Self>, options: PgConnectOptions) {
        let mut heartbeat = Heartbeat {
            options,
            process: self.process,
            name: self.config.name.clone(),
            connection: None,
            answered: None,
        };
        loop {
            match heartbeat.beat(&self.lease, &self.pending, self.config.ttl).await {
                Ok(()) => self.store.reachable(),
                Err(error) => tracing::warn!(%error, "heartbeat failed"),
            }
            gauge!("saga_in_memory").set(f64::from(u32::try_from(self.registry.len()).unwrap_or(u32::MAX)));
            tokio::time::sleep(self.config.heartbeat).await;
        }
    }

    async fn probes(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let probes =
                self.reachability.unreachable().into_iter().map(|participant| self.probe(participant));
            futures_util::future::join_all(probes).await;
        }
    }

    async fn probe(&self, participant: String) {
        let began = std::time::Instant::now();
        let answered = tokio::time::timeout(PROBE_EVERY, self.domain.probe(&participant)).await;
        if answered.unwrap_or(false) {
            tracing::info!(participant, "participant answers again");
            self.reachability.answered(&participant);
        } else {
            self.reachability.failed(&participant, began.elapsed());
        }
    }

    async fn releases(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.reachability.release();
        }
    }

    /// Stops in order: takes nothing new, gives what runs a moment to end, hands the rest over at once.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        let grace = Instant::now() + self.config.drain_grace;
        while self.registry.len() > 0 && Instant::now() < grace {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop.cancel();
        self.registry.stop_all();
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
        let handed_over = recovery::hand_over(&self.pool, self.process, self.pending.any_in_doubt());
        match in_time(handed_over).await {
            Ok(sagas) => tracing::info!(sagas, "handed over what was still running"),
            Err(error) => tracing::warn!(%error, "could not hand over; another process claims after one TTL"),
        }
    }
}

/// A pool that asks a connection whether it still works only after it was idle for a while: each look-up saves a round trip, and a
/// caller who hangs up in the middle of that question costs no connection.
fn pool(options: &PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(1))
        .test_before_acquire(false)
        .before_acquire(|connection, known| {
            Box::pin(async move {
                if known.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| {
            // sqlx asks without a limit whether a connection works whose statement was given up.
            Box::pin(async move {
                let answered = tokio::time::timeout(ANSWERS_WITHIN, connection.ping()).await;
                answered.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
            })
        })
        .connect_lazy_with(options.clone())
}
