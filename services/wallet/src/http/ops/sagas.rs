//! `GET /ops/sagas` and `GET /ops/sagas/{id}`.

use api::{
    Code, CustomerId, Problem,
    ops::{SagaDetail, SagaLine, StoredAnswer, TimelineEvent},
    tender::Page as Listing,
    wallet::TenderKind,
};
use axum::{Json, extract::State};
use saga::{
    SagaId,
    machine::{Kind, State as SagaState},
    ops::{self, Page, SagaFilter},
    state_name,
};
use serde::Deserialize;
use serde_json::Value;
use service::{
    ApiError, Clock,
    auth::{Allow, Operate},
    extract::{Path, Query, page_size},
};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{check_age, dead_letters, is_reason, legs, plan_filter};
use crate::{
    app::App,
    http::{listing, redemptions},
};

/// A page looks at no more redemptions of a customer than these.
const CUSTOMERS_REDEMPTIONS: usize = 1_000;

/// Filters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filters {
    /// In this state: `running`, `compensating`, `completed`, `compensated`, `dead_letter` or `resolved`.
    #[param(pattern = "^(running|compensating|completed|compensated|dead_letter|resolved)$")]
    status: Option<String>,
    /// With a leg on this tender.
    tender: Option<TenderKind>,
    /// Turned back or parked for this reason, or because a leg was declined with this code.
    code: Option<String>,
    /// Older than so many seconds.
    #[param(minimum = 0, maximum = 3_162_240_000_i64)]
    older_than: Option<i64>,
    /// Of this customer.
    customer: Option<CustomerId>,
    /// Of this idempotency key.
    key: Option<String>,
    /// Lines of a page; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
}

/// Sagas, newest first.
#[utoipa::path(get, path = "/sagas", params(Filters),
    responses((status = 200, description = "A page", body = Listing<SagaLine>)))]
pub(super) async fn list_sagas(
    State(app): State<App>,
    caller: Allow<Operate>,
    Query(filters): Query<Filters>,
) -> Result<Json<Listing<SagaLine>>, ApiError> {
    check_age("older_than", filters.older_than)?;
    // Sagas end for reasons of their own, and because a leg was declined with a code of the API.
    if filters.code.as_deref().is_some_and(|code| !is_reason(code) && Code::parse(code).is_none()) {
        return Err(Problem::invalid("code", "is no code of a dead letter, and none of a decline").into());
    }
    let among = match &filters.customer {
        Some(customer) => {
            let of = redemptions::of_customer(
                &app.pool,
                &caller.business_id,
                customer,
                filters.cursor,
                CUSTOMERS_REDEMPTIONS,
            );
            Some(of.await?)
        }
        None => None,
    };
    let looked_at = among.as_ref().filter(|among| among.len() == CUSTOMERS_REDEMPTIONS);
    let last_looked_at = looked_at.and_then(|among| among.last()).copied();
    let filter = SagaFilter {
        state: filters.status.as_deref().map(state_of).transpose()?,
        older_than_s: filters.older_than,
        plan_contains: plan_filter(filters.customer.as_ref(), filters.tender),
        among,
        code: filters.code,
        key: filters.key,
    };
    let limit = page_size(filters.limit)?;
    let page = Page { after: filters.cursor.map(SagaId), limit: limit + 1 };
    let sagas = app.engine.list_sagas(caller.business_id.as_str(), &filter, &page).await?;
    let lines = sagas.into_iter().map(line).collect();
    let mut page = listing(lines, limit, |line: &SagaLine| line.saga_id);
    // What was not looked at may be on the next page, also where this one is not full.
    page.next_cursor = page.next_cursor.or_else(|| last_looked_at.map(|id| id.to_string()));
    Ok(Json(page))
}

/// A saga with its plan, its legs and its story.
#[utoipa::path(get, path = "/sagas/{id}", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The saga", body = SagaDetail)))]
pub(super) async fn show_saga(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
) -> Result<Json<SagaDetail>, ApiError> {
    let saga = app.engine.show_saga(caller.business_id.as_str(), SagaId(id)).await?;
    saga.map(|saga| Json(detail(saga, app.clock))).ok_or_else(ApiError::not_found)
}

fn line(saga: ops::SagaLine) -> SagaLine {
    SagaLine {
        saga_id: saga.saga_id.0,
        operation: saga.operation,
        idempotency_key: saga.key,
        status: saga.status.to_owned(),
        epoch: saga.epoch,
        owner: saga.owner,
        backward: saga.backward,
        cause: saga.cause,
        created_at: saga.created_at,
        ended_at: saga.ended_at,
    }
}

/// A saga as it is shown.
pub(super) fn detail(detail: ops::SagaDetail, clock: Clock) -> SagaDetail {
    let legs = legs::of(&detail);
    let until = detail.saga.ended_at.unwrap_or_else(|| clock.now());
    SagaDetail {
        kind: detail
            .kind
            .map(|kind| if kind == Kind::Compensable { "compensable" } else { "forward_only" }.to_owned()),
        // The two clocks may differ: nothing ends before it began.
        duration_ms: (until - detail.saga.created_at).num_milliseconds().max(0),
        deadline_at: detail.deadline_at,
        trace_id: detail.trace_id,
        parent_id: detail.parent_id.map(|id| id.0),
        legs_id: detail.legs_id,
        key_cancelled: detail.key_cancelled,
        plan: detail.plan,
        legs,
        answer: detail.answer.map(|answer| StoredAnswer {
            status: answer.status,
            body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
        }),
        timeline: detail.timeline.into_iter().map(event).collect(),
        dead_letters: detail.dead_letters.into_iter().map(dead_letters::line).collect(),
        saga: line(detail.saga),
    }
}

fn event(event: ops::TimelineEvent) -> TimelineEvent {
    TimelineEvent {
        at: event.at,
        after_ms: event.after_ms,
        event: event.event,
        text: event.text,
        epoch: event.epoch,
        owner: event.owner,
        detail: event.detail,
    }
}

fn state_of(name: &str) -> Result<SagaState, ApiError> {
    use SagaState::{Compensated, Compensating, Completed, DeadLetter, Resolved, Running};
    [Running, Compensating, Completed, Compensated, DeadLetter, Resolved]
        .into_iter()
        .find(|state| state_name(*state) == name)
        .ok_or_else(|| Problem::invalid("status", "is no status of a saga").into())
}
