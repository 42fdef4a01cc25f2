//! `wallet`: reads the configuration, builds what the parts share, serves.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use chrono::TimeDelta;
use clap::Parser;
use events::{Outbox, Relay};
use saga::{Config as SagaConfig, DatabaseClock, Engine};
use service::{
    Config, Process,
    auth::{ServiceTokens, Signer},
    config::Secret,
    db,
};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use wallet::{
    App, hold_expiry, http,
    live::{self, ClientLimits, Live, cache::Cache, origin::Origins},
    reconcile, redemption,
    sagas::Sagas,
    tenders::{Addresses, Tenders},
};

/// The wallet orchestrator: one call redeems from points, store credit and digital rewards.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    config: Config,
    /// Internal listener of points.
    #[arg(long, env = "POINTS_INTERNAL_URL", default_value = "http://127.0.0.1:9081")]
    points_internal_url: String,
    /// Internal listener of store credit.
    #[arg(long, env = "STORE_CREDIT_INTERNAL_URL", default_value = "http://127.0.0.1:9082")]
    store_credit_internal_url: String,
    /// Internal listener of digital rewards.
    #[arg(long, env = "DIGITAL_REWARDS_INTERNAL_URL", default_value = "http://127.0.0.1:9083")]
    digital_rewards_internal_url: String,
    /// Ed25519 key (PKCS #8 PEM) that signs this service's tokens; its file name is the key id.
    #[arg(long, env = "SERVICE_KEY_FILE")]
    service_key_file: PathBuf,
    #[command(flatten)]
    saga: SagaArgs,
    #[command(flatten)]
    live: LiveArgs,
}

/// Live balances.
#[derive(Debug, clap::Args)]
struct LiveArgs {
    /// Most clients with live balances on this process, streams and WebSockets together; above that they are answered 503.
    /// At most half of MAX_CONNECTIONS, which is the default, so that tills always find a place.
    #[arg(long, env = "STREAMS_MAX")]
    streams_max: Option<usize>,
    /// Most of them that one business has; above that its clients are answered 429. Half of STREAMS_MAX unless set.
    #[arg(long, env = "STREAMS_PER_BUSINESS_MAX")]
    streams_per_business_max: Option<usize>,
    /// Origins, separated by commas, whose web pages may open live balances. By default none may but those of the service's
    /// own origin, as its Host header names it; who sends no Origin is no web page, and is not asked.
    #[arg(long, env = "ALLOWED_ORIGINS", default_value = "")]
    allowed_origins: String,
}

/// Connections of the outbox relay: it works on one at a time.
const RELAY_CONNECTIONS: u32 = 1;
/// Connections for what calls under a key read.
const KEYED_CONNECTIONS: u32 = 8;
/// Connections for work that nobody waits for.
const BACKGROUND_CONNECTIONS: u32 = 4;

