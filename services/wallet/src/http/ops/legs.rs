//! How far each leg of a saga is: pure, from what was recorded.

use api::ops::{LegStatus, SagaLeg};
use saga::ops::SagaDetail;
use serde_json::Value;

use crate::plan::Plan;

/// The legs of a saga; none where this version cannot read its plan.
pub(super) fn of(saga: &SagaDetail) -> Vec<SagaLeg> {
    let plan = serde_json::from_value::<Plan>(saga.plan.clone()).ok();
    let leg = |(leg, tender): (usize, &String)| {
        let answer = |answers: &[Value]| answers.get(leg).filter(|answer| !answer.is_null()).cloned();
        let (forward, back) = (answer(&saga.answers.forward), answer(&saga.answers.back));
        SagaLeg {
            leg,
            tender: tender.clone(),
            units: plan.as_ref().and_then(|plan| units(plan, leg)),
            status: status(saga.saga.status, saga.saga.backward, forward.is_some(), back.is_some()),
            forward,
            back,
        }
    };
    saga.participants.iter().enumerate().map(leg).collect()
}

fn units(plan: &Plan, leg: usize) -> Option<i64> {
    match plan {
        Plan::Redeem(plan) => plan.legs.get(leg).map(|leg| leg.units),
        Plan::Capture(plan) => plan.legs.get(leg).map(|leg| leg.units),
        Plan::Reversal(_) | Plan::Nothing | Plan::Orphan(_) => None,
    }
}

/// What the saga's state, its direction and the answers that were recorded say about one leg.
fn status(saga: &str, is_backward: bool, has_forward: bool, has_back: bool) -> LegStatus {
    match saga {
        "completed" => LegStatus::Confirmed,
        "compensated" => LegStatus::Undone,
        "resolved" => LegStatus::Settled,
        _ if is_backward && has_back => LegStatus::Undone,
        _ if !is_backward && has_forward => LegStatus::Confirmed,
        _ => LegStatus::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_is_as_far_as_its_saga_and_its_answers_say() {
        use LegStatus::{Confirmed, Pending, Settled, Undone};
        for (saga, is_backward, has_forward, has_back, expected) in [
            ("running", false, false, false, Pending),
            ("completed", false, false, false, Confirmed),
            ("compensating", true, true, false, Pending),
            ("dead_letter", true, true, true, Undone),
            ("dead_letter", true, true, false, Pending),
            ("dead_letter", false, true, false, Confirmed),
            ("compensated", true, true, true, Undone),
            ("resolved", true, true, false, Settled),
        ] {
            let found = status(saga, is_backward, has_forward, has_back);
            assert_eq!(found, expected, "{saga} {is_backward} {has_forward} {has_back}");
        }
    }
}
