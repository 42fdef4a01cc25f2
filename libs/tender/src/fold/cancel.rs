//! A cancel always succeeds: what is outstanding of the leg goes back, a leg that is not there will never apply, and
//! any other leg is left as it is.

use api::legs::LegKey;
use ledger::Movement;

use super::{
    Decision, NOT_READ, leg_answer,
    record::{owner_of_absent, record},
    replayed,
    restore::{Restore, Source, Touched},
    stored, to_json,
    working_set::{Dirty, Kind, Operation, Origin, WorkingSet},
};
use crate::command::{Command, Outcome, State};

/// As a cancel, of a leg that should only hold. One that is applied was captured, whatever the wallet's database remembers of it:
/// what somebody was told is taken does not go back by itself.
pub fn release(set: &mut WorkingSet, command: &Command, key: LegKey) -> Decision {
    match stored(set, command)? {
        Some(operation) if operation.state == State::Applied => Ok(replayed(operation)),
        _ => cancel(set, command, key),
    }
}

pub fn cancel(set: &mut WorkingSet, command: &Command, key: LegKey) -> Decision {
    let Some(operation) = stored(set, command)? else {
        return Ok(leave_tombstone(set, command, key));
    };
    let from = match (operation.state, operation.kind) {
        (State::Applied, Kind::Debit | Kind::Hold) => Source::Taken,
        (State::Held, _) => Source::Held,
        // A refusal stands, what is undone stays undone. A leg that itself gave value back is forward-only:
        // no saga cancels it, and taking value from a customer again is not what "cancel" means.
        _ => return Ok(replayed(operation)),
    };
    restore_rest(set, command, from)
}

fn leave_tombstone(set: &mut WorkingSet, command: &Command, key: LegKey) -> Outcome {
    let details = owner_of_absent(set, command);
    let account = &set.accounts[&command.account].reference;
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
        dirty: Dirty::New,
    };
    record(set, command.operation_id, tombstone)
}

/// Restores what refunds have not given back already.
fn restore_rest(set: &mut WorkingSet, command: &Command, from: Source) -> Decision {
    let id = command.operation_id;
    let mut leg = Touched::of(set, &command.account, id)?.ok_or(NOT_READ)?;
    let units = leg.operation.outstanding();
    let movement = match from {
        Source::Taken => Movement::Cancel(units),
        Source::Held => Movement::Release(units),
    };
    let lots = leg.restore(movement, Restore { from, by: id, units })?;
    Ok(leg.finish(State::Reversed, units, lots))
}