/// How long after the listeners close requests that were under way still begin sagas.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// Limits of the saga engine.
#[derive(Debug, clap::Args)]
struct SagaArgs {
    /// Milliseconds between heartbeats.
    #[arg(long, env = "SAGA_HEARTBEAT_MS", default_value_t = 500)]
    saga_heartbeat_ms: u64,
    /// Milliseconds without a heartbeat after which a process's sagas are taken over.
    #[arg(long, env = "SAGA_TTL_MS", default_value_t = 2_500)]
    saga_ttl_ms: u64,
    /// Milliseconds that one attempt at a leg may take.
    #[arg(long, env = "SAGA_FORWARD_TIMEOUT_MS", default_value_t = 2_000)]
    saga_forward_timeout_ms: u64,
    /// Milliseconds that one attempt to cancel a leg may take.
    #[arg(long, env = "SAGA_CANCEL_TIMEOUT_MS", default_value_t = 5_000)]
    saga_cancel_timeout_ms: u64,
    /// Milliseconds that unreachable tenders may cost before a saga that must not fail is parked as a dead letter.
    #[arg(long, env = "SAGA_UNREACHABLE_BUDGET_MS", default_value_t = 3_600_000)]
    saga_unreachable_budget_ms: i64,
    /// Definite wrong answers that one leg may give before its saga is parked.
    #[arg(long, env = "SAGA_ATTEMPTS", default_value_t = 20)]
    saga_attempts: u32,
    /// Longest wait in milliseconds between attempts to cancel.
    #[arg(long, env = "SAGA_CANCEL_BACKOFF_CAP_MS", default_value_t = 60_000)]
    saga_cancel_backoff_cap_ms: u64,
    /// Most sagas in memory; above that redeems are answered 503.
    #[arg(long, env = "SAGA_IN_FLIGHT", default_value_t = 4_096)]
    saga_in_flight: usize,
    /// Most legs of one tender without an answer; above that redeems that need it are answered 503, the others go on.
    #[arg(long, env = "SAGA_UNANSWERED_LEGS", default_value_t = 1_280)]
    saga_unanswered_legs: usize,
    /// Milliseconds between comparisons of tenders' legs with sagas.
    #[arg(long, env = "RECONCILE_EVERY_MS", default_value_t = 30_000)]
    reconcile_every_ms: u64,
    /// Seconds that tenders keep a hold longer than the wallet, which alone ends it. What is held past that is lost, and given
    /// back.
    #[arg(long, env = "HOLD_MARGIN_S", default_value_t = 86_400, value_parser = clap::value_parser!(i64).range(1..=2_592_000))]
    hold_margin_s: i64,
}

impl SagaArgs {
    fn config(&self) -> anyhow::Result<SagaConfig> {
        anyhow::ensure!(
            self.saga_heartbeat_ms > 0 && self.saga_ttl_ms >= 3 * self.saga_heartbeat_ms,
            "SAGA_TTL_MS must be at least three heartbeats, or one lost packet costs a takeover"
        );
        let mut config = SagaConfig {
            name: "wallet".to_owned(),
            heartbeat: Duration::from_millis(self.saga_heartbeat_ms),
            ttl: Duration::from_millis(self.saga_ttl_ms),
            scan: Duration::from_millis(self.saga_heartbeat_ms),
            forward_timeout: Duration::from_millis(self.saga_forward_timeout_ms),
            cancel_timeout: Duration::from_millis(self.saga_cancel_timeout_ms),
            in_flight: self.saga_in_flight,
            unanswered_legs: self.saga_unanswered_legs,
            ..SagaConfig::default()
        };
        config.limits.unreachable_for = self.saga_unreachable_budget_ms;
        config.limits.wrong_answers = self.saga_attempts;
        config.cancel_retry.cap = Duration::from_millis(self.saga_cancel_backoff_cap_ms);
        Ok(config)
    }
}

