//! I1: value is neither made nor lost, at any moment.

use crate::{
    case::Case,
    format::{Snapshot, Total},
    invariant::{Invariant, Violation},
};

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    case.evidence.snapshots.iter().flat_map(of_snapshot).collect()
}

fn of_snapshot(snapshot: &Snapshot) -> Vec<Violation> {
    let Snapshot { database, from, until, totals, .. } = snapshot;
    let broken = totals.iter().filter(|total| !is_conserved(total));
    broken
        .map(|total| {
            Violation::new(Invariant::I1, format!("{database} between {from} and {until} us: {total:?}"))
        })
        .collect()
}

/// What accounts hold, what their lots hold, and what entries of both sides say is one number.
const fn is_conserved(total: &Total) -> bool {
    total.posted == total.lots && total.posted == total.entries && total.entries + total.contra == 0
}
