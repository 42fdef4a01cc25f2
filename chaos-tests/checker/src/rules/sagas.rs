//! I7: epochs only rise, and somebody who lives has every saga that is not over.

use std::collections::HashMap;

use crate::{
    case::Case,
    format::{Moment, Open},
    invariant::{Invariant, Violation},
    rows::state,
};

/// So long after the last fault, no saga is without an owner whose heart has beaten within it; in microseconds.
const CLAIMED_WITHIN: u64 = 10_000_000;

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let evidence = case.evidence;
    let from = evidence.last(Moment::Healed) + CLAIMED_WITHIN;
    let mut epochs: HashMap<&str, i64> = HashMap::new();
    let mut found = Vec::new();
    let mut see = |id, epoch, when: &str| {
        let before = epochs.insert(id, epoch);
        before.filter(|before| *before > epoch).map(|before| {
            Violation::new(Invariant::I7, format!("saga {id} was in epoch {before}, and {when} in {epoch}"))
        })
    };
    for snapshot in &evidence.snapshots {
        for open in &snapshot.sagas {
            found.extend(see(&open.saga_id, open.epoch, &format!("at {} us", snapshot.from)));
            if snapshot.from > from && is_abandoned(open) {
                let text = format!(
                    "nobody has {open:?} at {} us, and the faults ended {CLAIMED_WITHIN} us before",
                    snapshot.from
                );
                found.push(Violation::new(Invariant::I7, text));
            }
        }
    }
    let end = evidence.end.wallet.sagas.iter();
    let fell: Vec<Violation> = end.filter_map(|saga| see(&saga.saga_id, saga.epoch, "in the end")).collect();
    found.extend(fell);
    found
}

fn is_abandoned(open: &Open) -> bool {
    let is_live = matches!(open.state, state::RUNNING | state::COMPENSATING);
    is_live && open.beat_ago_ms.is_none_or(|ago| ago.unsigned_abs() * 1_000 > CLAIMED_WITHIN)
}
