//! What a domain tells the engine: its plan, how to reach a leg's participant, what an ending means for its own rows.

use std::{fmt, future::Future, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::machine::{Cause, Direction, Kind, Reply};

/// The id of a saga (UUIDv7), given by its domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct SagaId(pub Uuid);

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What makes a request unique, for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The tenant.
    pub business_id: String,
    /// The use case.
    pub operation: String,
    /// Empty, or to whom or to what the key's namespace belongs.
    pub scope: String,
    /// As the caller chose it.
    pub key: String,
}

/// The hash of a request, to tell a retry from a reuse of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHash {
    /// By which of the domain's rules it was made; above 0.
    pub version: i16,
    /// The hash.
    pub bytes: [u8; 32],
}

/// A saga that runs: everything about it that never changes while one owner runs it.
#[derive(Debug)]
pub struct Saga<P> {
    /// Its id.
    pub id: SagaId,
    /// Its key.
    pub key: Key,
    /// Whether it may be compensated.
    pub kind: Kind,
    /// Under which participants know its legs.
    pub legs_id: Uuid,
    /// The saga whose effect this one takes further.
    pub parent_id: Option<SagaId>,
    /// The plan.
    pub plan: Arc<P>,
    /// This owner's epoch.
    pub epoch: i64,
    /// When it is compensated.
    pub deadline_at: DateTime<Utc>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// The trace of the request that made it.
    pub trace_id: Option<String>,
}

/// A saga to be written.
#[derive(Debug)]
pub struct NewSaga<D: Domain> {
    /// Its id.
    pub id: SagaId,
    /// Its key.
    pub key: Key,
    /// Of the request; none if nobody can repeat it.
    pub request_hash: Option<RequestHash>,
    /// Whether it may be compensated.
    pub kind: Kind,
    /// Under which participants know its legs.
    pub legs_id: Uuid,
    /// The saga whose effect this one takes further.
    pub parent_id: Option<SagaId>,
    /// The plan.
    pub plan: Arc<D::Plan>,
    /// How long it may run before it is compensated.
    pub deadline: std::time::Duration,
    /// The trace of the request.
    pub trace_id: Option<String>,
    /// What the domain's rows become with it.
    pub change: Option<D::Change>,
    /// Whether it runs, or only records an answer under its key.
    pub begin: Begin,
    /// Cancel the parent's key in the same transaction: no answer but that one under it from then on.
    pub cancel_parent_key: bool,
}

/// How a new saga begins.
#[derive(Debug, Clone)]
pub enum Begin {
    /// It runs.
    Run,
    /// It is over: this refusal is the answer under its key for ever.
    Refused(Response),
    /// It is over before it came: its key was cancelled.
    Cancelled,
}

/// The answer stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// Why a saga was compensated, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "A: Serialize + DeserializeOwned")]
pub struct CompensationCause<A> {
    /// What kind of reason.
    pub reason: Reason,
    /// The leg that gave it.
    pub leg: Option<usize>,
    /// That leg's answer.
    pub answer: Option<A>,
}

/// The kinds of reason for which a saga is compensated or parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A leg was refused.
    Refused,
    /// All legs applied and took nothing.
    TookNothing,
    /// A participant gave no answer in time.
    #[serde(rename = "participant_unreachable")]
    Unreachable,
    /// A participant kept giving answers outside the protocol.
    WrongAnswers,
    /// A leg exists with another plan.
    ForeignLeg,
    /// Somebody cancelled it.
    Cancelled,
    /// Owners died while running it.
    Poison,
    /// The row cannot be read by this version.
    Unreadable,
    /// The database refuses what its next transition would record.
    Unwritable,
    /// A participant holds legs of which no saga is known.
    OrphanLeg,
    /// A newer release wrote why, in words that this version cannot read. Never written: what is stored stays as it is.
    Other,
}

impl Reason {
    /// All that this version gives.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::TookNothing,
        Self::Unreachable,
        Self::WrongAnswers,
        Self::ForeignLeg,
        Self::Cancelled,
        Self::Poison,
        Self::Unreadable,
        Self::Unwritable,
        Self::OrphanLeg,
    ];

    /// The name used in rows, metrics and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TookNothing => "took_nothing",
            Self::Unreachable => "participant_unreachable",
            Self::WrongAnswers => "wrong_answers",
            Self::ForeignLeg => "foreign_leg",
            Self::Cancelled => "cancelled",
            Self::Poison => "poison",
            Self::Unreadable => "unreadable",
            Self::Unwritable => "unwritable",
            Self::OrphanLeg => "orphan_leg",
            Self::Other => "other",
        }
    }
}

impl<A> CompensationCause<A> {
    /// A reason without a leg.
    #[must_use]
    pub const fn because(reason: Reason) -> Self {
        Self { reason, leg: None, answer: None }
    }

