//! The engine: what a use case calls, and the one place that starts tasks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fail::fail_point;
use metrics::{counter, gauge};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    config::Config,
    domain::{Begin, Domain, Key, NewSaga, Reason, Response, Saga, SagaId},
    gate::Gate,
    lease::{Heart, Lease},
    machine::{Kind, State},
    pending::{Intent, NAMED_AFTER, PendingKeys, Terms},
    recovery::Parked,
    registry::{Place, Registry},
    row::{self, Loaded, Raw, Stored},
    store::{Store, StoreError},
    task::Run,
    write::Written,
};

const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What came of handing in a new saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is durable and runs: [`Engine::wait`] for it.
    Running,
    /// It ended at once, and this answer is durable under its key.
    Refused(Response),
    /// It is durable and over: a key that was cancelled before it was used.
    Cancelled,
    /// The key was used before: [`Engine::find`] what is stored.
    KeyTaken,
    /// What it was planned on has changed: plan again.
    Stale,
    /// Its call did not wait any more, or the process's lease had a gap, so that it was not sent (again). Whether an earlier
    /// attempt lands is unknown.
    Withheld,
}

/// Runs the sagas of one domain in one process.
pub struct Engine<D: Domain> {
    pub(crate) config: Config,
    pub(crate) domain: Arc<D>,
    pub(crate) process: Uuid,
    pub(crate) pool: PgPool,
    pub(crate) store: Store<D>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) pending: PendingKeys,
    pub(crate) gate: Gate,
    pub(crate) registry: Registry,
    draining: AtomicBool,
    pub(crate) tasks: TaskTracker,
    stop: CancellationToken,
    crash: CancellationToken,
}

impl<D: Domain> std::fmt::Debug for Engine<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("process", &self.process)
            .field("in_memory", &self.registry.len())
            .finish()
    }
}

