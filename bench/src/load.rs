//! Load: callers that ask as fast as they are answered, or as a clock tells them, and what they measured.
//!
//! In an open loop a call counts from the moment at which it was due, whether its caller was free or not: a system that
//! stalls is charged for everybody who would have called meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for was done.
    Done,
    /// Refused for a reason of business: an answer like any other.
    Declined,
    /// Turned away at the door, in good order: 503 or 429 with `Retry-After`.
    Shed,
    /// Anything else.
    Failed,
}

/// Somebody who calls.
pub trait Caller: Send + 'static {
    /// The `nth` call of this caller.
    fn call(&mut self, nth: u64) -> impl Future<Output = Outcome> + Send;
}

/// Microseconds of calls that were answered, and how many were not.
#[derive(Debug, Clone)]
pub struct Sample {
    latencies: Histogram<u64>,
    /// Calls that were done or declined.
    pub answered: u64,
    /// Of these, declined.
    pub declined: u64,
    /// Turned away.
    pub shed: u64,
    /// Failed.
    pub failed: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Default for Sample {
    fn default() -> Self {
        // From a microsecond to two minutes, to three digits.
        let latencies = Histogram::new_with_bounds(1, 120_000_000, 3).expect("bounds that fit");
        Self { latencies, answered: 0, declined: 0, shed: 0, failed: 0, seconds: 0.0 }
    }
}

/// A sample as it is printed and kept.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// Calls a second that were answered.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p95: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Milliseconds.
    pub p999: f64,
    /// Calls that were answered.
    pub answered: u64,
    /// Of these, declined.
    pub declined: u64,
    /// Turned away.
    pub shed: u64,
    /// Failed.
    pub failed: u64,
}

impl Sample {
    fn note(&mut self, outcome: Outcome, took: Duration) {
        match outcome {
            Outcome::Done | Outcome::Declined => {
                self.answered += 1;
                self.declined += u64::from(outcome == Outcome::Declined);
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.latencies.saturating_record(micros.max(1));
            }
            Outcome::Shed => self.shed += 1,
            Outcome::Failed => self.failed += 1,
        }
    }

    /// Of callers that worked side by side.
    fn join(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("the same bounds");
        self.answered += other.answered;
        self.declined += other.declined;
        self.shed += other.shed;
        self.failed += other.failed;
        self.seconds = self.seconds.max(other.seconds);
    }

    /// Of rounds that came one after the other.
    pub fn append(&mut self, later: &Self) {
        let seconds = self.seconds + later.seconds;
        self.join(later);
        self.seconds = seconds;
    }

    /// Rate and percentiles.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let millis = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        Figures {
            rate: self.answered as f64 / self.seconds.max(1e-9),
            p50: millis(0.5),
            p95: millis(0.95),
            p99: millis(0.99),
            p999: millis(0.999),
            answered: self.answered,
            declined: self.declined,
            shed: self.shed,
            failed: self.failed,
        }
    }
}

/// Every caller asks again as soon as it was answered, for so long.
pub async fn closed<C: Caller>(callers: Vec<C>, lasts: Duration) -> Sample {
    let begun = Instant::now();
    let until = begun + lasts;
    let work = callers.into_iter().map(|mut caller| {
        tokio::spawn(async move {
            let mut sample = Sample::default();
            let mut nth = 0;
            while Instant::now() < until {
                let asked = Instant::now();
                let outcome = caller.call(nth).await;
                sample.note(outcome, asked.elapsed());
                nth += 1;
            }
            sample
        })
    });
    collect(work.collect(), begun).await
}

/// Calls are due at a steady rate (a second), for so long; each is made by the next caller that is free.
pub async fn open<C: Caller>(callers: Vec<C>, rate: f64, lasts: Duration) -> Sample {
    let begun = Instant::now();
    let due = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let work = callers.into_iter().map(|mut caller| {
        let due = due.clone();
        tokio::spawn(async move {
            let mut sample = Sample::default();
            loop {
                let nth = due.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let at = begun + Duration::from_secs_f64(nth as f64 / rate);
                if at >= begun + lasts {
                    return sample;
                }
                tokio::time::sleep_until(at.into()).await;
                let outcome = caller.call(nth).await;
                sample.note(outcome, at.elapsed());
            }
        })
    });
    collect(work.collect(), begun).await
}

async fn collect(tasks: Vec<tokio::task::JoinHandle<Sample>>, begun: Instant) -> Sample {
    let mut all = Sample::default();
    for task in tasks {
        all.join(&task.await.expect("a caller"));
    }
    all.seconds = begun.elapsed().as_secs_f64();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a millisecond, but stalls for a second at its tenth call.
    struct Stalling;

    impl Caller for Stalling {
        async fn call(&mut self, nth: u64) -> Outcome {
            tokio::time::sleep(Duration::from_millis(if nth == 10 { 1_000 } else { 1 })).await;
            Outcome::Done
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_charges_a_stall_to_everybody_who_was_due() {
        // Instants of the standard library do not pause: what is measured here is how many were due.
        let closed = closed(vec![Stalling], Duration::from_millis(1)).await;
        assert!(closed.answered >= 1);
        let sample = open(vec![Stalling], 1_000.0, Duration::from_millis(100)).await;
        assert_eq!(sample.answered, 100);
    }

    #[test]
    fn rounds_add_their_seconds_and_callers_do_not() {
        let mut one = Sample { answered: 10, seconds: 1.0, ..Sample::default() };
        let other = Sample { answered: 20, seconds: 1.0, ..Sample::default() };
        one.append(&other);
        assert!((one.figures().rate - 15.0).abs() < 1e-6);
        let mut side = Sample { answered: 10, seconds: 1.0, ..Sample::default() };
        side.join(&other);
        assert!((side.figures().rate - 30.0).abs() < 1e-6);
    }
}
