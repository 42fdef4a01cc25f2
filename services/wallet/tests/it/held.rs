//! What a caller is told of value that is held for an order.

use reqwest::Method;
use serde_json::json;
use testkit::{Answer, snapshot};

use crate::support::{System, Wallet};

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
