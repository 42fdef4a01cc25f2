//! The engine as its parts share it: what belongs to one process, and what can be asked of it.
//!
//! It imports no part that works on sagas: [`crate::start`] starts them, [`crate::submit`] and the other files add what a use
//! case calls.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    admission::UnderWay,
    clock::DatabaseClock,
    config::Config,
    domain::{Domain, Key, SagaId},
    lease::Lease,
    pending::PendingKeys,
    reachability::{Reachability, Room, UnansweredLegs},
    registry::Registry,
    row::{self, Stored},
    statement::in_time,
    store::Store,
};

/// Passes of recovery that may be missed before the process counts as one that cannot recover sagas.
const MISSED_PASSES: i64 = 20;

/// Runs the sagas of one domain in one process.
pub struct Engine<D: Domain> {
    pub(crate) config: Config,
    pub(crate) domain: Arc<D>,
    pub(crate) process: Uuid,
    /// For recovery and parking: nothing that a caller waits for takes these connections.
    pub(crate) pool: PgPool,
    /// For callers who wait for sagas.
    pub(crate) lookups: PgPool,
    /// For operators: their lists, their replays and the gauges. What they wait for costs no saga a connection.
    pub(crate) ops_pool: PgPool,
    pub(crate) store: Store<D>,
    pub(crate) clock: DatabaseClock,
    pub(crate) lease: Arc<Lease>,
    /// Keys under which an insert of this process may still come.
    pub(crate) pending: PendingKeys,
    /// Withdrawn calls that wait for word of other processes.
    pub(crate) withdrawals: Semaphore,
    pub(crate) reachability: Reachability,
    pub(crate) under_way: UnderWay,
    pub(crate) registry: Registry,
    pub(crate) draining: AtomicBool,
    /// When recovery last ended a pass, in local milliseconds of `clock`.
    pub(crate) recovered_at: AtomicI64,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Ends the writers too, as a crash would; only tests do that.
    pub(crate) crash: CancellationToken,
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
    /// Whether the database can be reached, as far as this process knows.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.lease.holds() && self.store.is_available()
    }

    /// Whether new sagas are taken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.is_available()
    }

    /// Whether this process takes sagas up that nobody has in memory: its recovery ends its passes.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        let pass = i64::try_from(self.config.scan.as_millis()).unwrap_or(i64::MAX / MISSED_PASSES);
        let since = self.clock.local() - self.recovered_at.load(Ordering::Relaxed);
        since < MISSED_PASSES * pass.max(500)
    }

    /// Whether a business has as much new work under way as this process takes of one, or all have as much as it takes at all.
    /// What goes on with what exists counts for neither: captures, reversals, what was taken over.
    #[must_use]
    pub fn is_full(&self, business: &str) -> bool {
        self.under_way.is_full_for(business, self.config.in_flight)
    }

    /// Whether as many legs of new work are without an answer by a participant as this process bears, or bears of one business.
    #[must_use]
    pub fn is_full_for(&self, participant: &str, business: &str) -> bool {
        self.reachability.is_full_for(participant, business, Room::NewWork, self.config.unanswered_legs)
    }

    /// The same for what goes on with what exists, which has as much room as new work, and of its own: captures go on while a
    /// participant is away for a moment, and a long outage does not gather them all in memory.
    #[must_use]
    pub fn is_full_to_go_on(&self, participant: &str, business: &str) -> bool {
        self.reachability.is_full_for(participant, business, Room::GoingOn, self.config.unanswered_legs)
    }

    /// Whether a saga of this plan, which goes on with what exists, finds room with all its participants.
    pub(crate) fn has_room_to_go_on(&self, plan: &D::Plan, business: &str) -> bool {
        let is_full = |leg| self.is_full_to_go_on(self.domain.participant(plan, leg), business);
        !(0..self.domain.legs(plan)).any(is_full)
    }

    /// Counts every leg of a plan as one without an answer.
    pub(crate) fn expect_legs(&self, plan: &D::Plan, business: &str, room: Room) -> UnansweredLegs {
        let expect = |leg| Some(self.reachability.expect(self.domain.participant(plan, leg), business, room));
        (0..self.domain.legs(plan)).map(expect).collect()
    }

    /// Whether as many sagas are in memory as this process takes of new work.
    pub(crate) fn is_laden(&self) -> bool {
        self.registry.len() >= self.config.in_flight
    }

    /// Whether a participant has not answered the last attempts at legs.
    #[must_use]
    pub fn is_unreachable(&self, participant: &str) -> bool {
        self.reachability.is_open(participant)
    }

    /// The clock of the saga database.
    #[must_use]
    pub fn clock(&self) -> DatabaseClock {
        self.clock.clone()
    }

    /// What is stored under a key.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find(&self, key: &Key) -> sqlx::Result<Option<Stored>> {
        let (pool, key) = (self.lookups.clone(), key.clone());
        self.to_its_end(async move { Ok(row::by_key(&pool, &key).await?.map(|raw| raw.stored)) }).await
    }

    /// What is stored under an id.
    ///
    /// # Errors
    /// Of the database.
    pub async fn find_by_id(&self, id: SagaId) -> sqlx::Result<Option<Stored>> {
        let pool = self.lookups.clone();
        self.to_its_end(async move { Ok(row::by_id(&pool, id).await?.map(|raw| raw.stored)) }).await
    }

    /// Looks up in a task of its own, for 7 s at most. A statement that is abandoned half-way costs its connection: callers who hang up and
    /// come back, all at once, would have the process do little else than connect.
    ///
    /// # Errors
    /// Of the database.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = sqlx::Result<T>> + Send + 'static,
    ) -> sqlx::Result<T> {
        self.tasks.spawn(in_time(work)).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// What tests of recovery do to a process.
#[cfg(feature = "testing")]
impl<D: Domain> Engine<D> {
    /// Stops as a crash would: nothing is handed over, nothing more is written.
    pub fn crash(&self) {
        self.draining.store(true, Ordering::Release);
        self.crash.cancel();
        self.stop.cancel();
        self.registry.stop_all();
    }

    /// Stops the run of one saga, as a panic in its task would.
    pub fn lose_run(&self, id: SagaId) {
        self.registry.stop(id);
    }
}
