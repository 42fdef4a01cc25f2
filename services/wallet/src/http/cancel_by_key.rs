//! `POST /wallet/redemptions/cancel-by-key`: the till's timeout reversal. Like an ISO 8583 reversal advice it cannot be
//! refused: it always answers 200, once what it answers is durable. Until then all that can be said is 503 `unknown`, and the till
//! repeats it.

use std::{sync::Arc, time::Duration};

use api::{
    BusinessId, LegsId, Problem,
    derive::{Bucket, fresh_id},
    id::is_visible_ascii,
    wallet::{CancelByKeyAnswer, CancelByKeyRequest, CancelResult, RedemptionStatus as Status},
};
use axum::{Json, extract::State};
use saga::{
    Begin, CompensateOutcome, Key, NewSaga, Reason, SagaId, StoreError, Stored, Submitted,
    machine::{Kind, State as SagaState},
};
use service::{
    auth::{Allow, Caller, Till},
    json::Body,
    trace,
};

use super::{keyed::Failure, redemptions};
use crate::{
    app::App,
    plan::{Plan, REDEEM, ReversalReason},
    reversal,
    sagas::Sagas,
};

/// Looks again this often when the redemption moves between a look and a step.
const LOOKS: usize = 20;
/// How long the till waits at most.
const PATIENCE: Duration = Duration::from_millis(4_900);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// For a tombstone, whose saga never runs.
const NO_TIME: Duration = Duration::ZERO;

/// Cancel a redeem by its key, whatever became of it. It cannot be refused.
#[utoipa::path(post, path = "/redemptions/cancel-by-key", request_body = CancelByKeyRequest,
    responses((status = 200, description = "Durable: nothing stays taken under this key", body = CancelByKeyAnswer)))]
pub(super) async fn cancel_by_key(
    State(app): State<App>,
    caller: Allow<Till>,
    body: Body<CancelByKeyRequest>,
) -> Result<Json<CancelByKeyAnswer>, Failure> {
    let key = body.value.idempotency_key;
    if !is_visible_ascii(&key, 255) {
        let problem = Problem::invalid("/idempotency_key", "must be 1 to 255 visible ASCII characters");
        return Err(Failure::of_the_call(problem.into()));
    }
    let key = Key {
        business_id: caller.business_id.as_str().to_owned(),
        operation: REDEEM.to_owned(),
        scope: String::new(),
        key,
    };
    if !app.engine.is_available() {
        return Err(Failure::unknown(&"the saga database is away"));
    }
    let cancel = Cancel { app, caller: caller.into_caller(), key };
    let answer = tokio::time::timeout(PATIENCE, cancel.answer()).await;
    answer.unwrap_or_else(|_| Err(Failure::unknown(&"no answer in time"))).map(Json)
}

struct Cancel {
    app: App,
    caller: Caller,
    key: Key,
}

