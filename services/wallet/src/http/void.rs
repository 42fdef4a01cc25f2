//! `POST /wallet/redemptions/{id}/void`: gives back all that an authorized redemption holds.

use api::{Code, LegsId, Problem, derive::requests, wallet::Redemption};
use axum::{extract::State, response::Response};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Till},
    extract::{IdempotencyKey, Path},
    json::Body,
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    held::{Held, Step},
    keyed::Failure,
};
use crate::{
    app::App,
    plan::{Plan, ReversalPlan, ReversalReason},
    reversal::Reversible,
};

/// The body: nothing needs to be said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VoidRequest {}

/// Void an authorized redemption: everything is released.
#[utoipa::path(post, path = "/redemptions/{id}/void", params(("id" = Uuid, Path), IdempotencyKey), request_body = VoidRequest,
    responses((status = 201, description = "Done", body = Redemption),
        (status = 200, description = "Answered before under this key: the stored answer", body = Redemption),
        (status = 202, description = "Under way; look it up at Location", body = Redemption)))]
pub(super) async fn void_redemption(
    State(app): State<App>,
    caller: Allow<Till>,
    Path(id): Path<Uuid>,
    key: Result<IdempotencyKey, ApiError>,
    body: Result<Body<VoidRequest>, ApiError>,
) -> Result<Response, Failure> {
    let held = Held::find(&app, caller.into_caller(), id).await?;
    body.map_err(Failure::of_the_call)?;
    held.answer(key, requests::void(), Step { operation: "void", plan }).await
}

fn plan(held: &Reversible, shown: Redemption) -> Result<Plan, Box<Problem>> {
    let Some(redeem) = held.redeem() else {
        return Err(Box::new(Problem::new(Code::AlreadyFinal, "The redemption holds nothing.")));
    };
    let legs = redeem.legs_to_reverse();
    let (redemption_id, of) = (held.id, LegsId(held.legs_id));
    Ok(Plan::Reversal(ReversalPlan {
        redemption_id,
        why: ReversalReason::Void,
        of,
        legs,
        answer: Some(shown),
    }))
}
