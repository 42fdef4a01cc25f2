//! What moves a redemption, and where to: `(standing, event) -> standing`, pure and total.
//!
//! ```text
//!           Completed                          ReturnStarted(reversal)             Returned
//!  pending ────────────> completed ─────────────────────────────────> reversing ───────────> reversed, voided,
//!   │ │                      ^  Captured                              ^  ReturnStarted         expired
//!   │ └────────> authorized ─┼────────────────────────────────────────┘  (void, hold expired)
//!   │ Authorized     └─> capturing  CaptureStarted
//!   │
//!   │ Compensating                       Compensated
//!   ├─────────────> declined (pending) ─────────────> declined (done)
//!   └───────────────────────────────────────────────────────^  Compensated, where nothing had been taken
//!
//!  pending, capturing            ── Parked ──> under_review             ── Reopened ──> where it was parked
//!  declined (pending), reversing ── Parked ──> under_review (pending)   ── Resolved ──> resolved
//! ```
//! Sagas say what happened to them ([`Event`]), and nothing else decides where a redemption stands: SQL writes the pairs of
//! standings that [`moves`] lists, by a compare-and-set on the first of each. What is refused here parks the saga.
//!
//! A saga can be parked without its redemption, where the database refuses the redemption's row. So whatever an operator does with
//! such a saga is taken from the standing before `Parked` as well, and `redemption::follow` brings the rest after.
//!
//! `partially_refunded` and `refunded` are names in rows and on the wire; no event leads there before refunds exist.

use api::wallet::{RedemptionStatus as Status, Reversal};

use super::status::Standing;
use crate::plan::{Plan, ReversalReason};

/// What happened to a saga of a redemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Every leg was applied.
    Completed,
    /// Every leg is held.
    Authorized,
    /// The redemption is compensated: its legs are about to be cancelled.
    Compensating,
    /// No leg of it is in force, and none will be.
    Compensated,
    /// A capture is written.
    CaptureStarted,
    /// Every leg of a capture is done.
    Captured,
    /// A return is written.
    ReturnStarted(ReversalReason),
    /// Every leg of a return is done.
    Returned(ReversalReason),
    /// The saga is a dead letter.
    Parked,
    /// An operator replays the dead letter of this work.
    Reopened(Work),
    /// An operator settled the dead letter by hand.
    Resolved,
}

/// The work of a saga on a redemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Taking, or holding.
    Redeem,
    /// Undoing what never took effect.
    Compensation,
    /// Taking what is held.
    Capture,
    /// Giving all back.
    Return,
}

/// An event that makes no sense where the redemption stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a redemption that is {from} cannot be moved by {event:?}")]
pub struct Illegal {
    /// Where it stands.
    pub from: Standing,
    /// What happened.
    pub event: Event,
}

