//! Races that the crash table does not name.

use std::time::{Duration, Instant};

use saga::Config;
use serde_json::json;
use testkit::Mode;

use crate::support::{System, order, quick, redeem, until};

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_never_stops_the_sweep_of_holds() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    body["hold_ttl_s"] = json!(1);
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    system
        .execute(
            "INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state, epoch, deadline_at, budget_from, due_at, ended_at)
             SELECT '00000000-0000-7000-8000-000000000001', 'demo', 'redeem', '', 'unreadable', '', 0, 2, gen_random_uuid(), '{\"type\": \"of tomorrow\"}', 2, 1, now(), now(), now(), now() FROM saga.saga",
        )
        .await;
    system
        .execute(
            "INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, currency, amount, status, hold_expires_at)
             VALUES ('00000000-0000-7000-8000-000000000001', 'demo', 'd', 'o', 'USD', 1, 'authorized', now() - interval '1 hour')",
        )
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let found = system.get(&wallet, "/wallet/redemptions?idempotency_key=k").await.json();
    assert_eq!(found["data"][0]["status"], "expired", "one row that cannot be read keeps everybody's holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_database_went_away_now_and_then_is_no_poison() {
    let system = System::start().await;
    let mut config = Config { poison_limit: 2, ..quick() };
    config.cancel_retry.cap = Duration::from_millis(100);
    let options = service::db::connect_options(&system.database.url(), "wallet").expect("a URL");
    let wallet = system.wallet_on(config, options.host("127.0.0.1").port(system.database_proxy.port)).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    // Rewards decline; store credit is away, so the saga is on its way back for long.
    system.credit.proxy.set(Mode::Cut);
    let _till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 1)").await;
    for _ in 0..4 {
        system.database_proxy.set(Mode::HoldRequests);
        tokio::time::sleep(Duration::from_millis(1000)).await;
        system.database_proxy.set(Mode::Pass);
        tokio::time::sleep(Duration::from_millis(1600)).await;
    }
    let (state, epoch) = (
        system.sql::<i16>("SELECT state FROM saga.saga").await,
        system.sql::<i64>("SELECT epoch FROM saga.saga").await,
    );
    assert!(epoch > 3, "the fault never fired: epoch {epoch}");
    assert_eq!(state, 1, "no owner died, and legs answered in between");
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "declined").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_an_answer_that_is_not_frozen_is_not_given() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let other = system.wallet().await;
    let reward = system.fund("c", 620, 1, 2250).await;
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(20_000);
    system.points.proxy.set(Mode::HoldRequests);
    // T1 commits, its answer is lost, and the database stays away for longer than a TTL.
    system.database_proxy.lose_commits(1);
    let till = redeem(&system, &wallet, "k", body.clone());
    while system.database_proxy.lost_commits() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    system.database_proxy.set(Mode::HoldRequests);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 1 AND epoch > 1)").await;
    system.database_proxy.set(Mode::Pass);
    let told = till.await.expect("a till");
    system.points.proxy.set(Mode::Cut);
    tokio::time::sleep(Duration::from_millis(50)).await;
    system.points.proxy.set(Mode::Pass);
    system.until_status(&other, "k", "declined").await;
    let again = system.redeem(&other, "k", &body).await;
    assert_eq!(told.status, 422, "{}", told.text());
    assert_eq!(again.bytes, told.bytes, "{} and then {}", told.text(), again.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_commit_that_hangs_is_never_said_not_to_apply() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    // A disk that hangs: COMMIT takes 20 s, whatever limits the session has.
    system.execute("CREATE SEQUENCE saga.planted").await;
    system.execute("GRANT USAGE ON SEQUENCE saga.planted TO PUBLIC").await;
    system
        .execute(
            "CREATE FUNCTION saga.planted() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF nextval('saga.planted') = 1 THEN
                     BEGIN PERFORM pg_sleep(20); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(15); END;
                 END IF;
                 RETURN NULL;
             END $$",
        )
        .await;
    system
        .execute(
            "CREATE CONSTRAINT TRIGGER planted AFTER INSERT ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.planted()",
        )
        .await;
    system.database_proxy.lose_commits(1);
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(16_000);
    let began = Instant::now();
    let told = system.redeem(&wallet, "k", &body).await;
    let after = began.elapsed();
    assert_eq!(system.database_proxy.lost_commits(), 1);
    tokio::time::sleep(Duration::from_secs(22).saturating_sub(began.elapsed())).await;
    let sagas: i64 = system.sql("SELECT count(*) FROM saga.saga").await;
    assert!(
        told.json()["outcome"] != "not_applied" || sagas == 0,
        "after {after:?} the till heard {} but there is its saga",
        told.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_that_cannot_be_written_is_under_review() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    system.execute("ALTER TABLE wallet.redemption ADD CONSTRAINT planted CHECK (status <> 'reversed')").await;
    assert_eq!(system.cancel(&wallet, "k").await["result"], "will_reverse");
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.dead_letter WHERE code = 'unwritable')").await;
    let found = system.get(&wallet, "/wallet/redemptions?idempotency_key=k").await.json();
    assert_eq!(found["data"][0]["status"], "under_review");
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
        ("compensating", "SELECT count(*) FROM saga.saga_event WHERE event = 'compensating'"),
        ("dead_letter", "SELECT count(*) FROM saga.saga_event WHERE event = 'dead_letter'"),
        ("letters", "SELECT count(*) FROM saga.dead_letter WHERE code = 'participant_unreachable'"),
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
    system.slow_t1().await;
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
