//! What callers of store credit are told, word for word.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, TestTender, Tokens, snapshot};

struct Server {
    tender: TestTender,
    tokens: Tokens,
}

impl Server {
    async fn start() -> Self {
        let tokens = Tokens::new();
        let tender =
            TestTender::start(schema::Database::StoreCredit, Arc::new(store_credit::StoreCredit), &tokens)
                .await;
        Self { tender, tokens }
    }

    async fn call(&self, method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> Answer {
        let url = format!("{}/api/v1/store-credits{path}", self.tender.public_url);
        let mut request =
            reqwest::Client::new().request(method, url).bearer_auth(self.tokens.staff("demo", "manager"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Answer::read(request.send().await.expect("an answer")).await
    }

    async fn credit(&self, key: &str, body: &Value) -> Answer {
        self.call(Method::POST, "/credits", Some(key), Some(body)).await
    }
}

#[tokio::test]
async fn a_credit_and_its_refusals() {
    let server = Server::start().await;
    let issued = json!({ "customer_id": "c", "amount": 5000, "currency": "USD", "kind": "issue", "funding": "refund",
        "reference": "return-1" });
    snapshot!(server.credit("k1", &issued).await, @r#"
        201 application/json
        {
          "balance_after": { "amount": 5000, "currency": "USD", "version": 1 },
          "customer_id": "c",
          "lot": {
            "currency": "USD",
            "expires_at": null,
            "funding": "refund",
            "held": 0,
            "kind": "issue",
            "lot_id": "[id 1]",
            "original": 5000,
            "remaining": 5000
          },
          "operation_id": "[id 2]"
        }
        "#);
    let mut worthless = issued.clone();
    worthless["currency"] = json!("ABC");
    snapshot!(server.credit("k2", &worthless).await, @r#"
        400 application/problem+json
        {
          "code": "invalid_field",
          "detail": "A field is missing or invalid",
          "errors": [{ "code": "invalid_field", "detail": "unknown currency", "pointer": "/currency" }],
          "instance": "/api/v1/store-credits/credits",
          "outcome": "not_applied",
          "retryable": false,
          "status": 400,
          "suggestion": "Correct the request; this is a fault of the till's software.",
          "title": "A field is missing or invalid",
          "trace_id": "[trace]",
          "type": "/problems/invalid_field"
        }
        "#);
}

#[tokio::test]
async fn an_account_in_two_currencies() {
    let server = Server::start().await;
    for (currency, amount) in [("USD", 5000), ("JPY", 700)] {
        let issued = json!({ "customer_id": "c", "amount": amount, "currency": currency, "kind": "issue",
            "funding": "paid", "reference": currency });
        assert_eq!(server.credit(currency, &issued).await.status, 201);
    }
    snapshot!(server.call(Method::GET, "/accounts/c", None, None).await, @r#"
        200 application/json
        {
          "accounts": [
            { "available": 700, "currency": "JPY", "held": 0, "posted": 700, "version": 1 },
            { "available": 5000, "currency": "USD", "held": 0, "posted": 5000, "version": 1 }
          ],
          "customer_id": "c",
          "lots": [
            {
              "currency": "USD",
              "expires_at": null,
              "funding": "paid",
              "held": 0,
              "kind": "issue",
              "lot_id": "[id 1]",
              "original": 5000,
              "remaining": 5000
            },
            {
              "currency": "JPY",
              "expires_at": null,
              "funding": "paid",
              "held": 0,
              "kind": "issue",
              "lot_id": "[id 2]",
              "original": 700,
              "remaining": 700
            }
          ],
          "status": "active"
        }
        "#);
    snapshot!(server.call(Method::GET, "/accounts/c?currency=JPY", None, None).await, @r#"
        200 application/json
        {
          "accounts": [{ "available": 700, "currency": "JPY", "held": 0, "posted": 700, "version": 1 }],
          "available": 700,
          "customer_id": "c",
          "held": 0,
          "lots": [
            {
              "currency": "JPY",
              "expires_at": null,
              "funding": "paid",
              "held": 0,
              "kind": "issue",
              "lot_id": "[id 1]",
              "original": 700,
              "remaining": 700
            }
          ],
          "posted": 700,
          "status": "active",
          "version": 1
        }
        "#);
}