impl Cancel {
    async fn answer(&self) -> Result<CancelByKeyAnswer, Failure> {
        for _ in 0..LOOKS {
            if let Some(answer) = self.look().await? {
                return Ok(answer);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Failure::unknown(&"the redemption moves too fast to be cancelled"))
    }

    /// One look and one step; `None` if the redemption moved in between.
    async fn look(&self) -> Result<Option<CancelByKeyAnswer>, Failure> {
        let engine = &self.app.engine;
        let Some(stored) = engine.find(&self.key).await.map_err(|error| Failure::read(&error))? else {
            let tombstone = tombstone(&self.caller.business_id, &self.key);
            let submitted = engine.submit(tombstone).await.map_err(|error| not_durable(&error))?;
            return Ok((submitted == Submitted::Cancelled).then_some(CancelByKeyAnswer {
                result: CancelResult::CancelledBeforeArrival,
                redemption_id: None,
            }));
        };
        if is_tombstone(&stored) {
            let result = CancelResult::CancelledBeforeArrival;
            return Ok(Some(CancelByKeyAnswer { result, redemption_id: None }));
        }
        self.require_own_location(&stored).await?;
        let result = match stored.state {
            SagaState::Running => {
                let outcome = engine.compensate(&stored, Reason::Cancelled, true).await;
                let outcome = outcome.map_err(|error| not_durable(&error))?;
                (outcome == CompensateOutcome::Done).then_some(CancelResult::WillReverse)
            }
            SagaState::Completed => self.cancel_completed(&stored).await?,
            SagaState::Compensating | SagaState::DeadLetter => {
                self.cancel_key(&stored, CancelResult::WillReverse).await?
            }
            SagaState::Compensated => self.cancel_key(&stored, CancelResult::AlreadyReversed).await?,
            SagaState::Resolved => self.cancel_key(&stored, CancelResult::Resolved).await?,
        };
        Ok(result.map(|result| CancelByKeyAnswer { result, redemption_id: Some(stored.id.0) }))
    }

    /// What a till of another location did does not exist.
    async fn require_own_location(&self, stored: &Stored) -> Result<(), Failure> {
        if self.caller.location_ids.is_none() {
            return Ok(());
        }
        let (pool, caller, id) = (self.app.keyed_pool.clone(), self.caller.clone(), stored.id.0);
        let look = async move { redemptions::visible(&pool, &caller, id).await };
        let found = self.app.engine.to_its_end(look).await;
        let found = found.map_err(|error| Failure::read(&error))?;
        found.map(drop).ok_or_else(Failure::not_found)
    }

    async fn cancel_key(
        &self,
        stored: &Stored,
        result: CancelResult,
    ) -> Result<Option<CancelResult>, Failure> {
        let is_done = self.app.engine.cancel_key(stored).await.map_err(|error| Failure::read(&error))?;
        Ok(is_done.then_some(result))
    }

    /// A completed or authorized redemption is given back in full by a saga of its own.
    async fn cancel_completed(&self, stored: &Stored) -> Result<Option<CancelResult>, Failure> {
        let engine = &self.app.engine;
        let (pool, business, id) =
            (self.app.keyed_pool.clone(), self.caller.business_id.clone(), stored.id.0);
        let look = async move { reversal::load(&pool, &business, id).await };
        let redemption = engine.to_its_end(look).await;
        let Some(redemption) = redemption.map_err(|error| Failure::read(&error))? else { return Ok(None) };
        let why = match redemption.status {
            // The sweep reverses it once there is room; what cannot be refused need not be carried out at once.
            Status::Completed | Status::PartiallyRefunded | Status::Authorized
                if redemption.is_short_of_room(engine) =>
            {
                return self.request(stored).await;
            }
            Status::Completed | Status::PartiallyRefunded => ReversalReason::Reversal,
            Status::Authorized => ReversalReason::Void,
            // A forward-only saga is never compensated: the redemption is reversed when that is done.
            Status::Capturing | Status::Reversing | Status::UnderReview => return self.request(stored).await,
            // What is in force is what the operator who settled it says.
            Status::Resolved => return self.cancel_key(stored, CancelResult::Resolved).await,
            // Not yet as its saga says: looked at again.
            Status::Pending => return Ok(None),
            Status::Declined | Status::Voided | Status::Expired | Status::Reversed | Status::Refunded => {
                return self.cancel_key(stored, CancelResult::AlreadyReversed).await;
            }
        };
        let saga = reversal::saga(&redemption, why)
            .ok_or_else(|| Failure::unknown(&"a redemption in force without legs").about(stored.id))?;
        let submitted = self.app.engine.submit(saga).await;
        let submitted = submitted.map_err(|error| not_durable(&error))?;
        Ok(matches!(submitted, Submitted::Running).then_some(CancelResult::WillReverse))
    }

    /// Has it reversed by the sweep. The request first: should the key not be cancelled after it, the sweep's saga cancels it.
    async fn request(&self, stored: &Stored) -> Result<Option<CancelResult>, Failure> {
        let (pool, id) = (self.app.keyed_pool.clone(), stored.id.0);
        let requested = async move { reversal::request(&pool, id).await };
        let is_requested = self.app.engine.to_its_end(requested).await;
        if !is_requested.map_err(|error| Failure::read(&error))? {
            return Ok(None);
        }
        self.cancel_key(stored, CancelResult::WillReverse).await
    }
}

fn is_tombstone(stored: &Stored) -> bool {
    stored.request_hash.is_none()
}

fn tombstone(business: &BusinessId, key: &Key) -> NewSaga<Sagas> {
    let legs_id = LegsId::derive(business, REDEEM, &key.scope, &key.key);
    NewSaga {
        id: SagaId(fresh_id(Bucket::of_key(legs_id))),
        key: key.clone(),
        request_hash: None,
        kind: Kind::Compensable,
        legs_id: legs_id.0,
        parent_id: None,
        plan: Arc::new(Plan::Nothing),
        deadline: NO_TIME,
        trace_id: trace::current().map(|trace| trace.id()),
        change: None,
        begin: Begin::Cancelled,
        cancel_parent_key: false,
    }
}

/// Nothing is said until it is durable; the till repeats its cancel.
fn not_durable(error: &StoreError) -> Failure {
    match error {
        StoreError::Refused(_) => Failure::internal(error),
        StoreError::Unavailable | StoreError::Busy(_) | StoreError::Unknown => Failure::unknown(error),
    }
}