/// Where an event leads from a standing.
///
/// # Errors
/// [`Illegal`] if it leads nowhere.
pub const fn next(from: Standing, event: Event) -> Result<Standing, Illegal> {
    let to = match (from.status, from.reversal, event) {
        (Status::Pending, None, Event::Completed) | (Status::Capturing, None, Event::Captured) => {
            Standing::on(Status::Completed)
        }
        (Status::Pending, None, Event::Authorized) => Standing::on(Status::Authorized),
        (Status::Pending, None, Event::Compensating) => Standing::DECLINED_PENDING,
        (Status::Pending, None, Event::Compensated)
        | (Status::Declined, Some(Reversal::Pending), Event::Compensated) => Standing::DECLINED,

        (Status::Authorized, None, Event::CaptureStarted) => Standing::on(Status::Capturing),
        (
            Status::Completed | Status::PartiallyRefunded,
            None,
            Event::ReturnStarted(ReversalReason::Reversal),
        )
        | (
            Status::Authorized,
            None,
            Event::ReturnStarted(ReversalReason::Void | ReversalReason::HoldExpired),
        ) => Standing::on(Status::Reversing),
        (Status::Reversing, None, Event::Returned(why)) => Standing::on(match why {
            ReversalReason::Reversal => Status::Reversed,
            ReversalReason::Void => Status::Voided,
            ReversalReason::HoldExpired => Status::Expired,
        }),

        (Status::Pending | Status::Capturing, None, Event::Parked) => Standing::on(Status::UnderReview),
        (Status::Declined, Some(Reversal::Pending), Event::Parked)
        | (Status::Reversing, None, Event::Parked) => Standing::UNDER_REVIEW_PENDING,

        (Status::UnderReview | Status::Pending, None, Event::Reopened(Work::Redeem)) => {
            Standing::on(Status::Pending)
        }
        (Status::UnderReview, _, Event::Reopened(Work::Compensation))
        | (Status::Pending, None, Event::Reopened(Work::Compensation))
        | (Status::Declined, Some(Reversal::Pending), Event::Reopened(Work::Compensation)) => {
            Standing::DECLINED_PENDING
        }
        (Status::UnderReview | Status::Capturing, None, Event::Reopened(Work::Capture)) => {
            Standing::on(Status::Capturing)
        }
        (Status::UnderReview, Some(Reversal::Pending), Event::Reopened(Work::Return))
        | (Status::Reversing, None, Event::Reopened(Work::Return)) => Standing::on(Status::Reversing),

        (Status::UnderReview, _, Event::Resolved)
        | (Status::Pending | Status::Capturing | Status::Reversing, None, Event::Resolved)
        | (Status::Declined, Some(Reversal::Pending), Event::Resolved) => Standing::on(Status::Resolved),

        _ => return Err(Illegal { from, event }),
    };
    Ok(to)
}

/// All standings from which an event leads somewhere, and where to: what a statement may write for it.
pub fn moves(event: Event) -> impl Iterator<Item = (Standing, Standing)> {
    Standing::ALL.into_iter().filter_map(move |from| Some((from, next(from, event).ok()?)))
}

