//! Token buckets by key, inside one process.
//!
//! Whatever a request's bucket says afterwards is sent with its answer, in `RateLimit` and `RateLimit-Policy`
//! (the IETF draft on rate-limit fields): [`crate::http::finish`] sees to it.

use std::{
    cell::Cell,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::Code;
use axum::http::{HeaderMap, HeaderValue};

use crate::ApiError;

/// Most keys that are remembered at once; beyond that the least used is forgotten.
const KEYS_LIMIT: u64 = 100_000;

tokio::task_local! {
    /// What the last bucket of the request at hand said.
    static QUOTA: Cell<Option<Quota>>;
}

/// Admits `burst` calls at once for each key, refilled evenly over `period`.
#[derive(Clone)]
pub struct RateLimit {
    burst: u32,
    period: Duration,
    buckets: moka::sync::Cache<String, Arc<Mutex<Bucket>>>,
}

struct Bucket {
    /// When the bucket is full again: the generic cell rate algorithm needs nothing else.
    full_at: Instant,
}

/// What is left in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    burst: u32,
    period: Duration,
    remaining: u32,
    /// Until there is room for one more call.
    wait: Duration,
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
        let (is_admitted, quota) = self.admit_at(key, Instant::now());
        // Outside a request, as in a test, nobody asks.
        let _ = QUOTA.try_with(|last| last.set(Some(quota)));
        if is_admitted {
            return Ok(());
        }
        let error = ApiError::new(Code::RateLimited, "Too many requests of this kind.");
        Err(error.retry_after(quota.wait))
    }

    fn admit_at(&self, key: &str, now: Instant) -> (bool, Quota) {
        let bucket = self.buckets.get_with_by_ref(key, || Arc::new(Mutex::new(Bucket { full_at: now })));
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let step = self.period / self.burst;
        let next = bucket.full_at.max(now) + step;
        let is_admitted = next - now <= self.period;
        if is_admitted {
            bucket.full_at = next;
        }
        let room = self.period.saturating_sub(bucket.full_at - now);
        let remaining = u32::try_from(room.as_nanos() / step.as_nanos().max(1)).unwrap_or(self.burst);
        let wait = if remaining > 0 { Duration::ZERO } else { step.saturating_sub(room) };
        (is_admitted, Quota { burst: self.burst, period: self.period, remaining, wait })
    }
}

/// Runs a request's work and returns what its last bucket said, if it asked one.
pub(crate) async fn observe<F: Future>(work: F) -> (F::Output, Option<Quota>) {
    QUOTA.scope(Cell::new(None), async { (work.await, QUOTA.with(Cell::get)) }).await
}

impl Quota {
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let wait = self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0);
        let fields = [
            ("ratelimit-policy", format!("\"default\";q={};w={}", self.burst, self.period.as_secs())),
            ("ratelimit", format!("\"default\";r={};t={wait}", self.remaining)),
        ];
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_then_the_rate() {
        let limit = RateLimit::new(10, Duration::from_secs(60));
        let now = Instant::now();
        let admit = |key, at| limit.admit_at(key, at);
        assert_eq!(admit("a", now).1.remaining, 9);
        assert_eq!((0..500).filter(|_| admit("a", now).0).count(), 9);
        assert!(admit("b", now).0, "keys do not share");
        let (is_admitted, quota) = admit("a", now);
        assert!(!is_admitted);
        assert_eq!((quota.remaining, quota.wait), (0, Duration::from_secs(6)));
        assert!(admit("a", now + Duration::from_secs(6)).0);
        assert!(!admit("a", now + Duration::from_secs(6)).0);
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

    #[tokio::test]
    async fn the_answer_says_what_is_left() {
        let limit = RateLimit::new(2, Duration::from_secs(60));
        let (_, quota) = observe(async { limit.admit("k") }).await;
        let mut headers = HeaderMap::new();
        quota.unwrap().write(&mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"default\";q=2;w=60");
        assert_eq!(headers["ratelimit"], "\"default\";r=1;t=0");
        assert_eq!(observe(async {}).await.1, None);
    }
}
