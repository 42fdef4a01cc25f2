//! One process: what its parts share, two listeners, and an orderly stop.

use std::time::Duration;

use anyhow::Context;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Supervisor,
    accept::{self, Limits},
    auth::{Audience, KeySet, Verifier},
    config::Config,
    health::Health,
    http, otlp,
    telemetry::{self, Logs},
};

/// How often key files are looked at.
const KEYS_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time that a stop waits for background work after the last request.
const BACKGROUND_LIMIT: Duration = Duration::from_secs(10);
/// What the internal listener allows. Its clients are ours and keep idle connections for up to 90 s: closing one
/// sooner could meet a request that is on its way.
const INTERNAL_LIMITS: Limits = Limits {
    head: Duration::from_secs(120),
    stall: Duration::from_secs(20),
    connections: 1024,
    drain: Duration::from_secs(20),
};

/// What the parts of a process share.
///
/// A stop has three steps, each announced by a token: *draining* (the process was told to stop: readiness
/// says no, and work that another instance can take over is handed over), then listeners close and open
/// requests end, then *stopping* (background work that requests needed ends too).
pub struct Process {
    name: &'static str,
    config: Config,
    health: Health,
    metrics: PrometheusHandle,
    public: Verifier,
    internal: Verifier,
    supervisor: Supervisor,
    draining: CancellationToken,
    stopping: CancellationToken,
    /// Dropped last: everything else may still log.
    _logs: Logs,
}

impl Process {
    /// Begins logs and metrics and reads the token keys. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When a key file cannot be used.
    pub fn init(name: &'static str, config: Config) -> anyhow::Result<Self> {
        let logs = telemetry::init_logs(name, config.log_format, config.otlp_endpoint.as_deref())?;
        #[cfg(feature = "failpoints")]
        crate::failpoints::arm_from_environment()?;
        let metrics = telemetry::metrics()?;
        // Shown before the first: a figure that appears with its first event has no rise to alarm on.
        metrics::counter!("log_lines_dropped_total").increment(0);
        let public_keys = KeySet::read(&config.jwks_file, config.app_env)?;
        let internal_keys = KeySet::read(&config.internal_jwks_file, config.app_env)?;
        let stopping = CancellationToken::new();
        let process = Self {
            name,
            public: Verifier::new(Audience::public(config.jwt_issuer.clone()), public_keys),
            internal: Verifier::new(Audience::internal(), internal_keys),
            health: Health::default(),
            metrics,
            supervisor: Supervisor::new(TaskTracker::new(), stopping.clone()),
            draining: CancellationToken::new(),
            stopping,
            config,
            _logs: logs,
        };
        process.supervise_upkeep();
        Ok(process)
    }

    /// The options.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where checks are added.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Owns every task that outlives a request: a stop waits for them.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        self.supervisor.tasks()
    }

    /// Runs what must run as long as the process does; until *stopping*.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Cancelled when the process is told to stop.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled after the last request: what requests rely on ends now.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Serves both listeners until SIGTERM or SIGINT, then stops in order.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn run(self, public: Router, internal: Router) -> anyhow::Result<()> {
        let public_listener = bind(self.config.public_addr, "PUBLIC_ADDR").await?;
        let internal_listener = bind(self.config.internal_addr, "INTERNAL_ADDR").await?;
        #[cfg(feature = "failpoints")]
        let internal = internal.merge(crate::failpoints::routes());
        let public = http::finish(public.merge(self.health.routes()), self.public.clone());
        let internal = http::finish(
            internal.merge(self.health.internal_routes(self.metrics.clone())),
            self.internal.clone(),
        );
        let close = CancellationToken::new();
        let limits = Limits { connections: self.config.max_connections, ..Limits::default() };
        tracing::info!(
            service = self.name, public = %self.config.public_addr, internal = %self.config.internal_addr, "serving"
        );
        tokio::join!(
            accept::serve(public_listener, public, limits, close.clone()),
            accept::serve(internal_listener, internal, INTERNAL_LIMITS, close.clone()),
            self.close_when_told(close),
        );
        self.stopping.cancel();
        self.tasks().close();
        if tokio::time::timeout(BACKGROUND_LIMIT, self.tasks().wait()).await.is_err() {
            tracing::warn!(open = self.tasks().len(), "background work did not end in time");
        }
        tracing::info!(service = self.name, "stopped");
        // The exporter waits on its own thread, which a runtime's worker must not do.
        tokio::task::spawn_blocking(otlp::flush).await.context("the last spans were not exported")
    }

    async fn close_when_told(&self, close: CancellationToken) {
        told_to_stop().await;
        tracing::info!(service = self.name, "told to stop");
        self.health.drain();
        self.draining.cancel();
        // Load balancers need a moment to see that readiness says no; until then requests are served.
        tokio::time::sleep(Duration::from_millis(self.config.drain_delay_ms)).await;
        close.cancel();
    }

    fn supervise_upkeep(&self) {
        let env = self.config.app_env;
        for (name, verifier, file) in [
            ("public_keys", &self.public, &self.config.jwks_file),
            ("internal_keys", &self.internal, &self.config.internal_jwks_file),
        ] {
            let (verifier, file) = (verifier.clone(), file.clone());
            self.supervisor
                .supervise(name, move || verifier.clone().follow(file.clone(), env, KEYS_INTERVAL));
        }
        let health = self.health.clone();
        self.supervisor.supervise("health", move || health.clone().keep_checking());
        let metrics = self.metrics.clone();
        self.supervisor.supervise("metrics", move || telemetry::keep_metrics_small(metrics.clone()));
    }
}

async fn bind(address: std::net::SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{name}: cannot listen on {address}"))
}

/// Waits for SIGTERM or SIGINT. Where a signal cannot be watched, for the other one.
async fn told_to_stop() {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(error) => {
            tracing::error!(%error, "cannot watch a signal");
            std::future::pending().await
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}