impl Event {
    /// What the event stream says of it: `wallet.redemption_` and this. Work that begins, or is taken up again, tells nothing: what
    /// comes of it will be told.
    #[must_use]
    pub const fn told(self) -> Option<&'static str> {
        Some(match self {
            Self::Completed => "completed",
            Self::Authorized => "authorized",
            Self::Compensating | Self::Compensated => "declined",
            Self::Captured => "captured",
            Self::Returned(ReversalReason::Reversal) => "reversed",
            Self::Returned(ReversalReason::Void) => "voided",
            Self::Returned(ReversalReason::HoldExpired) => "expired",
            Self::Parked => "under_review",
            Self::Resolved => "resolved",
            Self::CaptureStarted | Self::ReturnStarted(_) | Self::Reopened(_) => return None,
        })
    }

    /// Whether all that was taken is from now on reserved for going back, so that nothing else can give it back as well.
    #[must_use]
    pub const fn returns_all(self) -> bool {
        matches!(self, Self::ReturnStarted(_))
    }

    /// What writing a plan's saga does to the redemption that it takes further; nothing where it takes none further.
    #[must_use]
    pub const fn started_by(plan: &Plan) -> Option<(uuid::Uuid, Self)> {
        match plan {
            Plan::Reversal(plan) => Some((plan.redemption_id, Self::ReturnStarted(plan.why))),
            Plan::Capture(plan) => Some((plan.redemption_id, Self::CaptureStarted)),
            Plan::Redeem(_) | Plan::Nothing | Plan::Orphan(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 17] = [
        Event::Completed,
        Event::Authorized,
        Event::Compensating,
        Event::Compensated,
        Event::CaptureStarted,
        Event::Captured,
        Event::ReturnStarted(ReversalReason::Reversal),
        Event::ReturnStarted(ReversalReason::Void),
        Event::ReturnStarted(ReversalReason::HoldExpired),
        Event::Returned(ReversalReason::Reversal),
        Event::Returned(ReversalReason::Void),
        Event::Returned(ReversalReason::HoldExpired),
        Event::Parked,
        Event::Reopened(Work::Redeem),
        Event::Reopened(Work::Compensation),
        Event::Reopened(Work::Capture),
        Event::Reopened(Work::Return),
    ];

    /// Everything that is possible, as `from Event to`; `Resolved` is looked at apart.
    const POSSIBLE: &str = "
        pending             Completed                  completed
        pending             Authorized                 authorized
        pending             Compensating               declined/pending
        pending             Compensated                declined/done
        pending             Parked                     under_review
        pending             Reopened(Redeem)           pending
        pending             Reopened(Compensation)     declined/pending
        authorized          CaptureStarted             capturing
        authorized          ReturnStarted(Void)        reversing
        authorized          ReturnStarted(HoldExpired) reversing
        capturing           Captured                   completed
        capturing           Parked                     under_review
        capturing           Reopened(Capture)          capturing
        completed           ReturnStarted(Reversal)    reversing
        partially_refunded  ReturnStarted(Reversal)    reversing
        declined/pending    Compensated                declined/done
        declined/pending    Parked                     under_review/pending
        declined/pending    Reopened(Compensation)     declined/pending
        reversing           Returned(Reversal)         reversed
        reversing           Returned(Void)             voided
        reversing           Returned(HoldExpired)      expired
        reversing           Parked                     under_review/pending
        reversing           Reopened(Return)           reversing
        under_review        Reopened(Redeem)           pending
        under_review        Reopened(Compensation)     declined/pending
        under_review        Reopened(Capture)          capturing
        under_review/pending Reopened(Compensation)    declined/pending
        under_review/pending Reopened(Return)          reversing
    ";

    fn name(standing: Standing) -> String {
        let reversal = standing.reversal.map(|reversal| format!("/{}", reversal.as_str()));
        format!("{}{}", standing.status.as_str(), reversal.unwrap_or_default())
    }

    #[test]
    fn every_event_in_every_standing_leads_where_the_table_says_or_nowhere() {
        let mut possible: Vec<Vec<&str>> =
            POSSIBLE.lines().map(|line| line.split_whitespace().collect()).collect();
        possible.retain(|line: &Vec<&str>| !line.is_empty());
        let mut seen = 0;
        for from in Standing::ALL {
            for event in EVENTS {
                let wanted =
                    possible.iter().find(|line| line[0] == name(from) && line[1] == format!("{event:?}"));
                let led = next(from, event).map(name);
                assert_eq!(led.as_deref().ok(), wanted.map(|line| line[2]), "{from} {event:?}");
                seen += usize::from(led.is_ok());
            }
        }
        assert_eq!(seen, possible.len(), "a line of the table names no standing, or no event");
    }

    #[test]
    fn only_what_is_parked_or_may_be_parked_unseen_is_resolved() {
        for from in Standing::ALL {
            let is_open = next(from, Event::Parked).is_ok() || from.status == Status::UnderReview;
            let resolved = next(from, Event::Resolved).ok();
            assert_eq!(resolved, is_open.then_some(Standing::on(Status::Resolved)), "{from}");
        }
    }

    /// Else a dead letter could not be written, or not be replayed, once another redemption of the till has the sequence.
    #[test]
    fn nothing_gains_a_sequence_that_it_did_not_hold() {
        for event in EVENTS.into_iter().chain([Event::Resolved]) {
            for (from, to) in moves(event) {
                assert!(from.holds_sequence() || !to.holds_sequence(), "{from} {event:?} {to}");
            }
        }
    }

    #[test]
    fn whatever_is_parked_can_be_replayed_to_where_it_was() {
        for (from, parked) in moves(Event::Parked) {
            let work = match from.status {
                Status::Pending => Work::Redeem,
                Status::Capturing => Work::Capture,
                Status::Reversing => Work::Return,
                _ => Work::Compensation,
            };
            assert_eq!(next(parked, Event::Reopened(work)), Ok(from));
            assert_eq!(next(from, Event::Reopened(work)), Ok(from), "parked without its redemption");
        }
    }
}
