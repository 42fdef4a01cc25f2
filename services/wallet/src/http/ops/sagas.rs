//! `GET /ops/sagas` and `GET /ops/sagas/{id}`.

use api::{
    Code, CustomerId, Problem,
    ops::{SagaDetail, SagaLine},
    tender::Page as Listing,
    wallet::TenderKind,
};
use axum::{Json, extract::State};
use saga::{
    SagaId,
    machine::State as SagaState,
    ops::{Page, SagaFilter},
};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Operate},
    extract::{Path, Query, page_size},
};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{check_age, is_reason, plan_filter, views};
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
    /// Compensated or parked for this reason, or because a leg was declined with this code.
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
    let lines = sagas.into_iter().map(views::saga_line).collect();
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
    saga.map(|saga| Json(views::saga_detail(saga, app.clock))).ok_or_else(ApiError::not_found)
}

fn state_of(name: &str) -> Result<SagaState, ApiError> {
    use SagaState::{Compensated, Compensating, Completed, DeadLetter, Resolved, Running};
    [Running, Compensating, Completed, Compensated, DeadLetter, Resolved]
        .into_iter()
        .find(|state| state.as_str() == name)
        .ok_or_else(|| Problem::invalid("status", "is no status of a saga").into())
}
