//! The redemption's saga: its answers, and what becomes of the redemption.

use api::{
    Code, Problem,
    legs::{LegAnswer, LegState, LotPart},
    wallet::{
        BalanceAfter, Capture, Links, LotResult, Redemption, RedemptionStatus, Returned, Reversal,
        TenderKind, TenderResult,
    },
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use money::{MoneyError, PointValue, Rounding};
use saga::{CompensationCause, Ending, Reason, Response, Saga, TransitionEffect};
use serde_json::json;

use super::answer::{as_json, stored};
use crate::{
    plan::{Plan, PlannedLeg, RedeemPlan},
    redemption::{Change, Event, Moved, Work, legs},
};

/// Where redemptions are asked for.
pub const REDEEM_PATH: &str = "/api/v1/wallet/redeem";

/// What an ending means for a redemption and for the call that waits for it.
///
/// # Errors
/// If what the tenders answered cannot be valued.
pub(super) fn on_transition(
    saga: &Saga<Plan>,
    plan: &RedeemPlan,
    ending: &Ending<'_, LegAnswer>,
    now: DateTime<Utc>,
) -> Result<TransitionEffect<Change>, MoneyError> {
    let (response, event) = match ending {
        Ending::Completed(answers) => return completed(saga, plan, answers, now),
        Ending::Compensating(cause) => {
            let body = Declined { saga, plan, cause, returned: &[], reversal: Reversal::Pending };
            (Some(body.response()), Event::Compensating)
        }
        Ending::Compensated(cause, answers) => {
            let given_back = plan.legs.iter().zip(answers.iter());
            let given_back =
                given_back.filter_map(|(leg, a)| given_back_by(leg, plan, a.as_ref()?).transpose());
            let returned = given_back.collect::<Result<Vec<_>, _>>()?;
            let body = Declined { saga, plan, cause, returned: &returned, reversal: Reversal::Done };
            (Some(body.response()), Event::Compensated)
        }
        Ending::Parked => (None, Event::Parked),
        Ending::Reopened(true) => (None, Event::Reopened(Work::Compensation)),
        Ending::Reopened(false) => (None, Event::Reopened(Work::Redeem)),
        Ending::Resolved => (None, Event::Resolved),
    };
    Ok(TransitionEffect { response, change: Some(Change::Moved(Moved::by(saga.id.0, event))) })
}

fn completed(
    saga: &Saga<Plan>,
    plan: &RedeemPlan,
    answers: &[LegAnswer],
    now: DateTime<Utc>,
) -> Result<TransitionEffect<Change>, MoneyError> {
    let tenders = plan.legs.iter().zip(answers).map(|(leg, answer)| applied(leg, plan, answer));
    let tenders = tenders.collect::<Result<Vec<_>, _>>()?;
    let redeemed = tenders.iter().fold(0_i64, |sum, tender| sum.saturating_add(tender.amount));
    let is_hold = plan.capture == Capture::Manual;
    let (status, event) = if is_hold {
        (RedemptionStatus::Authorized, Event::Authorized)
    } else {
        (RedemptionStatus::Completed, Event::Completed)
    };
    let hold_expires_at = is_hold.then(|| saga.created_at + TimeDelta::seconds(plan.hold_ttl_s));
    // As precise as the database keeps it, so that the answer and a later look-up are the same bytes.
    let at = now.trunc_subsecs(6).max(saga.created_at);
    let redemption = Redemption {
        id: saga.id.0,
        status,
        customer_id: plan.customer_id.clone(),
        order_id: plan.order_id.clone(),
        currency: plan.currency.code().to_owned(),
        amount: plan.amount,
        redeemed,
        amount_due: plan.amount.saturating_sub(redeemed),
        reversal: None,
        hold_expires_at,
        tenders,
        metadata: plan.metadata.clone(),
        created_at: saga.created_at,
        completed_at: Some(at),
        links: Links { own: link(saga.id.0) },
    };
    let moved = Moved {
        taken: Some(legs::taken(&redemption.tenders)),
        tenders: Some(as_json(&redemption.tenders)),
        completed_at: Some(at),
        hold_expires_at,
        ..Moved::by(saga.id.0, event)
    };
    Ok(TransitionEffect { response: Some(stored(201, &redemption)), change: Some(Change::Moved(moved)) })
}

/// Where a redemption is looked up.
pub(crate) fn link(id: uuid::Uuid) -> String {
    format!("/api/v1/wallet/redemptions/{id}")
}

fn applied(leg: &PlannedLeg, plan: &RedeemPlan, answer: &LegAnswer) -> Result<TenderResult, MoneyError> {
    let is_points = leg.tender == TenderKind::Points;
    let available = answer.after.map(|after| after.available);
    Ok(TenderResult {
        leg: leg.leg,
        kind: leg.tender,
        status: if answer.state == LegState::Held { "held" } else { "applied" }.to_owned(),
        points: is_points.then_some(answer.amount),
        reward_id: leg.reward_id,
        last_four: leg.last_four.clone(),
        amount: worth(leg, plan, answer.amount)?,
        rate: leg.rate,
        lots: lots(&answer.lots, is_points),
        balance_after: available.map(|available| BalanceAfter {
            points: is_points.then_some(available),
            amount: (!is_points).then_some(available),
        }),
    })
}

/// What a leg's units cover in minor units: as planned if all of them were taken, else by the rate, rounded down.
fn worth(leg: &PlannedLeg, plan: &RedeemPlan, units: i64) -> Result<i64, MoneyError> {
    match leg.rate {
        _ if units == leg.units => Ok(leg.amount),
        None => Ok(units),
        Some(rate) => {
            let value = PointValue::try_new(rate, plan.currency)?.minor_units(units, Rounding::Down)?;
            Ok(value.min(leg.amount))
        }
    }
}

fn lots(parts: &[LotPart], is_points: bool) -> Vec<LotResult> {
    let lot = |part: &LotPart| LotResult {
        lot_id: part.lot_id,
        points: is_points.then_some(part.amount),
        amount: (!is_points).then_some(part.amount),
        expires_at: part.expires_at,
    };
    parts.iter().map(lot).collect()
}

/// What a cancel gave back; nothing where nothing had been taken.
fn given_back_by(
    leg: &PlannedLeg,
    plan: &RedeemPlan,
    answer: &LegAnswer,
) -> Result<Option<Returned>, MoneyError> {
    if answer.state != LegState::Reversed || answer.amount == 0 {
        return Ok(None);
    }
    let is_points = leg.tender == TenderKind::Points;
    Ok(Some(Returned {
        leg: leg.leg,
        kind: leg.tender,
        points: is_points.then_some(answer.amount),
        amount: worth(leg, plan, answer.amount)?,
        lots: lots(&answer.lots, is_points),
    }))
}

struct Declined<'a> {
    saga: &'a Saga<Plan>,
    plan: &'a RedeemPlan,
    cause: &'a CompensationCause<LegAnswer>,
    returned: &'a [Returned],
    reversal: Reversal,
}

