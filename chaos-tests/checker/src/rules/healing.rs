//! I5: once the faults are over, everything ends, and soon.

use std::collections::{HashMap, HashSet};

use crate::{
    case::Case,
    evidence::Evidence,
    format::Moment,
    invariant::{Invariant, Violation},
};

/// The database of sagas, in snapshots.
const WALLET: &str = "wallet";
/// Within this of healing 99 of 100 sagas that were open then are over, in microseconds.
pub const P99_BOUND: u64 = 10_000_000;
/// Within this all are, in microseconds.
pub const MAX_BOUND: u64 = 30_000_000;

/// How long sagas that were open when the faults ended took from there, in microseconds; the quickest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healing(pub Vec<u64>);

impl Healing {
    /// The time within which so many of 100 were over; 0 if none was open.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> u64 {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).copied().unwrap_or(0)
    }

    /// Adds those of another scenario.
    pub fn add(&mut self, other: &Self) {
        self.0.extend(&other.0);
        self.0.sort_unstable();
    }

    /// What is beyond the bounds.
    #[must_use]
    pub fn too_slow(&self) -> Option<Violation> {
        let (p99, max) = (self.percentile(99), self.percentile(100));
        (p99 > P99_BOUND || max > MAX_BOUND).then(|| {
            let text = format!(
                "of {} sagas 99 in 100 were over {p99} us after healing, all after {max} us",
                self.0.len()
            );
            Violation::new(Invariant::I5, text)
        })
    }
}

/// How long sagas took that were open when faults ended, by when they were last seen open: sagas are written down by clocks
/// that faults move. Faults may begin and end several times: the last end before a saga's own counts. What is over before
/// anybody looks took no time.
#[must_use]
pub fn healing(evidence: &Evidence) -> Healing {
    let healed = || evidence.marks.iter().filter(|mark| mark.what == Moment::Healed).map(|mark| mark.at);
    let mut first_seen: HashMap<&str, u64> = HashMap::new();
    let mut ended = Vec::new();
    for view in evidence.snapshots.iter().filter(|snapshot| snapshot.database == WALLET) {
        let open: HashSet<&str> = view.sagas.iter().map(|saga| saga.saga_id.as_str()).collect();
        first_seen.retain(|saga, first| {
            let is_open = open.contains(saga);
            if !is_open && let Some(last) = healed().filter(|at| *first < *at && *at < view.from).max() {
                ended.push(view.until - last);
            }
            is_open
        });
        for saga in open {
            first_seen.entry(saga).or_insert(view.from);
        }
    }
    ended.sort_unstable();
    Healing(ended)
}

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let open = case.evidence.end.wallet.sagas.iter().filter(|saga| !saga.is_over());
    let open = open.map(|saga| {
        Violation::new(Invariant::I5, format!("saga {} is in state {} in the end", saga.saga_id, saga.state))
    });
    open.chain(healing(case.evidence).too_slow()).collect()
}
