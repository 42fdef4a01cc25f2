//! An orchestrator process: its heartbeat, the sagas that it has in memory, its writer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use api::legs::LegAnswer;
use saga::machine::{Direction, Machine, Transition};
use uuid::Uuid;

use crate::{
    Time,
    db::{NewSaga, Response, Row, SagaId, Write},
    plan::Plan,
};

/// After how long without a heartbeat its sagas are free to claim.
pub const TTL: Time = 2_500;
/// How often it says that it lives.
pub const HEARTBEAT: Time = 500;
/// How often it looks for what has no owner, and compares its own with memory.
pub const SCAN: Time = 500;
/// Owners that may die while running a saga before it is parked.
pub const POISON_LIMIT: u16 = 2;

/// `libs/saga/src/lease.rs`, over simulated clocks.
#[derive(Debug, Default)]
pub struct Lease {
    valid_until: Option<Time>,
    claim_from: Time,
    offset: Time,
}

impl Lease {
    /// Whether this process may still act on what it owns.
    pub fn holds(&self, local: Time) -> bool {
        self.valid_until.is_some_and(|end| local < end)
    }

    /// Whether it may take what others have left.
    pub fn may_claim(&self, local: Time) -> bool {
        self.holds(local) && local >= self.claim_from
    }

    /// The database's clock, as of the last heartbeat.
    pub fn now(&self, local: Time) -> Time {
        local + self.offset
    }

    /// A heartbeat that was sent at `sent` is durable.
    pub fn renewed(&mut self, sent: Time, local: Time, database_now: Time) {
        if self.valid_until.is_some_and(|end| local >= end) {
            self.claim_from = local + TTL;
        }
        self.offset = database_now - sent.midpoint(local);
        self.valid_until = Some(sent + TTL);
    }
}

/// One run of one saga.
#[derive(Debug)]
pub struct Run {
    /// Tells it from the run that replaces it.
    pub no: u64,
    pub id: SagaId,
    pub redemption: SagaId,
    pub plan: Plan,
    pub legs_id: Uuid,
    pub epoch: i64,
    pub created_at: Time,
    pub deadline_at: Time,
    pub machine: Machine,
    /// The legs' answers in the present direction.
    pub answers: Vec<Option<LegAnswer>>,
    pub turned: Option<Rc<str>>,
    pub poison: u16,
    /// The answer that the last transition stored.
    pub concluded: Option<Response>,
    /// Commands without an answer so far.
    pub calls: BTreeMap<u64, (usize, Direction)>,
}

/// A till's request, and which of its attempts at it.
pub type Attempt = (usize, u32);

/// Who waits for a write.
#[derive(Debug, Clone)]
pub enum Waiter {
    /// A run, for its transition.
    Run { id: SagaId, no: u64, transition: Transition },
    /// A till, for its new saga.
    Submit { ask: Option<Attempt>, new: Box<NewSaga> },
    /// A till, for the cancel of a saga that runs.
    Compensate { ask: Attempt, seen: Box<Row> },
}

/// A batch on its way to COMMIT.
#[derive(Debug, Default)]
pub struct Batch {
    pub writes: Vec<(Write, Waiter)>,
    /// An earlier attempt may be durable.
    pub unknown: bool,
}

/// The one writer of a process.
#[derive(Debug, Default)]
pub struct Writer {
    pub queue: VecDeque<(Write, Waiter)>,
    pub batch: Option<Batch>,
}

impl Writer {
    /// Takes what waits as a batch: each saga once, what comes second waits for the next.
    pub fn next_batch(&mut self) -> bool {
        let mut seen = BTreeSet::new();
        let waiting = std::mem::take(&mut self.queue);
        let (writes, later): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(write, _)| seen.insert(write.id()));
        self.queue = later.into();
        let has_work = !writes.is_empty();
        self.batch = has_work.then(|| Batch { writes, ..Batch::default() });
        has_work
    }
}

/// A process.
#[derive(Debug, Default)]
pub struct Node {
    /// Each start is another process.
    pub life: u32,
    pub is_up: bool,
    /// It is handing over, and takes nothing new.
    pub is_draining: bool,
    /// Until when it is stopped.
    pub paused_until: Time,
    pub lease: Lease,
    /// The sagas in memory.
    pub runs: BTreeMap<SagaId, Run>,
    /// Sagas in memory whose insert is on its way.
    pub entering: BTreeSet<SagaId>,
    /// Runs of a saga that vanished without an end.
    pub lost: BTreeMap<SagaId, u16>,
    pub writer: Writer,
}

impl Node {
    /// Whether it takes requests.
    pub fn is_ready(&self, now: Time) -> bool {
        self.is_up && !self.is_draining && now >= self.paused_until && self.lease.holds(now)
    }
}
