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

#[tokio::test(flavor = "multi_thread")]
async fn points_cover_only_what_they_buy_in_full() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 1000, 0, 0).await;
    let body = |points: i64| {
        json!({ "customer_id": "c", "order_id": "o", "currency": "JPY", "amount": 2,
            "tenders": [{ "type": "points", "points": points }] })
    };
    let short = system.redeem(&wallet, "k1", &body(199)).await;
    assert_eq!(
        (short.status.as_u16(), short.code(), system.balances(&wallet, "c").await.0),
        (422, "tenders_do_not_cover".to_owned(), 1000),
        "1.99 JPY is not 2: {}",
        short.text()
    );
    let enough = system.redeem(&wallet, "k2", &body(200)).await;
    assert_eq!(
        (enough.status.as_u16(), system.balances(&wallet, "c").await.0),
        (201, 800),
        "{}",
        enough.text()
    );
}
