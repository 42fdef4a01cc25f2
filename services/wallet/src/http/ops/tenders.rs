//! `GET /ops/tenders`, `POST /ops/tenders/{tender}/pause` and `…/resume`.

use api::{
    ops::{PauseResult, TenderAnswer, TenderList, TenderOrder, TenderState},
    wallet::TenderKind,
};
use axum::{Json, extract::State};
use futures_util::future::join_all;
use service::{
    ApiError,
    auth::{Allow, Caller, Operate},
    extract::Path,
    json::Body,
};

use super::{check_command, reused, unsure};
use crate::{
    app::App,
    paused::{self, Change, Changed},
};

/// The tenders, as this process sees them, and whether this business has paused them.
#[utoipa::path(get, path = "/tenders",
    responses((status = 200, description = "The tenders", body = TenderList)))]
pub(super) async fn list_tenders(
    State(app): State<App>,
    caller: Allow<Operate>,
) -> Result<Json<TenderList>, ApiError> {
    let pauses = paused::of_business(&app.pool, caller.business_id.as_str()).await?;
    let states = TenderKind::ALL.map(|kind| {
        let (tender, pause) =
            (app.tenders.get(kind), pauses.iter().find(|pause| pause.tender == kind.as_str()));
        let engine = &app.engine;
        async move {
            TenderState {
                tender: kind,
                paused: pause.is_some(),
                paused_at: pause.map(|pause| pause.paused_at),
                paused_by: pause.map(|pause| pause.actor.clone()),
                reason: pause.map(|pause| pause.reason.clone()),
                reachable: tender.probe().await,
                breaker_open: engine.is_unreachable(kind.as_str()),
                clock_skew_ms: tender.skew_ms(),
            }
        }
    });
    Ok(Json(TenderList { data: join_all(states).await }))
}

/// Refuses this business's new redemptions that need the tender, until it is resumed.
#[utoipa::path(post, path = "/tenders/{tender}/pause", params(("tender" = TenderKind, Path)), request_body = TenderOrder,
    responses((status = 200, description = "What came of it", body = TenderAnswer)))]
pub(super) async fn pause_tender(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(tender): Path<TenderKind>,
    body: Body<TenderOrder>,
) -> Result<Json<TenderAnswer>, ApiError> {
    change(&app, &caller, tender, true, body.value).await
}

/// Takes this business's redemptions that need the tender again.
#[utoipa::path(post, path = "/tenders/{tender}/resume", params(("tender" = TenderKind, Path)), request_body = TenderOrder,
    responses((status = 200, description = "What came of it", body = TenderAnswer)))]
pub(super) async fn resume_tender(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(tender): Path<TenderKind>,
    body: Body<TenderOrder>,
) -> Result<Json<TenderAnswer>, ApiError> {
    change(&app, &caller, tender, false, body.value).await
}

async fn change(
    app: &App,
    caller: &Caller,
    tender: TenderKind,
    pause: bool,
    command: TenderOrder,
) -> Result<Json<TenderAnswer>, ApiError> {
    check_command(&command.operation_id, &command.reason)?;
    let change = Change {
        business_id: caller.business_id.as_str(),
        tender,
        pause,
        operation_id: &command.operation_id,
        actor: &caller.subject,
        reason: &command.reason,
    };
    let result = match app.paused.change(&app.pool, &change).await.map_err(unsure)? {
        Changed::Done => PauseResult::Done,
        Changed::AlreadyDone => PauseResult::AlreadyDone,
        Changed::AlreadySo => PauseResult::AlreadySo,
        Changed::Reused => return Err(reused()),
    };
    let paused = app.paused.is_paused(&caller.business_id, tender);
    Ok(Json(TenderAnswer { tender, result, paused }))
}
