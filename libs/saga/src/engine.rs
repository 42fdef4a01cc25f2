//! The engine: what a use case calls, and the one place that starts tasks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
    domain::{Begin, Domain, Ending, Key, NewSaga, Reason, Response, Saga, SagaId, Turned},
    gate::Gate,
    lease::{Heart, Lease},
    machine::{Kind, State},
    registry::{Place, Registry, Seen},
    row::{self, Loaded, Raw, Stored},
    store::{Store, StoreError},
    task::Run,
    write::{Move, STUCK_COMPENSATING_AFTER_MS, Write, Written},
};

/// How long a caller of a saga that was turned back waits for everything to be back.
const WAIT_FOR_REVERSAL: Duration = Duration::from_secs(1);
/// How often a saga that runs elsewhere is looked at.
const POLL: Duration = Duration::from_millis(40);
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
}

/// What waiting for a saga came to.
#[derive(Debug, Clone)]
pub enum Waited {
    /// This is its answer for ever.
    Answered(Response),
    /// It is over, its key was cancelled.
    KeyCancelled,
    /// It goes on (or waits for an operator); no answer yet.
    Pending(State),
}

/// What came of turning a saga back by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnBack {
    /// Its legs are being cancelled, by this process.
    Done,
    /// It was not where the caller saw it: look again.
    Moved,
}

