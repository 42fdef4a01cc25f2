//! Connections to Postgres: their settings, and what happens while it is away.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use axum::response::IntoResponse;
use schema::Database;
use service::{ApiError, config::Secret, db, health::Health};
use sqlx::{Connection, PgPool};
use testkit::{Proxy, TestDatabase, Weather};

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
    let options = db::with_statement_timeout(db::for_executor(options), Duration::from_secs(9));
    let mut executor = db::connect(&options).await.unwrap();
    for (name, value) in
        [("plan_cache_mode", "force_generic_plan"), ("jit", "off"), ("statement_timeout", "9s")]
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
    tokio::time::sleep(Duration::from_millis(2500).saturating_sub(begun.elapsed())).await;
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
}

#[tokio::test]
async fn while_postgres_is_away_the_answer_is_503_at_once() {
    let pool = closed_pool();
    let begun = Instant::now();
    let error = db::ping(&pool).await.unwrap_err();
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

#[tokio::test]
async fn a_process_is_ready_once_its_database_answers_and_never_while_it_drains() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = db::pool(db::connect_options(&database.url(), "test").unwrap(), 2);
    let (health, away) = (Health::default(), Health::default());
    health.require("database", {
        let pool = pool.clone();
        move || {
            let pool = pool.clone();
            async move { db::ping(&pool).await }
        }
    });
    health.watch("redis", || async { Err::<(), _>("away") });
    away.require("database", || async { db::ping(&closed_pool()).await });
    assert!(!health.is_ready(), "nothing is known yet");
    let check = tokio::time::timeout(
        Duration::from_millis(1800),
        futures_util::future::join(health.clone().keep_checking(), away.clone().keep_checking()),
    );
    let _ = check.await;
    assert!(health.is_ready() && !away.is_ready());
    health.drain();
    assert!(!health.is_ready());
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
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let fresh: i32 = sqlx::query_scalar(id).fetch_one(&pool).await.unwrap();
    assert_ne!(fresh, broken);
}
