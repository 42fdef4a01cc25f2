//! A leg that gives back what another leg took. The wallet reserved the amount before it sent this, so it is
//! refused only where the two contradict each other, and then without a trace.

use api::legs::Take;
use ledger::Movement;

use super::{
    Decision, is_of, leg_answer,
    record::record_leg,
    restore::{Restore, Source, Touched},
    working_set::{Kind, Operation, WorkingSet},
};
use crate::command::{Command, ForwardLeg, Rejection, State};

pub fn reverse(set: &mut WorkingSet, command: &Command, leg: &ForwardLeg) -> Decision {
    let of = leg.reverses.ok_or(Rejection::Conflict)?;
    let Some(mut taken) = Touched::of(set, &command.account, of)? else {
        return Err(Rejection::ExceedsRedeemed { available: 0 });
    };
    if !is_of(taken.operation, taken.account, command) {
        return Err(Rejection::Conflict);
    }
    let outstanding = if is_taken(taken.operation) { taken.operation.outstanding() } else { 0 };
    let amount = match leg.plan.take {
        Take::Exact if leg.plan.amount > outstanding => {
            return Err(Rejection::ExceedsRedeemed { available: outstanding });
        }
        Take::Exact | Take::AtMost => leg.plan.amount.min(outstanding),
    };
    let restore = Restore { from: Source::Taken, by: command.operation_id, units: amount };
    let lots = taken.restore(Movement::Reverse(amount), restore)?;
    let answer = leg_answer(State::Applied, amount, lots, taken.balance_after());
    Ok(record_leg(set, command, leg, Kind::Reverse, &answer, Vec::new()))
}

/// Whether the operation took value: a hold took it once it was captured.
fn is_taken(operation: &Operation) -> bool {
    operation.state == State::Applied && matches!(operation.kind, Kind::Debit | Kind::Hold)
}
