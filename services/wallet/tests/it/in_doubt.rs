//! What a balance shows as in doubt, however many redemptions are open.

use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{System, WITHIN};

/// Open redemptions of one customer.
const OPEN: usize = 160;
/// As much metadata as each of them carries.
const METADATA: usize = 6_000;
/// Pieces between a wallet that runs nothing and its database while a balance is read, heartbeats included: fewer than plans.
const PIECES: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_doubt_is_summed_where_it_is_stored() {
    let system = System::start().await;
    let (wallet, idle) = (system.wallet().await, system.wallet_behind_proxy().await);
    system.fund("guest", 1_000, 5_000, 0).await;
    let mut hand =
        PgConnection::connect_with(&system.credit.tender.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    // Legs hang, and balances are read.
    sqlx::query("LOCK TABLE tender.account IN EXCLUSIVE MODE").execute(&mut *locking).await.expect("a lock");
    let body = json!({ "customer_id": "guest", "order_id": "o", "currency": "USD", "amount": 12, "deadline_ms": 2_500,
        "metadata": { "note": "x".repeat(METADATA) },
        "tenders": [{ "type": "points", "points": 2 }, { "type": "store_credit", "amount": 10 }] });
    let keys: Vec<_> = (0..OPEN).map(|i| format!("k{i}")).collect();
    let calls = keys.iter().map(|key| system.redeem(&wallet, key, &body));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    let in_doubt = async || {
        let shown = system.get(&idle, "/wallet/balance?customer_id=guest").await.json();
        let lines = shown["balances"].as_array().expect("balances");
        let of = |tender: &str| {
            let line = lines.iter().find(|line| line["tender"] == tender).expect("a line");
            line["in_doubt"].as_u64().expect("units")
        };
        (of("points"), of("store_credit"))
    };
    let before = system.database_proxy.pieces();
    assert_eq!(in_doubt().await, (2 * OPEN as u64, 10 * OPEN as u64));
    let pieces = system.database_proxy.pieces() - before;
    assert!(pieces < PIECES, "{pieces} pieces were read");
    locking.rollback().await.expect("done");
    testkit::until(WITHIN, async || {
        let units = in_doubt().await;
        if units == (0, 0) { Ok(()) } else { Err(format!("{units:?}")) }
    })
    .await;
}
