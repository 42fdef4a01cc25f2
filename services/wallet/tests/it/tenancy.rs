//! What one business has done is nothing to another, whichever id it knows.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, System, Wallet, order};

/// A call of another business, whatever its role.
async fn stranger(
    system: &System,
    wallet: &Wallet,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Answer {
    let role = if path.contains("/ops/") { "ops" } else { "pos" };
    let mut request = system
        .client
        .request(method, format!("{}/api/v1{path}", wallet.url))
        .bearer_auth(system.tokens.staff("other", role))
        .header("idempotency-key", "stranger");
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::read(request.send().await.expect("an answer")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_business_finds_and_moves_nothing() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    let held = system.redeem(&wallet, "k", &body).await.json();
    let id = held["id"].as_str().expect("an id");
    let unknown = uuid::Uuid::now_v7().to_string();

    // One answer for what is somebody else's and for what is not there.
    let calls = [
        (Method::GET, "/wallet/redemptions/ID", None),
        (Method::POST, "/wallet/redemptions/ID/capture", Some(json!({}))),
        (Method::POST, "/wallet/redemptions/ID/void", Some(json!({}))),
        (Method::GET, "/ops/sagas/ID", None),
    ];
    for (method, path, body) in calls {
        let ask = async |id: &str| {
            let answer =
                stranger(&system, &wallet, method.clone(), &path.replace("ID", id), body.clone()).await;
            let mut said = answer.json();
            said.as_object_mut()
                .expect("a document")
                .retain(|name, _| !["instance", "trace_id"].contains(&name.as_str()));
            (answer.status.as_u16(), said)
        };
        let told = ask(id).await;
        assert_eq!(told.0, 404, "{path}: {}", told.1);
        assert_eq!(told, ask(&unknown).await, "{path}");
    }
    for path in [
        "/wallet/redemptions?order_id=S042-77120",
        "/wallet/redemptions?idempotency_key=k",
        "/wallet/redemptions?customer_id=c",
        "/wallet/transactions?customer_id=c",
    ] {
        let found = stranger(&system, &wallet, Method::GET, path, None).await;
        assert_eq!((found.status.as_u16(), &found.json()["data"]), (200, &json!([])), "{path}");
    }
    let cancel = json!({ "idempotency_key": "k" });
    let cancelled =
        stranger(&system, &wallet, Method::POST, "/wallet/redemptions/cancel-by-key", Some(cancel)).await;
    assert_eq!(cancelled.json(), json!({ "result": "cancelled_before_arrival" }), "its own key");

    let found = system.get(&wallet, &format!("/wallet/redemptions/{id}")).await.json();
    assert_eq!((&found["status"], &found["id"]), (&json!("authorized"), &held["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_customers_redeem_is_404_before_its_headers_are_looked_at() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let body = json!({ "customer_id": "b", "order_id": "o", "currency": "USD", "amount": 10, "tenders": [{ "type": "points" }] });
    let answer = system
        .client
        .post(format!("{}/api/v1/wallet/redeem", wallet.url))
        .bearer_auth(system.tokens.customer("demo", "a"))
        .json(&body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 404);
}
