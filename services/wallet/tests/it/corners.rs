//! What callers may rely on, where several things happen at once.

use std::time::{Duration, Instant};

use reqwest::Method;
use saga::Config;
use serde_json::json;
use testkit::Mode;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::support::{System, Wallet, order, quick, redeem, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_taken_also_when_no_redemption_is() {
    let system = System::start().await;
    let wallet = system.wallet_with(Config { in_flight: 1, ..quick() }).await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "done", &order("c", &reward)).await.status, 201);
    system.credit.proxy.set(Mode::HoldReplies);
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 10, "tenders": [{ "type": "store_credit" }] });
    let till = redeem(&system, &wallet, "slow", body.clone());
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 0)").await;
    assert_eq!(system.redeem(&wallet, "more", &body).await.code(), "overloaded");
    assert_eq!(system.cancel(&wallet, "unseen").await["result"], "cancelled_before_arrival");
    assert_eq!(system.cancel(&wallet, "done").await["result"], "will_reverse");
    system.credit.proxy.set(Mode::Pass);
    till.await.expect("a till");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_whose_sequence_was_used_meanwhile_is_no_server_error() {
    let system = System::start().await;
    let reward = system.fund("c", 1620, 10_000, 5000).await;
    let wallet = system.wallet_with(Config { poison_limit: 2, ..quick() }).await;
    let mut body = order("c", &reward);
    for (field, value) in [
        ("location_id", json!("L")),
        ("terminal_id", json!("T")),
        ("sequence", json!(1)),
        ("deadline_ms", json!(1000)),
    ] {
        body[field] = value;
    }
    system.credit.proxy.set(Mode::HoldReplies);
    let till = redeem(&system, &wallet, "k", body.clone());
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 0)").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let id: uuid::Uuid = system.sql("SELECT saga_id FROM saga.saga").await;
    for _ in 0..100 {
        wallet.engine.lose_run(saga::SagaId(id));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    until(&system, "SELECT state = 4 FROM saga.saga").await;
    till.await.expect("a till");
    system.credit.proxy.set(Mode::Cut);
    tokio::time::sleep(Duration::from_millis(50)).await;
    system.credit.proxy.set(Mode::Pass);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let second = system.redeem(&wallet, "k2", &body).await;
    let letters = system.ops(&wallet, Method::GET, "/ops/dead-letters", None).await.json();
    let path =
        format!("/ops/dead-letters/{}/replay", letters["data"][0]["dead_letter_id"].as_str().expect("id"));
    let answer =
        system.ops(&wallet, Method::POST, &path, Some(&json!({ "operation_id": "o", "reason": "r" }))).await;
    assert!(
        answer.status.as_u16() < 500,
        "second: {} {}; replay: {} {}",
        second.status,
        second.text(),
        answer.status,
        answer.text()
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tender_is_refused_at_the_door_until_a_leg_is_answered() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 0, 10_000, 0).await;
    system.credit.proxy.set(Mode::HoldRequests);
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 10, "deadline_ms": 500,
        "tenders": [{ "type": "store_credit" }] });
    for key in ["a", "b", "c", "d", "e", "f"] {
        redeem(&system, &wallet, key, body.clone());
    }
    for round in 0.. {
        assert!(round < 200, "it never opened");
        tokio::time::sleep(Duration::from_millis(50)).await;
        if wallet.engine.is_unreachable("store_credit") {
            break;
        }
    }
    // The tender's readiness is as good as ever; only a leg opens the door again.
    for wave in 0..40 {
        let keys: Vec<String> = (0..10).map(|i| format!("w{wave}-{i}")).collect();
        let calls = keys.iter().map(|key| system.redeem(&wallet, key, &body));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.code(), "tender_unavailable", "{answer:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    system.credit.proxy.set(Mode::Cut);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_deadline_cancel_answers_202_also_when_commits_take_a_moment() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system
        .execute(
            "CREATE FUNCTION saga.planted() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(0.08); RETURN NULL; END $$",
        )
        .await;
    system
        .execute(
            "CREATE CONSTRAINT TRIGGER planted AFTER INSERT OR UPDATE ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.planted()",
        )
        .await;
    system.credit.proxy.set(Mode::HoldReplies);
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(800);
    body["on_deadline"] = json!("cancel");
    let pending = system.redeem(&wallet, "k", &body).await;
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "declined").await;
    assert_eq!(pending.status, 202, "{}", pending.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_till_has_its_answer_before_its_deadline_whatever_hangs() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(1000);
    let began = Instant::now();
    let till = redeem(&system, &wallet, "k", body);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 0)").await;
    system.database_proxy.set(Mode::HoldRequests);
    let told = till.await.expect("a till");
    let took = began.elapsed();
    system.database_proxy.set(Mode::Pass);
    assert!(took < Duration::from_millis(1000), "{took:?}: {}", told.text());
}

