//! The cases: each measures the services and what they are compared with by turns.

pub mod balance;
pub mod debit;
pub mod engine;
pub mod history;
pub mod hot;
pub mod overload;
pub mod redeem;
pub mod sweep;
pub mod takeover;

use std::time::Duration;

use crate::load::Sample;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of each side, one after the other.
    pub rounds: usize,
    /// A round.
    pub round: Duration,
    /// Before the first, so that caches are warm and plans are made.
    pub warm: Duration,
    /// How many redemptions there are when one more is measured: hundreds of thousands, since each customer has as many.
    pub history: [i64; 3],
}

/// Of rounds: everything together, and the median of the rates, which one bad round does not move.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    /// All rounds.
    pub all: Sample,
    rates: Vec<f64>,
}

impl Rounds {
    /// Adds a round.
    pub fn push(&mut self, sample: &Sample) {
        self.rates.push(sample.figures().rate);
        self.all.append(sample);
    }

    /// The median rate.
    #[must_use]
    pub fn rate(&self) -> f64 {
        median(&self.rates)
    }
}

/// The median; 0 of nothing.
#[must_use]
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
