//! Holds that end by themselves.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::{HOLD_MARGIN, System, order, until};

/// More than are tried at the same time.
const LOCKED: u64 = 70;

/// A hold of one point.
fn hold(customer: &str, seconds: u32) -> Value {
    json!({ "customer_id": customer, "order_id": "o", "currency": "USD", "amount": 1, "capture": "manual",
        "hold_ttl_s": seconds, "tenders": [{ "type": "points", "points": 1 }] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn locked_holds_delay_the_end_of_no_other() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 1, 0, 0).await;
    system.fund("d", 100, 0, 0).await;
    let (keys, body) = ((0..LOCKED).map(|n| format!("locked{n}")).collect::<Vec<_>>(), hold("d", 3));
    let held = join_all(keys.iter().map(|key| system.redeem(&wallet, key, &body))).await;
    assert!(held.iter().all(|answer| answer.status == 201));
    let mut hand = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    let lock = "SELECT FROM wallet.redemption WHERE customer_id = 'd' AND status = 'authorized' FOR UPDATE";
    let locked = sqlx::query(lock).execute(&mut *locking).await.expect("locked");
    assert_eq!(locked.rows_affected(), LOCKED);
    until(&system, "SELECT bool_and(hold_expires_at < clock_timestamp()) FROM wallet.redemption").await;
    assert_eq!(system.redeem(&wallet, "other", &hold("c", 1)).await.status, 201);
    let began = Instant::now();
    system.until_status(&wallet, "other", "expired").await;
    assert!(began.elapsed() < Duration::from_secs(8), "it was held for {:?}", began.elapsed());
    locking.rollback().await.expect("done");
    until(&system, "SELECT bool_and(status = 'expired') FROM wallet.redemption").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_never_stops_the_sweep_of_holds() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    body["hold_ttl_s"] = json!(1);
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    system
        .execute(
            "INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state, epoch, deadline_at, budget_from, due_at, ended_at)
             SELECT '00000000-0000-7000-8000-000000000001', 'demo', 'redeem', '', 'unreadable', '', 0, 2, gen_random_uuid(), '{\"type\": \"of tomorrow\"}', 2, 1, now(), now(), now(), now() FROM saga.saga",
        )
        .await;
    system
        .execute(
            "INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, currency, amount, status, hold_expires_at)
             VALUES ('00000000-0000-7000-8000-000000000001', 'demo', 'd', 'o', 'USD', 1, 'authorized', now() - interval '1 hour')",
        )
        .await;
    system.until_status(&wallet, "k", "expired").await;
}

/// The tables that a lost tail takes back, as they are now.
const REMEMBER: &str = "CREATE SCHEMA before;
    CREATE TABLE before.saga AS TABLE saga.saga;
    CREATE TABLE before.redemption AS TABLE wallet.redemption";
/// What was remembered, and nothing that came after it.
const FORGET: &str = "DO $$
    DECLARE columns text;
    BEGIN
        SET LOCAL session_replication_role = replica;
        DELETE FROM saga.saga;
        SELECT string_agg(quote_ident(attname), ', ') INTO columns FROM pg_attribute
            WHERE attrelid = 'saga.saga'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        EXECUTE format('INSERT INTO saga.saga (%s) SELECT %s FROM before.saga', columns, columns);
        DELETE FROM wallet.redemption;
        SELECT string_agg(quote_ident(attname), ', ') INTO columns FROM pg_attribute
            WHERE attrelid = 'wallet.redemption'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        EXECUTE format('INSERT INTO wallet.redemption (%s) SELECT %s FROM before.redemption', columns, columns);
    END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_lost_is_not_given_back_by_the_end_of_its_hold() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    body["hold_ttl_s"] = json!(2);
    let held = system.redeem(&wallet, "k", &body).await;
    assert_eq!(held.status, 201, "{}", held.text());
    system.execute(REMEMBER).await;
    let capture = format!("/wallet/redemptions/{}/capture", held.json()["id"].as_str().expect("an id"));
    let captured = system.call(&wallet, "pos", Method::POST, &capture, Some("c1"), Some(&json!({}))).await;
    assert!(captured.status.is_success(), "{}", captured.text());
    let taken = system.balances(&wallet, "c").await;
    system.execute(FORGET).await;
    until(
        &system,
        "SELECT EXISTS (SELECT FROM saga.dead_letter WHERE code = 'foreign_leg' AND closed_at IS NULL)",
    )
    .await;
    assert_eq!(system.balances(&wallet, "c").await, taken, "what the till was told is taken stays taken");
    until(&system, "SELECT status = 'under_review' FROM wallet.redemption").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_hold_in_the_way_is_told() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 100, 0, 0).await;
    let points = |order: &str, capture: &str| {
        json!({ "customer_id": "c", "order_id": order, "currency": "USD", "amount": 80, "capture": capture,
            "tenders": [{ "type": "points", "points": 80 }] })
    };
    let held = system.redeem(&wallet, "a", &points("a", "manual")).await;
    assert_eq!(held.status, 201, "{}", held.text());
    let refused = system.redeem(&wallet, "b", &points("b", "automatic")).await;
    assert_eq!(refused.code(), "held_by_other_order", "{}", refused.text());
    let time = |value: &serde_json::Value| {
        chrono::DateTime::parse_from_rfc3339(value.as_str().expect("a time")).expect("a time")
    };
    let (told, end) = (time(&refused.json()["held_until"]), time(&held.json()["hold_expires_at"]));
    assert!((told - end).abs() < HOLD_MARGIN / 2, "told {told}, it ends {end}");
}
