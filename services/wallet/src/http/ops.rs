//! `/ops`: sagas with their timelines, dead letters, and what an operator may do about them.

use api::{Code, Problem, id::is_visible_ascii, tender::Page as Listing, wallet::TenderKind};
use axum::{Json, extract::State};
use saga::{
    SagaId,
    machine::State as SagaState,
    ops::{DeadLetterDetail, DeadLetterLine, Order, Ordered, Page, Remedy, SagaDetail, SagaFilter, SagaLine},
    state_name,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::{
    ApiError,
    auth::{Allow, Caller, Operate},
    extract::{Path, Query, page_size},
    json::Body,
};
use uuid::Uuid;

use super::listing;
use crate::app::App;

/// Longest reason.
const REASON_MAX: usize = 1_000;

/// Filters of the list of sagas.
#[derive(Debug, Deserialize)]
pub(super) struct SagaFilters {
    status: Option<String>,
    older_than: Option<i64>,
    tender: Option<TenderKind>,
    customer: Option<String>,
    code: Option<String>,
    limit: Option<i64>,
    cursor: Option<Uuid>,
}

/// Filters of the list of dead letters.
#[derive(Debug, Deserialize)]
pub(super) struct DeadLetterFilters {
    status: Option<String>,
    limit: Option<i64>,
    cursor: Option<Uuid>,
}

/// Body of a replay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayRequest {
    operation_id: String,
    reason: String,
    #[serde(default)]
    dry_run: bool,
}

/// Body of a resolution.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolveRequest {
    operation_id: String,
    reason: String,
    reference: String,
}

/// What came of an operator's order.
#[derive(Debug, Serialize)]
pub(super) struct RemedyAnswer {
    dead_letter_id: Uuid,
    #[serde(flatten)]
    ordered: Ordered,
}

/// Sagas, newest first.
pub(super) async fn list_sagas(
    State(app): State<App>,
    caller: Allow<Operate>,
    Query(filters): Query<SagaFilters>,
) -> Result<Json<Listing<SagaLine>>, ApiError> {
    let state = filters.status.as_deref().map(state_of).transpose()?;
    let limit = page_size(filters.limit)?;
    if filters.older_than.is_some_and(|seconds| seconds < 0) {
        return Err(Problem::invalid("older_than", "is a number of seconds").into());
    }
    let plan_contains = plan_filter(filters.customer.as_deref(), filters.tender);
    let filter = SagaFilter { state, older_than_s: filters.older_than, plan_contains, code: filters.code };
    let page = Page { after: filters.cursor, limit: limit + 1 };
    let lines = app.engine.list_sagas(caller.business_id.as_str(), &filter, &page).await?;
    Ok(Json(listing(lines, limit, |line| line.saga_id.0)))
}

/// A saga with its plan and timeline.
pub(super) async fn show_saga(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
) -> Result<Json<SagaDetail>, ApiError> {
    let saga = app.engine.show_saga(caller.business_id.as_str(), SagaId(id)).await?;
    saga.map(Json).ok_or_else(ApiError::not_found)
}

/// Dead letters: open ones, or with `status=all` also those that were dealt with.
pub(super) async fn list_dead_letters(
    State(app): State<App>,
    caller: Allow<Operate>,
    Query(filters): Query<DeadLetterFilters>,
) -> Result<Json<Listing<DeadLetterLine>>, ApiError> {
    let with_closed = match filters.status.as_deref() {
        None | Some("open") => false,
        Some("all") => true,
        Some(_) => return Err(Problem::invalid("status", "must be open or all").into()),
    };
    let limit = page_size(filters.limit)?;
    let page = Page { after: filters.cursor, limit: limit + 1 };
    let lines = app.engine.list_dead_letters(caller.business_id.as_str(), with_closed, &page).await?;
    Ok(Json(listing(lines, limit, |line| line.dead_letter_id)))
}

