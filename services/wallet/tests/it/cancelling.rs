use serde_json::json;
use testkit::Mode;

use crate::support::{System, order, redeem};

#[tokio::test(flavor = "multi_thread")]
async fn before_the_redeem_it_leaves_a_tombstone() {
    let system = System::start().await;
    let (wallet, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.cancel(&wallet, "k1").await, json!({ "result": "cancelled_before_arrival" }));
    assert_eq!(system.cancel(&other, "k1").await, json!({ "result": "cancelled_before_arrival" }));
    for wallet in [&wallet, &other] {
        let late = system.redeem(wallet, "k1", &order("c", &reward)).await;
        assert_eq!((late.status.as_u16(), late.code()), (409, "key_cancelled".to_owned()));
    }
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
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
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
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
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
    assert_eq!(system.cancel(&wallet, "k1").await["result"], "already_reversed");
    assert_eq!(system.redeem(&other, "k1", &order("c", &reward)).await.code(), "key_cancelled");
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));
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
    assert_eq!(system.cancel(&wallet, "k1").await["result"], "will_reverse");
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
