//! An independent checker: was anything lost, doubled, or told otherwise than it was?
//!
//! It shares no code with the services, and asks none of their views or functions: it reads what clients were told, what
//! subscribers heard, what was in the databases' rows at the time and in the end, and does its own arithmetic. What it
//! reads is a folder in the [format] that the chaos suite writes.
//!
//! | from | what is looked for |
//! |---|---|
//! | clients' histories | an order for each key and each account ([`Linearizable`]); answers that change, or do not add up; stale balances |
//! | snapshots | value that is made or lost in between, acknowledgements before their commits, epochs that fall, sagas without an owner |
//! | rows in the end | sums, versions, reversals, legs, dead letters, and whether they are what clients were told |
//! | streams and events | what is late, out of order, untrue, told too early or not at all |
//! | all texts | canaries of another business, secrets in logs |
//!
//! [`Linearizable`]: Invariant::Linearizable

mod calls;
mod case;
pub mod evidence;
pub mod format;
mod invariant;
pub mod order;
mod rows;
mod rules;

use std::{fmt, io, ops::AddAssign, path::Path};

pub use evidence::Evidence;
pub use invariant::{Invariant, Violation};
pub use rules::Healing;

use case::Case;

/// What was found, in how much.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Everything that must not be.
    pub violations: Vec<Violation>,
    /// How long sagas took that were open when faults ended.
    pub healing: Healing,
    /// Sagas that are not what their legs are since a database has lost something: what an operator has to be told of.
    pub lost: Vec<String>,
    /// How much was looked at.
    pub counts: Counts,
}

/// How much was looked at: a check of nothing finds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys and accounts that have a history.
    pub histories: usize,
    /// Calls in them.
    pub calls: usize,
    /// Views of a database.
    pub snapshots: usize,
    /// Messages of live streams.
    pub messages: usize,
    /// Redemption events.
    pub events: usize,
    /// Entries of ledgers.
    pub entries: usize,
}

/// Checks a folder.
///
/// # Errors
/// When it cannot be read.
pub fn check_folder(folder: &Path) -> io::Result<Report> {
    Ok(check(&Evidence::read(folder)?))
}

/// Checks evidence.
#[must_use]
pub fn check(evidence: &Evidence) -> Report {
    let case = Case::new(evidence);
    let counts = Counts {
        histories: case.sales.len() + case.accounts.len(),
        calls: case.calls.len(),
        snapshots: evidence.snapshots.len(),
        messages: evidence.streams.iter().filter(|heard| heard.message.is_some()).count(),
        events: evidence.events.len(),
        entries: evidence.end.ledgers.values().map(|ledger| ledger.entries.len()).sum(),
    };
    Report {
        violations: rules::check(&case),
        healing: rules::healing(evidence),
        lost: rules::lost(&case),
        counts,
    }
}

impl Counts {
    /// What is missing altogether.
    #[must_use]
    pub fn nothing_of(&self) -> Vec<&'static str> {
        let all = [
            ("calls", self.calls),
            ("snapshots", self.snapshots),
            ("messages of live streams", self.messages),
            ("redemption events", self.events),
            ("entries of ledgers", self.entries),
        ];
        all.into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.histories += other.histories;
        self.calls += other.calls;
        self.snapshots += other.snapshots;
        self.messages += other.messages;
        self.events += other.events;
        self.entries += other.entries;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { histories, calls, snapshots, messages, events, entries } = self;
        write!(
            f,
            "{histories} histories of {calls} calls, {snapshots} snapshots, {messages} stream messages, {events} events, {entries} entries"
        )
    }
}
