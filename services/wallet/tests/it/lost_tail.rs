//! Row C17 of the crash table: the wallet's database came back without its newest rows.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::{
    recovery::{TILL, until},
    support::{System, order},
};

#[tokio::test(flavor = "multi_thread")]
async fn c17_after_a_lost_tail_a_retry_meets_its_own_legs() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    system.execute("DELETE FROM saga.saga").await;
    system.execute("DELETE FROM wallet.redemption").await;
    let retry = system.redeem(&wallet, "k", &order(TILL, &reward)).await;
    assert_eq!(retry.status, 201, "{}", retry.text());
    assert_eq!(system.balances(&wallet, TILL).await, (120, 3500, 0), "taken once");
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_legs_that_nobody_retries_are_parked_and_never_cancelled_by_themselves() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    system.execute("DELETE FROM saga.saga").await;
    system.execute("DELETE FROM wallet.redemption").await;
    let compare = wallet::reconcile::compare_legs(wallet.app.clone(), Duration::from_millis(50));
    let comparing = TaskTracker::new().spawn(compare);
    until(&system, "SELECT count(*) = 3 FROM saga.dead_letter WHERE code = 'orphan_leg'").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    comparing.abort();
    assert_eq!(system.sql::<i64>("SELECT count(*) FROM saga.dead_letter").await, 3, "each leg once");
    assert_eq!(system.balances(&wallet, TILL).await, (120, 3500, 0), "nothing is undone by itself");
    let letters = system.ops(&wallet, Method::GET, "/ops/dead-letters", None).await.json();
    for letter in letters["data"].as_array().expect("letters") {
        let path = format!("/ops/dead-letters/{}/replay", letter["dead_letter_id"].as_str().expect("id"));
        let body = json!({ "operation_id": "o", "reason": "the customer never got the goods" });
        assert_eq!(system.ops(&wallet, Method::POST, &path, Some(&body)).await.json()["result"], "done");
    }
    until(&system, "SELECT bool_and(state = 3) FROM saga.saga").await;
    assert_eq!(system.balances(&wallet, TILL).await, (620, 5000, 2250), "an operator may give it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_an_orphan_whose_till_came_back_is_not_given_back() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    system.execute("DELETE FROM saga.saga").await;
    system.execute("DELETE FROM wallet.redemption").await;
    let comparing = TaskTracker::new()
        .spawn(wallet::reconcile::compare_legs(wallet.app.clone(), Duration::from_millis(50)));
    until(&system, "SELECT count(*) = 3 FROM saga.dead_letter WHERE code = 'orphan_leg'").await;
    comparing.abort();
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    let letters = system.ops(&wallet, Method::GET, "/ops/dead-letters", None).await.json();
    for letter in letters["data"].as_array().expect("letters") {
        let path = format!("/ops/dead-letters/{}/replay", letter["dead_letter_id"].as_str().expect("id"));
        let body = json!({ "operation_id": "o", "reason": "a guess" });
        assert_eq!(
            system.ops(&wallet, Method::POST, &path, Some(&body)).await.json()["result"],
            "saga_exists"
        );
    }
    assert_eq!(system.balances(&wallet, TILL).await, (120, 3500, 0));
}
