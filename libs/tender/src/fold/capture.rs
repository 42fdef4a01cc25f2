//! A held leg becomes a debit: of its lots in the order in which they were allocated, the rest released.

use api::legs::LotPart;
use ledger::Movement;

use super::{
    Decision, NOT_READ, replayed,
    restore::{Restore, Source, Touched},
    stored,
    working_set::{Kind, WorkingSet},
};
use crate::command::{Command, Rejection, State};

pub fn capture(set: &mut WorkingSet, command: &Command, amount: i64) -> Decision {
    let operation = stored(set, command)?.ok_or(Rejection::NotFound)?;
    match (operation.state, operation.kind) {
        (State::Held, Kind::Hold) if amount <= operation.amount => {}
        (State::Applied, Kind::Hold) if amount == operation.amount => return Ok(replayed(operation)),
        (State::Held | State::Applied, _) => return Err(Rejection::Conflict),
        _ => return Err(Rejection::AlreadyFinal),
    }
    let id = command.operation_id;
    let mut leg = Touched::of(set, &command.account, id)?.ok_or(NOT_READ)?;
    let rest = leg.operation.outstanding() - amount;
    // Restoring the last allocated first leaves the first for the debit.
    let movement = Movement::Capture { taken: amount, released: rest };
    leg.restore(movement, Restore { from: Source::Held, by: id, units: rest })?;
    let lots = take_held(&mut leg);
    leg.operation.amount = amount;
    Ok(leg.finish(State::Applied, amount, lots))
}

/// Takes what the leg still holds out of its lots.
fn take_held(leg: &mut Touched<'_>) -> Vec<LotPart> {
    let mut lots = Vec::new();
    for part in leg.operation.allocations.iter().filter(|part| part.outstanding() > 0) {
        let Some(lot) = leg.account.lot_mut(part.lot_id) else { continue };
        lot.held -= part.outstanding();
        lot.dirty.touch();
        lots.push(LotPart { lot_id: lot.lot_id, amount: part.outstanding(), expires_at: lot.expires_at });
    }
    lots
}