/// A key with an answer does not stand in for a guard that is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_beside_a_new_key_takes_nobodys_sequence() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 100, 0, 0).await;
    let mut body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 200, "tenders": [{ "type": "points", "points": 200 }],
        "location_id": "L", "terminal_id": "T", "sequence": 1 });
    assert_eq!(system.redeem(&wallet, "declined", &body).await.status, 422);
    let first = body.clone();
    body["amount"] = json!(10);
    body["tenders"][0]["points"] = json!(10);
    system
        .execute(
            "CREATE FUNCTION saga.planted() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF NEW.key = 'filler' THEN PERFORM pg_sleep(0.5); END IF; RETURN NULL; END $$",
        )
        .await;
    system
        .execute(
            "CREATE CONSTRAINT TRIGGER planted AFTER INSERT ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.planted()",
        )
        .await;
    let filler = json!({ "customer_id": "c", "order_id": "p", "currency": "USD", "amount": 1, "tenders": [{ "type": "points" }] });
    let filler = redeem(&system, &wallet, "filler", filler);
    tokio::time::sleep(Duration::from_millis(150)).await;
    let replay = redeem(&system, &wallet, "declined", first);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let new = redeem(&system, &wallet, "new", body).await.expect("a till");
    replay.await.expect("a till");
    filler.await.expect("a till");
    assert_eq!(new.status, 201, "{}", new.text());
}

async fn hold_and_capture_without_credit(system: &System, wallet: &Wallet) -> JoinHandle<()> {
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    let held = system.redeem(wallet, "k", &body).await;
    assert_eq!(held.status, 201, "{}", held.text());
    system.credit.proxy.set(Mode::Cut);
    let id = held.json()["id"].as_str().expect("an id").to_owned();
    let request = system
        .client
        .post(format!("{}/api/v1/wallet/redemptions/{id}/capture", wallet.url))
        .bearer_auth(system.tokens.staff("demo", "pos"))
        .header("idempotency-key", "capture")
        .json(&json!({}));
    TaskTracker::new().spawn(async move { drop(request.send().await) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_during_a_capture_is_taken_at_once() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let _capture = hold_and_capture_without_credit(&system, &wallet).await;
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE operation = 'capture')").await;
    assert_eq!(system.cancel(&wallet, "k").await["result"], "will_reverse");
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "reversed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_a_parked_capture_is_carried_out_after_its_replay() {
    let system = System::start().await;
    let mut config = Config { cancel_timeout: Duration::from_millis(200), ..quick() };
    config.limits.unreachable_for = 500;
    config.cancel_retry.cap = Duration::from_millis(100);
    let wallet = system.wallet_with(config).await;
    let capture = hold_and_capture_without_credit(&system, &wallet).await;
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 4)").await;
    capture.abort();
    assert_eq!(system.cancel(&wallet, "k").await["result"], "will_reverse");
    system.credit.proxy.set(Mode::Pass);
    let letters = system.ops(&wallet, Method::GET, "/ops/dead-letters", None).await.json();
    let path =
        format!("/ops/dead-letters/{}/replay", letters["data"][0]["dead_letter_id"].as_str().expect("id"));
    let body = json!({ "operation_id": "o", "reason": "credit is back" });
    assert_eq!(system.ops(&wallet, Method::POST, &path, Some(&body)).await.json()["result"], "done");
    until(&system, "SELECT bool_and(state IN (2, 3)) FROM saga.saga").await;
    system.until_status(&wallet, "k", "reversed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_codes_across_many_customers_is_stopped() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let mut statuses = Vec::new();
    for customer in 0..140 {
        let body = json!({ "customer_id": format!("c{customer}"), "order_id": "o", "currency": "USD", "amount": 1,
            "tenders": [{ "type": "digital_reward", "code": format!("AAAA-BBBB-CCCC-{customer:04}") }] });
        statuses.push(system.redeem(&wallet, &format!("k{customer}"), &body).await.status.as_u16());
    }
    assert!(statuses[..100].iter().all(|status| *status == 404), "{statuses:?}");
    assert_eq!(statuses[139], 429, "{statuses:?}");
}
