//! What a till hears in time, and what becomes of its redeem where it does not wait.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::Mode;

use crate::support::{IS_RUNNING, IS_SLOWED, System, order, redeem, until};

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
    until(&system, IS_RUNNING).await;
    system.database_proxy.set(Mode::HoldRequests);
    let told = till.await.expect("a till");
    let took = began.elapsed();
    system.database_proxy.set(Mode::Pass);
    assert!(took < Duration::from_millis(1000), "{took:?}: {}", told.text());
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
async fn a_till_that_goes_away_during_t1_leaves_its_saga_running() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.slow_t1().await;
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, IS_SLOWED).await;
    till.abort();
    system.until_status(&wallet, "k", "completed").await;
    let adopted: i64 = system.sql("SELECT count(*) FROM saga.saga_event WHERE event = 'adopted_again'").await;
    assert_eq!(adopted, 0, "its own task carried it on, not a rescan");
}
