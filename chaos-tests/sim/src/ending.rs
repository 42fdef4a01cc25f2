//! What an ending means: the answer under the key and the redemption's next status, as
//! `services/wallet/src/sagas/{redeem,forward}.rs` have it.

use std::fmt::Write as _;

use api::legs::{LegAnswer, LegState};
use saga::machine::{Cause, State};

use crate::{
    Time,
    db::{Moved, Response, SagaId, Status},
    plan::{Plan, Redeem, Why},
};

/// What a run knows when it asks for a transition.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The saga.
    pub id: SagaId,
    /// The redemption that it is, or takes further.
    pub redemption: SagaId,
    /// Its plan.
    pub plan: &'a Plan,
    /// When it was written.
    pub created_at: Time,
    /// The legs' answers in the present direction.
    pub answers: &'a [Option<LegAnswer>],
    /// Why it was compensated.
    pub turned: &'a str,
    /// The state that is left.
    pub from: State,
}

/// The answer and the redemption's status that belong to a transition.
pub fn conclude(known: Known<'_>, to: State) -> (Option<Response>, Option<Moved>) {
    match known.plan {
        Plan::Redeem(redeem) => redeemed(known, redeem, to),
        Plan::Return(_, why) => {
            let done = match why {
                Why::Reversal => Status::Reversed,
                Why::Void => Status::Voided,
                Why::HoldExpired => Status::Expired,
            };
            forward(known, to, done, None)
        }
        Plan::Capture(_, units) => forward(known, to, Status::Completed, Some(units.clone())),
        Plan::Refund(..) => forward(known, to, Status::Completed, None),
        Plan::Nothing => (None, None),
    }
}

/// A forward-only saga is completed or parked, and nothing else.
fn forward(
    known: Known<'_>,
    to: State,
    done: Status,
    taken: Option<Vec<i64>>,
) -> (Option<Response>, Option<Moved>) {
    let is_done = to == State::Completed;
    let status = if is_done { done } else { Status::UnderReview };
    let moved = Moved {
        redemption: known.redemption,
        status,
        hold_expires_at: None,
        taken: taken.filter(|_| is_done),
    };
    (is_done.then(|| response(200, format!("{:?} {done:?}", known.id))), Some(moved))
}

fn redeemed(known: Known<'_>, redeem: &Redeem, to: State) -> (Option<Response>, Option<Moved>) {
    let moved = |status| Moved { redemption: known.redemption, status, hold_expires_at: None, taken: None };
    match to {
        State::Completed => {
            let status = if redeem.hold.is_some() { Status::Authorized } else { Status::Completed };
            let taken: Vec<_> = known.answers.iter().flatten().map(|answer| answer.amount).collect();
            let mut body = format!("{:?} {status:?}", known.id);
            known.answers.iter().flatten().for_each(|answer| tell(&mut body, answer));
            let hold_expires_at = redeem.hold.map(|ttl| known.created_at + ttl);
            let moved = Moved { hold_expires_at, taken: Some(taken), ..moved(status) };
            (Some(response(201, body)), Some(moved))
        }
        State::Compensating => {
            let body = format!("{:?} {} pending", known.id, known.turned);
            (Some(response(422, body)), Some(moved(Status::Declined)))
        }
        State::Compensated => {
            let mut body = format!("{:?} {} done", known.id, known.turned);
            if known.from == State::Compensating {
                let back =
                    known.answers.iter().flatten().filter(|a| a.state == LegState::Reversed && a.amount > 0);
                back.for_each(|answer| tell(&mut body, answer));
            }
            (Some(response(422, body)), Some(moved(Status::Declined)))
        }
        State::Running | State::DeadLetter | State::Resolved => (None, Some(moved(Status::UnderReview))),
    }
}

fn tell(body: &mut String, answer: &LegAnswer) {
    // Writing to a string cannot fail.
    let _ = write!(body, "; {:?} {}", answer.state, answer.amount);
    for lot in &answer.lots {
        let _ = write!(body, " {}:{}", lot.lot_id.as_u128() & 0xffff, lot.amount);
    }
}

fn response(status: u16, body: String) -> Response {
    Response { status, body: body.into() }
}

/// A cause as it is stored.
pub fn because(cause: Cause) -> String {
    match cause {
        Cause::Refused(leg) => format!("leg {leg} refused"),
        Cause::TookNothing => "took nothing".to_owned(),
        Cause::Unreachable(Some(leg)) => format!("leg {leg} silent"),
        Cause::Unreachable(None) => "silent".to_owned(),
        Cause::Wrong(leg) => format!("leg {leg} wrong"),
        Cause::Foreign(leg) => format!("leg {leg} foreign"),
        Cause::Poison => "poison".to_owned(),
    }
}
