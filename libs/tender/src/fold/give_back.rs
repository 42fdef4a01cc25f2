//! Value returns to the very lots that it came from, the last taken first: also to a lot that has expired since,
//! and in a frozen or closed account. Where a lot's value goes once it has lapsed is decided by expiry, not here.

use api::legs::LotPart;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::book::{AccountState, Operation, Return};
use crate::command::Rejection;

/// Where returned units were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// They were taken.
    Taken,
    /// They were set aside.
    Held,
}

/// Checks, before anything changes, that every lot of the operation was read.
pub fn check(account: &AccountState, operation: &Operation) -> Result<(), Rejection> {
    let is_read = |lot_id| account.ranks.contains_key(lot_id);
    let all = operation.allocations.iter().all(|part| part.outstanding() == 0 || is_read(&part.lot_id));
    all.then_some(()).ok_or(Rejection::Broken)
}

/// Returns `amount` units, at most what is outstanding, and tells which lots they went to.
pub fn give_back(
    account: &mut AccountState,
    (operation_id, operation): (Uuid, &mut Operation),
    (from, by_operation_id): (From, Uuid),
    amount: i64,
    now: DateTime<Utc>,
) -> (Vec<Return>, Vec<LotPart>) {
    let mut returns = Vec::new();
    let mut lots = Vec::new();
    let mut left = amount;
    // Positions fit: no operation takes from more lots than `take::LOTS_MAX`.
    let positions = 0..i16::try_from(operation.allocations.len()).unwrap_or(i16::MAX);
    for (position, part) in positions.zip(&mut operation.allocations).rev() {
        let units = left.min(part.outstanding());
        let Some(lot) = account.lot_mut(part.lot_id).filter(|_| units > 0) else { continue };
        lot.remaining += units;
        if from == From::Held {
            lot.held -= units;
        }
        lot.mark.touch();
        lots.push(LotPart { lot_id: lot.lot_id, amount: units, expires_at: lot.expires_at });
        if lot.is_spendable(now) {
            account.available += units;
        }
        part.reversed += units;
        part.mark.touch();
        returns.push(Return { operation_id, position, by_operation_id, amount: units });
        left -= units;
    }
    (returns, lots)
}

/// The reward that an operation took from: a reward is one lot, so its first part tells.
pub fn reward_of(account: &AccountState, operation: &Operation) -> Option<Uuid> {
    let lot_id = operation.allocations.first()?.lot_id;
    account.lots.get(account.ranks.get(&lot_id)?)?.reward_id
}
