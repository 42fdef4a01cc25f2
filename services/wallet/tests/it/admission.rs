//! One tender that does not carry out legs costs the others nothing.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use testkit::Mode;

use crate::support::{Answer, System, WITHIN, Wallet, quick, redeem};

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

/// Takes or holds 10 of one tender; the redemption's id.
async fn redeemed(system: &System, wallet: &Wallet, key: &str, tender: &str, capture: &str) -> String {
    let body = json!({ "customer_id": "c", "order_id": key, "currency": "USD", "amount": 10, "capture": capture,
        "tenders": [{ "type": tender }] });
    let answer = system.redeem(wallet, key, &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn capture(system: &System, wallet: &Wallet, id: &str) -> Answer {
    let path = format!("/wallet/redemptions/{id}/capture");
    system.call(wallet, "pos", Method::POST, &path, Some("capture"), Some(&json!({}))).await
}

/// A long outage would gather them all in memory, until the process dies of them.
#[tokio::test(flavor = "multi_thread")]
async fn captures_and_cancels_that_wait_for_a_silent_tender_are_bounded() {
    let system = System::start().await;
    let wallet = system.wallet_with(saga::Config { unanswered_legs: 2, ..quick() }).await;
    system.fund("c", 620, 5000, 0).await;
    redeemed(&system, &wallet, "taken", "store_credit", "automatic").await;
    redeemed(&system, &wallet, "held", "store_credit", "manual").await;
    let first = redeemed(&system, &wallet, "first", "store_credit", "manual").await;
    let second = redeemed(&system, &wallet, "second", "store_credit", "manual").await;
    let third = redeemed(&system, &wallet, "third", "store_credit", "manual").await;
    let points = redeemed(&system, &wallet, "points", "points", "manual").await;
    system.credit.proxy.set(Mode::HoldRequests);
    let meanwhile = async {
        testkit::until(WITHIN, async || wallet.engine.is_full_to_go_on("store_credit", "demo")).await;
        let refused = capture(&system, &wallet, &third).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code(), &refused.json()["outcome"]),
            (503, "tender_unavailable".to_owned(), &json!("not_applied")),
            "{}",
            refused.text()
        );
        assert_eq!(capture(&system, &wallet, &points).await.status, 200, "others are not concerned");
        for key in ["taken", "held"] {
            assert_eq!(system.cancel(&wallet, key).await["result"], "will_reverse", "it cannot be refused");
            let body = json!({ "customer_id": "c", "order_id": key, "currency": "USD", "amount": 10 });
            assert_eq!(system.redeem(&wallet, key, &body).await.code(), "key_cancelled");
        }
        let reversals = "SELECT count(*) FROM saga.saga WHERE operation = 'reversal'";
        assert_eq!(system.sql::<i64>(reversals).await, 0, "none waits in memory");
    };
    let (first, second, ()) =
        tokio::join!(capture(&system, &wallet, &first), capture(&system, &wallet, &second), meanwhile);
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (202, 202));
    system.credit.cut_open().await;
    for (key, status) in
        [("first", "completed"), ("second", "completed"), ("taken", "reversed"), ("held", "voided")]
    {
        system.until_status(&wallet, key, status).await;
    }
    assert_eq!(capture(&system, &wallet, &third).await.status, 200);
}
