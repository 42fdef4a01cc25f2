//! The forward-only sagas: what giving back and capturing make of a redemption.

use api::{legs::LegAnswer, wallet::Redemption};
use chrono::{DateTime, SubsecRound, Utc};
use saga::{Conclusion, Ending, Response};

use super::rows::{Change, Moved};
use crate::plan::{CapturePlan, ReturnPlan, ReturnReason};

/// What the return of a redemption makes of it.
pub(super) fn returned(plan: &ReturnPlan, ending: &Ending<'_, LegAnswer>) -> Conclusion<Change> {
    let done = match plan.why {
        ReturnReason::Reversal => "reversed",
        ReturnReason::Void => "voided",
        ReturnReason::HoldExpired => "expired",
    };
    let Some(status) = status(ending, done, "reversing") else {
        return Conclusion { response: None, change: None };
    };
    let moved = Moved { redemption_id: plan.redemption_id, status, ..Moved::default() };
    let answer = plan.answer.as_ref().filter(|_| status == done).map(|answer| {
        let tenders = answer.tenders.iter().cloned().map(|mut tender| {
            "reversed".clone_into(&mut tender.status);
            tender
        });
        Redemption {
            status: status.to_owned(),
            hold_expires_at: None,
            tenders: tenders.collect(),
            ..answer.clone()
        }
    });
    Conclusion { response: answer.as_ref().map(ok), change: Some(Change::Moved(moved)) }
}

/// What a capture makes of a redemption.
pub(super) fn captured(
    plan: &CapturePlan,
    ending: &Ending<'_, LegAnswer>,
    now: DateTime<Utc>,
) -> Conclusion<Change> {
    let Some(status) = status(ending, "completed", "capturing") else {
        return Conclusion { response: None, change: None };
    };
    let mut moved = Moved { redemption_id: plan.redemption_id, status, ..Moved::default() };
    if status != "completed" {
        return Conclusion { response: None, change: Some(Change::Moved(moved)) };
    }
    let answer = Redemption { completed_at: Some(now.trunc_subsecs(6)), ..plan.answer.clone() };
    moved.redeemed = Some(answer.redeemed);
    moved.tenders = serde_json::to_string(&answer.tenders).ok();
    moved.completed_at = answer.completed_at;
    Conclusion { response: Some(ok(&answer)), change: Some(Change::Moved(moved)) }
}

fn ok(answer: &Redemption) -> Response {
    Response { status: 200, body: serde_json::to_vec(answer).unwrap_or_default() }
}

/// The redemption's status at an ending of a forward-only saga; such a saga is never turned back.
fn status(ending: &Ending<'_, LegAnswer>, done: &'static str, working: &'static str) -> Option<&'static str> {
    match ending {
        Ending::Completed(_) => Some(done),
        Ending::Parked => Some("under_review"),
        Ending::Reopened(_) => Some(working),
        Ending::Resolved => Some("resolved"),
        Ending::TurnedBack(_) | Ending::Undone(..) => None,
    }
}
