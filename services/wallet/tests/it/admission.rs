//! One tender that does not carry out legs costs the others nothing.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};
use testkit::Mode;

use crate::support::{System, WITHIN, quick, redeem};

/// How often tills come while a tender is silent, and the pause between them: longer together than its readiness is asked for.
const WAVES: usize = 40;
const BETWEEN_WAVES: Duration = Duration::from_millis(50);

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
        tokio::time::sleep(2 * BETWEEN_WAVES).await;
    }
    locking.rollback().await.expect("done");
    let mut round = 0;
    testkit::until(WITHIN, async || {
        round += 1;
        let answer = system.redeem(&wallet, &format!("again-{round}"), &credit("again")).await;
        if answer.status == 201 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tender_is_refused_at_the_door_until_a_leg_is_answered() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 0, 10_000, 0).await;
    system.credit.proxy.set(Mode::HoldRequests);
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 10, "deadline_ms": 500,
        "tenders": [{ "type": "store_credit" }] });
    for key in ["a", "b", "c", "d", "e", "f"] {
        redeem(&system, &wallet, key, body.clone());
    }
    testkit::until(WITHIN, async || wallet.engine.is_unreachable("store_credit")).await;
    // The tender's readiness is as good as ever; only a leg opens the door again.
    for wave in 0..WAVES {
        let keys: Vec<String> = (0..10).map(|i| format!("w{wave}-{i}")).collect();
        let calls = keys.iter().map(|key| system.redeem(&wallet, key, &body));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.code(), "tender_unavailable", "{answer:?}");
        }
        tokio::time::sleep(BETWEEN_WAVES).await;
    }
    system.credit.proxy.set(Mode::Cut);
}
