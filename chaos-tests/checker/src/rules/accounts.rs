//! Linearizability of accounts: each answers as if one caller at a time had come.
//!
//! A saga is not isolated: while it works, others see what it has taken from one tender and not yet from the next, and
//! what it takes back. So the objects are the accounts, one a tender, and not the wallet as a whole. A history is
//! linearizable if, and only if, that of each of its objects is.

use std::{collections::BTreeMap, fmt, iter};

use crate::{
    calls::{Key, Made, Sale, Told},
    case::{Case, Wallet},
    format::{Call, Leg},
    invariant::{Invariant, Violation},
    order::{self, Interval, Object},
};

/// An account: what is in it, and what redeems have out of it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Account<'a> {
    free: i64,
    version: i64,
    taken: BTreeMap<Key<'a>, i64>,
}

impl fmt::Debug for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} free at version {}", self.free, self.version)
    }
}

#[derive(Debug, Clone)]
enum Operation<'a> {
    /// Value was issued.
    Credit(i64),
    /// A redeem took this; then so much was left, if that is known.
    Take(Key<'a>, i64, Option<i64>),
    /// A redeem gave back what it took, or freed what it had set aside.
    Back(Key<'a>),
    /// So much of what a redeem had set aside was taken, and the rest is free again.
    Capture(Key<'a>, i64),
    /// A redeem was refused, for there was only this much.
    Refuse(i64),
    /// This much was free, at this version.
    Read(i64, i64),
    /// So much was left of a lot at its end, and is gone.
    Expire(i64),
}

impl<'a> Object for Account<'a> {
    type Operation = Operation<'a>;

    fn step(&self, operation: &Operation<'a>) -> Option<Self> {
        let mut next = self.clone();
        let is_so = match operation {
            Operation::Credit(units) => {
                next.free += units;
                true
            }
            Operation::Expire(units) => {
                next.free -= units;
                next.free >= 0
            }
            Operation::Take(key, units, left) => {
                next.free -= units;
                let is_first = next.taken.insert(*key, *units).is_none();
                is_first && next.free >= 0 && left.is_none_or(|left| left == next.free)
            }
            Operation::Back(key) => {
                let taken = next.taken.remove(key);
                next.free += taken.unwrap_or(0);
                taken.is_some()
            }
            Operation::Capture(key, units) => {
                let held = next.taken.insert(*key, *units);
                next.free += held.unwrap_or(0) - units;
                held.is_some_and(|held| held >= *units)
            }
            Operation::Refuse(free) => return (*free == self.free).then_some(next),
            Operation::Read(free, version) => {
                return ((*free, *version) == (self.free, self.version)).then_some(next);
            }
        };
        next.version += 1;
        is_so.then_some(next)
    }
}

type History<'a> = Vec<Interval<Operation<'a>>>;

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut histories: BTreeMap<Wallet<'_>, History<'_>> = BTreeMap::new();
    for made in &case.calls {
        if let Some((wallet, operation)) = of_call(made) {
            histories.entry(wallet).or_default().push(operation);
        }
    }
    for (key, sale) in &case.sales {
        for leg in sale.legs {
            let steps = Steps::new(case, *key, sale, leg).all();
            histories.entry((key.0, sale.customer, leg.tender.as_str())).or_default().extend(steps);
        }
    }
    let mut found = Vec::new();
    for (wallet, mut history) in histories {
        history.extend(expiries(case, wallet));
        history.extend(in_the_end(case, wallet));
        if let Err(why) = order::find(Account::default(), history) {
            found.push(Violation::new(Invariant::Linearizable, format!("{wallet:?}: {why}")));
        }
    }
    found
}

/// After a version, and before the next.
const fn read_hint(version: i64) -> i64 {
    2 * version + 1
}

fn of_call<'a>(made: &Made<'a>) -> Option<(Wallet<'a>, Interval<Operation<'a>>)> {
    let at = |operation, returned, hint| Interval { operation, invoked: made.invoked, returned, hint };
    match made.call {
        Call::Credit { business, customer, leg } => {
            let step = at(Operation::Credit(leg.units), made.returned, 0);
            Some(((business, customer, &leg.tender), step))
        }
        Call::Read { business, customer, tender } if made.answer.is_some() => {
            let (free, version) = (made.said["available"].as_i64()?, made.said["version"].as_i64()?);
            let step = at(Operation::Read(free, version), made.returned, read_hint(version));
            Some(((business, customer, tender), step))
        }
        _ => None,
    }
}

