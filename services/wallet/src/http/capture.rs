//! `POST /wallet/redemptions/{id}/capture`: takes what an authorized redemption holds, or a part of it; the rest is released.

use api::{
    Code, LegsId, Problem,
    derive::requests,
    wallet::{Redemption, RedemptionStatus, TenderKind},
};
use axum::{extract::State, response::Response};
use money::{PointValue, Rounding};
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
    plan::{CaptureLeg, CapturePlan, Plan, PlannedLeg, RedeemPlan},
    reversal::Reversible,
};

/// The body.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureRequest {
    /// Minor units; all that is held, if absent.
    #[schema(minimum = 1)]
    amount: Option<i64>,
}

/// Capture an authorized redemption, in request order; what is not taken is released.
#[utoipa::path(post, path = "/redemptions/{id}/capture", params(("id" = Uuid, Path), IdempotencyKey), request_body = CaptureRequest,
    responses((status = 201, description = "Done", body = Redemption),
        (status = 200, description = "Answered before under this key: the stored answer", body = Redemption),
        (status = 202, description = "Under way; look it up at Location", body = Redemption)))]
pub(super) async fn capture_redemption(
    State(app): State<App>,
    caller: Allow<Till>,
    Path(id): Path<Uuid>,
    key: Result<IdempotencyKey, ApiError>,
    body: Result<Body<CaptureRequest>, ApiError>,
) -> Result<Response, Failure> {
    let held = Held::find(&app, caller.into_caller(), id).await?;
    let body = body.map_err(Failure::of_the_call)?;
    let amount = body.value.amount;
    if amount.is_some_and(|amount| amount < 1) {
        return Err(Failure::of_the_call(Problem::invalid("/amount", "must be at least 1").into()));
    }
    let plan = |held: &Reversible, shown| plan(held, shown, amount);
    held.answer(key, requests::capture(amount), Step { operation: "capture", plan }).await
}

/// Takes `amount` from the legs in request order. Points that cover a part are rounded up, as they are when they take the
/// rest: half a point cannot be taken.
fn plan(held: &Reversible, shown: Redemption, amount: Option<i64>) -> Result<Plan, Box<Problem>> {
    let Some(redeem) = held.redeem() else {
        return Err(Box::new(Problem::new(Code::AlreadyFinal, "The redemption holds nothing.")));
    };
    let amount = amount.unwrap_or(shown.redeemed);
    if amount > shown.redeemed {
        let mut problem = Problem::new(Code::AboveMaximum, "More than the redemption holds.");
        (problem.available, problem.required) = (Some(shown.redeemed), Some(amount));
        return Err(Box::new(problem));
    }
    let mut left = amount;
    let mut legs = Vec::with_capacity(redeem.legs.len());
    let mut tenders = Vec::with_capacity(redeem.legs.len());
    for (leg, back) in redeem.legs.iter().zip(redeem.legs_to_reverse()) {
        let Some(mut tender) = shown.tenders.iter().find(|tender| tender.leg == leg.leg).cloned() else {
            continue;
        };
        let covered = tender.amount.min(left);
        let held_units = tender.points.unwrap_or(tender.amount);
        let units =
            if covered == tender.amount { held_units } else { part(leg, redeem, covered)?.min(held_units) };
        left -= covered;
        legs.push(CaptureLeg { leg: back, units });
        if units > 0 {
            "applied".clone_into(&mut tender.status);
            tender.amount = covered;
            tender.points = tender.points.map(|_| units);
            // The tender decides which of the lots; the ledger has them.
            if units < held_units {
                tender.lots.clear();
                tender.balance_after = None;
            }
            tenders.push(tender);
        }
    }
    let answer = Redemption {
        status: RedemptionStatus::Completed,
        redeemed: amount,
        amount_due: shown.amount.saturating_sub(amount),
        hold_expires_at: None,
        tenders,
        ..shown
    };
    Ok(Plan::Capture(CapturePlan { redemption_id: held.id, of: LegsId(held.legs_id), legs, answer }))
}

fn part(leg: &PlannedLeg, redeem: &RedeemPlan, covered: i64) -> Result<i64, Box<Problem>> {
    let Some(rate) = leg.rate.filter(|_| leg.tender == TenderKind::Points) else { return Ok(covered) };
    PointValue::try_new(rate, redeem.currency)
        .and_then(|value| value.points(covered, Rounding::Up))
        .map_err(|_| Box::new(Problem::new(Code::LimitExceeded, "The points are out of range.")))
}
