//! What a caller is told of value that is held for an order.

use reqwest::Method;
use serde_json::json;
use testkit::{Answer, Mode, snapshot};

use crate::support::{System, Wallet, order};

const AUTHORIZED: &str = "/wallet/redemptions?status=authorized";

async fn hold(system: &System, wallet: &Wallet) -> (Answer, String) {
    system.fund("c", 620, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 500, "capture": "manual",
        "tenders": [{ "type": "points", "points": 500 }] });
    let held = system.redeem(wallet, "k", &body).await;
    let path = format!("/wallet/redemptions/{}", held.json()["id"].as_str().expect("an id"));
    (held, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_shown_with_its_end_and_listed() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let (held, path) = hold(&system, &wallet).await;
    snapshot!(held, @r#"
        201 application/json
        {
          "amount": 500,
          "amount_due": 0,
          "completed_at": "[time]",
          "created_at": "[time]",
          "currency": "USD",
          "customer_id": "c",
          "hold_expires_at": "[time]",
          "id": "[id 1]",
          "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
          "order_id": "o",
          "redeemed": 500,
          "status": "authorized",
          "tenders": [
            {
              "amount": 500,
              "balance_after": { "points": 120 },
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 500 }],
              "points": 500,
              "rate": "0.01",
              "status": "held",
              "type": "points"
            }
          ]
        }
        "#);
    assert_eq!(system.get(&wallet, &path).await.json(), held.json());
    let listed = system.get(&wallet, AUTHORIZED).await.json();
    assert_eq!(listed, json!({ "data": [held.json()], "next_cursor": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_voided_is_shown_and_is_authorized_no_more() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let (_, path) = hold(&system, &wallet).await;
    let void = format!("{path}/void");
    let voided = system.call(&wallet, "pos", Method::POST, &void, Some("v"), Some(&json!({}))).await;
    snapshot!(voided, @r#"
        200 application/json
        {
          "amount": 500,
          "amount_due": 0,
          "completed_at": "[time]",
          "created_at": "[time]",
          "currency": "USD",
          "customer_id": "c",
          "id": "[id 1]",
          "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
          "order_id": "o",
          "redeemed": 500,
          "status": "voided",
          "tenders": [
            {
              "amount": 500,
              "balance_after": { "points": 120 },
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 500 }],
              "points": 500,
              "rate": "0.01",
              "status": "reversed",
              "type": "points"
            }
          ]
        }
        "#);
    assert_eq!(system.get(&wallet, &path).await.json(), voided.json());
    let listed = system.get(&wallet, AUTHORIZED).await.json();
    assert_eq!(listed, json!({ "data": [], "next_cursor": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_of_a_newer_release_is_left_to_that_release() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    let held = system.redeem(&wallet, "k", &body).await;
    assert_eq!(held.status, 201, "{}", held.text());
    system
        .execute(
            "ALTER TABLE saga.saga DISABLE TRIGGER USER; UPDATE saga.saga SET version = 99; ALTER TABLE saga.saga ENABLE TRIGGER USER",
        )
        .await;
    let path = format!("/wallet/redemptions/{}", held.json()["id"].as_str().expect("an id"));
    for step in ["capture", "void"] {
        let answer = system
            .call(&wallet, "pos", Method::POST, &format!("{path}/{step}"), Some(step), Some(&json!({})))
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["outcome"].as_str()),
            (503, Some("unknown")),
            "{step}"
        );
    }
    let cancelled = system.ask_to_cancel(&wallet, "k").await;
    assert_eq!(cancelled.status, 503, "{}", cancelled.text());
    assert_eq!(system.sql::<i64>("SELECT count(*) FROM saga.saga").await, 1, "nothing was written of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_what_is_not_decided_is_asked_for_again() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    body["deadline_ms"] = json!(500);
    system.credit.proxy.set(Mode::HoldReplies);
    let pending = system.redeem(&wallet, "k", &body).await;
    assert_eq!(pending.status, 202, "{}", pending.text());
    let capture = format!("/wallet/redemptions/{}/capture", pending.json()["id"].as_str().expect("an id"));
    let early = system.call(&wallet, "pos", Method::POST, &capture, Some("c1"), Some(&json!({}))).await;
    assert_eq!((early.status.as_u16(), early.code().as_str()), (503, "overloaded"), "{}", early.text());
    assert_eq!(early.json()["outcome"], "not_applied");
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "authorized").await;
    let captured = system.call(&wallet, "pos", Method::POST, &capture, Some("c1"), Some(&json!({}))).await;
    assert!(captured.status.is_success(), "the same key captures it: {}", captured.text());
}

/// What there is no room for now is only noted, and carried out by the sweep.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_back_is_captured_no_more() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let (_, path) = hold(&system, &wallet).await;
    system.execute("UPDATE wallet.redemption SET cancel_requested = true").await;
    let capture = format!("{path}/capture");
    let captured = system.call(&wallet, "pos", Method::POST, &capture, Some("c1"), Some(&json!({}))).await;
    assert_eq!(
        (captured.status.as_u16(), captured.code().as_str()),
        (409, "already_final"),
        "{}",
        captured.text()
    );
    system.until_status(&wallet, "k", "voided").await;
}
