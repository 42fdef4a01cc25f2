//! COMMITs whose answer is lost, or comes late: rows C5 of the crash table.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::Mode;

use crate::{
    dead_letters::impatient,
    support::{IS_RUNNING, IS_SLOWED, System, WITHIN, order, redeem, until},
};

/// Longer than the COMMIT that hangs can take: 20 s, or 15 s more from the moment when it is cancelled.
const HANGS: Duration = Duration::from_secs(45);
/// Long enough for what was written once to be written again by mistake.
const WRITTEN_AGAIN: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn c5_the_outcome_of_a_commit_is_unknown() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    // T1 commits and its answer is lost.
    system.database_proxy.lose_commits(1);
    system.credit.proxy.set(Mode::HoldReplies);
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, IS_RUNNING).await;
    system.credit.until_applied().await;
    assert_eq!(system.database_proxy.lost_commits(), 1);
    // Then T2 does.
    system.database_proxy.lose_commits(1);
    system.credit.proxy.set(Mode::Pass);
    let answer = till.await.expect("a till");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(system.database_proxy.lost_commits(), 2);
    let again = system.redeem(&wallet, "k", &order("c", &reward)).await;
    assert_eq!((again.status.as_u16(), &again.bytes), (200, &answer.bytes));
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
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
    testkit::until(WITHIN, async || system.database_proxy.lost_commits() == 1).await;
    system.database_proxy.set(Mode::HoldRequests);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 1 AND epoch > 1)").await;
    system.database_proxy.set(Mode::Pass);
    let told = till.await.expect("a till");
    system.points.cut_open().await;
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
    testkit::until(HANGS, async || !system.sql::<bool>(IS_SLOWED).await).await;
    let sagas: i64 = system.sql("SELECT count(*) FROM saga.saga").await;
    assert!(
        told.json()["outcome"] != "not_applied" || sagas == 0,
        "after {after:?} the till heard {} but there is its saga",
        told.text()
    );
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
    until(&system, IS_RUNNING).await;
    // The answers to COMMIT of T3, of its second writing, and of T6 are lost.
    system.database_proxy.lose_commits(3);
    system.rewards.proxy.set(Mode::Pass);
    until(&system, "SELECT state = 4 FROM saga.saga").await;
    assert_eq!(system.database_proxy.lost_commits(), 3);
    let told = till.await.expect("a till");
    assert_eq!(told.status, 422, "{}", told.text());
    tokio::time::sleep(WRITTEN_AGAIN).await;
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
