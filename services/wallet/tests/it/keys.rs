//! What a key is good for: one answer for ever, to one caller, for one request.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use testkit::{Mode, snapshot};

use crate::support::{System, order};

/// Longer than two calls take to arrive and to wait for the same answer.
const BOTH_WAIT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_found_by_planning_is_stored_under_its_key() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 10_000, 0, 0).await;
    let mut body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 500,
        "tenders": [{ "type": "points", "points": 400 }] });
    let first = system.redeem(&wallet, "k1", &body).await;
    snapshot!(first, @r#"
        422 application/problem+json
        {
          "code": "tenders_do_not_cover",
          "detail": "The tenders are below the amount, and none takes the rest. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "redemption_id": "[id 1]",
          "required": 500,
          "retryable": false,
          "status": 422,
          "suggestion": "Change the tenders, or let one take the rest.",
          "title": "The tenders do not add up to the amount",
          "trace_id": "[trace]",
          "type": "/problems/tenders_do_not_cover"
        }
        "#);
    let again = system.redeem(&wallet, "k1", &body).await;
    assert_eq!((again.status.as_u16(), again.replayed, &again.bytes), (422, true, &first.bytes));
    body["amount"] = json!(400);
    assert_eq!(system.redeem(&wallet, "k1", &body).await.code(), "idempotency_key_reused");
    let found = system.get(&wallet, "/wallet/redemptions?idempotency_key=k1").await.json();
    assert_eq!(found["data"][0]["status"], "declined");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_stored_leaves_the_key_unused() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut bad = order("c", &reward);
    bad["amount"] = json!(0);
    snapshot!(system.redeem(&wallet, "k1", &bad).await, @r#"
        400 application/problem+json
        {
          "code": "invalid_field",
          "detail": "A field is missing or out of its range.",
          "errors": [{ "code": "invalid_field", "detail": "must be at least 1", "pointer": "/amount" }],
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "retryable": false,
          "status": 400,
          "suggestion": "Correct the request; this is a fault of the till's software.",
          "title": "A field is missing or invalid",
          "trace_id": "[trace]",
          "type": "/problems/invalid_field"
        }
        "#);
    let call = |role: &'static str, body| {
        system.call(&wallet, role, Method::POST, "/wallet/redeem", Some("k1"), body)
    };
    let body = order("c", &reward);
    snapshot!(call("finance", Some(&body)).await, @r#"
        403 application/problem+json
        {
          "code": "role_missing",
          "detail": "The token's roles do not allow this.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "retryable": false,
          "status": 403,
          "suggestion": "Ask someone with the right role.",
          "title": "This role may not do this",
          "trace_id": "[trace]",
          "type": "/problems/role_missing"
        }
        "#);
    assert_eq!(call("ops", Some(&body)).await.status, 403);
    let keyless = system.call(&wallet, "pos", Method::POST, "/wallet/redeem", None, Some(&body)).await;
    snapshot!(keyless, @r#"
        400 application/problem+json
        {
          "code": "idempotency_key_missing",
          "detail": "A request that moves value needs an Idempotency-Key header.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "retryable": false,
          "status": 400,
          "suggestion": "Send an Idempotency-Key; this is a fault of the till's software.",
          "title": "The Idempotency-Key header is missing",
          "trace_id": "[trace]",
          "type": "/problems/idempotency_key_missing"
        }
        "#);
    assert_eq!(system.redeem(&wallet, "k1", &body).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_each_customers_own_and_each_businesss_own() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("a", 100, 0, 0).await;
    system.fund("b", 100, 0, 0).await;
    let body = |customer: &str| json!({ "customer_id": customer, "order_id": "o", "currency": "USD", "amount": 10, "tenders": [{ "type": "points" }] });
    let redeem = async |token: String, customer: &str| {
        let request = system.client.post(format!("{}/api/v1/wallet/redeem", wallet.url)).bearer_auth(token);
        request
            .header("idempotency-key", "k")
            .json(&body(customer))
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16()
    };
    assert_eq!(redeem(system.tokens.customer("demo", "a"), "a").await, 201);
    assert_eq!(redeem(system.tokens.customer("demo", "b"), "b").await, 201);
    assert_eq!(redeem(system.tokens.staff("demo", "pos"), "a").await, 201);
    assert_eq!(
        redeem(system.tokens.staff("other", "pos"), "a").await,
        422,
        "another business's customer has nothing there"
    );
    assert_eq!(redeem(system.tokens.customer("demo", "a"), "b").await, 404);
    assert_eq!(system.balances(&wallet, "a").await.0, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_equals_its_default_makes_no_other_request() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let first = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let defaults = json!({ "capture": "automatic", "allow_partial": false, "location_id": null, "terminal_id": null,
        "sequence": null, "strategy": null, "hold_ttl_s": null, "on_deadline": "continue", "metadata": {}, "deadline_ms": 4000 });
    let mut all = order("c", &reward);
    for (name, value) in defaults.as_object().expect("an object") {
        let mut body = order("c", &reward);
        (body[name], all[name]) = (value.clone(), value.clone());
        let again = system.redeem(&wallet, "k1", &body).await;
        assert_eq!(
            (again.status.as_u16(), again.replayed, &again.bytes),
            (200, true, &first.bytes),
            "{name}"
        );
    }
    assert_eq!(system.redeem(&wallet, "k1", &all).await.bytes, first.bytes);
    for (name, value) in
        [("allow_partial", json!(true)), ("operator_id", json!("o")), ("on_deadline", json!("cancel"))]
    {
        let mut body = order("c", &reward);
        body[name] = value;
        assert_eq!(system.redeem(&wallet, "k1", &body).await.code(), "idempotency_key_reused", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_newer_version_used_is_not_judged() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let body = order("c", &reward);
    let first = system.redeem(&wallet, "k1", &body).await;
    system.execute("UPDATE saga.saga SET hash_version = 2").await;
    let again = system.redeem(&wallet, "k1", &body).await;
    snapshot!(again, @r#"
        503 application/problem+json, retry-after: 1
        {
          "code": "overloaded",
          "detail": "This key was used through a newer version of this service, which alone can tell a retry. Ask again with the same key.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "unknown",
          "retryable": true,
          "status": 503,
          "suggestion": "Try again shortly with the same key.",
          "title": "The service is overloaded or starting",
          "trace_id": "[trace]",
          "type": "/problems/overloaded"
        }
        "#);
    system.execute("UPDATE saga.saga SET hash_version = 1").await;
    assert_eq!(system.redeem(&wallet, "k1", &body).await.bytes, first.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_redemption_further_has_its_bucket_and_a_key_of_its_own() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 100, 0, 0).await;
    let mut body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 10,
        "tenders": [{ "type": "points" }], "capture": "manual" });
    for key in ["k1", "k2", "k3"] {
        let held = system.redeem(&wallet, key, &body).await;
        assert_eq!(held.json()["status"], "authorized", "{}", held.text());
        let id = held.json()["id"].as_str().expect("an id").to_owned();
        let path = format!("/wallet/redemptions/{id}/capture");
        // The same key each time: another redemption is another request.
        let captured = system.call(&wallet, "pos", Method::POST, &path, Some("same"), Some(&json!({}))).await;
        assert_eq!(captured.json()["status"], "completed", "{}", captured.text());
    }
    system.cancel(&wallet, "k1").await;
    system.until_status(&wallet, "k1", "reversed").await;
    body["tenders"][0]["points"] = json!(1);
    assert_eq!(system.redeem(&wallet, "k4", &body).await.status, 422);
    let astray: i64 = system
        .sql(
            "SELECT count(*) FROM saga.saga s LEFT JOIN saga.saga p ON p.saga_id = s.parent_id
             WHERE right(s.saga_id::text, 2) <> right(coalesce(p.saga_id, s.saga_id)::text, 2)
                OR (s.legs_id <> s.saga_id AND left(s.legs_id::text, 2) <> right(s.saga_id::text, 2))",
        )
        .await;
    assert_eq!(astray, 0);
    assert_eq!(system.sql::<i64>("SELECT count(*) FROM saga.saga").await, 8);
    let pool = sqlx::PgPool::connect_with(system.points.tender.database.admin()).await.expect("a pool");
    let astray: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM tender.operation o JOIN tender.account a USING (account_no)
         WHERE get_byte(uuid_send(o.operation_id), 15)
            <> get_byte(sha256(convert_to(a.business_id || chr(31) || a.owner, 'UTF8')), 0)",
    )
    .fetch_one(&pool)
    .await
    .expect("a count");
    pool.close().await;
    assert_eq!(astray, 0, "an operation is in its account's bucket");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_the_same_instant_on_two_instances_acts_once() {
    let system = System::start().await;
    let wallets = [system.wallet().await, system.wallet().await];
    system.fund("c", 1_000, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 1, "tenders": [{ "type": "points" }] });
    for round in 0..25 {
        let key = format!("k{round}");
        let calls = (0..8).map(|i| system.redeem(&wallets[i % 2], &key, &body));
        let answers = futures_util::future::join_all(calls).await;
        assert_eq!(
            answers.iter().filter(|a| a.status == 201).count(),
            1,
            "{:?}",
            answers.iter().map(|a| a.text()).collect::<Vec<_>>()
        );
        assert!(answers.iter().all(|a| a.bytes == answers[0].bytes && (a.status == 201 || a.status == 200)));
    }
    assert_eq!(system.balances(&wallets[0], "c").await.0, 975);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_waits_for_the_first_and_both_hear_the_same() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let body = order("c", &reward);
    let (first, second, ()) =
        tokio::join!(system.redeem(&wallet, "k1", &body), system.redeem(&wallet, "k1", &body), async {
            tokio::time::sleep(BOTH_WAIT).await;
            system.credit.proxy.set(Mode::Pass);
        });
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201], "{} {}", first.text(), second.text());
    assert_eq!(first.bytes, second.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_deadline_a_till_hears_202_and_later_the_truth() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(500);
    let began = std::time::Instant::now();
    let pending = system.redeem(&wallet, "k1", &body).await;
    assert!(began.elapsed().as_millis() < 600);
    assert_eq!((pending.status.as_u16(), &pending.json()["status"]), (202, &json!("pending")));
    snapshot!(system.get(&wallet, "/wallet/redemptions?idempotency_key=k1").await, @r#"
        200 application/json
        {
          "data": [
            {
              "amount": 4250,
              "amount_due": 4250,
              "created_at": "[time]",
              "currency": "USD",
              "customer_id": "c",
              "id": "[id 1]",
              "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
              "order_id": "S042-77120",
              "redeemed": 0,
              "status": "pending",
              "tenders": []
            }
          ],
          "next_cursor": null
        }
        "#);
    system.credit.proxy.set(Mode::Pass);
    body["deadline_ms"] = json!(5000);
    let truth = system.redeem(&wallet, "k1", &body).await;
    assert_eq!(
        (truth.status.as_u16(), &truth.json()["status"]),
        (200, &json!("completed")),
        "{}",
        truth.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_till_that_does_not_wait_may_ask_for_everything_back() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let before = system.lots("c").await;
    system.credit.proxy.set(Mode::HoldReplies);
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(500);
    body["on_deadline"] = json!("cancel");
    let told = system.redeem(&wallet, "k1", &body).await;
    // Where the way back could not be written within the grace, the till hears that nothing is decided.
    match told.status.as_u16() {
        202 => assert_eq!(told.json()["status"], "declined", "{}", told.text()),
        503 => assert_eq!(told.json()["outcome"], "unknown", "{}", told.text()),
        _ => panic!("{}", told.text()),
    }
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "k1", "declined").await;
    assert_eq!(system.lots("c").await, before);
    snapshot!(system.redeem(&wallet, "k1", &body).await, @r#"
        422 application/problem+json, replayed
        {
          "code": "not_completed_in_time",
          "detail": "A tender gave no answer in time, so everything was undone. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "redemption_id": "[id 1]",
          "retryable": false,
          "returned": [
            {
              "amount": 500,
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 500 }],
              "points": 500,
              "type": "points"
            },
            { "amount": 2250, "leg": 1, "lots": [{ "amount": 2250, "lot_id": "[id 3]" }], "type": "digital_reward" },
            { "amount": 1500, "leg": 2, "lots": [{ "amount": 1500, "lot_id": "[id 4]" }], "type": "store_credit" }
          ],
          "reversal": "done",
          "status": 422,
          "suggestion": "Try again with a new key, or use another tender.",
          "title": "Not completed in time; everything was undone",
          "trace_id": "[trace]",
          "type": "/problems/not_completed_in_time"
        }
        "#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tills_sequence_guards_against_another_key() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 1_000, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 10, "tenders": [{ "type": "points" }],
        "location_id": "KH-PP-01", "terminal_id": "till7", "sequence": 1 });
    let calls = (0..6).map(|i| system.redeem(&wallet, ["a", "b", "c", "d", "e", "f"][i], &body));
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|a| a.code() == "duplicate_reference").count(), 5);
    snapshot!(system.redeem(&wallet, "late", &body).await, @r#"
        409 application/problem+json
        {
          "code": "duplicate_reference",
          "detail": "This till, order and sequence were used under another key. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "retryable": false,
          "status": 409,
          "suggestion": "Look up the earlier request.",
          "title": "This reference was used before",
          "trace_id": "[trace]",
          "type": "/problems/duplicate_reference"
        }
        "#);
    let mut next = body.clone();
    next["sequence"] = json!(2);
    assert_eq!(system.redeem(&wallet, "g", &next).await.status, 201);
    // Given back, the sequence is free again.
    system.cancel(&wallet, "g").await;
    system.until_status(&wallet, "g", "reversed").await;
    assert_eq!(system.redeem(&wallet, "h", &next).await.status, 201);
    assert_eq!(system.balances(&wallet, "c").await.0, 980);
}

#[tokio::test(flavor = "multi_thread")]
async fn tills_that_hang_up_cost_no_connection_to_the_database() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let body = order("c", &reward);
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    let before = system.database_proxy.connections();
    for call in 0..400_u64 {
        // Now and then, so that some hang up in the middle of each step.
        let patience = Duration::from_micros(500 + call % 40 * 250);
        let _ = tokio::time::timeout(patience, system.redeem(&wallet, "k", &body)).await;
    }
    let opened = system.database_proxy.connections() - before;
    assert!(opened < 20, "{opened} connections were opened");
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 200);
}
