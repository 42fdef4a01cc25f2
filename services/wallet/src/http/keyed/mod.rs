//! The one driver of all calls under a key: look up, refuse, plan, submit, wait, answer.
//!
//! | step | what it may say |
//! |---|---|
//! | the database is away | 503, `unknown` |
//! | look up the key: before anything is refused, and before anything is read to plan with; else the unique key itself is the look-up | what is stored: the answer, 409 `key_cancelled`, 422 `idempotency_key_reused` |
//! | refuse: at the door, or because planning cannot read what it needs | 503 or 429, `not_applied` with the proof that the key is unused ([`saga::KeyUnused`]), else 503 `unknown` |
//! | plan and submit | a refusal found by planning is stored under the key, like any other answer |
//! | wait | the answer; 202 once the caller's time is up |
//!
//! Whatever hangs, the caller hears something before its time is over: 202 if what it asked for is known to be durable,
//! otherwise 503 `unknown`. From then on nothing is inserted for it any more (`libs/saga/src/pending.rs`).

mod failure;
pub(super) mod same;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    BusinessId, LegsId,
    derive::{Bucket, RequestForm, fresh_id},
    wallet::{OnDeadline, Redemption},
};
use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use saga::{
    Begin, CompensateOutcome, Intent, Key, NewSaga, Reason, SagaId, StoreError, Stored, Submitted, Waited,
    Withdrawn,
    machine::{Kind, State as SagaState},
};
use service::trace;
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use failure::{Failure, Refused};

use same::{kept, require_same};

use super::redemptions;
use crate::{app::App, plan::Plan, redemption::Change, sagas::Sagas};

/// The answer leaves this much before the caller gives up.
const MARGIN: Duration = Duration::from_millis(100);
/// Turning a redemption back takes a commit, and is done before the answer leaves.
const CANCELLING: Duration = Duration::from_millis(150);
/// Plans are judged again this often when they met others at the same moment.
const TRIES: usize = 5;
/// Looks again this often at a saga that moves while it is being compensated.
const LOOKS: usize = 5;
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What differs from call to call.
pub(super) trait Operation: Sync {
    /// What is refused without planning: overload, limits, tenders that are out of service.
    fn admit(&self) -> Result<(), Refused>;

    /// Whether planning reads anything, so that the key is looked up before.
    fn looks_up_first(&self) -> bool;

    /// The saga to be written; planned anew each time it turns out to be stale.
    fn plan(&self, call: &Call, id: SagaId)
    -> impl Future<Output = Result<NewSaga<Sagas>, Unplanned>> + Send;

    /// The redemption that a saga of this operation is about.
    fn redemption(&self, id: SagaId) -> Uuid;

    /// What is known of the redemption without asking anybody, while its saga is under way.
    fn under_way(&self, id: SagaId) -> Redemption;
}

/// Why there is no plan.
pub(super) enum Unplanned {
    /// Planning could not read what it needs.
    Refused(Refused),
    /// The call ends here.
    Failed(Failure),
}

impl From<Failure> for Unplanned {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a new saga is made of, besides what every call has.
pub(super) struct Draft {
    pub kind: Kind,
    pub plan: Plan,
    pub begin: Begin,
    pub change: Option<Change>,
    pub parent_id: Option<SagaId>,
    pub deadline: Duration,
}

/// One call under a key.
pub(super) struct Call {
    app: App,
    business: BusinessId,
    key: Key,
    /// Under which id tenders know the legs of what the key begins; it has the bucket of all that belongs to the redemption.
    key_id: LegsId,
    form: RequestForm,
    on_deadline: OnDeadline,
    /// Until when it waits for its saga.
    until: Instant,
    /// When it answers, whatever hangs.
    end: Instant,
    /// Its saga, once that is known to be durable.
    written: OnceLock<SagaId>,
    /// Set once its saga is known to be on its way back.
    turned: OnceLock<()>,
}

impl Call {
    /// A call that has to be answered by `deadline`.
    pub fn new(
        app: App,
        business: BusinessId,
        (key, key_id): (Key, LegsId),
        form: RequestForm,
        deadline: Instant,
    ) -> Self {
        let (until, end) = (deadline - MARGIN, deadline - MARGIN / 2);
        let (written, turned) = (OnceLock::new(), OnceLock::new());
        let on_deadline = OnDeadline::Continue;
        Self { app, business, key, key_id, form, on_deadline, until, end, written, turned }
    }