/// Runs the sagas of one domain in one process.
pub struct Engine<D: Domain> {
    pub(crate) config: Config,
    pub(crate) domain: Arc<D>,
    pub(crate) process: Uuid,
    pub(crate) pool: PgPool,
    pub(crate) store: Store<D>,
    pub(crate) lease: Lease,
    pub(crate) gate: Gate,
    pub(crate) registry: Registry,
    draining: AtomicBool,
    tasks: TaskTracker,
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
    /// Starts the engine: the writer, the heartbeat, recovery. Never fails: without a database every call is
    /// [`StoreError::Unavailable`] until there is one. `options` carry the session limits of each connection.
    #[must_use]
    pub fn start(config: Config, domain: Arc<D>, options: PgConnectOptions) -> Arc<Self> {
        let process = Uuid::new_v4();
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(1))
            .connect_lazy_with(options.clone());
        let (store, writer) = Store::new(options.clone(), domain.clone(), process, config.write_batch);
        let engine = Arc::new(Self {
            lease: Lease::new(config.ttl),
            config,
            domain,
            process,
            pool,
            store,
            gate: Gate::default(),
            registry: Registry::default(),
            draining: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            crash: CancellationToken::new(),
        });
        engine.background(engine.crash.clone(), writer.run(engine.stop.clone()));
        engine.background(engine.stop.clone(), engine.clone().heartbeats(options));
        engine.background(engine.stop.clone(), engine.clone().recovery());
        engine.background(engine.stop.clone(), engine.clone().probes());
        engine
    }

    /// The id of this process in `saga.process`, fresh at every start.
    #[must_use]
    pub fn process(&self) -> Uuid {
        self.process
    }

    /// The domain that this engine runs.
    #[must_use]
    pub fn domain(&self) -> &Arc<D> {
        &self.domain
    }

    /// Whether new sagas are taken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.lease.holds() && self.store.is_available()
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

    /// Writes a new saga and, once that is durable, runs it in a task of its own: the caller may go away.
    ///
    /// # Errors
    /// [`StoreError`]; only `Unknown` may have been written.
    pub async fn submit(self: &Arc<Self>, new: NewSaga<D>) -> Result<Submitted, StoreError> {
        if !self.is_ready() || self.is_full() {
            return Err(StoreError::Unavailable);
        }
        let place = self.registry.enter(new.id);
        let (tell, told) = tokio::sync::oneshot::channel();
        let (id, run, engine) = (new.id, place.run(), self.clone());
        let task = self.tasks.spawn(async move { engine.insert_and_run(new, place, tell).await });
        self.registry.carry(id, run, task.abort_handle());
        told.await.unwrap_or(Err(StoreError::Unknown))
    }

    async fn insert_and_run(
        self: Arc<Self>,
        new: NewSaga<D>,
        place: Place,
        tell: tokio::sync::oneshot::Sender<Result<Submitted, StoreError>>,
    ) {
        let runs = matches!(new.begin, Begin::Run);
        let (plan, key, trace_id) = (new.plan.clone(), new.key.clone(), new.trace_id.clone());
        let (id, kind, legs_id, parent_id) = (new.id, new.kind, new.legs_id, new.parent_id);
        let written = self.store.write(Write::Insert(Box::new(new))).await;
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
                let row = Loaded {
                    saga,
                    state: State::Running,
                    turned: None,
                    poison: 0,
                    key_cancelled: false,
                    budget_from: created_at,
                };
                let _ = tell.send(Ok(Submitted::Running));
                Run::new(self, row, place, false).run().await;
                return;
            }
            Ok(Written::Inserted { .. }) => Ok(Submitted::Cancelled),
            Ok(Written::Refused(response)) => Ok(Submitted::Refused(response)),
            Ok(Written::Stale) => Ok(Submitted::Stale),
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
        Ok(row::by_key(&self.pool, key).await?.map(|raw| raw.stored))
    }

    /// What is stored under an id.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find_by_id(&self, id: SagaId) -> sqlx::Result<Option<Stored>> {
        Ok(row::by_id(&self.pool, id).await?.map(|raw| raw.stored))
    }

    /// Waits for a saga's answer, wherever it runs, at most until `until`. Once it is turned back it waits for at most a
    /// second more; the answer that it then gives is frozen.
    ///
    /// # Errors
    /// Of the database.
    pub async fn wait(&self, id: SagaId, until: Instant) -> sqlx::Result<Waited> {
        let mut until = until;
        let mut turned_back = false;
        loop {
            let seen = match self.registry.watch(id) {
                Some(mut watch) => {
                    let seen = watch.borrow_and_update().clone();
                    let news = match seen {
                        Seen::Ended(_) => true,
                        Seen::TurnedBack if !turned_back => true,
                        _ => false,
                    };
                    if !news {
                        // An error means that the run is gone: the row says what became of it.
                        let _ = tokio::time::timeout_at(until, watch.changed()).await;
                    }
                    watch.borrow().clone()
                }
                None => self.look(id).await?,
            };
            match seen {
                Seen::Ended(Some(response)) => return Ok(Waited::Answered((*response).clone())),
                Seen::Ended(None) => return self.answer(id, turned_back).await,
                Seen::TurnedBack if !turned_back => {
                    turned_back = true;
                    until = until.min(Instant::now() + WAIT_FOR_REVERSAL);
                }
                _ if Instant::now() >= until => return self.answer(id, turned_back).await,
                _ if !self.registry.contains(id) => {
                    tokio::time::sleep_until(until.min(Instant::now() + POLL)).await
                }
                _ => {}
            }
        }
    }

    async fn look(&self, id: SagaId) -> sqlx::Result<Seen> {
        let stored = self.find_by_id(id).await?.ok_or(sqlx::Error::RowNotFound)?;
        Ok(match stored.state {
            State::Running => Seen::Running,
            State::Compensating => Seen::TurnedBack,
            _ => Seen::Ended(None),
        })
    }

    /// The stored answer. One that compensation would still improve is frozen before anybody sees it, so that every later
    /// caller gets the same bytes.
    async fn answer(&self, id: SagaId, turned_back: bool) -> sqlx::Result<Waited> {
        let stored = self.find_by_id(id).await?.ok_or(sqlx::Error::RowNotFound)?;
        if stored.key_cancelled {
            return Ok(Waited::KeyCancelled);
        }
        let Some(response) = stored.response else { return Ok(Waited::Pending(stored.state)) };
        match stored.state {
            State::Compensating if !turned_back => Ok(Waited::Pending(stored.state)),
            State::Compensating | State::DeadLetter => Ok(Waited::Answered(self.freeze(id).await?)),
            _ => Ok(Waited::Answered(response)),
        }
    }

    async fn freeze(&self, id: SagaId) -> sqlx::Result<Response> {
        let row: (i16, Vec<u8>) = sqlx::query_as(
            "UPDATE saga.saga SET answer_given = true WHERE saga_id = $1 RETURNING response_status, response",
        )
        .bind(id)
        .fetch_one(&self.pool)
        .await?;
        crate::write::stored_response(Some(row.0), Some(row.1)).ok_or(sqlx::Error::RowNotFound)
    }

    /// Turns a running compensable saga back, taking it over from whoever runs it: by its key (`cancel_key`: no other
    /// answer under that key from now on), or because its caller's time is up.
    ///
    /// # Errors
    /// [`StoreError`]; `Refused` also when the row cannot be read.
    pub async fn turn_back(
        self: &Arc<Self>,
        seen: &Stored,
        reason: Reason,
        cancel_key: bool,
    ) -> Result<TurnBack, StoreError> {
        let (engine, id, epoch) = (self.clone(), seen.id, seen.epoch);
        // In a task of its own: between the commit and the start of the run nobody may drop this.
        let task = self.tasks.spawn(async move { engine.turn_back_now(id, epoch, reason, cancel_key).await });
        task.await.unwrap_or(Err(StoreError::Unknown))
    }

    async fn turn_back_now(
        self: Arc<Self>,
        id: SagaId,
        epoch: i64,
        reason: Reason,
        cancel_key: bool,
    ) -> Result<TurnBack, StoreError> {
        let unavailable = |_| StoreError::Unavailable;
        let Some(raw) = row::by_id(&self.pool, id).await.map_err(unavailable)? else {
            return Ok(TurnBack::Moved);
        };
        if raw.stored.state != State::Running
            || raw.stored.epoch != epoch
            || raw.kind != Some(Kind::Compensable)
        {
            return Ok(TurnBack::Moved);
        }
        let mut row: Loaded<D> = raw.load().map_err(StoreError::Refused)?;
        let turned = Turned::because(reason);
        let conclusion = self.domain.conclude(&row.saga, Ending::TurnedBack(&turned));
        let change = Move::<D> {
            id,
            from: State::Running,
            epoch,
            to: State::Compensating,
            take_over: Some(self.process),
            cancel_key,
            cause: serde_json::to_value(&turned).ok(),
            response: conclusion.response,
            change: conclusion.change,
            event: Some((
                "turned_back",
                serde_json::json!({ "because": { "reason": reason }, "key_cancelled": cancel_key }),
            )),
            dead_letter: None,
            due_ms: STUCK_COMPENSATING_AFTER_MS,
        };
        match self.store.write(Write::Move(Box::new(change))).await? {
            Written::Moved { .. } => {
                row.saga.epoch = epoch + 1;
                row.state = State::Compensating;
                row.turned = Some(turned);
                row.key_cancelled |= cancel_key;
                row.budget_from =
                    chrono::DateTime::from_timestamp_millis(self.lease.now()).unwrap_or(row.budget_from);
                self.adopt(row);
                Ok(TurnBack::Done)
            }
            _ => Ok(TurnBack::Moved),
        }
    }

    /// Cancels the key of a saga that is not running: no answer but that one under it from now on. False if the saga is not
    /// in the state in which the caller saw it.
    ///
    /// # Errors
    /// Of the database.
    pub async fn cancel_key(&self, seen: &Stored) -> sqlx::Result<bool> {
        let done = sqlx::query(
            "WITH cancelled AS (
                 UPDATE saga.saga SET key_cancelled = true WHERE saga_id = $1 AND state = $2 RETURNING saga_id, epoch
             )
             INSERT INTO saga.saga_event (saga_id, epoch, owner, event) SELECT saga_id, epoch, $3, 'key_cancelled' FROM cancelled",
        )
        .bind(seen.id)
        .bind(seen.state.code())
        .bind(self.process)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
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
            match heart.beat(&self.lease, self.config.ttl).await {
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
        match crate::recovery::hand_over(&self.pool, self.process).await {
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
        let (id, epoch, state) = (raw.stored.id, raw.stored.epoch, raw.stored.state);
        match raw.load::<D>() {
            Ok(row) => self.adopt(row),
            Err(error) => self.park_unreadable(id, epoch, state, &error).await,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
