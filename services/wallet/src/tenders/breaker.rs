//! A circuit breaker: a tender that is known to be down is not waited for.
//!
//! It guards the door only: open, a redeem that needs the tender is refused before anything is written. Legs of sagas that
//! exist, and above all cancels, are always sent; their outcomes, and the probes, are what closes it again. Declines
//! and 4xx never count: a tender that says no is up.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Failures in a row that open it.
const OPENS_AT: u32 = 5;
/// How long after the last failure it lets a caller find out. Longer than the pause between two probes, so that while
/// somebody probes in vain no caller has to.
const HALF_OPEN_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Breaker {
    origin: Instant,
    failures: AtomicU32,
    /// Milliseconds since `origin`.
    failed_at: AtomicU64,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), failures: AtomicU32::new(0), failed_at: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether callers are refused at the door.
    pub(super) fn is_open(&self) -> bool {
        let wait = u64::try_from(HALF_OPEN_AFTER.as_millis()).unwrap_or(u64::MAX);
        self.failures.load(Ordering::Relaxed) >= OPENS_AT
            && self.now().saturating_sub(self.failed_at.load(Ordering::Relaxed)) < wait
    }

    /// Whether the last outcomes were failures, so that a probe counts.
    pub(super) fn is_suspicious(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= OPENS_AT
    }

    pub(super) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed_at.store(self.now(), Ordering::Relaxed);
        // Far from overflow: it saturates in practice at the first success.
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        if failures == u32::MAX - 1 {
            self.failures.store(OPENS_AT, Ordering::Relaxed);
        }
    }

    /// An attempt that counts as failed unless it is settled: a caller that gave up waiting tells nobody.
    pub(super) fn attempt(&self) -> Attempt<'_> {
        Attempt { breaker: self, is_settled: false }
    }
}

pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    is_settled: bool,
}

impl Attempt<'_> {
    /// The tender answered, whatever it said.
    pub(super) fn answered(mut self) {
        self.is_settled = true;
        self.breaker.succeeded();
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.breaker.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_closes_it() {
        let breaker = Breaker::new();
        for _ in 1..OPENS_AT {
            drop(breaker.attempt());
        }
        assert!(!breaker.is_open());
        breaker.attempt().answered();
        for _ in 0..OPENS_AT {
            assert!(!breaker.is_open());
            drop(breaker.attempt());
        }
        assert!(breaker.is_open());
        breaker.attempt().answered();
        assert!(!breaker.is_open());
    }
}
