//! `GET /ops/actions`: who did what, when and why.

use api::{ops::ActionLine, tender::Page as Listing};
use axum::{Json, extract::State};
use saga::ops::{ActionFilter, Page};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Operate},
    extract::{Query, page_size},
};
use utoipa::IntoParams;
use uuid::Uuid;

use super::views;
use crate::{app::App, http::listing};

/// Filters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filters {
    /// By this operator.
    actor: Option<String>,
    /// Of this kind: `replay`, `resolve`, `bulk_replay`, `pause` or `resume`.
    action: Option<String>,
    /// About this dead letter.
    dead_letter_id: Option<Uuid>,
    /// About this saga.
    saga_id: Option<Uuid>,
    /// Under this operation id.
    operation_id: Option<String>,
    /// Done (true), or refused (false).
    accepted: Option<bool>,
    /// Lines of a page; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<i64>,
}

/// Actions of this business's operators, newest first, also those that were refused.
#[utoipa::path(get, path = "/actions", params(Filters),
    responses((status = 200, description = "A page", body = Listing<ActionLine>)))]
pub(super) async fn list_actions(
    State(app): State<App>,
    caller: Allow<Operate>,
    Query(filters): Query<Filters>,
) -> Result<Json<Listing<ActionLine>>, ApiError> {
    let filter = ActionFilter {
        actor: filters.actor,
        action: filters.action,
        dead_letter_id: filters.dead_letter_id,
        saga_id: filters.saga_id,
        operation_id: filters.operation_id,
        accepted: filters.accepted,
    };
    let limit = page_size(filters.limit)?;
    let page = Page { after: filters.cursor, limit: limit + 1 };
    let actions = app.engine.list_actions(caller.business_id.as_str(), &filter, &page).await?;
    let lines = actions.into_iter().map(views::action_line).collect();
    Ok(Json(listing(lines, limit, |line: &ActionLine| line.action_id)))
}
