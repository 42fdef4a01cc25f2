//! The wallet's database: its rows, and what transactions may find locked. The statements are in [`crate::sql`].

use std::{collections::BTreeMap, rc::Rc};

use saga::machine::{Kind, State};
use uuid::Uuid;

use crate::{Time, faults::Defect, plan::Plan};

/// A saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SagaId(pub u32);

/// A process: which orchestrator, and which of its lives.
pub type Process = (usize, u32);

/// The use cases under whose name keys are unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Take.
    Redeem,
    /// Give everything back.
    Return,
    /// Take what is held.
    Capture,
    /// Release what is held.
    Void,
    /// Give a part back.
    Refund,
}

/// What makes a request unique, for ever.
pub type Key = (Operation, u32);

/// The answer stored under a key, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Rc<str>,
}

/// A row of `saga.saga`.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: SagaId,
    pub key: Key,
    pub kind: Kind,
    pub legs_id: Uuid,
    pub parent: Option<SagaId>,
    pub plan: Plan,
    pub state: State,
    pub epoch: i64,
    pub owner: Option<Process>,
    pub backward: bool,
    pub key_cancelled: bool,
    pub answer_given: bool,
    pub poison: u16,
    /// Why it was compensated.
    pub cause: Option<Rc<str>>,
    pub response: Option<Response>,
    pub created_at: Time,
    pub deadline_at: Time,
    pub budget_from: Time,
    pub due_at: Time,
}

/// Where a redemption stands, as its row has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Pending,
    Authorized,
    Capturing,
    Completed,
    Refunding,
    Reversing,
    Reversed,
    Voided,
    Expired,
    Declined,
    UnderReview,
}

/// A row of `wallet.redemption`.
#[derive(Debug, Clone)]
pub struct Redemption {
    pub status: Status,
    pub hold_expires_at: Option<Time>,
    pub cancel_requested: bool,
    /// Units in force, by leg.
    pub taken: Vec<i64>,
    /// Units of them that refunds have reserved, by leg.
    pub refunded: Vec<i64>,
}

/// A row of `saga.dead_letter`.
#[derive(Debug, Clone)]
pub struct Letter {
    pub saga: SagaId,
    pub is_open: bool,
    /// The order that closed it.
    pub closed_by: Option<u64>,
}

/// What a transaction locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    Saga(SagaId),
    Key(Key),
    Redemption(SagaId),
}

/// A new saga.
#[derive(Debug, Clone)]
pub struct NewSaga {
    pub id: SagaId,
    pub key: Key,
    pub kind: Kind,
    pub legs_id: Uuid,
    pub parent: Option<SagaId>,
    pub plan: Plan,
    pub deadline: Time,
    /// Over before it came: its key was cancelled.
    pub is_cancelled: bool,
    pub cancel_parent_key: bool,
}

/// A redemption's next status.
#[derive(Debug, Clone)]
pub struct Moved {
    pub redemption: SagaId,
    pub status: Status,
    pub hold_expires_at: Option<Time>,
    pub taken: Option<Vec<i64>>,
}

/// A compare-and-set on (id, state, epoch), with everything that belongs to it.
#[derive(Debug, Clone)]
pub struct Move {
    pub id: SagaId,
    pub from: State,
    pub epoch: i64,
    pub to: State,
    pub take_over: Option<Process>,
    pub cancel_key: bool,
    pub cause: Option<Rc<str>>,
    pub response: Option<Response>,
    pub change: Option<Moved>,
    pub due: Time,
}

/// What the store is asked to make durable.
#[derive(Debug, Clone)]
pub enum Write {
    Insert(Box<NewSaga>),
    Move(Box<Move>),
}

impl Write {
    /// The saga that it writes.
    pub fn id(&self) -> SagaId {
        match self {
            Self::Insert(new) => new.id,
            Self::Move(change) => change.id,
        }
    }

    /// What it locks.
    pub fn locks(&self) -> Vec<Lock> {
        match self {
            Self::Insert(new) => {
                let parent = new.parent.map(|parent| [Lock::Redemption(parent), Lock::Saga(parent)]);
                parent.into_iter().flatten().chain([Lock::Saga(new.id), Lock::Key(new.key)]).collect()
            }
            Self::Move(change) => {
                let redemption = change.change.as_ref().map(|moved| Lock::Redemption(moved.redemption));
                redemption.into_iter().chain([Lock::Saga(change.id)]).collect()
            }
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// A new saga is durable.
    Inserted { created_at: Time, deadline_at: Time },
    /// The key has a row already.
    KeyTaken,
    /// What the new saga was planned on has changed.
    Stale,
    /// The transition is durable. `answer_given`: the stored answer is an earlier one.
    Moved { answer_given: bool },
    /// The compare-and-set missed.
    Missed,
}

/// A transaction whose client is gone.
#[derive(Debug)]
pub struct Pending {
    pub owner: Process,
    pub batch: Vec<Write>,
    pub again: bool,
    pub is_durable: bool,
    pub locks: Vec<Lock>,
}

/// The database.
#[derive(Debug, Default)]
pub struct Db {
    /// `saga.saga`.
    pub rows: BTreeMap<SagaId, Row>,
    /// Its unique key.
    pub keys: BTreeMap<Key, SagaId>,
    /// `wallet.redemption`; a redemption has its saga's id.
    pub redemptions: BTreeMap<SagaId, Redemption>,
    /// `saga.dead_letter`.
    pub letters: Vec<Letter>,
    /// `saga.process`: the last heartbeat.
    pub beats: BTreeMap<Process, Time>,
    /// Locks of transactions whose client is gone.
    pub locked: BTreeMap<Lock, Time>,
    /// Those transactions.
    pub pending: Vec<Option<Pending>>,
    /// Its clock, minus true time.
    pub skew: Time,
    /// Every transition that was made durable, for whoever checks: (saga, to).
    pub made: Vec<(SagaId, State)>,
    /// Inserts and moves that a second attempt found to be its own.
    pub recognised: (u64, u64),
    /// A rule that is left out.
    pub defect: Option<Defect>,
    /// A rule of the database itself that was broken.
    pub broken: Option<String>,
}

impl Db {
    /// `clock_timestamp()`.
    pub fn clock(&self, now: Time) -> Time {
        now + self.skew
    }

    /// The row under a key.
    pub fn find(&self, key: Key) -> Option<&Row> {
        self.rows.get(self.keys.get(&key)?)
    }

    /// Until when somebody else's transaction is in the way of these locks.
    pub fn blocked<'a>(&self, locks: impl IntoIterator<Item = &'a Lock>) -> Option<Time> {
        locks.into_iter().filter_map(|lock| self.locked.get(lock)).max().copied()
    }

    /// Whether a saga's row is locked by somebody whose client is gone.
    pub fn is_locked(&self, id: SagaId) -> bool {
        self.locked.contains_key(&Lock::Saga(id))
    }
}