    pub(crate) fn from_cause(cause: Cause, answers: &[Option<A>]) -> Self
    where
        A: Clone,
    {
        let (reason, leg) = match cause {
            Cause::Refused(leg) => (Reason::Refused, Some(leg)),
            Cause::TookNothing => (Reason::TookNothing, None),
            Cause::Unreachable(leg) => (Reason::Unreachable, leg),
            Cause::Wrong(leg) => (Reason::WrongAnswers, Some(leg)),
            Cause::Foreign(leg) => (Reason::ForeignLeg, Some(leg)),
            Cause::Poison => (Reason::Poison, None),
        };
        let answer = leg.and_then(|leg| answers.get(leg).cloned().flatten());
        Self { reason, leg, answer }
    }
}

/// A state that a saga reaches, for the domain to say what it means.
#[derive(Debug)]
pub enum Ending<'a, A> {
    /// Every leg is in force; the answers are those of all legs.
    Completed(&'a [A]),
    /// Compensated; its legs are about to be cancelled.
    Compensating(&'a CompensationCause<A>),
    /// No leg is in force. The answers are those of the cancels; empty where nothing had to be cancelled.
    Compensated(&'a CompensationCause<A>, &'a [Option<A>]),
    /// Parked for an operator.
    Parked,
    /// Taken up again by an operator, going back if true.
    Reopened(bool),
    /// Settled by hand by an operator.
    Resolved,
}

/// What an ending means outside the engine.
#[derive(Debug)]
pub struct TransitionEffect<C> {
    /// The answer under the key; `None` leaves what is stored.
    pub response: Option<Response>,
    /// What the domain's rows become, in the same transaction.
    pub change: Option<C>,
}

/// What the domain says of a new saga, inside the transaction that would write it.
#[derive(Debug)]
pub enum Admission<C> {
    /// Write it.
    Admitted,
    /// Write this refusal under its key instead.
    Refused(Response, Option<C>),
    /// What it was planned on has changed: write nothing, plan again.
    Stale,
}

/// One attempt at one leg.
#[derive(Debug)]
pub struct Call<'a, P> {
    /// The saga.
    pub saga: &'a Saga<P>,
    /// Which leg.
    pub leg: usize,
    /// Forward or back.
    pub direction: Direction,
}

/// What came of an attempt, and the answer if there was one.
#[derive(Debug)]
pub struct Replied<A> {
    /// For the machine.
    pub reply: Reply,
    /// For the domain.
    pub answer: Option<A>,
    /// For the timeline.
    pub note: Option<String>,
}

/// A domain with sagas.
pub trait Domain: Send + Sync + Sized + fmt::Debug + 'static {
    /// The plan of a saga, stored as JSON.
    type Plan: Serialize + DeserializeOwned + fmt::Debug + Send + Sync + 'static;
    /// A participant's answer about one leg.
    type Answer: Clone + Serialize + DeserializeOwned + fmt::Debug + Send + Sync + 'static;
    /// A change of the domain's own rows.
    type Change: Clone + fmt::Debug + Send + Sync + 'static;

    /// The versions of [`Domain::Plan`] that this process can read. It claims no saga of another: while two releases share a
    /// database, and after a roll-back, those wait for a process that knows them.
    const VERSIONS: &'static [i16];

    /// The version that a plan is written as: a number of its own for each variant and each format, never used for another.
    fn version(plan: &Self::Plan) -> i16;

    /// How many legs a plan has.
    fn legs(&self, plan: &Self::Plan) -> usize;

    /// Who carries out a leg.
    fn participant<'a>(&self, plan: &'a Self::Plan, leg: usize) -> &'a str;

    /// Makes one attempt at one leg. The engine limits the time.
    fn send(&self, call: Call<'_, Self::Plan>) -> impl Future<Output = Replied<Self::Answer>> + Send;

    /// Whether a participant answers again: a query that takes the way that legs take, since a participant may be healthy while its
    /// legs hang.
    fn probe(&self, participant: &str) -> impl Future<Output = bool> + Send;

    /// What reaching a state means.
    fn on_transition(
        &self,
        saga: &Saga<Self::Plan>,
        ending: Ending<'_, Self::Answer>,
    ) -> TransitionEffect<Self::Change>;

    /// What being parked (or, if true, resolved) means for a saga whose plan cannot be used; `subject` is the saga that it
    /// takes further, or itself.
    fn on_parked(&self, subject: SagaId, is_resolved: bool) -> Option<Self::Change>;

    /// Judges new sagas inside the transaction that writes them; one verdict each, in order.
    ///
    /// # Errors
    /// Of the database; the transaction is rolled back.
    fn admit(
        &self,
        conn: &mut PgConnection,
        new: &[&NewSaga<Self>],
    ) -> impl Future<Output = sqlx::Result<Vec<Admission<Self::Change>>>> + Send;

    /// Applies changes inside the transaction of the transitions that they belong to.
    ///
    /// # Errors
    /// Of the database; the transaction is rolled back.
    fn record(
        &self,
        conn: &mut PgConnection,
        changes: &[(SagaId, Self::Change)],
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}
