//! Value goes back to the very lots that it came from, the last allocated first: also to a lot that has expired since,
//! and in a frozen or closed account. What goes back to a lot that has lapsed lapses again (`expire`).

use api::legs::{BalanceAfter, LotPart};
use chrono::{DateTime, Utc};
use ledger::{Movement, Posting};
use uuid::Uuid;

use super::{
    NOT_LOCKED, answer_of, leg_answer, to_json,
    working_set::{AccountState, Kind, Operation, Restoration, WorkingSet},
};
use crate::command::{AccountKey, Outcome, Rejection, State};

/// Where units are before they go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They were taken.
    Taken,
    /// They were set aside.
    Held,
}

/// What goes back of an operation.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    /// Where the units are.
    pub from: Source,
    /// The operation that gives them back.
    pub by: Uuid,
    /// Units; no more go back than are outstanding.
    pub units: i64,
}

/// A recorded operation and its account, both about to change, with the lists in which the batch keeps what the change leaves.
pub struct Touched<'a> {
    /// The account.
    pub account: &'a mut AccountState,
    /// The operation.
    pub operation: &'a mut Operation,
    operation_id: Uuid,
    now: DateTime<Utc>,
    postings: &'a mut Vec<Posting>,
    restorations: &'a mut Vec<Restoration>,
}

impl<'a> Touched<'a> {
    /// The operation with this id, and the account with this key; none if no such operation was read.
    ///
    /// # Errors
    /// [`Rejection::Corrupt`] where the account was not locked.
    pub fn of(
        set: &'a mut WorkingSet,
        account: &AccountKey,
        operation_id: Uuid,
    ) -> Result<Option<Self>, Rejection> {
        let WorkingSet { now, accounts, operations, postings, restorations, .. } = set;
        let account = accounts.get_mut(account).ok_or(NOT_LOCKED)?;
        Ok(operations.get_mut(&operation_id).map(|operation| Self {
            account,
            operation,
            operation_id,
            now: *now,
            postings,
            restorations,
        }))
    }

    /// Posts `movement` and restores units to their lots; tells how many went to which. Fails before anything changed.
    ///
    /// # Errors
    /// [`Rejection::Corrupt`] where an allocation or a lot was not read, or the account has less than its lots.
    pub fn restore(&mut self, movement: Movement, restore: Restore) -> Result<Vec<LotPart>, Rejection> {
        check(self.account, self.operation)?;
        self.postings.extend(self.account.post(restore.by, movement)?);
        let mut lots = Vec::new();
        let mut left = restore.units;
        for part in self.operation.allocations.iter_mut().rev() {
            let units = left.min(part.outstanding());
            let Some(lot) = self.account.lot_mut(part.lot_id).filter(|_| units > 0) else { continue };
            lot.remaining += units;
            if restore.from == Source::Held {
                lot.held -= units;
            }
            lot.dirty.touch();
            lots.push(LotPart { lot_id: lot.lot_id, amount: units, expires_at: lot.expires_at });
            part.reversed += units;
            part.dirty.touch();
            self.restorations.push(Restoration {
                operation_id: self.operation_id,
                position: part.position,
                by_operation_id: restore.by,
                amount: units,
            });
            left -= units;
        }
        Ok(lots)
    }

    /// What the account has now, of the reward that the operation took from or in all: a reward is one lot, so the operation's
    /// first allocation tells which.
    pub fn balance_after(&self) -> Option<BalanceAfter> {
        let first = self.operation.allocations.first();
        let lot = first.and_then(|part| self.account.lot(part.lot_id));
        self.account.after(lot.and_then(|lot| lot.reward_id), self.now)
    }

    /// The operation stands in `state` from now on, holds nothing any more, and has this answer.
    pub fn finish(self, state: State, amount: i64, lots: Vec<LotPart>) -> Outcome {
        let answer = leg_answer(state, amount, lots, self.balance_after());
        self.account.holds.retain(|hold| hold.operation_id != self.operation_id);
        self.operation.state = state;
        self.operation.response = to_json(&answer).into();
        self.operation.dirty.touch();
        Outcome::Recorded(answer_of(self.operation))
    }
}

/// Checks, before anything changes, that all of the operation's allocations were read, and every lot that their units go back
/// to: where one is missing too little would go back, and the answer would say that it was all.
fn check(account: &AccountState, operation: &Operation) -> Result<(), Rejection> {
    let parts = &operation.allocations;
    let are_complete = (0..).zip(parts).all(|(place, part)| part.position == place);
    let allocated: i64 = parts.iter().map(|part| part.amount).sum();
    let allocates = matches!(operation.kind, Kind::Debit | Kind::Hold);
    if !are_complete || (allocates && allocated < operation.amount) {
        return Err(Rejection::Corrupt("an allocation of the operation is missing"));
    }
    if parts.iter().all(|part| part.outstanding() == 0 || account.lot(part.lot_id).is_some()) {
        Ok(())
    } else {
        Err(Rejection::Corrupt("a lot that the operation took from is missing"))
    }
}
