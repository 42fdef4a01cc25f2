//! The forward-only sagas: what giving back and capturing make of a redemption.

use api::{
    legs::LegAnswer,
    wallet::{Redemption, RedemptionStatus},
};
use chrono::{DateTime, SubsecRound, Utc};
use saga::{Ending, TransitionEffect};

use super::answer::{as_json, stored};
use crate::{
    plan::{CapturePlan, ReversalPlan, ReversalReason},
    redemption::{Change, Event, Moved, Work, legs},
};

/// What the return of a redemption makes of it.
pub(super) fn returned(plan: &ReversalPlan, ending: &Ending<'_, LegAnswer>) -> TransitionEffect<Change> {
    let event = event(ending, Event::Returned(plan.why), Work::Return);
    let answer = plan.answer.as_ref().filter(|_| matches!(ending, Ending::Completed(_))).map(|answer| {
        let tenders = answer.tenders.iter().cloned().map(|mut tender| {
            "reversed".clone_into(&mut tender.status);
            tender
        });
        Redemption {
            status: match plan.why {
                ReversalReason::Reversal => RedemptionStatus::Reversed,
                ReversalReason::Void => RedemptionStatus::Voided,
                ReversalReason::HoldExpired => RedemptionStatus::Expired,
            },
            hold_expires_at: None,
            tenders: tenders.collect(),
            ..answer.clone()
        }
    });
    TransitionEffect {
        response: answer.map(|answer| stored(200, &answer)),
        change: Some(Change::Moved(Moved::by(plan.redemption_id, event))),
    }
}

/// What a capture makes of a redemption.
pub(super) fn captured(
    plan: &CapturePlan,
    ending: &Ending<'_, LegAnswer>,
    now: DateTime<Utc>,
) -> TransitionEffect<Change> {
    let moved = Moved::by(plan.redemption_id, event(ending, Event::Captured, Work::Capture));
    if !matches!(ending, Ending::Completed(_)) {
        return TransitionEffect { response: None, change: Some(Change::Moved(moved)) };
    }
    let answer = Redemption { completed_at: Some(now.trunc_subsecs(6)), ..plan.answer.clone() };
    let moved = Moved {
        taken: Some(legs::taken(&answer.tenders)),
        tenders: Some(as_json(&answer.tenders)),
        completed_at: answer.completed_at,
        ..moved
    };
    TransitionEffect { response: Some(stored(200, &answer)), change: Some(Change::Moved(moved)) }
}

/// What happened to the redemption at an ending of a forward-only saga. Such a saga is never compensated; should one be, the
/// redemption refuses that from where it stands, and the saga is parked.
fn event(ending: &Ending<'_, LegAnswer>, done: Event, work: Work) -> Event {
    match ending {
        Ending::Completed(_) => done,
        Ending::Parked => Event::Parked,
        Ending::Reopened(_) => Event::Reopened(work),
        Ending::Resolved => Event::Resolved,
        Ending::Compensating(_) => Event::Compensating,
        Ending::Compensated(..) => Event::Compensated,
    }
}