/// A dead letter.
pub(super) async fn show_dead_letter(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
) -> Result<Json<DeadLetterDetail>, ApiError> {
    let letter = app.engine.show_dead_letter(caller.business_id.as_str(), id).await?;
    letter.map(Json).ok_or_else(ApiError::not_found)
}

/// Takes a parked saga up again, in the direction that was written.
pub(super) async fn replay_dead_letter(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
    body: Result<Body<ReplayRequest>, ApiError>,
) -> Result<Json<RemedyAnswer>, ApiError> {
    let order = body.and_then(|body| {
        let ReplayRequest { operation_id, reason, dry_run } = body.value;
        order(&caller, operation_id, reason, None, dry_run)
    });
    remedy(&app, &caller, id, Remedy::Replay, order).await
}

/// Closes a parked saga that was settled by hand.
pub(super) async fn resolve_dead_letter(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
    body: Result<Body<ResolveRequest>, ApiError>,
) -> Result<Json<RemedyAnswer>, ApiError> {
    let order = body.and_then(|body| {
        let ResolveRequest { operation_id, reason, reference } = body.value;
        if !is_visible_ascii(&reference, 128) {
            return Err(Problem::invalid("/reference", "must be 1 to 128 visible ASCII characters").into());
        }
        order(&caller, operation_id, reason, Some(reference), false)
    });
    remedy(&app, &caller, id, Remedy::Resolve, order).await
}

fn order(
    caller: &Caller,
    operation_id: String,
    reason: String,
    reference: Option<String>,
    dry_run: bool,
) -> Result<Order, ApiError> {
    if !is_visible_ascii(&operation_id, 128) {
        return Err(Problem::invalid("/operation_id", "must be 1 to 128 visible ASCII characters").into());
    }
    if reason.trim().is_empty() || reason.len() > REASON_MAX {
        return Err(Problem::invalid("/reason", "must say why, in at most 1000 bytes").into());
    }
    let (business_id, actor) = (caller.business_id.as_str().to_owned(), caller.subject.clone());
    Ok(Order { business_id, actor, operation_id, reason, reference, dry_run })
}

async fn remedy(
    app: &App,
    caller: &Caller,
    id: Uuid,
    remedy: Remedy,
    order: Result<Order, ApiError>,
) -> Result<Json<RemedyAnswer>, ApiError> {
    let order = match order {
        Ok(order) => order,
        // What does not exist is 404, whatever is wrong with the body.
        Err(error) => {
            let letter = app.engine.show_dead_letter(caller.business_id.as_str(), id).await?;
            return Err(letter.map_or_else(ApiError::not_found, |_| error));
        }
    };
    match app.engine.remedy(id, remedy, order).await? {
        Ordered::NotFound => Err(ApiError::not_found()),
        Ordered::Unreadable => Err(ApiError::new(
            Code::AlreadyFinal,
            "This version cannot read the saga; it can only be resolved.",
        )),
        ordered => Ok(Json(RemedyAnswer { dead_letter_id: id, ordered })),
    }
}

fn state_of(name: &str) -> Result<SagaState, ApiError> {
    use SagaState::{Compensated, Compensating, Completed, DeadLetter, Resolved, Running};
    [Running, Compensating, Completed, Compensated, DeadLetter, Resolved]
        .into_iter()
        .find(|state| state_name(*state) == name)
        .ok_or_else(|| Problem::invalid("status", "is no state of a saga").into())
}

/// What the plan of a customer's saga, or of one with a leg on a tender, contains.
fn plan_filter(customer: Option<&str>, tender: Option<TenderKind>) -> Option<Value> {
    let mut document = serde_json::Map::new();
    if let Some(customer) = customer {
        document.insert("customer_id".to_owned(), json!(customer));
    }
    if let Some(tender) = tender {
        document.insert("legs".to_owned(), json!([{ "tender": tender }]));
    }
    (!document.is_empty()).then_some(Value::Object(document))
}
