//! Value returns to the very lots that it came from, the last taken first: also to a lot that has expired since,
//! and in a frozen or closed account. What goes back to a lot that has lapsed lapses again (`expire`).

use api::legs::LotPart;
use uuid::Uuid;

use super::book::{AccountState, Kind, Operation, Return};
use crate::command::Rejection;

/// Where returned units were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They were taken.
    Taken,
    /// They were set aside.
    Held,
}

/// Checks, before anything changes, that all of the operation's allocations were read, and every lot that they return to: what
/// is missing would give back too little, and say so to nobody.
pub fn check(account: &AccountState, operation: &Operation) -> Result<(), Rejection> {
    let parts = &operation.allocations;
    let are_complete = (0..).zip(parts).all(|(place, part)| part.position == place);
    let taken: i64 = parts.iter().map(|part| part.amount).sum();
    let takes = matches!(operation.kind, Kind::Debit | Kind::Hold);
    if !are_complete || (takes && taken < operation.amount) {
        return Err(Rejection::Corrupt("an allocation of the operation is missing"));
    }
    let is_read = |lot_id| account.ranks.contains_key(lot_id);
    if parts.iter().all(|part| part.outstanding() == 0 || is_read(&part.lot_id)) {
        Ok(())
    } else {
        Err(Rejection::Corrupt("a lot that the operation took from is missing"))
    }
}

/// Returns `amount` units, at most what is outstanding, and tells which lots they went to.
pub fn give_back(
    account: &mut AccountState,
    (operation_id, operation): (Uuid, &mut Operation),
    (from, by_operation_id): (Source, Uuid),
    amount: i64,
) -> (Vec<Return>, Vec<LotPart>) {
    let mut returns = Vec::new();
    let mut lots = Vec::new();
    let mut left = amount;
    for part in operation.allocations.iter_mut().rev() {
        let units = left.min(part.outstanding());
        let Some(lot) = account.lot_mut(part.lot_id).filter(|_| units > 0) else { continue };
        lot.remaining += units;
        if from == Source::Held {
            lot.held -= units;
        }
        lot.mark.touch();
        lots.push(LotPart { lot_id: lot.lot_id, amount: units, expires_at: lot.expires_at });
        part.reversed += units;
        part.mark.touch();
        returns.push(Return { operation_id, position: part.position, by_operation_id, amount: units });
        left -= units;
    }
    (returns, lots)
}

/// The reward that an operation took from: a reward is one lot, so its first part tells.
pub fn reward_of(account: &AccountState, operation: &Operation) -> Option<Uuid> {
    let lot_id = operation.allocations.first()?.lot_id;
    account.lots.get(account.ranks.get(&lot_id)?)?.reward_id
}
