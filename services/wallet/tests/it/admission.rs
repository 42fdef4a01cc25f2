//! One tender that does not carry out legs costs the others nothing.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{System, quick};

/// Its readiness says yes all the time: the request pool has nothing to do with legs.
#[tokio::test(flavor = "multi_thread")]
async fn a_tender_that_is_ready_while_its_legs_hang() {
    let system = System::start().await;
    let wallet = system.wallet_with(saga::Config { unanswered_legs: 8, ..quick() }).await;
    system.fund("c", 620, 5000, 0).await;
    let mut hand =
        PgConnection::connect_with(&system.credit.tender.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE tender.account IN EXCLUSIVE MODE").execute(&mut *locking).await.expect("a lock");
    let credit = |key: &str| {
        json!({ "customer_id": "c", "order_id": key, "currency": "USD", "amount": 10, "deadline_ms": 500,
        "tenders": [{ "type": "store_credit" }] })
    };
    let hung: Vec<_> = (0..12).map(|i| format!("hung-{i}")).collect();
    let bodies: Vec<_> = hung.iter().map(|key| credit(key)).collect();
    let calls = hung.iter().zip(&bodies).map(|(key, body)| system.redeem(&wallet, key, body));
    for answer in futures_util::future::join_all(calls).await {
        assert!([202, 503].contains(&answer.status.as_u16()), "{}", answer.text());
    }
    assert!(
        wallet.engine.is_full_for("store_credit", "demo") || wallet.engine.is_unreachable("store_credit")
    );
    let ready = format!("{}/health/ready", system.credit.address());
    for round in 0..20 {
        let is_ready = system.client.get(&ready).send().await.expect("an answer").status();
        assert_eq!(is_ready, 200);
        let key = format!("points-{round}");
        let points = json!({ "customer_id": "c", "order_id": key, "currency": "USD", "amount": 10,
            "tenders": [{ "type": "points" }] });
        let answer = system.redeem(&wallet, &key, &points).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let refused = system.redeem(&wallet, &format!("refused-{round}"), &credit("refused")).await;
        assert_eq!(refused.code(), "tender_unavailable", "{}", refused.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    locking.rollback().await.expect("done");
    for round in 0..200 {
        if system.redeem(&wallet, &format!("again-{round}"), &credit("again")).await.status == 201 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the door never opened again");
}
