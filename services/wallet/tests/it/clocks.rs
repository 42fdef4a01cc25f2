//! The databases' clocks apart: what is judged by one is never judged by another.

use serde_json::json;

use crate::support::System;

/// Sets the clock that the wallet's database tells its service off by this much.
async fn set_wallet_clock(system: &System, offset: &'static str) {
    // A function of this name in front of the catalogue's is the one that statements call.
    let statements = format!(
        "CREATE SCHEMA off;
         CREATE FUNCTION off.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
             AS 'SELECT pg_catalog.clock_timestamp() + interval ''{offset}''';
         GRANT USAGE ON SCHEMA off TO wallet_writer;
         DO $$ BEGIN
             EXECUTE format('ALTER ROLE test_wallet IN DATABASE %I SET search_path = off, pg_catalog', current_database());
         END $$"
    );
    system.execute(statements.leak()).await;
}

/// Six redeems, six answers, whichever way the wallet's database differs from its tenders'.
async fn six_redeems_complete(offset: &'static str, skew_ms: i64) {
    let system = System::start().await;
    set_wallet_clock(&system, offset).await;
    let wallet = system.wallet().await;
    system.fund("c", 620, 5000, 0).await;
    for key in ["1", "2", "3", "4", "5", "6"] {
        let body = json!({ "customer_id": "c", "order_id": key, "currency": "USD", "amount": 110,
            "tenders": [{ "type": "points", "points": 10 }, { "type": "store_credit", "amount": 100 }] });
        let answer = system.redeem(&wallet, key, &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let skew = wallet.app.tenders.get(api::wallet::TenderKind::Points).skew_ms().expect("a measurement");
    assert!((skew - skew_ms).abs() < 5_000, "measured {skew} ms, the clocks are {skew_ms} ms apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_database_13_s_behind_its_tenders() {
    six_redeems_complete("-13 s", 13_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_database_13_s_ahead_of_its_tenders() {
    six_redeems_complete("13 s", -13_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_database_an_hour_behind_its_tenders() {
    six_redeems_complete("-1 h", 3_600_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_database_an_hour_ahead_of_its_tenders() {
    six_redeems_complete("1 h", -3_600_000).await;
}
