//! The end of a lot: what is left of it is moved out, by an operation of its own whose id is a function of the lot and of how
//! often that has happened. Any command that meets an account finds it swept, and leaves it so.

use api::{derive::lot_end_id, legs::LotPart};
use ledger::Movement;
use uuid::Uuid;

use super::{
    NOT_LOCKED, to_json,
    working_set::{Allocation, Dirty, Kind, Operation, Origin, WorkingSet},
};
use crate::command::{AccountKey, Rejection, State};

/// Most lapsed lots of one account that a batch moves out. An account with more is swept first, in batches of its own.
pub const LAPSED_MAX: usize = 500;
/// Most lapsed lots that a batch moves out of all its accounts: each is a handful of rows of the one statement that writes a batch,
/// and where points end on the same day for everybody each account of a batch brings hundreds.
const LAPSED_OF_BATCH_MAX: usize = 2_048;

/// Most lapsed lots of each account that a batch of so many accounts moves out. An account with more runs alone.
#[must_use]
pub fn lapsed_max(accounts: usize) -> usize {
    (LAPSED_OF_BATCH_MAX / accounts.max(1)).clamp(1, LAPSED_MAX)
}

/// Moves out what has lapsed of an account.
///
/// # Errors
/// [`Rejection::Corrupt`] where the account's balance is less than its lots.
pub fn sweep(set: &mut WorkingSet, key: &AccountKey) -> Result<(), Rejection> {
    let WorkingSet { now, accounts, operations, postings, .. } = set;
    let account = accounts.get_mut(key).ok_or(NOT_LOCKED)?;
    let lapsed: Vec<Uuid> = account.lapsed(*now).take(LAPSED_MAX).map(|lot| lot.lot_id).collect();
    for lot_id in lapsed {
        let Some(lot) = account.lot_mut(lot_id) else { continue };
        let units = lot.remaining;
        let operation_id = lot_end_id(&key.business_id, &key.owner, lot_id, lot.times_expired);
        let part = LotPart { lot_id, amount: units, expires_at: lot.expires_at };
        postings.extend(account.post(operation_id, Movement::Expire(units))?);
        let owner = account.reference.clone();
        operations.insert(
            operation_id,
            Operation {
                account_no: owner.account_no,
                kind: Kind::Expire,
                state: State::Applied,
                amount: units,
                request_hash: None,
                response: to_json(&part).into(),
                allocations: vec![Allocation {
                    position: 0,
                    lot_id,
                    amount: units,
                    reversed: 0,
                    dirty: Dirty::New,
                }],
                origin: Origin { business_id: owner.business_id, ..Origin::default() },
                dirty: Dirty::New,
            },
        );
        let Some(lot) = account.lot_mut(lot_id) else { continue };
        lot.remaining = 0;
        lot.times_expired += 1;
        lot.dirty.touch();
    }
    Ok(())
}
