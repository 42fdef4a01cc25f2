//! How long, how often and how many: every limit of the engine has a name here.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::machine::Limits;

/// Limits of the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Shown in the process table.
    pub name: String,
    /// How often a process says that it lives.
    pub heartbeat: Duration,
    /// After how long without a heartbeat its sagas are free to claim.
    pub ttl: Duration,
    /// How often ownerless sagas are looked for, and the own ones compared with memory.
    pub scan: Duration,
    /// Most sagas claimed by one statement.
    pub claim_batch: i64,
    /// Owners that may die while running a saga before it is parked.
    pub poison_limit: i16,
    /// Most new sagas under way; more are refused at the door. An eighth of it is never one business's. With twice as many in memory
    /// nothing more is claimed.
    pub in_flight: usize,
    /// Most legs of new work without an answer by one participant; more that needs it is refused then, an eighth earlier for one
    /// business. What goes on with what exists, and what is claimed, has as much room of its own. Below a third of `in_flight`, so that
    /// participants that do not answer leave room for the others.
    pub unanswered_legs: usize,
    /// Most transitions in one transaction.
    pub write_batch: usize,
    /// How long an orderly stop waits for sagas before it hands them over.
    pub drain_grace: Duration,
    /// One attempt forward may take this long.
    pub forward_timeout: Duration,
    /// One attempt to cancel may take this long.
    pub cancel_timeout: Duration,
    /// Waits between attempts forward.
    pub forward_retry: Retry,
    /// Waits between attempts on the way that may not fail.
    pub cancel_retry: Retry,
    /// How much failure a saga bears.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "saga".to_owned(),
            heartbeat: Duration::from_millis(500),
            ttl: Duration::from_millis(2_500),
            scan: Duration::from_millis(500),
            claim_batch: 500,
            poison_limit: 5,
            in_flight: 4_096,
            unanswered_legs: 1_280,
            write_batch: 256,
            drain_grace: Duration::from_secs(2),
            forward_timeout: Duration::from_secs(2),
            cancel_timeout: Duration::from_secs(5),
            forward_retry: Retry { first: Duration::from_millis(50), cap: Duration::from_secs(1) },
            cancel_retry: Retry { first: Duration::from_millis(200), cap: Duration::from_secs(60) },
            limits: Limits { refused_for: 1_000, wrong_answers: 20, unreachable_for: 3_600_000 },
        }
    }
}

/// Exponential waits with full jitter.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Retry {
    /// The wait before the `nth` retry (from 1): anywhere between nothing and `first` · 2ⁿ⁻¹, at most `cap`, so that
    /// sagas that failed together do not come back together.
    #[must_use]
    pub fn wait(self, nth: u32) -> Duration {
        let nth = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX).min(32);
        let longest = ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.cap)
            .with_factor(2.0)
            .without_max_times()
            .build()
            .nth(nth)
            .unwrap_or(self.cap);
        rand::random_range(Duration::ZERO..=longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_jittered() {
        let retry = Retry { first: Duration::from_millis(50), cap: Duration::from_secs(1) };
        for (nth, longest) in [(1, 50), (2, 100), (5, 800), (6, 1_000), (1_000, 1_000)] {
            let waits: Vec<_> = (0..200).map(|_| retry.wait(nth)).collect();
            assert!(waits.iter().all(|w| *w <= Duration::from_millis(longest)), "{nth}");
            assert!(waits.iter().any(|w| *w > Duration::from_millis(longest / 2)), "{nth}");
            assert!(waits.iter().any(|w| *w < Duration::from_millis(longest / 2)), "{nth}");
        }
    }
}
