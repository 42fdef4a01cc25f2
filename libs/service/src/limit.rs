//! Token buckets by key, inside one process.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::ApiError;
use api::Code;

/// Most keys that are remembered at once; beyond that the least used is forgotten.
const KEYS_LIMIT: u64 = 100_000;

/// Admits `burst` calls at once for each key, refilled evenly over `period`.
#[derive(Clone)]
pub struct RateLimit {
    burst: u32,
    period: Duration,
    buckets: moka::sync::Cache<String, Arc<Mutex<Bucket>>>,
}

struct Bucket {
    /// When the bucket was, or will be, empty of debt: the virtual schedule of the generic cell rate algorithm.
    full_at: Instant,
}

impl RateLimit {
    /// At most `burst` calls a `period` for each key.
    #[must_use]
    pub fn new(burst: u32, period: Duration) -> Self {
        let buckets = moka::sync::Cache::builder().max_capacity(KEYS_LIMIT).time_to_idle(period).build();
        Self { burst: burst.max(1), period, buckets }
    }

    /// Takes one call from the key's bucket.
    ///
    /// # Errors
    /// 429 `rate_limited` with the time until there is room again.
    pub fn admit(&self, key: &str) -> Result<(), ApiError> {
        self.admit_at(key, Instant::now()).map_err(|wait| {
            ApiError::new(Code::RateLimited, "Too many requests of this kind.").retry_after(wait)
        })
    }

    fn admit_at(&self, key: &str, now: Instant) -> Result<(), Duration> {
        let bucket = self.buckets.get_with_by_ref(key, || Arc::new(Mutex::new(Bucket { full_at: now })));
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let step = self.period / self.burst;
        let next = bucket.full_at.max(now) + step;
        let ahead = next - now;
        if ahead > self.period {
            return Err(ahead - self.period);
        }
        bucket.full_at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_then_the_rate() {
        let limit = RateLimit::new(10, Duration::from_secs(60));
        let now = Instant::now();
        assert_eq!((0..500).filter(|_| limit.admit_at("a", now).is_ok()).count(), 10);
        assert!(limit.admit_at("b", now).is_ok(), "keys do not share");
        assert_eq!(limit.admit_at("a", now), Err(Duration::from_secs(6)));
        assert!(limit.admit_at("a", now + Duration::from_secs(6)).is_ok());
        assert!(limit.admit_at("a", now + Duration::from_secs(6)).is_err());
    }

    #[test]
    fn parallel_callers_get_exactly_the_burst() {
        let limit = RateLimit::new(10, Duration::from_secs(60));
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50)
                .map(|_| scope.spawn(|| (0..10).filter(|_| limit.admit("k").is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 10);
    }
}
