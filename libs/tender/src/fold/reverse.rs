//! A leg that gives back what another leg took. The wallet reserved the amount before it sent this, so it is
//! refused only where the two contradict each other, and then without a trace.

use api::legs::Take;
use ledger::Movement;

use super::{
    Decision, NOT_LOCKED, OUT_OF_BALANCE,
    book::{Book, Kind, Operation},
    forward::record_leg,
    give_back::{self, Source, reward_of},
    is_of, leg_answer,
};
use crate::command::{Command, ForwardLeg, Rejection, State};

pub fn reverse(book: &mut Book, command: &Command, leg: &ForwardLeg) -> Decision {
    let of = leg.reverses.ok_or(Rejection::Conflict)?;
    let Book { now, accounts, operations, postings, returns, .. } = book;
    let account = accounts.get_mut(&command.account).ok_or(NOT_LOCKED)?;
    let Some(taken) = operations.get_mut(&of) else {
        return Err(Rejection::ExceedsRedeemed { available: 0 });
    };
    if !is_of(taken, account, command) {
        return Err(Rejection::Conflict);
    }
    let outstanding = if is_in_force(taken) { taken.outstanding() } else { 0 };
    let amount = match leg.plan.take {
        Take::Exact if leg.plan.amount > outstanding => {
            return Err(Rejection::ExceedsRedeemed { available: outstanding });
        }
        Take::Exact | Take::AtMost => leg.plan.amount.min(outstanding),
    };
    give_back::check(account, taken)?;
    if amount > 0 {
        let movement = Movement::Reverse(amount);
        postings.push(account.post(command.operation_id, movement).map_err(|_| OUT_OF_BALANCE)?);
    }
    let reward_id = reward_of(account, taken);
    let (back, lots) =
        give_back::give_back(account, (of, taken), (Source::Taken, command.operation_id), amount);
    returns.extend(back);
    let after = account.after(reward_id, *now);
    let answer = leg_answer(State::Applied, amount, lots, after);
    Ok(record_leg(book, command, leg, Kind::Reverse, &answer, Vec::new()))
}

fn is_in_force(operation: &Operation) -> bool {
    operation.state == State::Applied && matches!(operation.kind, Kind::Debit | Kind::Hold)
}
