//! Whether the process lives, whether it can serve, and why not.

use std::{
    fmt::Display,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, http::StatusCode, routing::get};
use futures_util::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use crate::ApiError;

/// How often the checks run. Answers come from the last run, so that nobody's questions load what is checked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(1);
/// What was found so long ago is not known any more: whatever runs the checks hangs.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// Longest time that metrics may take to be put together.
const METRICS_LIMIT: Duration = Duration::from_secs(5);

type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The state of a process and of what it depends on. Clones share it.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    draining: AtomicBool,
    checks: Mutex<Vec<Check>>,
    results: Mutex<Option<Results>>,
    /// A check was added: it is run at once.
    added: Notify,
}

/// What the last run of the checks found.
#[derive(Clone)]
struct Results {
    found: Vec<Finding>,
    at: Instant,
}

#[derive(Clone)]
struct Check {
    name: &'static str,
    is_required: bool,
    probe: Probe,
}

/// What one check found.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    name: &'static str,
    required: bool,
    ok: bool,
    took_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Health {
    /// Adds a check without which the process cannot serve.
    pub fn require<F, E>(&self, name: &'static str, probe: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.add(name, true, probe);
    }

    /// Adds a check of something that the process can do without for a while.
    pub fn watch<F, E>(&self, name: &'static str, probe: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.add(name, false, probe);
    }

    fn add<F, E>(&self, name: &'static str, is_required: bool, probe: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let probe: Probe = Arc::new(move || {
            let run = probe();
            Box::pin(async move { run.await.map_err(|error| error.to_string()) })
        });
        lock(&self.0.checks).push(Check { name, is_required, probe });
        self.0.added.notify_one();
    }

    /// From now on the process is not ready, whatever the checks find.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the process can serve.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let checks = lock(&self.0.checks).len();
        // What was not looked at yet, or not lately, is not well.
        let all_well = lock(&self.0.results).as_ref().is_some_and(|results| {
            results.found.len() == checks
                && results.at.elapsed() < FRESH_FOR
                && results.found.iter().all(|one| one.ok || !one.required)
        });
        all_well && !self.0.draining.load(Ordering::SeqCst)
    }

    /// Runs the checks every second, until dropped.
    pub async fn keep_checking(self) {
        loop {
            let checks = lock(&self.0.checks).clone();
            let found = futures_util::future::join_all(checks.iter().map(run)).await;
            *lock(&self.0.results) = Some(Results { found, at: Instant::now() });
            let _ = tokio::time::timeout(INTERVAL, self.0.added.notified()).await;
        }
    }

    /// `/health/live` and `/health/ready`, which tell nothing but yes or no.
    pub fn routes(&self) -> Router {
        let health = self.clone();
        Router::new().route("/health/live", get(async || Json(json!({ "status": "live" })))).route(
            "/health/ready",
            get(async move || {
                if health.is_ready() {
                    (StatusCode::OK, Json(json!({ "status": "ready" })))
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not_ready" })))
                }
            }),
        )
    }

    /// `/health/deep` with what each check found, and `/metrics`; for the internal listener.
    pub fn internal_routes(&self, metrics: PrometheusHandle) -> Router {
        let health = self.clone();
        let one_at_a_time = Arc::new(Semaphore::new(1));
        self.routes()
            .route("/health/deep", get(async move || Json(health.report())))
            .route("/metrics", get(async move || scrape(metrics, &one_at_a_time).await))
    }

    fn report(&self) -> Value {
        let checks = lock(&self.0.results).clone().map(|results| results.found).unwrap_or_default();
        json!({
            "ready": self.is_ready(),
            "draining": self.0.draining.load(Ordering::SeqCst),
            "checks": checks,
        })
    }
}

/// The metrics, put together on a thread that serves no requests, for one scraper at a time.
async fn scrape(metrics: PrometheusHandle, turns: &Arc<Semaphore>) -> Result<String, ApiError> {
    let text = async {
        let turn = turns.clone().acquire_owned().await;
        // The turn ends with the work, also if nobody waits for it any more.
        let render = move || {
            let _turn = turn;
            metrics.render()
        };
        tokio::task::spawn_blocking(render).await.map_err(|error| ApiError::internal(&error))
    };
    tokio::time::timeout(METRICS_LIMIT, text).await.unwrap_or_else(|_| Err(ApiError::overloaded()))
}

async fn run(check: &Check) -> Finding {
    let begun = Instant::now();
    let result = tokio::time::timeout(LIMIT, (check.probe)())
        .await
        .unwrap_or_else(|_| Err("no answer within a second".to_owned()));
    Finding {
        name: check.name,
        required: check.is_required,
        ok: result.is_ok(),
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        error: result.err(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_found_long_ago_is_not_known_any_more() {
        let health = Health::default();
        health.require("well", async || Ok::<_, String>(()));
        let _ = tokio::time::timeout(INTERVAL * 3, health.clone().keep_checking()).await;
        assert!(health.is_ready());
        tokio::time::sleep(FRESH_FOR).await;
        assert!(!health.is_ready(), "nobody looks any more");
    }
}
