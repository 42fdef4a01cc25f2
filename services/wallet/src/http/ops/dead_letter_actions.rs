//! `POST /ops/dead-letters/{id}/replay` and `…/resolve`.

use api::{
    Code, Problem,
    id::is_visible_ascii,
    ops::{DeadLetterActionAnswer, DeadLetterActionResult, ReplayRequest, ResolveRequest},
};
use axum::{Json, extract::State};
use saga::ops::{ActionOutcome, DeadLetterAction, OperatorCommand};
use service::{
    ApiError,
    auth::{Allow, Caller, Operate},
    extract::Path,
    json::Body,
};
use uuid::Uuid;

use super::{check_command, reused, unsure};
use crate::app::App;

/// Takes a parked saga up again, in the direction that was written.
#[utoipa::path(post, path = "/dead-letters/{id}/replay", params(("id" = Uuid, Path)), request_body = ReplayRequest,
    responses((status = 200, description = "What came of it", body = DeadLetterActionAnswer)))]
pub(super) async fn replay_dead_letter(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
    body: Result<Body<ReplayRequest>, ApiError>,
) -> Result<Json<DeadLetterActionAnswer>, ApiError> {
    let command = body.and_then(|body| {
        let ReplayRequest { operation_id, reason, dry_run } = body.value;
        command(&caller, operation_id, reason, None, dry_run)
    });
    action(&app, &caller, id, DeadLetterAction::Replay, command).await
}

/// Closes a parked saga that was settled by hand.
#[utoipa::path(post, path = "/dead-letters/{id}/resolve", params(("id" = Uuid, Path)), request_body = ResolveRequest,
    responses((status = 200, description = "What came of it", body = DeadLetterActionAnswer)))]
pub(super) async fn resolve_dead_letter(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(id): Path<Uuid>,
    body: Result<Body<ResolveRequest>, ApiError>,
) -> Result<Json<DeadLetterActionAnswer>, ApiError> {
    let command = body.and_then(|body| {
        let ResolveRequest { operation_id, reason, reference } = body.value;
        if !is_visible_ascii(&reference, 128) {
            return Err(Problem::invalid("/reference", "must be 1 to 128 visible ASCII characters").into());
        }
        command(&caller, operation_id, reason, Some(reference), false)
    });
    action(&app, &caller, id, DeadLetterAction::Resolve, command).await
}

fn command(
    caller: &Caller,
    operation_id: String,
    reason: String,
    reference: Option<String>,
    dry_run: bool,
) -> Result<OperatorCommand, ApiError> {
    check_command(&operation_id, &reason)?;
    let (business_id, actor) = (caller.business_id.as_str().to_owned(), caller.subject.clone());
    Ok(OperatorCommand { business_id, actor, operation_id, reason, reference, dry_run })
}

async fn action(
    app: &App,
    caller: &Caller,
    id: Uuid,
    action: DeadLetterAction,
    command: Result<OperatorCommand, ApiError>,
) -> Result<Json<DeadLetterActionAnswer>, ApiError> {
    let command = match command {
        Ok(command) => command,
        // What does not exist is 404, whatever is wrong with the body.
        Err(error) => {
            let letter = app.engine.show_dead_letter(caller.business_id.as_str(), id).await?;
            return Err(letter.map_or_else(ApiError::not_found, |_| error));
        }
    };
    let (result, states) = match app.engine.act_on_dead_letter(id, action, command).await.map_err(unsure)? {
        ActionOutcome::Done { before, after } => (DeadLetterActionResult::Done, Some((before, after))),
        ActionOutcome::WouldDo { before, after } => (DeadLetterActionResult::WouldDo, Some((before, after))),
        ActionOutcome::AlreadyDone => (DeadLetterActionResult::AlreadyDone, None),
        ActionOutcome::AlreadyClosed => (DeadLetterActionResult::AlreadyClosed, None),
        ActionOutcome::SagaExists => (DeadLetterActionResult::SagaExists, None),
        ActionOutcome::Reused => return Err(reused()),
        ActionOutcome::NotFound => return Err(ApiError::not_found()),
        ActionOutcome::Unreadable => {
            return Err(ApiError::new(
                Code::AlreadyFinal,
                "This version cannot read the saga; it can only be resolved.",
            ));
        }
    };
    let (before, after) = states.unzip();
    Ok(Json(DeadLetterActionAnswer { dead_letter_id: id, result, before, after }))
}