/// Lots that came to their end. Nobody asks for that: only the ledger tells, and it happens when somebody meets the account.
fn expiries<'a>(case: &Case<'_>, wallet: Wallet<'_>) -> Vec<Interval<Operation<'a>>> {
    let expiries = case.entries(wallet).iter().filter(|entry| entry.kind == "expire");
    expiries
        .map(|entry| Interval {
            operation: Operation::Expire(-entry.amount),
            invoked: 0,
            returned: Some(u64::MAX - 1),
            hint: entry.version.map_or(i64::MAX, |version| 2 * version),
        })
        .collect()
}

/// What the ledger comes to, read when everything is over.
fn in_the_end<'a>(case: &Case<'_>, wallet: Wallet<'_>) -> Option<Interval<Operation<'a>>> {
    let last = case.entries(wallet).last()?;
    let (free, version) = (last.balance_after? - last.held_after?, last.version?);
    let operation = Operation::Read(free, version);
    Some(Interval { operation, invoked: u64::MAX, returned: Some(u64::MAX), hint: read_hint(version) })
}

/// When the first of several calls under one key was made: any of them may be the one that did it.
fn begun(calls: &[Made<'_>]) -> u64 {
    calls.iter().map(|made| made.invoked).min().unwrap_or(0)
}

/// What one leg of a sale did to its account, as far as its till was told.
struct Steps<'a, 'b> {
    key: Key<'a>,
    sale: &'b Sale<'a>,
    leg: &'a Leg,
    /// Its number, which is its place in the request.
    number: usize,
    /// At which versions the ledger says that it took, or set aside; that it captured; and that it gave back.
    hints: (i64, i64, i64),
    /// How much the ledger says was captured.
    captured: i64,
}

impl<'a, 'b> Steps<'a, 'b> {
    fn new(case: &Case<'_>, key: Key<'a>, sale: &'b Sale<'a>, leg: &'a Leg) -> Self {
        let number = sale.legs.iter().position(|other| std::ptr::eq(other, leg)).unwrap_or(0);
        let planned = case.redeems.get(&key).and_then(|saga| Some((*saga, saga.plan.legs.get(number)?)));
        let posted =
            planned.map(|(saga, leg)| case.posted(&leg.tender, &saga.legs_id, leg.leg)).unwrap_or_default();
        let version = |kinds: &[&str]| {
            let mut entries = posted.iter().filter(|entry| kinds.contains(&entry.kind.as_str()));
            entries.find_map(|entry| entry.version).map_or(i64::MAX, |version| 2 * version)
        };
        let hints = (version(&["debit", "hold"]), version(&["capture"]), version(&["cancel", "release"]));
        let captures = posted.iter().filter(|entry| entry.kind == "capture");
        let captured = captures.map(|entry| -entry.amount).sum();
        Self { key, sale, leg, number, hints, captured }
    }

    fn all(&self) -> Vec<Interval<Operation<'a>>> {
        let cancelled = self.sale.cancels.iter().map(|made| made.invoked).min();
        let is_cancelled = self.sale.cancelled().is_some();
        if let Some(made) = self.sale.first(Told::Completed).filter(|_| self.sale.is_hold) {
            return iter::once(self.take(made.returned, self.left(made))).chain(self.after_hold()).collect();
        }
        if let Some(made) = self.sale.first(Told::Completed) {
            let back = cancelled.map(|at| self.back(at, is_cancelled.then_some(u64::MAX)));
            return [Some(self.take(made.returned, self.left(made))), back].into_iter().flatten().collect();
        }
        let Some(made) = self.sale.first(Told::Declined).filter(|made| made.said["reversal"] == "done")
        else {
            return vec![self.take(None, None), self.back(self.sale.begun(), None)];
        };
        let is_own = |part: &&serde_json::Value| part["leg"] == self.number;
        if made.said["returned"].as_array().is_some_and(|parts| parts.iter().any(|part| is_own(&part))) {
            return vec![self.take(made.returned, None), self.back(self.sale.begun(), made.returned)];
        }
        self.refused(made).into_iter().collect()
    }

    /// What became of a hold: it was captured, voided or cancelled, or ended by itself; what no till was told of may have
    /// happened as well.
    fn after_hold(&self) -> Vec<Interval<Operation<'a>>> {
        let sale = self.sale;
        let cancelled = sale.cancels.iter().map(|made| made.invoked).min();
        let end = (cancelled.is_some() && sale.cancelled().is_some()).then_some(u64::MAX);
        if let Some(made) = sale.captured() {
            let mut steps = vec![self.capture(made, made.returned)];
            // What the capture left free already does not go back again.
            if let Some(at) = cancelled.filter(|_| self.captured_units(made) > 0) {
                steps.push(self.back(at, end));
            }
            return steps;
        }
        if let Some(made) = sale.voided() {
            return vec![self.back(begun(&sale.voids), made.returned)];
        }
        let mut steps = vec![self.back(cancelled.unwrap_or_else(|| sale.begun()), end)];
        let open = sale.captures.iter().filter(|made| !made.is_refused());
        steps.extend(open.map(|made| self.capture(made, None)));
        steps
    }

    /// How much of this leg a capture took, as it was told; if nobody was told, what the ledger has.
    fn captured_units(&self, made: &Made<'_>) -> i64 {
        if made.answer.is_none() {
            return self.captured;
        }
        let mut told = made.said["tenders"].as_array().into_iter().flatten();
        let own = told.find(|tender| tender["leg"] == self.number);
        own.and_then(|own| own["points"].as_i64().or_else(|| own["amount"].as_i64())).unwrap_or(0)
    }

    /// A capture that needs nothing of this leg frees it.
    fn capture(&self, made: &Made<'_>, returned: Option<u64>) -> Interval<Operation<'a>> {
        let invoked = begun(&self.sale.captures);
        match self.captured_units(made) {
            0 => self.back(invoked, returned),
            units => Interval {
                operation: Operation::Capture(self.key, units),
                invoked,
                returned,
                hint: self.hints.1,
            },
        }
    }

    fn take(&self, returned: Option<u64>, left: Option<i64>) -> Interval<Operation<'a>> {
        let operation = Operation::Take(self.key, self.leg.units, left);
        Interval { operation, invoked: self.sale.begun(), returned, hint: self.hints.0 }
    }

    fn back(&self, invoked: u64, returned: Option<u64>) -> Interval<Operation<'a>> {
        Interval { operation: Operation::Back(self.key), invoked, returned, hint: self.hints.2 }
    }

    fn refused(&self, made: &Made<'_>) -> Option<Interval<Operation<'a>>> {
        let is_own = made.said["leg"] == self.number && made.said["code"] == "insufficient_balance";
        let operation = Operation::Refuse(made.said["available"].as_i64().filter(|_| is_own)?);
        Some(Interval { operation, invoked: self.sale.begun(), returned: made.returned, hint: 0 })
    }

    /// What was left after it, as the till was told.
    fn left(&self, made: &Made<'_>) -> Option<i64> {
        let tender = made.said["tenders"].as_array()?.iter().find(|tender| tender["leg"] == self.number)?;
        let left = &tender["balance_after"];
        left["points"].as_i64().or_else(|| left["amount"].as_i64())
    }
}
