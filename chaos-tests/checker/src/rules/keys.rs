//! Linearizability of keys: each key answers as if its callers had come one after the other.

use crate::{
    calls::{Key, Sale, Told},
    case::Case,
    invariant::{Invariant, Violation},
    order::{self, Interval, Object},
};

/// A key, and what it answers from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Unused,
    Answers(Told),
}

#[derive(Debug)]
enum Operation {
    Redeem(Told),
    Cancel,
}

impl Object for State {
    type Operation = Operation;

    /// The first redeem decides, every later one hears the same, and after a cancel all hear of that.
    fn step(&self, operation: &Operation) -> Option<Self> {
        match (self, operation) {
            (_, Operation::Cancel) => Some(Self::Answers(Told::Cancelled)),
            (Self::Unused, Operation::Redeem(told)) if *told != Told::Cancelled => Some(Self::Answers(*told)),
            (Self::Answers(before), Operation::Redeem(told)) if before == told => Some(*self),
            _ => None,
        }
    }
}

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    case.sales.iter().filter_map(|(key, sale)| of_sale(*key, sale)).collect()
}

fn of_sale(key: Key<'_>, sale: &Sale<'_>) -> Option<Violation> {
    // A redeem of which nothing is known may have decided; then the first of which something is known says what.
    let redeems = sale.redeems.iter().filter_map(|made| {
        let operation = Operation::Redeem(made.told()?);
        Some(Interval { operation, invoked: made.invoked, returned: made.returned, hint: 0 })
    });
    let cancels = sale.cancels.iter().map(|made| Interval {
        operation: Operation::Cancel,
        invoked: made.invoked,
        returned: made.returned,
        hint: 1,
    });
    let order = order::find(State::Unused, redeems.chain(cancels).collect());
    order.err().map(|why| Violation::new(Invariant::Linearizable, format!("{key:?}: {why}")))
}
