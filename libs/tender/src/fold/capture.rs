//! A held leg becomes a debit: of its lots in the order in which they were set aside, the rest released.

use api::legs::LotPart;
use ledger::Movement;

use super::{
    Decision, NOT_LOCKED, NOT_READ, OUT_OF_BALANCE, answer_of,
    book::{Book, Kind},
    give_back::{self, Source, reward_of},
    leg_answer, replayed, stored, to_json,
};
use crate::command::{Command, Outcome, Rejection, State};

pub fn capture(book: &mut Book, command: &Command, amount: i64) -> Decision {
    let operation = stored(book, command)?.ok_or(Rejection::NotFound)?;
    match (operation.state, operation.kind) {
        (State::Held, Kind::Hold) if amount <= operation.amount => {}
        (State::Applied, Kind::Hold) if amount == operation.amount => return Ok(replayed(operation)),
        (State::Held | State::Applied, _) => return Err(Rejection::Conflict),
        _ => return Err(Rejection::AlreadyFinal),
    }
    let id = command.operation_id;
    let Book { now, accounts, operations, postings, returns, .. } = book;
    let account = accounts.get_mut(&command.account).ok_or(NOT_LOCKED)?;
    let operation = operations.get_mut(&id).ok_or(NOT_READ)?;
    give_back::check(account, operation)?;
    let held = operation.outstanding();
    if held > 0 {
        let movement = Movement::Capture { taken: amount, released: held - amount };
        postings.push(account.post(id, movement).map_err(|_| OUT_OF_BALANCE)?);
    }
    // Giving back the last set aside first leaves the first for the debit.
    let (back, _) = give_back::give_back(account, (id, operation), (Source::Held, id), held - amount);
    returns.extend(back);
    account.holds.retain(|hold| hold.operation_id != id);
    let mut lots = Vec::new();
    for part in operation.allocations.iter().filter(|part| part.outstanding() > 0) {
        let Some(lot) = account.lot_mut(part.lot_id) else { continue };
        lot.held -= part.outstanding();
        lot.mark.touch();
        lots.push(LotPart { lot_id: lot.lot_id, amount: part.outstanding(), expires_at: lot.expires_at });
    }
    let reward_id = reward_of(account, operation);
    let after = account.after(reward_id, *now);
    operation.state = State::Applied;
    operation.amount = amount;
    operation.response = to_json(&leg_answer(State::Applied, amount, lots, after)).into();
    operation.mark.touch();
    Ok(Outcome::Recorded(answer_of(operation)))
}
