//! One call over three tenders: completed, declined, in part, by choice of the wallet, by a code.

use serde_json::json;
use testkit::{Mode, snapshot};

use crate::support::{System, order};

#[tokio::test(flavor = "multi_thread")]
async fn one_call_redeems_from_three_tenders() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("cus_8Q", 620, 5000, 2250).await;

    let first = system.redeem(&wallet, "k1", &order("cus_8Q", &reward)).await;
    snapshot!(first, @r#"
        201 application/json
        {
          "amount": 4250,
          "amount_due": 0,
          "completed_at": "[time]",
          "created_at": "[time]",
          "currency": "USD",
          "customer_id": "cus_8Q",
          "id": "[id 1]",
          "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
          "order_id": "S042-77120",
          "redeemed": 4250,
          "status": "completed",
          "tenders": [
            {
              "amount": 500,
              "balance_after": { "points": 120 },
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 500 }],
              "points": 500,
              "rate": "0.01",
              "status": "applied",
              "type": "points"
            },
            {
              "amount": 2250,
              "balance_after": { "amount": 0 },
              "leg": 1,
              "lots": [{ "amount": 2250, "lot_id": "[id 3]" }],
              "reward_id": "[id 4]",
              "status": "applied",
              "type": "digital_reward"
            },
            {
              "amount": 1500,
              "balance_after": { "amount": 3500 },
              "leg": 2,
              "lots": [{ "amount": 1500, "lot_id": "[id 5]" }],
              "status": "applied",
              "type": "store_credit"
            }
          ]
        }
        "#);
    let body = first.json();
    assert_eq!(system.balances(&wallet, "cus_8Q").await, (120, 3500, 0));

    let id = body["id"].as_str().expect("id");
    for path in [
        "/wallet/redemptions?order_id=S042-77120".to_owned(),
        "/wallet/redemptions?idempotency_key=k1".to_owned(),
        "/wallet/redemptions?customer_id=cus_8Q&status=completed".to_owned(),
    ] {
        assert_eq!(system.get(&wallet, &path).await.json()["data"], json!([body]), "{path}");
    }
    assert_eq!(system.get(&wallet, &format!("/wallet/redemptions/{id}")).await.json(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_its_answer_again_and_answers_no_other_request() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("cus_8Q", 620, 5000, 2250).await;
    let first = system.redeem(&wallet, "k1", &order("cus_8Q", &reward)).await;
    let again = system.redeem(&wallet, "k1", &order("cus_8Q", &reward)).await;
    assert_eq!((again.status.as_u16(), again.replayed), (200, true));
    assert_eq!(again.bytes, first.bytes, "byte for byte");
    let mut other = order("cus_8Q", &reward);
    other["amount"] = json!(4249);
    snapshot!(system.redeem(&wallet, "k1", &other).await, @r#"
        422 application/problem+json
        {
          "code": "idempotency_key_reused",
          "detail": "This key was used with another body. Use a new key.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "retryable": false,
          "status": 422,
          "suggestion": "Use a new key for a new request.",
          "title": "This key was used with another body",
          "trace_id": "[trace]",
          "type": "/problems/idempotency_key_reused"
        }
        "#);
    other["amount"] = json!(4250);
    other["deadline_ms"] = json!(3000);
    assert_eq!(
        system.redeem(&wallet, "k1", &other).await.status,
        200,
        "deadline_ms is not part of the request"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_leg_puts_the_others_back_into_their_very_lots() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 1499, 5000).await;
    let before = system.lots("c").await;

    let declined = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    snapshot!(declined, @r#"
        422 application/problem+json
        {
          "available": 1499,
          "code": "insufficient_balance",
          "detail": "The balance does not cover this. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redeem",
          "leg": 2,
          "outcome": "not_applied",
          "redemption_id": "[id 1]",
          "required": 1500,
          "retryable": false,
          "returned": [
            {
              "amount": 500,
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 500 }],
              "points": 500,
              "type": "points"
            },
            { "amount": 2250, "leg": 1, "lots": [{ "amount": 2250, "lot_id": "[id 3]" }], "type": "digital_reward" }
          ],
          "reversal": "done",
          "status": 422,
          "suggestion": "Take less from this tender, or add another.",
          "tender": "store_credit",
          "title": "The balance does not cover this",
          "trace_id": "[trace]",
          "type": "/problems/insufficient_balance"
        }
        "#);
    assert_eq!(system.lots("c").await, before, "the value is back when the till hears 422");

    system.fund("c", 0, 5000, 0).await;
    let late = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    assert_eq!((late.status.as_u16(), late.replayed), (422, true), "a delayed duplicate never succeeds");
    assert_eq!(late.bytes, declined.bytes);
    assert_eq!(system.redeem(&wallet, "k2", &order("c", &reward)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_redemption_takes_what_there_is() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 300, 1000, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 4250, "allow_partial": true,
        "tenders": [{ "type": "points", "points": 500 }, { "type": "store_credit" }] });
    let answer = system.redeem(&wallet, "k1", &body).await;
    snapshot!(answer, @r#"
        201 application/json
        {
          "amount": 4250,
          "amount_due": 2950,
          "completed_at": "[time]",
          "created_at": "[time]",
          "currency": "USD",
          "customer_id": "c",
          "id": "[id 1]",
          "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
          "order_id": "o",
          "redeemed": 1300,
          "status": "completed",
          "tenders": [
            {
              "amount": 300,
              "balance_after": { "points": 0 },
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 300 }],
              "points": 300,
              "rate": "0.01",
              "status": "applied",
              "type": "points"
            },
            {
              "amount": 1000,
              "balance_after": { "amount": 0 },
              "leg": 1,
              "lots": [{ "amount": 1000, "lot_id": "[id 3]" }],
              "status": "applied",
              "type": "store_credit"
            }
          ]
        }
        "#);
    assert_eq!(system.balances(&wallet, "c").await, (0, 0, 0));
    let empty = system.redeem(&wallet, "k2", &body).await;
    assert_eq!((empty.status.as_u16(), empty.code()), (422, "insufficient_balance".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tenders_the_wallet_chooses() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 300, 1000, 700).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 1500, "strategy": "merchant_order" });
    let answer = system.redeem(&wallet, "k1", &body).await;
    snapshot!(answer, @r#"
        201 application/json
        {
          "amount": 1500,
          "amount_due": 0,
          "completed_at": "[time]",
          "created_at": "[time]",
          "currency": "USD",
          "customer_id": "c",
          "id": "[id 1]",
          "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
          "order_id": "o",
          "redeemed": 1500,
          "status": "completed",
          "tenders": [
            {
              "amount": 300,
              "balance_after": { "points": 0 },
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 300 }],
              "points": 300,
              "rate": "0.01",
              "status": "applied",
              "type": "points"
            },
            {
              "amount": 700,
              "balance_after": { "amount": 0 },
              "leg": 1,
              "lots": [{ "amount": 700, "lot_id": "[id 3]" }],
              "reward_id": "[id 4]",
              "status": "applied",
              "type": "digital_reward"
            },
            {
              "amount": 500,
              "balance_after": { "amount": 500 },
              "leg": 2,
              "lots": [{ "amount": 500, "lot_id": "[id 5]" }],
              "status": "applied",
              "type": "store_credit"
            }
          ]
        }
        "#);
    assert_eq!(answer.json()["tenders"][1]["reward_id"], json!(reward));
    let too_much = system.redeem(&wallet, "k2", &body).await;
    assert_eq!(
        (too_much.code(), &too_much.json()["available"]),
        ("insufficient_balance".to_owned(), &json!(500))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reward_is_found_by_its_code_and_never_by_another_customer() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let credits = format!("{}/api/v1/digital-rewards/credits", system.rewards.tender.public_url);
    let request = system.client.post(credits).bearer_auth(system.tokens.staff("demo", "admin"));
    let body = json!({ "customer_id": "c", "amount": 900, "currency": "USD", "kind": "issue", "funding": "paid", "reference": "r" });
    let issued: serde_json::Value = request
        .header("idempotency-key", "i")
        .json(&body)
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    let code = issued["code"].as_str().expect("a code");
    let redeem = |customer: &str, code: &str| json!({ "customer_id": customer, "order_id": "o", "currency": "USD", "amount": 900, "tenders": [{ "type": "digital_reward", "code": code }] });
    let foreign = system.redeem(&wallet, "k1", &redeem("thief", code)).await;
    let unknown = system.redeem(&wallet, "k2", &redeem("thief", "AAAA-BBBB-CCCC-DDDD")).await;
    snapshot!(foreign, @r#"
        404 application/problem+json
        {
          "code": "reward_not_usable",
          "detail": "The reward cannot be used. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "redemption_id": "[id 1]",
          "retryable": false,
          "status": 404,
          "suggestion": "Check the code, or use another tender.",
          "title": "This reward cannot be used",
          "trace_id": "[trace]",
          "type": "/problems/reward_not_usable"
        }
        "#);
    assert_eq!(foreign.shown(), unknown.shown(), "one answer for both");
    let own = system.redeem(&wallet, "k3", &redeem("c", code)).await;
    snapshot!(own, @r#"
        201 application/json
        {
          "amount": 900,
          "amount_due": 0,
          "completed_at": "[time]",
          "created_at": "[time]",
          "currency": "USD",
          "customer_id": "c",
          "id": "[id 1]",
          "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
          "order_id": "o",
          "redeemed": 900,
          "status": "completed",
          "tenders": [
            {
              "amount": 900,
              "balance_after": { "amount": 0 },
              "last_four": "[last four]",
              "leg": 0,
              "lots": [{ "amount": 900, "lot_id": "[id 2]" }],
              "reward_id": "[id 3]",
              "status": "applied",
              "type": "digital_reward"
            }
          ]
        }
        "#);
    let last_four = &code[code.len() - 4..];
    assert_eq!(own.json()["tenders"][0]["last_four"], last_four);
    let plans: i64 = system.sql("SELECT count(*) FROM saga.saga WHERE plan::text LIKE '%AAAA-BBBB%'").await;
    assert_eq!(plans, 0, "no code in a plan");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_names_what_each_tender_has_and_which_cannot_be_asked() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 620, 5000, 2250).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 500, "capture": "manual",
        "tenders": [{ "type": "points", "points": 500 }] });
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    snapshot!(system.get(&wallet, "/wallet/balance?customer_id=c").await, @r#"
        200 application/json
        {
          "balances": [
            { "available": 120, "expiring": [], "held": 500, "in_doubt": 0, "tender": "points", "version": 2 },
            {
              "available": 2250,
              "currency": "USD",
              "expiring": [],
              "held": 0,
              "in_doubt": 0,
              "tender": "digital_reward",
              "version": 1
            },
            {
              "available": 5000,
              "currency": "USD",
              "expiring": [],
              "held": 0,
              "in_doubt": 0,
              "tender": "store_credit",
              "version": 1
            }
          ],
          "customer_id": "c",
          "degraded": []
        }
        "#);
    snapshot!(system.get(&wallet, "/wallet/balance?customer_id=nobody").await, @r#"
        200 application/json
        {
          "balances": [
            { "available": 0, "expiring": [], "held": 0, "in_doubt": 0, "tender": "points", "version": 0 },
            { "available": 0, "expiring": [], "held": 0, "in_doubt": 0, "tender": "digital_reward", "version": 0 },
            { "available": 0, "expiring": [], "held": 0, "in_doubt": 0, "tender": "store_credit", "version": 0 }
          ],
          "customer_id": "nobody",
          "degraded": []
        }
        "#);
    system.rewards.proxy.set(Mode::Cut);
    snapshot!(system.get(&wallet, "/wallet/balance?customer_id=c").await, @r#"
        200 application/json
        {
          "balances": [
            { "available": 120, "expiring": [], "held": 500, "in_doubt": 0, "tender": "points", "version": 2 },
            {
              "available": 5000,
              "currency": "USD",
              "expiring": [],
              "held": 0,
              "in_doubt": 0,
              "tender": "store_credit",
              "version": 1
            }
          ],
          "customer_id": "c",
          "degraded": ["digital_reward"]
        }
        "#);
}