impl<D: Domain> Engine<D> {
    /// Starts the engine: the writers, the heartbeat, recovery. Never fails: without a database every call is
    /// [`StoreError::Unavailable`] until there is one. `options` carry the session limits of each connection.
    #[must_use]
    pub fn start(config: Config, domain: Arc<D>, options: PgConnectOptions) -> Arc<Self> {
        let process = Uuid::new_v4();
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(1))
            .connect_lazy_with(options.clone());
        let registry = Registry::default();
        let (store, writers) = Store::new(&options, &domain, process, config.write_batch, registry.clone());
        let engine = Arc::new(Self {
            lease: Arc::new(Lease::new(config.ttl)),
            pending: PendingKeys::default(),
            config,
            domain,
            process,
            pool,
            store,
            gate: Gate::default(),
            registry,
            draining: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            crash: CancellationToken::new(),
        });
        for writer in writers {
            engine.background(engine.crash.clone(), writer.run(engine.stop.clone()));
        }
        engine.background(engine.stop.clone(), engine.clone().heartbeats(options));
        engine.background(engine.stop.clone(), engine.clone().recovery());
        engine.background(engine.stop.clone(), engine.clone().probes());
        engine.background(engine.stop.clone(), engine.clone().bulk_replays());
        engine.background(engine.stop.clone(), engine.clone().samples());
        engine
    }

    /// Whether the database can be reached, as far as this process knows.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.lease.holds() && self.store.is_available()
    }

    /// Whether new sagas are taken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.is_available()
    }

    /// Whether as many sagas are in memory as this process takes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.registry.len() >= self.config.in_flight
    }

    /// The database's clock in milliseconds since 1970, as of the last heartbeat.
    #[must_use]
    pub fn database_now(&self) -> i64 {
        self.lease.now()
    }

    fn background(&self, stop: CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Says that a call may insert this key: to be given to [`Engine::submit_for`], or given up by [`Engine::withdraw`].
    #[must_use]
    pub fn intend(&self, key: &Key) -> Intent {
        self.pending.intend(key, &self.lease)
    }

    /// Writes a new saga and, once that is durable, runs it in a task of its own. The caller may go away; if it does so before
    /// the saga is sent to the database, nothing is written.
    ///
    /// # Errors
    /// [`StoreError`]; only `Unknown` may have been written.
    pub async fn submit(self: &Arc<Self>, new: NewSaga<D>) -> Result<Submitted, StoreError> {
        let intent = self.intend(&new.key);
        self.submit_for(&intent, new).await
    }

    /// [`Engine::submit`] for a call that has said so before.
    ///
    /// # Errors
    /// As there.
    pub async fn submit_for(
        self: &Arc<Self>,
        intent: &Intent,
        new: NewSaga<D>,
    ) -> Result<Submitted, StoreError> {
        debug_assert_eq!(intent.key, new.key, "the intent is of this key");
        // The bound is for new work; cancels and returns of what exists are always taken.
        let is_new_work = matches!(new.begin, Begin::Run) && new.kind == Kind::Compensable;
        if !self.is_ready() || (is_new_work && self.is_full()) {
            return Err(StoreError::Unavailable);
        }
        let place = self.registry.enter(new.id);
        let (tell, told) = tokio::sync::oneshot::channel();
        let (id, run, engine, terms) = (new.id, place.run(), self.clone(), intent.terms(&self.lease));
        let task = self.tasks.spawn(async move { engine.insert_and_run(new, terms, place, tell).await });
        self.registry.carry(id, run, task.abort_handle());
        told.await.unwrap_or(Err(StoreError::Unknown))
    }

    async fn insert_and_run(
        self: Arc<Self>,
        new: NewSaga<D>,
        terms: Terms,
        place: Place,
        tell: tokio::sync::oneshot::Sender<Result<Submitted, StoreError>>,
    ) {
        let runs = matches!(new.begin, Begin::Run);
        let (plan, key, trace_id) = (new.plan.clone(), new.key.clone(), new.trace_id.clone());
        let (id, kind, legs_id, parent_id) = (new.id, new.kind, new.legs_id, new.parent_id);
        let written = self.store.insert(new, terms).await;
        let submitted = match written {
            Ok(Written::Inserted { created_at, deadline_at }) if runs => {
                counter!("saga_started_total", "kind" => if kind == Kind::Compensable { "compensable" } else { "forward_only" }).increment(1);
                let saga = Saga {
                    id,
                    key,
                    kind,
                    legs_id,
                    parent_id,
                    plan,
                    epoch: 1,
                    deadline_at,
                    created_at,
                    trace_id,
                };
                let row =
                    Loaded { saga, state: State::Running, turned: None, poison: 0, budget_from: created_at };
                fail_point!("saga::inserted");
                let _ = tell.send(Ok(Submitted::Running));
                Run::new(self, row, place, false).run().await;
                return;
            }
            Ok(Written::Inserted { .. }) => Ok(Submitted::Cancelled),
            Ok(Written::Refused(response)) => Ok(Submitted::Refused(response)),
            Ok(Written::Stale) => Ok(Submitted::Stale),
            Ok(Written::Withheld) => Ok(Submitted::Withheld),
            Ok(Written::KeyTaken | Written::Moved { .. } | Written::Missed) => Ok(Submitted::KeyTaken),
            Err(error) => Err(error),
        };
        drop(place);
        let _ = tell.send(submitted);
    }

    /// Starts, or starts anew, a run of a row that this process owns under the row's epoch.
    pub(crate) fn adopt(self: &Arc<Self>, row: Loaded<D>) {
        let place = self.registry.enter(row.saga.id);
        let run = Run::new(self.clone(), row, place, true);
        let (id, number) = run.place();
        let task = self.tasks.spawn(run.run());
        self.registry.carry(id, number, task.abort_handle());
    }

    /// What is stored under a key.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find(&self, key: &Key) -> sqlx::Result<Option<Stored>> {
        let (pool, key) = (self.pool.clone(), key.clone());
        self.to_its_end(async move { Ok(row::by_key(&pool, &key).await?.map(|raw| raw.stored)) }).await
    }

    /// What is stored under an id.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find_by_id(&self, id: SagaId) -> sqlx::Result<Option<Stored>> {
        let pool = self.pool.clone();
        self.to_its_end(async move { Ok(row::by_id(&pool, id).await?.map(|raw| raw.stored)) }).await
    }

    /// Looks up in a task of its own. A statement that is abandoned half-way costs its connection: callers who hang up and
    /// come back, all at once, would have the process do little else than connect.
    ///
    /// # Errors
    /// Of the database.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = sqlx::Result<T>> + Send + 'static,
    ) -> sqlx::Result<T> {
        self.tasks.spawn(work).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    pub(crate) async fn reset_poison(&self, id: SagaId, epoch: i64) {
        let reset = sqlx::query(
            "UPDATE saga.saga SET poison = 0 WHERE saga_id = $1 AND epoch = $2 AND state IN (0, 1)",
        )
        .bind(id)
        .bind(epoch)
        .execute(&self.pool)
        .await;
        if let Err(error) = reset {
            tracing::warn!(saga_id = %id, %error, "could not reset the poison count");
        }
    }

    async fn heartbeats(self: Arc<Self>, options: PgConnectOptions) {
        let mut heart =
            Heart { options, process: self.process, name: self.config.name.clone(), connection: None };
        loop {
            match heart.beat(&self.lease, self.pending.older_than(NAMED_AFTER), self.config.ttl).await {
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
            let probes = self.gate.unreachable().into_iter().map(|participant| self.probe(participant));
            futures_util::future::join_all(probes).await;
        }
    }

    async fn probe(&self, participant: String) {
        let up = tokio::time::timeout(PROBE_EVERY, self.domain.probe(&participant)).await;
        if up.unwrap_or(false) {
            tracing::info!(participant, "participant is back");
            self.gate.answered(&participant);
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
        match crate::recovery::hand_over(&self.pool, self.process, self.pending.any_in_doubt()).await {
            Ok(sagas) => tracing::info!(sagas, "handed over what was still running"),
            Err(error) => tracing::warn!(%error, "could not hand over; another process claims after one TTL"),
        }
    }

    /// Stops as a crash would: nothing is handed over, nothing more is written. For tests of recovery.
    pub fn crash(&self) {
        self.draining.store(true, Ordering::Release);
        self.crash.cancel();
        self.stop.cancel();
        self.registry.stop_all();
    }

    /// Stops the run of one saga, as a panic in its task would. For tests of recovery.
    pub fn lose_run(&self, id: SagaId) {
        self.registry.stop(id);
    }

    /// Reads a row that this process owns and runs it; parks it if this version cannot read it.
    pub(crate) async fn adopt_raw(self: &Arc<Self>, raw: Raw) {
        let (id, epoch, from) = (raw.stored.id, raw.stored.epoch, raw.stored.state);
        let parked = Parked { id, parent: raw.parent_id, epoch, from };
        match raw.load::<D>() {
            Ok(row) => self.adopt(row),
            Err(error) => {
                tracing::error!(saga_id = %id, error, "saga cannot be read; parked");
                self.park(parked, Reason::Unreadable, serde_json::json!({ "error": error })).await;
            }
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
