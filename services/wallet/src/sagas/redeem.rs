//! The redemption's saga: its answers, and what becomes of the redemption.

use api::{
    Code, Problem,
    legs::{LegAnswer, LegState, LotPart},
    wallet::{BalanceAfter, Capture, Links, LotResult, Redemption, Returned, TenderKind, TenderResult},
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use money::{PointValue, Rounding};
use saga::{Conclusion, Ending, Reason, Response, Saga, Turned};
use serde_json::{Value, json};

use super::rows::{Change, Moved};
use crate::plan::{Plan, PlannedLeg, RedeemPlan};

/// Where redemptions are asked for.
pub const REDEEM_PATH: &str = "/api/v1/wallet/redeem";

/// What an ending means for a redemption and for whoever waits for it.
pub(super) fn conclude(
    saga: &Saga<Plan>,
    plan: &RedeemPlan,
    ending: &Ending<'_, LegAnswer>,
    now: DateTime<Utc>,
) -> Conclusion<Change> {
    let id = saga.id.0;
    let moved = |status: &'static str, reversal: Option<&'static str>| Moved {
        redemption_id: id,
        status,
        reversal,
        ..Moved::default()
    };
    match ending {
        Ending::Completed(answers) => completed(saga, plan, answers, now),
        Ending::TurnedBack(turned) => {
            let body = Declined { saga, plan, turned, returned: &[], reversal: "pending" };
            Conclusion {
                response: Some(body.response()),
                change: Some(Change::Moved(moved("declined", Some("pending")))),
            }
        }
        Ending::Undone(turned, answers) => {
            let returned: Vec<_> = plan
                .legs
                .iter()
                .zip(answers.iter())
                .filter_map(|(leg, a)| given_back(leg, plan, a.as_ref()?))
                .collect();
            let body = Declined { saga, plan, turned, returned: &returned, reversal: "done" };
            Conclusion {
                response: Some(body.response()),
                change: Some(Change::Moved(moved("declined", Some("done")))),
            }
        }
        Ending::Parked => {
            Conclusion { response: None, change: Some(Change::Moved(moved("under_review", None))) }
        }
        Ending::Reopened(true) => {
            Conclusion { response: None, change: Some(Change::Moved(moved("declined", Some("pending")))) }
        }
        Ending::Reopened(false) => {
            Conclusion { response: None, change: Some(Change::Moved(moved("pending", None))) }
        }
        Ending::Resolved => {
            Conclusion { response: None, change: Some(Change::Moved(moved("resolved", None))) }
        }
    }
}

fn completed(
    saga: &Saga<Plan>,
    plan: &RedeemPlan,
    answers: &[LegAnswer],
    now: DateTime<Utc>,
) -> Conclusion<Change> {
    let tenders: Vec<_> =
        plan.legs.iter().zip(answers).map(|(leg, answer)| applied(leg, plan, answer)).collect();
    let redeemed = tenders.iter().fold(0_i64, |sum, tender| sum.saturating_add(tender.amount));
    let is_hold = plan.capture == Capture::Manual;
    let status = if is_hold { "authorized" } else { "completed" };
    let hold_expires_at = is_hold.then(|| saga.created_at + TimeDelta::seconds(plan.hold_ttl_s));
    // As precise as the database keeps it, so that the answer and a later look-up are the same bytes.
    let at = now.trunc_subsecs(6).max(saga.created_at);
    let redemption = Redemption {
        id: saga.id.0,
        status: status.to_owned(),
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
    let body = serde_json::to_vec(&redemption).unwrap_or_default();
    let change = Moved {
        redemption_id: saga.id.0,
        status,
        redeemed: Some(redeemed),
        tenders: serde_json::to_string(&redemption.tenders).ok(),
        completed_at: Some(at),
        hold_expires_at,
        ..Moved::default()
    };
    Conclusion { response: Some(Response { status: 201, body }), change: Some(Change::Moved(change)) }
}

/// Where a redemption is looked up.
pub(crate) fn link(id: uuid::Uuid) -> String {
    format!("/api/v1/wallet/redemptions/{id}")
}

fn applied(leg: &PlannedLeg, plan: &RedeemPlan, answer: &LegAnswer) -> TenderResult {
    let is_points = leg.tender == TenderKind::Points;
    let available = answer.after.map(|after| after.available);
    TenderResult {
        leg: leg.leg,
        kind: leg.tender,
        status: if answer.state == LegState::Held { "held" } else { "applied" }.to_owned(),
        points: is_points.then_some(answer.amount),
        reward_id: leg.reward_id,
        last_four: leg.last_four.clone(),
        amount: worth(leg, plan, answer.amount),
        rate: leg.rate,
        lots: lots(&answer.lots, is_points),
        balance_after: available.map(|available| BalanceAfter {
            points: is_points.then_some(available),
            amount: (!is_points).then_some(available),
        }),
    }
}

/// What a leg's units cover in minor units: as planned if all of them were taken, else by the rate, rounded down.
fn worth(leg: &PlannedLeg, plan: &RedeemPlan, units: i64) -> i64 {
    match leg.rate {
        _ if units == leg.units => leg.amount,
        None => units,
        Some(rate) => PointValue::try_new(rate, plan.currency)
            .and_then(|value| value.minor_units(units, Rounding::Down))
            .unwrap_or(0)
            .min(leg.amount),
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
fn given_back(leg: &PlannedLeg, plan: &RedeemPlan, answer: &LegAnswer) -> Option<Returned> {
    let is_points = leg.tender == TenderKind::Points;
    (answer.state == LegState::Reversed && answer.amount > 0).then(|| Returned {
        leg: leg.leg,
        kind: leg.tender,
        points: is_points.then_some(answer.amount),
        amount: worth(leg, plan, answer.amount),
        lots: lots(&answer.lots, is_points),
    })
}

struct Declined<'a> {
    saga: &'a Saga<Plan>,
    plan: &'a RedeemPlan,
    turned: &'a Turned<LegAnswer>,
    returned: &'a [Returned],
    reversal: &'static str,
}

impl Declined<'_> {
    fn response(&self) -> Response {
        let leg = self.turned.leg.and_then(|leg| self.plan.legs.get(leg));
        let mut problem = self.problem();
        problem.redemption_id = Some(self.saga.id.0);
        if let Some(leg) = leg {
            problem.extra.insert("leg".to_owned(), json!(leg.leg));
            problem.extra.insert("tender".to_owned(), json!(leg.tender));
        }
        problem
            .extra
            .insert("returned".to_owned(), serde_json::to_value(self.returned).unwrap_or(Value::Null));
        problem.extra.insert("reversal".to_owned(), json!(self.reversal));
        declined_response(problem, REDEEM_PATH, self.saga.trace_id.clone())
    }

    fn problem(&self) -> Problem {
        match self.turned.reason {
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
        let Some(answer) = &self.turned.answer else {
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
        problem.required = self.turned.leg.and_then(|leg| self.plan.legs.get(leg)).map(|leg| leg.units);
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
    Response { status: problem.status, body: serde_json::to_vec(&problem).unwrap_or_default() }
}
