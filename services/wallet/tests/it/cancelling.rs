//! Cancels by key: before, beside and after the redeem that they mean.

use saga::Config;
use serde_json::json;
use testkit::{Mode, snapshot};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::{
    dead_letters::impatient,
    support::{IS_RUNNING, IS_SLOWED, System, Wallet, order, quick, redeem, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn before_the_redeem_it_leaves_a_tombstone() {
    let system = System::start().await;
    let (wallet, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", 620, 5000, 2250).await;
    snapshot!(system.ask_to_cancel(&wallet, "k1").await, @r#"
        200 application/json
        {
          "result": "cancelled_before_arrival"
        }
        "#);
    assert_eq!(system.cancel(&other, "k1").await, json!({ "result": "cancelled_before_arrival" }));
    let late = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    snapshot!(late, @r#"
        409 application/problem+json
        {
          "code": "key_cancelled",
          "detail": "This key was cancelled. Use a new key.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "retryable": false,
          "status": 409,
          "suggestion": "Start again with a new key.",
          "title": "This key was cancelled",
          "trace_id": "[trace]",
          "type": "/problems/key_cancelled"
        }
        "#);
    assert_eq!(system.redeem(&other, "k1", &order("c", &reward)).await.shown(), late.shown());
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_redeem_is_being_written_it_is_waited_for() {
    let system = System::start().await;
    let (wallet, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", 620, 5000, 2250).await;
    let before = system.lots("c").await;
    system.slow_t1().await;
    system.credit.proxy.set(Mode::HoldReplies);
    let till = redeem(&system, &wallet, "k1", order("c", &reward));
    until(&system, IS_SLOWED).await;
    // Nobody can see the redeem yet; the tombstone meets its key and waits for its COMMIT.
    assert_eq!(system.cancel(&other, "k1").await["result"], "will_reverse");
    system.credit.proxy.set(Mode::Pass);
    let told = till.await.expect("a till");
    assert_eq!((told.status.as_u16(), told.code()), (409, "key_cancelled".to_owned()), "{}", told.text());
    system.until_status(&wallet, "k1", "declined").await;
    assert_eq!(system.lots("c").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_redeem_everything_goes_back() {
    let system = System::start().await;
    let (wallet, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", 620, 5000, 2250).await;
    let before = system.lots("c").await;
    for (round, cancelling) in [&wallet, &other].into_iter().enumerate() {
        let key = format!("k{round}");
        system.credit.proxy.set(Mode::HoldReplies);
        let body = order("c", &reward);
        let (till, cancelled) = tokio::join!(system.redeem(&wallet, &key, &body), async {
            until(&system, IS_RUNNING).await;
            let cancelled = system.cancel(cancelling, &key).await;
            system.credit.proxy.set(Mode::Pass);
            cancelled
        });
        assert_eq!(cancelled["result"], "will_reverse");
        assert_eq!((till.status.as_u16(), till.code()), (409, "key_cancelled".to_owned()), "{}", till.text());
        system.until_status(&wallet, &key, "declined").await;
        assert_eq!(system.lots("c").await, before);
        assert_eq!(system.cancel(&other, &key).await["result"], "already_reversed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_redeem_it_is_reversed_in_full_and_once() {
    let system = System::start().await;
    let (wallet, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", 620, 5000, 2250).await;
    let before = system.lots("c").await;
    let done = system.redeem(&wallet, "k1", &order("c", &reward)).await.json();
    let cancels = futures_util::future::join_all(
        (0..6).map(|i| system.cancel(if i % 2 == 0 { &wallet } else { &other }, "k1")),
    )
    .await;
    for cancel in cancels {
        assert!(
            ["will_reverse", "already_reversed"].contains(&cancel["result"].as_str().expect("a result")),
            "{cancel}"
        );
        assert_eq!(cancel["redemption_id"], done["id"]);
    }
    system.until_status(&other, "k1", "reversed").await;
    assert_eq!(system.lots("c").await, before, "the very lots");
    snapshot!(system.ask_to_cancel(&wallet, "k1").await, @r#"
        200 application/json
        {
          "redemption_id": "[id 1]",
          "result": "already_reversed"
        }
        "#);
    assert_eq!(system.redeem(&other, "k1", &order("c", &reward)).await.code(), "key_cancelled");
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reversed_is_shown_with_what_went_back() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k1", &order("c", &reward)).await.status, 201);
    system.cancel(&wallet, "k1").await;
    system.until_status(&wallet, "k1", "reversed").await;
    snapshot!(system.get(&wallet, "/wallet/redemptions?idempotency_key=k1").await, @r#"
        200 application/json
        {
          "data": [
            {
              "amount": 4250,
              "amount_due": 0,
              "completed_at": "[time]",
              "created_at": "[time]",
              "currency": "USD",
              "customer_id": "c",
              "id": "[id 1]",
              "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
              "order_id": "S042-77120",
              "redeemed": 4250,
              "status": "reversed",
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
                },
                {
                  "amount": 2250,
                  "balance_after": { "amount": 0 },
                  "leg": 1,
                  "lots": [{ "amount": 2250, "lot_id": "[id 3]" }],
                  "reward_id": "[id 4]",
                  "status": "reversed",
                  "type": "digital_reward"
                },
                {
                  "amount": 1500,
                  "balance_after": { "amount": 3500 },
                  "leg": 2,
                  "lots": [{ "amount": 1500, "lot_id": "[id 5]" }],
                  "status": "reversed",
                  "type": "store_credit"
                }
              ]
            }
          ],
          "next_cursor": null
        }
        "#);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_value_is_voided_and_a_hold_ends_by_itself() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    let held = system.redeem(&wallet, "k1", &body).await;
    assert_eq!(
        (held.status.as_u16(), &held.json()["status"]),
        (201, &json!("authorized")),
        "{}",
        held.text()
    );
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
    snapshot!(system.ask_to_cancel(&wallet, "k1").await, @r#"
        200 application/json
        {
          "redemption_id": "[id 1]",
          "result": "will_reverse"
        }
        "#);
    system.until_status(&wallet, "k1", "voided").await;
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));

    body["hold_ttl_s"] = json!(1);
    assert_eq!(system.redeem(&wallet, "k2", &body).await.status, 201);
    system.until_status(&wallet, "k2", "expired").await;
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));
    assert_eq!(system.redeem(&wallet, "k2", &body).await.status, 200, "its key tells what it told before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_key_answers_nothing_else_once_it_is_cancelled() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 1, 2250).await;
    assert_eq!(system.redeem(&wallet, "k1", &order("c", &reward)).await.status, 422);
    assert_eq!(system.cancel(&wallet, "k1").await["result"], "already_reversed");
    assert_eq!(system.redeem(&wallet, "k1", &order("c", &reward)).await.code(), "key_cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_taken_also_when_no_redemption_is() {
    let system = System::start().await;
    let wallet = system.wallet_with(Config { in_flight: 1, ..quick() }).await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "done", &order("c", &reward)).await.status, 201);
    system.credit.proxy.set(Mode::HoldReplies);
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 10, "tenders": [{ "type": "store_credit" }] });
    let till = redeem(&system, &wallet, "slow", body.clone());
    until(&system, IS_RUNNING).await;
    assert_eq!(system.redeem(&wallet, "more", &body).await.code(), "overloaded");
    assert_eq!(system.cancel(&wallet, "unseen").await["result"], "cancelled_before_arrival");
    assert_eq!(system.cancel(&wallet, "done").await["result"], "will_reverse");
    system.credit.proxy.set(Mode::Pass);
    till.await.expect("a till");
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
    let wallet = system.wallet_with(impatient()).await;
    let capture = hold_and_capture_without_credit(&system, &wallet).await;
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 4)").await;
    capture.abort();
    assert_eq!(system.cancel(&wallet, "k").await["result"], "will_reverse");
    system.credit.proxy.set(Mode::Pass);
    system.replay_all(&wallet, "done").await;
    until(&system, "SELECT bool_and(state IN (2, 3)) FROM saga.saga").await;
    system.until_status(&wallet, "k", "reversed").await;
}
