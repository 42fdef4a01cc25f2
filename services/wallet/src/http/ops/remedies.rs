//! `POST /ops/dead-letters/{id}/replay` and `…/resolve`.

use api::{
    Code, Problem,
    id::is_visible_ascii,
    ops::{RemedyAnswer, RemedyResult, ReplayRequest, ResolveRequest},
};
use axum::{Json, extract::State};
use saga::ops::{Order, Ordered, Remedy};
use service::{
    ApiError,
    auth::{Allow, Caller, Operate},
    extract::Path,
    json::Body,
};
use uuid::Uuid;

use super::{check_order, reused, unsure};
use crate::app::App;

/// Takes a parked saga up again, in the direction that was written.
#[utoipa::path(post, path = "/dead-letters/{id}/replay", params(("id" = Uuid, Path)), request_body = ReplayRequest,
    responses((status = 200, description = "What came of it", body = RemedyAnswer)))]
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
#[utoipa::path(post, path = "/dead-letters/{id}/resolve", params(("id" = Uuid, Path)), request_body = ResolveRequest,
    responses((status = 200, description = "What came of it", body = RemedyAnswer)))]
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
    check_order(&operation_id, &reason)?;
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
    let (result, states) = match app.engine.remedy(id, remedy, order).await.map_err(unsure)? {
        Ordered::Done { before, after } => (RemedyResult::Done, Some((before, after))),
        Ordered::WouldDo { before, after } => (RemedyResult::WouldDo, Some((before, after))),
        Ordered::AlreadyDone => (RemedyResult::AlreadyDone, None),
        Ordered::AlreadyClosed => (RemedyResult::AlreadyClosed, None),
        Ordered::SagaExists => (RemedyResult::SagaExists, None),
        Ordered::Reused => return Err(reused()),
        Ordered::NotFound => return Err(ApiError::not_found()),
        Ordered::Unreadable => {
            return Err(ApiError::new(
                Code::AlreadyFinal,
                "This version cannot read the saga; it can only be resolved.",
            ));
        }
    };
    let (before, after) = states.unzip();
    Ok(Json(RemedyAnswer { dead_letter_id: id, result, before, after }))
}