    /// The same call, whose saga is compensated when its time is up.
    pub fn cancelled_on_deadline(self) -> Self {
        Self { on_deadline: OnDeadline::Cancel, until: self.until - CANCELLING, ..self }
    }

    /// The key's saga, once it is known to be durable.
    pub fn written(&self) -> Option<SagaId> {
        self.written.get().copied()
    }

    /// Carries the operation out, or says what became of it.
    pub async fn answer(&self, operation: &impl Operation) -> Result<Response, Failure> {
        let answer = tokio::time::timeout_at(self.end, self.drive(operation)).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::unknown(&"no answer in time")));
        match (answer, self.written()) {
            (Err(failure), Some(id)) if failure.is_unknown() => {
                // Who asks for everything back hears 202 only once that is durable.
                let is_as_asked = self.on_deadline == OnDeadline::Continue || self.turned.get().is_some();
                if is_as_asked { accepted(operation.under_way(id)) } else { Err(failure.about(id)) }
            }
            (answer, _) => answer,
        }
    }

    /// A saga of this call.
    pub fn saga(&self, id: SagaId, draft: Draft) -> NewSaga<Sagas> {
        let Draft { kind, plan, begin, change, parent_id, deadline } = draft;
        NewSaga {
            id,
            key: self.key.clone(),
            request_hash: Some(kept(&self.form)),
            kind,
            legs_id: self.key_id.0,
            parent_id,
            plan: Arc::new(plan),
            deadline,
            trace_id: trace::current().map(|trace| trace.id()),
            change,
            begin,
            cancel_parent_key: false,
        }
    }

    async fn drive(&self, operation: &impl Operation) -> Result<Response, Failure> {
        if !self.app.engine.is_available() {
            return Err(Failure::unknown(&"the saga database is away"));
        }
        let intent = self.app.engine.intend(&self.key);
        if let Err(refused) = operation.admit() {
            return self.refuse(operation, intent, refused).await;
        }
        if operation.looks_up_first() {
            let stored = self.app.engine.find(&self.key).await.map_err(|error| Failure::read(&error))?;
            if let Some(stored) = stored {
                drop(intent);
                return self.answer_stored(operation, &stored).await;
            }
        }
        for _ in 0..TRIES {
            let id = SagaId(fresh_id(Bucket::of_key(self.key_id)));
            let saga = match operation.plan(self, id).await {
                Ok(saga) => saga,
                Err(Unplanned::Refused(refused)) => return self.refuse(operation, intent, refused).await,
                Err(Unplanned::Failed(failure)) => return Err(failure),
            };
            match self.app.engine.submit_for(&intent, saga).await {
                Ok(Submitted::Running) => {
                    drop(intent);
                    let _ = self.written.set(id);
                    return self.wait(operation, id, false).await;
                }
                Ok(Submitted::Refused(response)) => return Ok(stored_answer(&response, false)),
                Ok(Submitted::Stale) => {}
                // Somebody else has the key; or nobody has, and an operator has had the legs of its lost saga taken back.
                Ok(Submitted::KeyTaken) if self.is_taken_back().await? => {
                    return Err(Failure::key_cancelled());
                }
                Ok(Submitted::KeyTaken | Submitted::Cancelled | Submitted::Withheld)
                | Err(StoreError::Unavailable | StoreError::Busy(_)) => break,
                Err(error @ StoreError::Refused(_)) => return Err(Failure::internal(&error)),
                Err(error @ StoreError::Unknown) => return Err(Failure::unknown(&error)),
            }
        }
        self.refuse(operation, intent, Refused::overloaded()).await
    }

    async fn is_taken_back(&self) -> Result<bool, Failure> {
        let is_taken_back = self.app.engine.is_taken_back(self.key_id.0).await;
        is_taken_back.map_err(|error| Failure::read(&error))
    }

    /// No refusal is told before what the key says: its answer if it has one, and the refusal only if it is unused.
    async fn refuse(
        &self,
        operation: &impl Operation,
        intent: Intent,
        refused: Refused,
    ) -> Result<Response, Failure> {
        match self.app.engine.withdraw(intent).await.map_err(|error| Failure::read(&error))? {
            Withdrawn::Used(stored) => self.answer_stored(operation, &stored).await,
            Withdrawn::Unused(proof) => Err(Failure::not_applied(refused, proof)),
            Withdrawn::InDoubt => {
                Err(Failure::unknown(&"an earlier call under this key may still be written"))
            }
        }
    }

    /// Answers under a key that was used before.
    async fn answer_stored(&self, operation: &impl Operation, stored: &Stored) -> Result<Response, Failure> {
        if stored.key_cancelled {
            return Err(Failure::key_cancelled());
        }
        require_same(&self.form, stored)?;
        if !matches!(stored.state, SagaState::Completed | SagaState::Compensated | SagaState::Resolved) {
            let _ = self.written.set(stored.id);
        }
        self.wait(operation, stored.id, true).await
    }

    async fn wait(
        &self,
        operation: &impl Operation,
        id: SagaId,
        is_replay: bool,
    ) -> Result<Response, Failure> {
        let waited = self.app.engine.wait(id, self.until).await.map_err(|error| Failure::read(&error))?;
        let waited = match (waited, self.on_deadline) {
            (Waited::Pending(_), OnDeadline::Cancel) => self.give_up(id).await?,
            (waited, _) => waited,
        };
        match waited {
            Waited::Answered(response) => Ok(stored_answer(&response, is_replay)),
            Waited::KeyCancelled => Err(Failure::key_cancelled()),
            Waited::Pending(_) => accepted(self.view(operation, id).await?),
            Waited::Settled => Ok(replayed(Json(self.view(operation, id).await?).into_response(), is_replay)),
        }
    }

    async fn view(&self, operation: &impl Operation, id: SagaId) -> Result<Redemption, Failure> {
        let (pool, business, redemption) =
            (self.app.keyed_pool.clone(), self.business.clone(), operation.redemption(id));
        let view = async move { redemptions::by_id(&pool, &business, redemption).await };
        let view = self.app.engine.to_its_end(view).await;
        view.map_err(|error| Failure::read(&error))?
            .ok_or_else(|| Failure::unknown(&"the redemption has no row").about(id))
    }

    /// The caller's time is up and it does not want the value taken behind its back: what it hears is that everything goes
    /// back, once that is durable, or what became of it before.
    async fn give_up(&self, id: SagaId) -> Result<Waited, Failure> {
        let engine = &self.app.engine;
        for _ in 0..LOOKS {
            let stored = engine.find_by_id(id).await.map_err(|error| Failure::read(&error))?;
            let stored = stored.ok_or_else(|| Failure::unknown(&"the saga has no row").about(id))?;
            if stored.backward && matches!(stored.state, SagaState::Compensating | SagaState::DeadLetter) {
                let _ = self.turned.set(());
                return Ok(Waited::Pending(stored.state));
            }
            if stored.state != SagaState::Running {
                return match engine.wait(id, Instant::now()).await.map_err(|error| Failure::read(&error))? {
                    // Under review, in the other direction.
                    Waited::Pending(_) => Err(Failure::unknown(&"it cannot be compensated now").about(id)),
                    waited => Ok(waited),
                };
            }
            match engine.compensate(&stored, Reason::Unreachable, false).await {
                Ok(CompensateOutcome::Done) => {
                    let _ = self.turned.set(());
                    return Ok(Waited::Pending(SagaState::Compensating));
                }
                Ok(CompensateOutcome::Moved) => {}
                Err(error) => return Err(Failure::unknown(&error).about(id)),
            }
        }
        Err(Failure::unknown(&"it moves too fast to be compensated").about(id))
    }
}

/// 202: where the redemption stands, and where to look again.
fn accepted(view: Redemption) -> Result<Response, Failure> {
    let location = HeaderValue::from_str(&view.links.own).map_err(|error| Failure::internal(&error))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// The answer that is stored under a key, byte for byte.
fn stored_answer(response: &saga::Response, is_replay: bool) -> Response {
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let status = if is_replay && status == StatusCode::CREATED { StatusCode::OK } else { status };
    let kind = if status.is_success() { "application/json" } else { service::problem::PROBLEM_JSON };
    let answer = (status, [(header::CONTENT_TYPE, kind)], response.body.clone()).into_response();
    replayed(answer, is_replay)
}

fn replayed(mut answer: Response, is_replay: bool) -> Response {
    if is_replay {
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    answer
}
