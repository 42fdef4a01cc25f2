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
mod sequences;
mod streams;
mod told;

use crate::{case::Case, invariant::Violation};
pub use endings::lost;
pub use healing::{Healing, healing};

type Rule = fn(&Case<'_>) -> Vec<Violation>;

/// What holds between rows, whatever was told to whom.
const OF_ROWS: &[Rule] =
    &[conservation::check, ledger::check, healing::check, endings::check, letters::check, leaks::check];
/// What holds as long as a database keeps what it has acknowledged.
const OF_WORDS: &[Rule] = &[
    effects::check,
    sequences::check,
    sagas::check,
    reads::check,
    told::check,
    streams::check,
    events::check,
    keys::check,
    accounts::check,
];

/// Every rule over all evidence.
#[must_use]
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let of_words = if case.evidence.meta.database_forgot { &[] } else { OF_WORDS };
    OF_ROWS.iter().chain(of_words).flat_map(|rule| rule(case)).collect()
}