impl LiveArgs {
    fn clients(&self, connections: usize) -> anyhow::Result<ClientLimits> {
        ClientLimits::try_new(connections, self.streams_max, self.streams_per_business_max)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let clients = cli.live.clients(cli.config.max_connections)?;
    let process = Process::init("wallet", cli.config)?;
    let url = process.config().database.url()?;
    let pool = db::pool(db::connect_options(&url, "wallet")?, process.config().database.database_pool);
    let addresses = Addresses {
        points: cli.points_internal_url,
        store_credit: cli.store_credit_internal_url,
        digital_rewards: cli.digital_rewards_internal_url,
    };
    let tokens =
        ServiceTokens::new(Signer::read(&cli.service_key_file).context("SERVICE_KEY_FILE")?, "wallet");
    let redis = live::redis(redis_url(&process))?;
    let cache = Cache::start(redis.clone(), process.supervisor());
    let clock = DatabaseClock::default();
    let tenders = Tenders::init(&addresses, tokens, Arc::new(cache.clone()), &clock, process.tasks())?;
    let options = db::for_executor(db::connect_options(&url, "wallet-sagas")?);
    let origins = Origins::parse(&cli.live.allowed_origins);
    let live = live(&process, live::Options { redis, clients, origins }, cache, &tenders);
    let written = Arc::new(Notify::new());
    let hold_margin = TimeDelta::seconds(cli.saga.hold_margin_s);
    let sagas = Sagas::new(tenders.clone(), written.clone(), clock.clone()).with_hold_margin(hold_margin);
    let engine = Engine::start(cli.saga.config()?, Arc::new(sagas), options, clock);
    let own_pool = |name, connections| anyhow::Ok(db::pool(db::connect_options(&url, name)?, connections));
    let app = App::new(engine.clone(), tenders, pool, live).with_pools(
        own_pool("wallet-keyed", KEYED_CONNECTIONS)?,
        own_pool("wallet-background", BACKGROUND_CONNECTIONS)?,
    );
    let options = db::for_executor(db::connect_options(&url, "wallet-relay")?);
    let relayed = db::pool(options, RELAY_CONNECTIONS);
    let relay = Relay::new(Outbox::Redemptions, relayed, redis_url(&process), written)?;
    process.supervisor().supervise_to_end("relay", move |stopping| relay.clone().run(stopping));
    check_readiness(&process, db::connect_options(&url, "wallet-health")?, &engine);
    supervise_background(&process, &app, Duration::from_millis(cli.saga.reconcile_every_ms));
    let draining = process.draining();
    let delay = Duration::from_millis(process.config().drain_delay_ms);
    process.tasks().spawn(async move {
        draining.cancelled().await;
        // Until the listeners close, requests still come, and are still served; then those that came last.
        tokio::time::sleep(delay + LAST_REQUESTS).await;
        engine.drain().await;
    });
    process.run(http::routes(app), axum::Router::new()).await
}

fn redis_url(process: &Process) -> Option<&str> {
    process.config().redis_url.as_ref().map(Secret::expose)
}

/// The process can serve while its database answers, asked on a connection of its own, and its engine can write.
fn check_readiness(process: &Process, options: PgConnectOptions, engine: &Arc<Engine<Sagas>>) {
    let probe = Arc::new(db::Probe::new(options));
    process.health().require("database", move || {
        let probe = probe.clone();
        async move { probe.ask().await }
    });
    // Health lives as long as the process: it must not keep what a stop waits for, which is the lanes of the engine's tenders.
    let engine = Arc::downgrade(engine);
    process.health().require("engine", move || {
        let is_ready = engine.upgrade().is_some_and(|engine| engine.is_ready() && engine.is_recovering());
        async move { if is_ready { Ok(()) } else { Err("sagas cannot be written, or are not recovered") } }
    });
}

fn supervise_background(process: &Process, app: &App, reconcile_every: Duration) {
    let supervisor = process.supervisor();
    let swept = app.clone();
    supervisor.supervise("hold_expiry", move || hold_expiry::sweep(swept.clone()));
    let reconciled = app.clone();
    supervisor.supervise("reconcile", move || reconcile::compare_legs(reconciled.clone(), reconcile_every));
    let held = app.clone();
    supervisor.supervise("lost_holds", move || reconcile::end_lost_holds(held.clone(), reconcile_every));
    let followed = app.background_pool.clone();
    supervisor.supervise("redemptions_follow", move || redemption::follow::follow(followed.clone()));
    let paused = app.clone();
    supervisor.supervise("pauses", move || paused.paused.clone().follow(paused.background_pool.clone()));
}

fn live(process: &Process, options: live::Options, cache: Cache, tenders: &Tenders) -> Live {
    let live = Live::start(options, cache, tenders.clone(), process.supervisor(), process.draining());
    if redis_url(process).is_some() {
        let watched = live.clone();
        process.health().watch("redis", move || {
            let is_up = watched.cache.is_up();
            async move { if is_up { Ok(()) } else { Err("away") } }
        });
    }
    live
}
