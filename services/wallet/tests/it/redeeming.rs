use serde_json::json;

use crate::support::{System, order};

#[tokio::test(flavor = "multi_thread")]
async fn one_call_redeems_from_three_tenders() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("cus_8Q", 620, 5000, 2250).await;

    let first = system.redeem(&wallet, "k1", &order("cus_8Q", &reward)).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let body = first.json();
    assert_eq!(
        (&body["status"], &body["redeemed"], &body["amount_due"]),
        (&json!("completed"), &json!(4250), &json!(0))
    );
    let tenders: Vec<_> = body["tenders"]
        .as_array()
        .expect("tenders")
        .iter()
        .map(|t| (t["leg"].clone(), t["type"].clone(), t["amount"].clone()))
        .collect();
    assert_eq!(
        tenders,
        [
            (json!(0), json!("points"), json!(500)),
            (json!(1), json!("digital_reward"), json!(2250)),
            (json!(2), json!("store_credit"), json!(1500))
        ]
    );
    assert_eq!(body["tenders"][0]["balance_after"], json!({ "points": 120 }));
    assert_eq!(body["tenders"][0]["rate"], "0.01");
    assert_eq!(body["tenders"][1]["balance_after"], json!({ "amount": 0 }));
    assert_eq!(body["tenders"][2]["lots"][0]["amount"], 1500);
    assert_eq!(system.balances(&wallet, "cus_8Q").await, (120, 3500, 0));

    let again = system.redeem(&wallet, "k1", &order("cus_8Q", &reward)).await;
    assert_eq!((again.status.as_u16(), again.replayed), (200, true));
    assert_eq!(again.bytes, first.bytes, "byte for byte");
    let mut other = order("cus_8Q", &reward);
    other["amount"] = json!(4249);
    assert_eq!(system.redeem(&wallet, "k1", &other).await.code(), "idempotency_key_reused");
    other["amount"] = json!(4250);
    other["deadline_ms"] = json!(3000);
    assert_eq!(
        system.redeem(&wallet, "k1", &other).await.status,
        200,
        "deadline_ms is not part of the request"
    );

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
async fn a_declined_leg_puts_the_others_back_into_their_very_lots() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 1499, 5000).await;
    let before = system.lots("c").await;

    let declined = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    assert_eq!(declined.status, 422, "{}", declined.text());
    let body = declined.json();
    assert_eq!(
        (&body["code"], &body["retryable"], &body["outcome"]),
        (&json!("insufficient_balance"), &json!(false), &json!("not_applied"))
    );
    assert_eq!(
        (&body["leg"], &body["tender"], &body["available"], &body["required"]),
        (&json!(2), &json!("store_credit"), &json!(1499), &json!(1500))
    );
    assert_eq!(body["reversal"], "done");
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
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!((&answer.json()["redeemed"], &answer.json()["amount_due"]), (&json!(1300), &json!(2950)));
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
    assert_eq!(answer.status, 201, "{}", answer.text());
    let amounts: Vec<_> = answer.json()["tenders"]
        .as_array()
        .expect("tenders")
        .iter()
        .map(|t| (t["type"].clone(), t["amount"].clone()))
        .collect();
    assert_eq!(
        amounts,
        [
            (json!("points"), json!(300)),
            (json!("digital_reward"), json!(700)),
            (json!("store_credit"), json!(500))
        ]
    );
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
    let token = system.tokens.staff("demo", "admin");
    let request = system
        .client
        .post(format!("{}/api/v1/digital-rewards/credits", system.rewards.tender.public_url))
        .bearer_auth(token);
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
    assert_eq!((foreign.status.as_u16(), foreign.code()), (404, "reward_not_usable".to_owned()));
    assert_eq!((unknown.status.as_u16(), unknown.code()), (404, "reward_not_usable".to_owned()));
    let own = system.redeem(&wallet, "k3", &redeem("c", code)).await;
    assert_eq!(own.status, 201, "{}", own.text());
    let last_four = &code[code.len() - 4..];
    assert_eq!(own.json()["tenders"][0]["last_four"], last_four);
    let plans: i64 = system.sql("SELECT count(*) FROM saga.saga WHERE plan::text LIKE '%AAAA-BBBB%'").await;
    assert_eq!(plans, 0, "no code in a plan");
}
