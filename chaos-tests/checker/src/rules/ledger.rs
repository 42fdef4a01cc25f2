//! I4, I6 and I10: each ledger adds up, by arithmetic of our own over its rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    case::{Book, Case},
    evidence::Ledger,
    format::Snapshot,
    invariant::{Invariant, Violation},
    rows::{Account, Allocation, Entry},
};

/// Operations in these states have no effect, and never will.
const REFUSED: [&str; 3] = ["declined", "expired", "tombstoned"];

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut found: Vec<Violation> = case.evidence.snapshots.iter().flat_map(of_snapshot).collect();
    for (tender, book) in &case.books {
        let mut say =
            |invariant, text: String| found.push(Violation::new(invariant, format!("{tender}: {text}")));
        accounts(book, &mut say);
        lots(book.ledger, &mut say);
        allocations(book.ledger, &mut say);
        refusals(book, &mut say);
        balanced(book.ledger, &mut say);
        for earlier in case.evidence.earlier.iter().filter_map(|dump| dump.ledgers.get(tender)) {
            kept(earlier, book.ledger, &mut say);
        }
    }
    found
}

fn of_snapshot(snapshot: &Snapshot) -> Vec<Violation> {
    let wrong =
        snapshot.accounts.iter().filter(|seen| seen.posted != seen.entries || seen.posted != seen.lots);
    wrong
        .map(|seen| {
            Violation::new(Invariant::I4, format!("{} at {} us: {seen:?}", snapshot.database, snapshot.from))
        })
        .collect()
}

fn accounts(book: &Book<'_>, say: &mut impl FnMut(Invariant, String)) {
    let mut lots: HashMap<i64, (i64, i64)> = HashMap::new();
    for lot in &book.ledger.lots {
        let sums = lots.entry(lot.account_no).or_default();
        *sums = (sums.0 + lot.remaining + lot.held, sums.1 + lot.held);
    }
    for account in &book.ledger.accounts {
        let entries = book.by_account.get(&account.account_no).map_or(&[][..], Vec::as_slice);
        let sum: i64 = entries.iter().map(|entry| entry.amount).sum();
        let (in_lots, held) = lots.get(&account.account_no).copied().unwrap_or_default();
        if account.posted != sum || account.posted != in_lots || account.held != held {
            say(
                Invariant::I4,
                format!("{account:?} has entries of {sum} and lots of {in_lots}, {held} of it held"),
            );
        }
        if account.posted < 0 || account.held < 0 || account.held > account.posted {
            say(Invariant::I4, format!("{account:?} is below zero"));
        }
        if let Some(entry) = broken_link(account, entries) {
            say(Invariant::I4, format!("{entry:?} does not follow from the entry before it, of {account:?}"));
        }
    }
    let known: HashSet<i64> = book.ledger.accounts.iter().map(|account| account.account_no).collect();
    for number in book.by_account.keys().filter(|number| !known.contains(number)) {
        say(Invariant::I4, format!("entries of account {number}, which is not there"));
    }
}

/// The first entry whose version or balance is not the next one; or the last, if the account has another version.
fn broken_link<'a>(account: &Account, entries: &[&'a Entry]) -> Option<&'a Entry> {
    let (mut version, mut balance) = (0, 0);
    for entry in entries {
        version += 1;
        balance += entry.amount;
        let is_next = entry.version == Some(version) && entry.balance_after == Some(balance);
        if !is_next || balance < 0 || entry.held_after.is_none_or(|held| held < 0 || held > balance) {
            return Some(entry);
        }
    }
    (version != account.version).then(|| entries.last().copied()).flatten()
}

/// What is left of a lot is what it began with, less what was taken and did not come back.
fn lots(ledger: &Ledger, say: &mut impl FnMut(Invariant, String)) {
    let mut taken: HashMap<&str, i64> = HashMap::new();
    for part in &ledger.allocations {
        *taken.entry(&part.lot_id).or_default() += part.amount - part.reversed;
    }
    for lot in &ledger.lots {
        let gone = taken.get(lot.lot_id.as_str()).copied().unwrap_or(0);
        if lot.remaining != lot.original - gone || lot.remaining < 0 || lot.held < 0 {
            say(Invariant::I4, format!("{lot:?}, of which {gone} were taken"));
        }
    }
}

/// What came back is what the single returns add up to, and no more than was taken.
fn allocations(ledger: &Ledger, say: &mut impl FnMut(Invariant, String)) {
    let mut returned: BTreeMap<(&str, i32), i64> = BTreeMap::new();
    for part in &ledger.returns {
        *returned.entry((&part.operation_id, part.position)).or_default() += part.amount;
    }
    for part in &ledger.allocations {
        let Allocation { operation_id, position, amount, reversed, .. } = part;
        let back = returned.remove(&(operation_id.as_str(), *position)).unwrap_or(0);
        if back != *reversed || reversed > amount {
            say(Invariant::I6, format!("{part:?}, to which {back} came back"));
        }
    }
    for (place, back) in returned {
        say(Invariant::I6, format!("{back} came back to {place:?}, which took nothing"));
    }
}

/// Where something was refused or cancelled before it came, nothing applied.
fn refusals(book: &Book<'_>, say: &mut impl FnMut(Invariant, String)) {
    let took: HashSet<&str> = book.ledger.allocations.iter().map(|part| part.operation_id.as_str()).collect();
    for operation in
        book.ledger.operations.iter().filter(|operation| REFUSED.contains(&operation.state.as_str()))
    {
        let id = operation.operation_id.as_str();
        if took.contains(id) || book.by_operation.contains_key(id) {
            say(Invariant::I6, format!("{operation:?} took something"));
        }
    }
}

fn balanced(ledger: &Ledger, say: &mut impl FnMut(Invariant, String)) {
    let mut sums: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for entry in &ledger.entries {
        *sums.entry((&entry.operation_id, &entry.asset)).or_default() += entry.amount;
    }
    for (operation, sum) in sums.into_iter().filter(|(_, sum)| *sum != 0) {
        say(Invariant::I10, format!("the entries of {operation:?} sum to {sum}"));
    }
}

/// Every entry and every return of an earlier dump is still there, as it was.
fn kept(earlier: &Ledger, end: &Ledger, say: &mut impl FnMut(Invariant, String)) {
    let now: HashSet<String> = end.entries.iter().map(|entry| format!("{entry:?}")).collect();
    for entry in earlier.entries.iter().filter(|entry| !now.contains(&format!("{entry:?}"))) {
        say(Invariant::I10, format!("{entry:?} was there, and is not any more"));
    }
    let now: HashSet<String> = end.returns.iter().map(|row| format!("{row:?}")).collect();
    for row in earlier.returns.iter().filter(|row| !now.contains(&format!("{row:?}"))) {
        say(Invariant::I10, format!("{row:?} was there, and is not any more"));
    }
}
