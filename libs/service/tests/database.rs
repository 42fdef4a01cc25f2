//! Connections to Postgres: their settings, and what happens while it is away.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::IntoResponse;
use schema::Database;
use service::{ApiError, config::Secret, db, health::Health};
use sqlx::{Connection, PgPool};
use testkit::{Proxy, TestDatabase, Weather};
use tokio_util::task::TaskTracker;

/// Nobody listens here.
const CLOSED: &str = "postgres://nobody:secret@127.0.0.1:9/nothing";

fn closed_pool() -> PgPool {
    db::pool(db::connect_options(&Secret::from_str(CLOSED).unwrap(), "test").unwrap(), 2)
}

async fn setting(connection: &mut sqlx::PgConnection, name: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn every_session_is_bounded() {
    let database = TestDatabase::create(Database::Points).await;
    let options = db::connect_options(&database.url(), "settings").unwrap();
    let mut plain = db::connect(&options).await.unwrap();
    for (name, value) in [
        ("idle_in_transaction_session_timeout", "2s"),
        ("lock_timeout", "1s"),
        ("statement_timeout", "5s"),
        ("tcp_user_timeout", "10000"),
        ("application_name", "settings"),
        ("plan_cache_mode", "auto"),
    ] {
        assert_eq!(setting(&mut plain, name).await, value, "{name}");
    }
    let mut executor = db::connect(&db::for_executor(options)).await.unwrap();
    for (name, value) in
        [("plan_cache_mode", "force_generic_plan"), ("jit", "off"), ("statement_timeout", "5s")]
    {
        assert_eq!(setting(&mut executor, name).await, value, "{name}");
    }
}

#[tokio::test]
async fn a_frozen_client_loses_its_locks() {
    let database = TestDatabase::create(Database::Points).await.without_checks();
    let options = db::connect_options(&database.url(), "test").unwrap();
    let mut frozen = db::connect(&options).await.unwrap();
    let mut other = db::connect(&options).await.unwrap();
    sqlx::raw_sql("INSERT INTO tender.account (business_id, owner, asset) VALUES ('b', 'c', 'points')")
        .execute(&mut other)
        .await
        .unwrap();
    let mut transaction = frozen.begin().await.unwrap();
    let lock = "SELECT 1 FROM tender.account FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut *transaction).await.unwrap();
    let begun = Instant::now();
    let refused = sqlx::raw_sql(lock).execute(&mut other).await.unwrap_err();
    assert!(db::is_unavailable(&refused), "waiting for a lock is bounded: {refused}");
    // The session that stands still in its transaction is ended by the server, by which time its lock is free.
    tokio::time::sleep(Duration::from_millis(2500).saturating_sub(begun.elapsed())).await;
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
}

#[tokio::test]
async fn while_postgres_is_away_the_answer_is_503_at_once() {
    let begun = Instant::now();
    let error = sqlx::query("SELECT 1").execute(&closed_pool()).await.unwrap_err();
    let response = ApiError::from(error).into_response();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_not_shown() {
    let error =
        db::connect_options(&Secret::from_str("postgres://u:hunter2@h:x/d").unwrap(), "test").unwrap_err();
    assert!(!format!("{error:#}").contains("hunter2"));
}

/// A check of the database on a connection of its own.
fn check(health: &Health, options: sqlx::postgres::PgConnectOptions) {
    let probe = Arc::new(db::Probe::new(options));
    health.require("database", move || {
        let probe = probe.clone();
        async move { probe.ask().await }
    });
}

#[tokio::test]
async fn a_process_is_ready_once_its_database_answers_and_never_while_it_drains() {
    let database = TestDatabase::create(Database::Points).await;
    let (health, away) = (Health::default(), Health::default());
    check(&health, db::connect_options(&database.url(), "test").unwrap());
    health.watch("redis", || async { Err::<(), _>("away") });
    check(&away, db::connect_options(&Secret::from_str(CLOSED).unwrap(), "test").unwrap());
    assert!(!health.is_ready(), "nothing is known yet");
    let checks = futures_util::future::join(health.clone().keep_checking(), away.clone().keep_checking());
    let _ = tokio::time::timeout(Duration::from_millis(1800), checks).await;
    assert!(health.is_ready() && !away.is_ready());
    health.drain();
    assert!(!health.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reads_do_not_make_a_process_unready_and_a_database_that_hangs_does() {
    let database = TestDatabase::create(Database::Points).await;
    let admin = database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let options = db::connect_options(&database.url(), "test").unwrap();
    let options = options.host("127.0.0.1").port(proxy.port);
    let pool = db::pool(options.clone(), 10);
    let health = Health::default();
    check(&health, options);
    let checking = TaskTracker::new().spawn(health.clone().keep_checking());
    let until = |is_ready| {
        let health = health.clone();
        testkit::until(Duration::from_secs(8), async move || health.is_ready() == is_ready)
    };
    until(true).await;
    let reads =
        futures_util::future::join_all((0..10).map(|_| sqlx::query("SELECT pg_sleep(2.5)").execute(&pool)));
    let watch = async {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2_300) {
            assert!(health.is_ready(), "after {:?}", begun.elapsed());
            // The pace of looking: it must be ready all the time.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (reads, ()) = tokio::join!(reads, watch);
    assert!(reads.iter().all(Result::is_ok));
    proxy.set(testkit::Mode::HoldAll);
    until(false).await;
    proxy.heal();
    until(true).await;
    checking.abort();
}

/// A pool behind a proxy that counts its connections and takes a moment for each piece.
async fn slow_pool(database: &TestDatabase, max: u32) -> (Proxy, PgPool) {
    let admin = database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    proxy.set_weather(Weather { latency: Duration::from_millis(4), ..Weather::default() });
    let options = db::connect_options(&database.url(), "test").unwrap();
    let pool = db::pool(options.host("127.0.0.1").port(proxy.port), max);
    (proxy, pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_hang_up_cost_no_connection() {
    let database = TestDatabase::create(Database::Points).await;
    let (proxy, pool) = slow_pool(&database, 4).await;
    let statement = || sqlx::query("SELECT pg_sleep(0.02)").execute(&pool);
    for _ in 0..3 {
        futures_util::future::try_join_all((0..4).map(|_| statement())).await.unwrap();
    }
    let before = proxy.connections();
    let mut abandoned = 0;
    for call in 0..100_u64 {
        let patience = Duration::from_millis(1 + call % 25);
        abandoned += u32::from(tokio::time::timeout(patience, statement()).await.is_err());
    }
    assert!(abandoned > 50, "only {abandoned} were abandoned");
    statement().await.unwrap();
    assert_eq!(proxy.connections() - before, 0, "of {abandoned} abandoned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_broke_while_it_was_idle_is_replaced() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = db::pool(db::connect_options(&database.url(), "test").unwrap(), 1);
    let id = "SELECT pg_backend_pid()";
    let broken: i32 = sqlx::query_scalar(id).fetch_one(&pool).await.unwrap();
    let mut admin = sqlx::PgConnection::connect_with(&database.admin()).await.unwrap();
    sqlx::query("SELECT pg_terminate_backend($1)").bind(broken).execute(&mut admin).await.unwrap();
    // Longer than a connection is believed to live without being asked.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let fresh: i32 = sqlx::query_scalar(id).fetch_one(&pool).await.unwrap();
    assert_ne!(fresh, broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_goes_on_beside_connections_that_hang() {
    let database = TestDatabase::create(Database::Points).await;
    let admin = database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let options = db::connect_options(&database.url(), "test").unwrap();
    let pool = db::pool(options.host("127.0.0.1").port(proxy.port), 2);
    let (one, other) = tokio::join!(pool.acquire(), pool.acquire());
    drop((one.unwrap(), other.unwrap()));
    // Statements on both are never answered, and their callers give up.
    proxy.hold_next(2);
    let ask = || tokio::time::timeout(Duration::from_millis(500), sqlx::query("SELECT 1").execute(&pool));
    let (one, other) = tokio::join!(ask(), ask());
    assert!(one.is_err() && other.is_err(), "both hang");
    testkit::until(Duration::from_secs(5), async || ask().await.is_ok_and(|answer| answer.is_ok())).await;
}
