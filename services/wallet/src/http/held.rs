//! What capture and void share: an authorized redemption is moved on, once, under a key of the redemption's own.
//!
//! Round trips on the happy path: two reads of the redemption, one of the key, one group commit (T1), one call to each tender
//! in parallel, one group commit (T2).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::{
    Code, LegsId, Problem,
    derive::RequestForm,
    wallet::{Redemption, RedemptionStatus as Status},
};
use axum::response::Response;
use saga::{Begin, Key, NewSaga, SagaId, machine::Kind};
use service::{ApiError, auth::Caller, extract::IdempotencyKey, trace};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    keyed::{Call, Draft, Failure, Operation, Refused, Unplanned},
    redemptions,
};
use crate::{
    app::App,
    plan::Plan,
    redemption::Change,
    reversal::{self, Reversible},
    sagas::{Sagas, declined_response},
};

/// How long the caller waits before it hears 202, less what every call under a key leaves to spare.
const PATIENCE: Duration = Duration::from_secs(5);

/// A redemption that its caller may see, as it was found.
pub(super) struct Held {
    app: App,
    caller: Caller,
    deadline: Instant,
    shown: Redemption,
    held: Reversible,
}

/// What is done to a held redemption.
pub(super) struct Step<P> {
    /// The operation's name in keys and paths.
    pub operation: &'static str,
    /// The plan for the redemption as it is.
    pub plan: P,
}

impl Held {
    /// The redemption; what another business or location did does not exist.
    pub async fn find(app: &App, caller: Caller, id: Uuid) -> Result<Self, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let found = tokio::time::timeout_at(deadline, load(app, &caller, id)).await;
        let (shown, held) = found.unwrap_or_else(|_| Err(Failure::unknown(&"no answer in time")))?;
        Ok(Self { app: app.clone(), caller, deadline, shown, held })
    }

    /// Moves the redemption by a step, or says what is stored under the key.
    pub async fn answer<P>(
        self,
        key: Result<IdempotencyKey, ApiError>,
        form: RequestForm,
        step: Step<P>,
    ) -> Result<Response, Failure>
    where
        P: Fn(&Reversible, Redemption) -> Result<Plan, Box<Problem>> + Send + Sync,
    {
        let IdempotencyKey(key) = key.map_err(Failure::of_the_call)?;
        let key = Key {
            business_id: self.caller.business_id.as_str().to_owned(),
            operation: step.operation.to_owned(),
            // A key of a call on a redemption is the redemption's own.
            scope: self.held.id.to_string(),
            key,
        };
        let Self { app, caller, deadline, shown, held } = self;
        let business = caller.business_id.clone();
        let key_id = LegsId::of_child(&business, step.operation, held.id, &key.key);
        let call = Call::new(app.clone(), business, (key, key_id), form, deadline);
        let (id, found) = (held.id, Mutex::new(Some((shown.clone(), held))));
        call.answer(&Moving { app, caller, id, shown, found, step }).await
    }
}

async fn load(app: &App, caller: &Caller, id: Uuid) -> Result<(Redemption, Reversible), Failure> {
    if !app.engine.is_available() {
        return Err(Failure::unknown(&"the saga database is away"));
    }
    let (pool, caller) = (app.keyed_pool.clone(), caller.clone());
    let reads = async move {
        // What is planned on first, what is shown after it: the figures of a redemption that held value are there by then, and
        // whether it still holds value is judged when the saga is written.
        let Some(held) = reversal::load(&pool, &caller.business_id, id).await? else {
            return Ok::<_, sqlx::Error>(None);
        };
        Ok(redemptions::visible(&pool, &caller, id).await?.map(|shown| (shown, held)))
    };
    let found = app.engine.to_its_end(reads).await;
    found.map_err(|error| Failure::read(&error))?.ok_or_else(Failure::not_found)
}

/// A step of a redemption under a key.
struct Moving<P> {
    app: App,
    caller: Caller,
    id: Uuid,
    /// As it was found.
    shown: Redemption,
    /// The same, for the first plan; the next one looks again.
    found: Mutex<Option<(Redemption, Reversible)>>,
    step: Step<P>,
}

impl<P> Operation for Moving<P>
where
    P: Fn(&Reversible, Redemption) -> Result<Plan, Box<Problem>> + Send + Sync,
{
    fn admit(&self) -> Result<(), Refused> {
        let engine = &self.app.engine;
        if !engine.is_ready() {
            return Err(Refused::overloaded());
        }
        // What takes further what exists is not counted against the bounds for new work: it has room of its own.
        let business = self.caller.business_id.as_str();
        let mut tenders = self.shown.tenders.iter().map(|tender| tender.kind);
        let full = tenders.find(|kind| engine.is_full_to_go_on(kind.as_str(), business));
        full.map_or(Ok(()), |kind| Err(Refused::busy(kind)))
    }

    fn looks_up_first(&self) -> bool {
        true
    }

    async fn plan(&self, call: &Call, id: SagaId) -> Result<NewSaga<Sagas>, Unplanned> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (shown, held) = match found {
            Some(found) => found,
            None => load(&self.app, &self.caller, self.id).await?,
        };
        if matches!(held.status, Status::Pending | Status::UnderReview) {
            return Err(Unplanned::Refused(Refused::undecided()));
        }
        let planned = may_move(&held).and_then(|()| (self.step.plan)(&held, shown));
        Ok(self.saga(call, id, planned))
    }

    fn redemption(&self, _: SagaId) -> Uuid {
        self.id
    }

    fn under_way(&self, _: SagaId) -> Redemption {
        self.shown.clone()
    }
}

impl<P> Moving<P> {
    fn saga(&self, call: &Call, id: SagaId, planned: Result<Plan, Box<Problem>>) -> NewSaga<Sagas> {
        let (kind, plan, begin, change) = match planned {
            Ok(plan) => {
                let change = Change::started_by(&plan);
                (Kind::ForwardOnly, plan, Begin::Run, change)
            }
            Err(mut problem) => {
                problem.redemption_id = Some(self.id);
                let path = format!("/api/v1/wallet/redemptions/{}/{}", self.id, self.step.operation);
                let trace_id = trace::current().map(|trace| trace.id());
                let refused = Begin::Refused(declined_response(*problem, &path, trace_id));
                (Kind::Compensable, Plan::Nothing, refused, None)
            }
        };
        let (parent_id, deadline) = (Some(SagaId(self.id)), reversal::DEADLINE);
        call.saga(id, Draft { kind, plan, begin, change, parent_id, deadline })
    }
}

/// Whether a redemption is authorized; whether its hold has ended, or it was asked back, is judged again when the saga is written.
fn may_move(held: &Reversible) -> Result<(), Box<Problem>> {
    let refusal = |code, detail| Err(Box::new(Problem::new(code, detail)));
    match held.status {
        Status::Authorized if held.is_over => {
            refusal(Code::HoldExpired, "The hold has ended; its value goes back.")
        }
        Status::Authorized if held.is_cancelled => {
            refusal(Code::AlreadyFinal, "The redemption was cancelled; its value goes back.")
        }
        Status::Authorized => Ok(()),
        Status::Expired => refusal(Code::HoldExpired, "The hold has ended; its value went back."),
        _ => refusal(Code::AlreadyFinal, "The redemption holds nothing any more."),
    }
}
