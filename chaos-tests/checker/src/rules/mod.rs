//! One file a topic: each a pure function from the evidence to what breaks its rules.

mod accounts;
mod conservation;
mod effects;
mod endings;
mod events;
mod healing;
mod keys;
mod leaks;
mod ledger;
mod letters;
mod reads;
mod sagas;
mod streams;
mod told;

use crate::{case::Case, invariant::Violation};
pub use healing::{Healing, healing};

/// Every rule over all evidence.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let rules = [
        conservation::check,
        effects::check,
        ledger::check,
        healing::check,
        sagas::check,
        endings::check,
        letters::check,
        reads::check,
        told::check,
        streams::check,
        leaks::check,
        events::check,
        keys::check,
        accounts::check,
    ];
    rules.into_iter().flat_map(|rule| rule(case)).collect()
}
