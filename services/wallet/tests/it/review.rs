//! Races that the crash table does not name.

use std::time::Duration;

use saga::Config;
use serde_json::Value;
use testkit::Mode;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::support::{Answer, System, Wallet, order, quick};

fn redeem(system: &System, wallet: &Wallet, key: &'static str, body: Value) -> JoinHandle<Answer> {
    let request = system
        .client
        .post(format!("{}/api/v1/wallet/redeem", wallet.url))
        .bearer_auth(system.tokens.staff("demo", "pos"))
        .header("idempotency-key", key)
        .json(&body);
    TaskTracker::new().spawn(async move {
        let response = request.send().await.expect("an answer");
        let (status, replayed) = (response.status(), response.headers().contains_key("idempotent-replayed"));
        Answer { status, replayed, bytes: response.bytes().await.expect("a body").to_vec() }
    })
}

async fn until(system: &System, query: &'static str) {
    for _ in 0..600 {
        if system.sql::<bool>(query).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never true: {query}");
}

fn impatient() -> Config {
    let mut config = Config { cancel_timeout: Duration::from_millis(200), ..quick() };
    config.limits.unreachable_for = 500;
    config.cancel_retry.cap = Duration::from_millis(100);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_lost_commit_on_the_way_back_is_written_once() {
    let system = System::start().await;
    let options = service::db::connect_options(&system.database.url(), "wallet").expect("a URL");
    let wallet =
        system.wallet_on(impatient(), options.host("127.0.0.1").port(system.database_proxy.port)).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    system.rewards.proxy.set(Mode::HoldReplies);
    system.credit.proxy.set(Mode::HoldRequests);
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 0)").await;
    // The answers to COMMIT of T3, of its second writing, and of T6 are lost.
    system.database_proxy.lose_commits(3);
    system.rewards.proxy.set(Mode::Pass);
    until(&system, "SELECT state = 4 FROM saga.saga").await;
    assert_eq!(system.database_proxy.lost_commits(), 3);
    let told = till.await.expect("a till");
    assert_eq!(told.status, 422, "{}", told.text());
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (event, query) in [
        ("turned_back", "SELECT count(*) FROM saga.saga_event WHERE event = 'turned_back'"),
        ("dead_letter", "SELECT count(*) FROM saga.saga_event WHERE event = 'dead_letter'"),
        ("letters", "SELECT count(*) FROM saga.dead_letter WHERE code = 'participant_silent'"),
        ("adopted", "SELECT 1 + count(*) FROM saga.saga_event WHERE event = 'adopted_again'"),
    ] {
        assert_eq!(system.sql::<i64>(query).await, 1, "{event}");
    }
    system.credit.proxy.set(Mode::Pass);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_till_that_goes_away_during_t1_leaves_its_saga_running() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system
        .execute(
            "CREATE FUNCTION saga.planted() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(0.4); RETURN NULL; END $$",
        )
        .await;
    system
        .execute(
            "CREATE CONSTRAINT TRIGGER planted AFTER INSERT ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.planted()",
        )
        .await;
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    tokio::time::sleep(Duration::from_millis(200)).await;
    till.abort();
    system.until_status(&wallet, "k", "completed").await;
    let adopted: i64 = system.sql("SELECT count(*) FROM saga.saga_event WHERE event = 'adopted_again'").await;
    assert_eq!(adopted, 0, "its own task carried it on, not a rescan");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_renew_stops_sending() {
    let system = System::start().await;
    let mut config = quick();
    config.cancel_retry.cap = Duration::from_millis(100);
    let options = service::db::connect_options(&system.database.url(), "wallet").expect("a URL");
    let wallet = system.wallet_on(config, options.host("127.0.0.1").port(system.database_proxy.port)).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    let before = system.lots("c").await;
    system.rewards.proxy.set(Mode::HoldReplies);
    let _till = redeem(&system, &wallet, "k", order("c", &reward));
    for round in 0.. {
        assert!(round < 200, "store credit was never taken");
        if credit(&system).await == 3500 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    system.credit.proxy.set(Mode::Cut);
    system.rewards.proxy.set(Mode::Pass);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 1)").await;
    system.database_proxy.set(Mode::HoldRequests);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    // Store credit is back, and the next cancel would reach it.
    system.credit.proxy.set(Mode::Pass);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(credit(&system).await, 3500, "its saga may be somebody else's by now");
    system.database_proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "declined").await;
    assert_eq!(system.lots("c").await, before);
}

async fn credit(system: &System) -> i64 {
    let lots = system.lots("c").await;
    lots.iter()
        .filter(|lot| lot["currency"] == "USD" && lot["original"] == 5000)
        .filter_map(|lot| lot["remaining"].as_i64())
        .sum()
}
