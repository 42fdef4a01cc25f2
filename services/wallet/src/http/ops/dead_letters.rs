//! `GET /ops/dead-letters` and `GET /ops/dead-letters/{id}`.

use api::{
    CustomerId, Problem,
    ops::{DeadLetterDetail, DeadLetterLine},
    tender::Page as Listing,
    wallet::TenderKind,
};
use axum::{Json, extract::State};
use saga::ops::{DeadLetterFilter, Page};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Operate},
    extract::{Path, Query, page_size},
};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{check_age, check_dead_letter_code, plan_filter, views};
use crate::{
    app::App,
    http::{
        cursors::{letter_cursor, letter_place},
        listing,
    },
};

/// Filters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filters {
    /// `open`, or `all` with those that were dealt with; `open` if absent.
    #[param(pattern = "^(open|all)$")]
    status: Option<String>,
    /// Parked for this reason.
    code: Option<String>,
    /// Held up by this tender.
    tender: Option<TenderKind>,
    /// Of this customer.
    customer: Option<CustomerId>,
    /// Older than so many seconds.
    #[param(minimum = 0, maximum = 3_162_240_000_i64)]
    older_than: Option<i64>,
    /// Lines of a page; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Dead letters, oldest first: open ones, or with `status=all` also those that were dealt with.
#[utoipa::path(get, path = "/dead-letters", params(Filters),
    responses((status = 200, description = "A page", body = Listing<DeadLetterLine>)))]
pub(super) async fn list_dead_letters(
    State(app): State<App>,
    caller: Allow<Operate>,
    Query(filters): Query<Filters>,
) -> Result<Json<Listing<DeadLetterLine>>, ApiError> {
    let with_closed = match filters.status.as_deref() {
        None | Some("open") => false,
        Some("all") => true,
        Some(_) => return Err(Problem::invalid("status", "must be open or all").into()),
    };
    check_age("older_than", filters.older_than)?;
    check_dead_letter_code("code", filters.code.as_deref())?;
    let filter = DeadLetterFilter {
        with_closed,
        code: filters.code,
        participant: filters.tender.map(|tender| tender.as_str().to_owned()),
        plan_contains: plan_filter(filters.customer.as_ref(), None),
        older_than_s: filters.older_than,
    };
    let not_ours = || Problem::invalid("cursor", "is not one that this list gave");
    let after = match filters.cursor {
        None => None,
        Some(cursor) => Some(letter_place(&cursor).ok_or_else(not_ours)?),
    };
    let limit = page_size(filters.limit)?;
    let page = Page { after, limit: limit + 1 };
    let letters = app.engine.list_dead_letters(caller.business_id.as_str(), &filter, &page).await?;
    let lines = letters.into_iter().map(views::dead_letter_line).collect();
    Ok(Json(listing(lines, limit, letter_cursor)))
}

/// A dead letter with its saga.
#[utoipa::path(get, path = "/dead-letters/{id}", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The dead letter", body = DeadLetterDetail)))]
pub(super) async fn show_dead_letter(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
) -> Result<Json<DeadLetterDetail>, ApiError> {
    let found = app.engine.show_dead_letter(caller.business_id.as_str(), id).await?;
    let found = found.ok_or_else(ApiError::not_found)?;
    Ok(Json(views::dead_letter_detail(found, app.clock)))
}
