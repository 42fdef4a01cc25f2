//! Points where the currency has no smaller unit: none are taken that cover nothing.

use serde_json::json;

use crate::support::System;

/// 1 point is 0.01 JPY, and a yen has no smaller unit.
#[tokio::test(flavor = "multi_thread")]
async fn points_that_cover_nothing_are_not_taken() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 50, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "JPY", "amount": 10,
        "tenders": [{ "type": "points", "points": 1000 }], "allow_partial": true });
    let answer = system.redeem(&wallet, "k", &body).await;
    assert_eq!(
        (answer.status.as_u16(), system.balances(&wallet, "c").await.0),
        (422, 50),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_points_are_taken_than_the_amount_costs() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 150, 0, 0).await;
    system.fund("c", 150, 0, 0).await;
    let strategy = json!({ "customer_id": "c", "order_id": "o", "currency": "JPY", "amount": 2 });
    let answer = system.redeem(&wallet, "k", &strategy).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(system.balances(&wallet, "c").await.0, 100, "2 JPY cost 200 points: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_takes_no_points_that_cover_nothing() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 1000, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "JPY", "amount": 10, "allow_partial": true,
        "tenders": [{ "type": "points", "max_points": 150 }] });
    let answer = system.redeem(&wallet, "k", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(
        (answer.json()["redeemed"].as_i64(), system.balances(&wallet, "c").await.0),
        (Some(1), 900),
        "1 JPY costs 100 points: {}",
        answer.text()
    );
}
