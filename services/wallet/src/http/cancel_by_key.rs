//! `POST /wallet/redemptions/cancel-by-key`: the till's timeout reversal. Like an ISO 8583 reversal advice it cannot be
//! refused: it always answers 200, once what it answers is durable.

use std::{sync::Arc, time::Duration};

use api::{
    LegsId, Problem,
    id::is_visible_ascii,
    wallet::{CancelByKeyAnswer, CancelByKeyRequest, CancelResult},
};
use axum::{Json, extract::State};
use saga::{
    Begin, Key, NewSaga, Reason, SagaId, StoreError, Stored, Submitted, TurnBack,
    machine::{Kind, State as SagaState},
};
use service::{
    ApiError,
    auth::{Allow, Till},
    json::Body,
    trace,
};

use super::redeem::OPERATION;
use crate::{
    app::App,
    plan::{Plan, ReturnReason},
    returning,
    sagas::Sagas,
};

/// Looks again this often when the redemption moves between a look and a step.
const LOOKS: usize = 20;
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
) -> Result<Json<CancelByKeyAnswer>, ApiError> {
    let key = body.value.idempotency_key;
    if !is_visible_ascii(&key, 255) {
        return Err(Problem::invalid("/idempotency_key", "must be 1 to 255 visible ASCII characters").into());
    }
    let key = Key {
        business_id: caller.business_id.as_str().to_owned(),
        operation: OPERATION.to_owned(),
        scope: String::new(),
        key,
    };
    app.require_database()?;
    for _ in 0..LOOKS {
        if let Some(answer) = look(&app, &caller.business_id, &key).await? {
            return Ok(Json(answer));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(ApiError::overloaded())
}

/// One look and one step; `None` if the redemption moved in between.
async fn look(
    app: &App,
    business: &api::BusinessId,
    key: &Key,
) -> Result<Option<CancelByKeyAnswer>, ApiError> {
    let Some(stored) = app.engine.find(key).await? else {
        let submitted =
            app.engine.submit(tombstone(business, key)).await.map_err(|error| not_durable(&error))?;
        return Ok((submitted == Submitted::Cancelled).then_some(CancelByKeyAnswer {
            result: CancelResult::CancelledBeforeArrival,
            redemption_id: None,
        }));
    };
    let result = match stored.state {
        SagaState::Running => {
            let turned = app
                .engine
                .turn_back(&stored, Reason::Cancelled, true)
                .await
                .map_err(|error| not_durable(&error))?;
            (turned == TurnBack::Done).then_some(CancelResult::WillReverse)
        }
        SagaState::Completed => cancel_completed(app, business, &stored).await?,
        SagaState::Compensating | SagaState::DeadLetter => {
            app.engine.cancel_key(&stored).await?.then_some(CancelResult::WillReverse)
        }
        SagaState::Compensated if is_tombstone(&stored) => Some(CancelResult::CancelledBeforeArrival),
        SagaState::Compensated => {
            app.engine.cancel_key(&stored).await?.then_some(CancelResult::AlreadyReversed)
        }
        SagaState::Resolved => app.engine.cancel_key(&stored).await?.then_some(CancelResult::SettledByHand),
    };
    let redemption_id = if is_tombstone(&stored) { None } else { Some(stored.id.0) };
    Ok(result.map(|result| CancelByKeyAnswer { result, redemption_id }))
}

/// A completed or authorized redemption is given back in full by a saga of its own.
async fn cancel_completed(
    app: &App,
    business: &api::BusinessId,
    stored: &Stored,
) -> Result<Option<CancelResult>, ApiError> {
    let Some(redemption) = returning::load(&app.pool, business, stored.id.0).await? else { return Ok(None) };
    let why = match redemption.status.as_str() {
        "completed" | "partially_refunded" => ReturnReason::Reversal,
        "authorized" => ReturnReason::Void,
        // Forward-only sagas do not turn: it goes back when they are done.
        "capturing" | "reversing" | "under_review" => {
            let is_taken =
                returning::request(&app.pool, redemption.id).await? && app.engine.cancel_key(stored).await?;
            return Ok(is_taken.then_some(CancelResult::WillReverse));
        }
        "resolved" => return Ok(app.engine.cancel_key(stored).await?.then_some(CancelResult::SettledByHand)),
        _ => return Ok(app.engine.cancel_key(stored).await?.then_some(CancelResult::AlreadyReversed)),
    };
    let saga = returning::saga(&redemption, why);
    let submitted = app.engine.submit(saga).await.map_err(|error| not_durable(&error))?;
    Ok(matches!(submitted, Submitted::Running).then_some(CancelResult::WillReverse))
}

fn is_tombstone(stored: &Stored) -> bool {
    stored.request_hash.is_empty()
}

fn tombstone(business: &api::BusinessId, key: &Key) -> NewSaga<Sagas> {
    NewSaga {
        id: SagaId::fresh(),
        key: key.clone(),
        request_hash: Vec::new(),
        kind: Kind::Compensable,
        legs_id: LegsId::derive(business, OPERATION, &key.scope, &key.key).0,
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
fn not_durable(error: &StoreError) -> ApiError {
    match error {
        StoreError::Refused(_) => ApiError::internal(error),
        StoreError::Unavailable | StoreError::Unknown => ApiError::overloaded(),
    }
}
