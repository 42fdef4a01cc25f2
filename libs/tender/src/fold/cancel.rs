//! A cancel always succeeds: what is still out comes back, a leg that is not there will never apply, and
//! anything else is left as it is.

use api::legs::LegKey;
use ledger::Movement;

use super::{
    Decision, NOT_LOCKED, NOT_READ, OUT_OF_BALANCE, answer_of,
    book::{Book, Kind, Mark, Operation, Origin},
    give_back::{self, Source, reward_of},
    leg_answer, owner_of_absent, record, replayed, stored, to_json,
};
use crate::command::{Command, Outcome, State};

pub fn cancel(book: &mut Book, command: &Command, key: LegKey) -> Decision {
    let Some(operation) = stored(book, command)? else {
        return Ok(leave_tombstone(book, command, key));
    };
    let from = match (operation.state, operation.kind) {
        (State::Applied, Kind::Debit | Kind::Hold) => Source::Taken,
        (State::Held, _) => Source::Held,
        // A refusal stands, what is undone stays undone. A leg that itself gave value back is forward-only:
        // no saga cancels it, and taking value from a customer again is not what "cancel" means.
        _ => return Ok(replayed(operation)),
    };
    take_back(book, command, from)
}

fn leave_tombstone(book: &mut Book, command: &Command, key: LegKey) -> Outcome {
    let details = owner_of_absent(book, command);
    let account = &book.accounts[&command.account].reference;
    let tombstone = Operation {
        account_no: account.account_no,
        kind: Kind::Cancel,
        state: State::Tombstoned,
        amount: 0,
        request_hash: None,
        response: to_json(&leg_answer(State::Tombstoned, 0, Vec::new(), None)).into(),
        allocations: Vec::new(),
        origin: Origin {
            business_id: account.business_id.clone(),
            leg: Some(key),
            details,
            ..Origin::default()
        },
        mark: Mark::New,
    };
    record(book, command.operation_id, tombstone)
}

/// Returns the rest: what refunds have not given back already.
fn take_back(book: &mut Book, command: &Command, from: Source) -> Decision {
    let id = command.operation_id;
    let Book { now, accounts, operations, postings, returns, .. } = book;
    let account = accounts.get_mut(&command.account).ok_or(NOT_LOCKED)?;
    let operation = operations.get_mut(&id).ok_or(NOT_READ)?;
    give_back::check(account, operation)?;
    let amount = operation.outstanding();
    if amount > 0 {
        let movement = match from {
            Source::Taken => Movement::Cancel(amount),
            Source::Held => Movement::Release(amount),
        };
        postings.push(account.post(id, movement).map_err(|_| OUT_OF_BALANCE)?);
    }
    let reward_id = reward_of(account, operation);
    let (back, lots) = give_back::give_back(account, (id, operation), (from, id), amount);
    returns.extend(back);
    account.holds.retain(|hold| hold.operation_id != id);
    let after = account.after(reward_id, *now);
    operation.state = State::Reversed;
    operation.response = to_json(&leg_answer(State::Reversed, amount, lots, after)).into();
    operation.mark.touch();
    Ok(Outcome::Recorded(answer_of(operation)))
}
