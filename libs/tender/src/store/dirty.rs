//! The rows of a working set that are to be written, by table, in the order of their keys.

use uuid::Uuid;

use crate::{
    command::AccountKey,
    fold::working_set::{AccountState, Allocation, Dirty, Lot, Operation, WorkingSet},
};

/// The operations that are new, or changed, with their ids.
pub(super) fn operations(set: &WorkingSet, dirty: Dirty) -> Vec<(&Uuid, &Operation)> {
    let mut rows: Vec<_> = set.operations.iter().filter(|(_, operation)| operation.dirty == dirty).collect();
    rows.sort_unstable_by_key(|(id, _)| **id);
    rows
}

/// The allocations that are new, or changed, with their operations and positions.
pub(super) fn allocations(set: &WorkingSet, dirty: Dirty) -> Vec<(&Uuid, i16, &Allocation)> {
    let all = set
        .operations
        .iter()
        .flat_map(|(id, operation)| operation.allocations.iter().map(move |part| (id, part.position, part)));
    let mut rows: Vec<_> = all.filter(|(.., part)| part.dirty == dirty).collect();
    rows.sort_unstable_by_key(|(id, position, _)| (**id, *position));
    rows
}

/// The lots that are new, or changed, with the numbers of their accounts.
pub(super) fn lots(set: &WorkingSet, dirty: Dirty) -> Vec<(i64, &Lot)> {
    let all = set
        .accounts
        .values()
        .flat_map(|account| account.lots.values().map(|lot| (account.reference.account_no, lot)));
    let mut rows: Vec<_> = all.filter(|(_, lot)| lot.dirty == dirty).collect();
    rows.sort_unstable_by_key(|(number, lot)| (*number, lot.lot_id));
    rows
}

/// The accounts that changed. A new one is stored before its batch begins.
pub(super) fn accounts(set: &WorkingSet) -> Vec<(&AccountKey, &AccountState)> {
    let mut rows: Vec<_> = set.accounts.iter().filter(|(_, account)| account.dirty != Dirty::Clean).collect();
    rows.sort_unstable_by_key(|(_, account)| account.reference.account_no);
    rows
}
