//! `POST /wallet/redemptions/{id}/void`: gives back all that an authorized redemption holds.

use api::{LegsId, wallet::Redemption};
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

use super::held::Request;
use crate::{
    app::App,
    plan::{Plan, ReturnPlan, ReturnReason},
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
    IdempotencyKey(key): IdempotencyKey,
    body: Body<VoidRequest>,
) -> Result<Response, ApiError> {
    let mut hash = body.hash(&[]).to_vec();
    hash.extend(id.as_bytes());
    let business = caller.into_caller().business_id;
    let request = Request { app, business, operation: "void", key, hash, redemption: id };
    request
        .answer(|held, shown| {
            let legs = match &held.plan {
                Plan::Redeem(plan) => plan.legs_to_return(),
                _ => Vec::new(),
            };
            let (redemption_id, of) = (held.id, LegsId(held.legs_id));
            Ok(Plan::Return(ReturnPlan {
                redemption_id,
                why: ReturnReason::Void,
                of,
                legs,
                answer: Some(shown),
            }))
        })
        .await
}