impl Declined<'_> {
    fn response(&self) -> Response {
        let leg = self.cause.leg.and_then(|leg| self.plan.legs.get(leg));
        let mut problem = self.problem();
        problem.redemption_id = Some(self.saga.id.0);
        if let Some(leg) = leg {
            problem.extra.insert("leg".to_owned(), json!(leg.leg));
            problem.extra.insert("tender".to_owned(), json!(leg.tender));
        }
        problem.extra.insert("returned".to_owned(), json!(self.returned));
        problem.extra.insert("reversal".to_owned(), json!(self.reversal));
        declined_response(problem, REDEEM_PATH, self.saga.trace_id.clone())
    }

    fn problem(&self) -> Problem {
        match self.cause.reason {
            Reason::Refused => self.refused(),
            Reason::TookNothing => Problem::new(Code::InsufficientBalance, "There was nothing to take."),
            Reason::WrongAnswers => Problem::new(
                Code::NotCompletedInTime,
                "A tender could not carry out its part; everything was undone.",
            ),
            Reason::Cancelled => Problem::new(Code::KeyCancelled, "This key was cancelled."),
            _ => Problem::new(
                Code::NotCompletedInTime,
                "A tender gave no answer in time, so everything was undone.",
            ),
        }
    }

    fn refused(&self) -> Problem {
        let Some(answer) = &self.cause.answer else {
            return Problem::new(
                Code::NotCompletedInTime,
                "A tender gave no answer in time, so everything was undone.",
            );
        };
        let Some(decline) = &answer.decline else {
            return match answer.state {
                LegState::Expired => Problem::new(
                    Code::NotCompletedInTime,
                    "A tender was reached too late, so everything was undone.",
                ),
                _ => Problem::new(Code::KeyCancelled, "A leg of this redemption was cancelled."),
            };
        };
        let code = Code::parse(&decline.code).unwrap_or(Code::LimitExceeded);
        let mut problem = Problem::new(code, format!("{}.", code.title()));
        problem.available = decline.available;
        problem.held_until = decline.held_until.map(|at| at.to_rfc3339());
        problem.required = self.cause.leg.and_then(|leg| self.plan.legs.get(leg)).map(|leg| leg.units);
        problem
    }
}

/// A refusal as it is stored: nothing of it changes any more, so the same key never succeeds.
#[must_use]
pub fn declined_response(mut problem: Problem, path: &str, trace_id: Option<String>) -> Response {
    problem.retryable = false;
    problem.detail = format!("{} This answer is stored: use a new key to try again.", problem.detail).into();
    problem.instance = Some(path.to_owned());
    problem.trace_id = trace_id;
    stored(problem.status, &problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_without_a_value_are_an_error_and_never_worth_nothing() {
        let account = json!({ "business_id": "b", "customer_id": "c", "asset": "points" });
        let plan: RedeemPlan = serde_json::from_value(json!({
            "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 100, "capture": "automatic", "hold_ttl_s": 1,
            "legs": [{ "leg": 0, "tender": "points", "account": account, "units": 100, "amount": 100, "take": "at_most",
                "step": 1, "rate": "0.01" }],
        }))
        .unwrap();
        let mut leg = plan.legs[0].clone();
        assert_eq!(worth(&leg, &plan, 40), Ok(40));
        leg.rate = Some(rust_decimal::Decimal::ZERO);
        assert_eq!(worth(&leg, &plan, 40), Err(MoneyError::InvalidRate));
        assert_eq!(worth(&leg, &plan, 100), Ok(100), "as planned");
    }
}
