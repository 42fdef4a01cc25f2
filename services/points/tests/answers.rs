//! What callers of points are told, word for word.

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
        let tender = TestTender::start(schema::Database::Points, Arc::new(points::Points), &tokens).await;
        Self { tender, tokens }
    }

    async fn call(&self, method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> Answer {
        let url = format!("{}/api/v1/points{path}", self.tender.public_url);
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

fn earned() -> Value {
    json!({ "customer_id": "c", "points": 620, "kind": "earn", "funding": "paid", "reference": "sale-1",
        "expires_at": "2999-01-01T00:00:00Z" })
}

#[tokio::test]
async fn a_credit_and_its_replay() {
    let server = Server::start().await;
    let earned = earned();
    let credit = server.credit("k1", &earned).await;
    snapshot!(credit, @r#"
        201 application/json
        {
          "balance_after": { "points": 620, "version": 1 },
          "customer_id": "c",
          "lot": {
            "expires_at": "[time]",
            "funding": "paid",
            "held": 0,
            "kind": "earn",
            "lot_id": "[id 1]",
            "original": 620,
            "remaining": 620
          },
          "operation_id": "[id 2]"
        }
        "#);
    let again = server.credit("k1", &earned).await;
    assert_eq!((again.status.as_u16(), again.replayed, again.bytes), (200, true, credit.bytes));
}

#[tokio::test]
async fn credits_that_are_refused() {
    let server = Server::start().await;
    let earned = earned();
    assert_eq!(server.credit("k1", &earned).await.status, 201);
    snapshot!(server.credit("k2", &earned).await, @r#"
        409 application/problem+json
        {
          "code": "duplicate_reference",
          "detail": "This kind and reference were used under another key. A correction needs a new key.",
          "instance": "/api/v1/points/credits",
          "outcome": "not_applied",
          "retryable": false,
          "status": 409,
          "suggestion": "Look up the earlier request.",
          "title": "This reference was used before",
          "trace_id": "[trace]",
          "type": "/problems/duplicate_reference"
        }
        "#);
    let mut other = earned.clone();
    other["points"] = json!(621);
    snapshot!(server.credit("k1", &other).await, @r#"
        422 application/problem+json
        {
          "code": "idempotency_key_reused",
          "detail": "This key was used with another body. A new request needs a new key.",
          "instance": "/api/v1/points/credits",
          "outcome": "not_applied",
          "retryable": false,
          "status": 422,
          "suggestion": "Use a new key for a new request.",
          "title": "This key was used with another body",
          "trace_id": "[trace]",
          "type": "/problems/idempotency_key_reused"
        }
        "#);
    other["currency"] = json!("USD");
    snapshot!(server.credit("k3", &other).await, @r#"
        400 application/problem+json
        {
          "code": "invalid_field",
          "detail": "A field is missing or out of its range.",
          "errors": [{ "code": "invalid_field", "detail": "is not a field of this tender", "pointer": "/currency" }],
          "instance": "/api/v1/points/credits",
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
async fn an_account_with_a_lot_and_one_without_anything() {
    let server = Server::start().await;
    let earned = json!({ "customer_id": "c", "points": 620, "kind": "earn", "funding": "paid", "reference": "sale-1" });
    assert_eq!(server.credit("k1", &earned).await.status, 201);
    snapshot!(server.call(Method::GET, "/accounts/c", None, None).await, @r#"
        200 application/json
        {
          "available": 620,
          "customer_id": "c",
          "held": 0,
          "lots": [
            {
              "expires_at": null,
              "funding": "paid",
              "held": 0,
              "kind": "earn",
              "lot_id": "[id 1]",
              "original": 620,
              "remaining": 620
            }
          ],
          "posted": 620,
          "status": "active",
          "version": 1
        }
        "#);
    snapshot!(server.call(Method::GET, "/accounts/nobody", None, None).await, @r#"
        200 application/json
        {
          "available": 0,
          "customer_id": "nobody",
          "held": 0,
          "lots": [],
          "posted": 0,
          "status": "active",
          "version": 0
        }
        "#);
    snapshot!(server.call(Method::GET, "/accounts/c/entries", None, None).await, @r#"
        200 application/json
        {
          "data": [
            {
              "balance_after": 620,
              "created_at": "[time]",
              "held_after": 0,
              "kind": "credit",
              "operation_id": "[id 1]",
              "points": 620,
              "version": 1
            }
          ],
          "next_cursor": null
        }
        "#);
}
