//! What a call under a key says of the key while commits are in doubt: `not_applied` only with a proof.

use std::time::Duration;

use api::wallet::TenderKind;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::Mode;

use crate::{
    operating_tenders::until_paused,
    support::{Answer, IS_RUNNING, LEASE_OVER, System, Wallet, order, quick, redeem, until},
};

/// Longer than the window in which another instance cannot know yet that a COMMIT is in doubt.
const KNOWN_ELSEWHERE: Duration = Duration::from_millis(1_200);
/// Longer than an instance that is silent may still have something under way.
const DOUBT_ENDS: Duration = Duration::from_secs(30);

/// Far more value than any of these tests takes.
const RICH: (i64, i64, i64) = (100_000, 1_000_000, 100_000);

async fn pause_points(system: &System, wallet: &Wallet) {
    let body = json!({ "operation_id": "p", "reason": "the provider is being moved" });
    let answer = system.ops(wallet, Method::POST, "/ops/tenders/points/pause", Some(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The outcome that a refusal tells.
fn outcome(answer: &Answer) -> String {
    answer.json()["outcome"].as_str().unwrap_or("none").to_owned()
}

/// A redeem that is refused at the door.
async fn refused(system: &System, wallet: &Wallet, key: &str, body: &Value) -> Answer {
    let answer = system.redeem(wallet, key, body).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    answer
}

/// From now on the first COMMIT of a new saga hangs for as long as the sequence says; others do not.
async fn hang_first_t1(system: &System) {
    system.execute("CREATE SEQUENCE saga.planted").await;
    system.execute("GRANT USAGE ON SEQUENCE saga.planted TO PUBLIC").await;
    system
        .execute(
            "CREATE FUNCTION saga.planted() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF nextval('saga.planted') = 1 THEN PERFORM pg_sleep(4); END IF; RETURN NULL; END $$",
        )
        .await;
    system
        .execute(
            "CREATE CONSTRAINT TRIGGER planted AFTER INSERT ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.planted()",
        )
        .await;
}

/// A till that gives up while the COMMIT of its redeem hangs.
async fn give_up_during_t1(system: &System, wallet: &Wallet, body: &Value) {
    hang_first_t1(system).await;
    let till = redeem(system, wallet, "k", body.clone());
    until(system, "SELECT is_called FROM saga.planted").await;
    tokio::time::sleep(KNOWN_ELSEWHERE).await;
    till.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_retry_refused_at_the_door_is_never_told_that_its_commit_does_not_apply() {
    let system = System::start().await;
    let (wallet, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", RICH.0, RICH.1, RICH.2).await;
    let body = order("c", &reward);
    give_up_during_t1(&system, &wallet, &body).await;
    pause_points(&system, &other).await;
    until_paused(&wallet, TenderKind::Points, true).await;
    for instance in [&wallet, &other] {
        let retry = refused(&system, instance, "k", &body).await;
        assert_eq!(outcome(&retry), "unknown", "{}", retry.text());
    }
    let unused = refused(&system, &other, "unused", &body).await;
    assert_eq!(
        (unused.code(), outcome(&unused)),
        ("tender_unavailable".to_owned(), "not_applied".to_owned()),
        "the doubt is one key's own: {}",
        unused.text()
    );
    system.until_status(&wallet, "k", "completed").await;
    for instance in [&wallet, &other] {
        assert_eq!(system.redeem(instance, "k", &body).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_nobody_waits_for_any_more_is_not_sent() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", RICH.0, RICH.1, RICH.2).await;
    let body = order("c", &reward);
    hang_first_t1(&system).await;
    // One for each writer.
    let first = redeem(&system, &wallet, "k", body.clone());
    until(&system, "SELECT is_called FROM saga.planted").await;
    system.execute("SELECT setval('saga.planted', 1, false)").await;
    let second = redeem(&system, &wallet, "k2", body.clone());
    until(&system, "SELECT is_called FROM saga.planted").await;
    // Behind those that hang: both leave, one by hanging up and one because its time is over.
    let gone = redeem(&system, &wallet, "gone", body.clone());
    let mut brief = body.clone();
    brief["deadline_ms"] = json!(500);
    let told = system.redeem(&wallet, "late", &brief).await;
    assert_eq!((told.status.as_u16(), outcome(&told)), (503, "unknown".to_owned()), "{}", told.text());
    gone.abort();
    let behind = redeem(&system, &wallet, "behind", body.clone());
    assert_eq!(behind.await.expect("a till").status, 201, "whoever waits is served");
    assert_eq!(first.await.expect("a till").status, 201);
    assert_eq!(second.await.expect("a till").status, 201);
    let written: i64 = system.sql("SELECT count(*) FROM saga.saga WHERE key IN ('gone', 'late')").await;
    assert_eq!(written, 0, "their tills have taken the card by now");
    pause_points(&system, &wallet).await;
    for key in ["gone", "late"] {
        let retry = refused(&system, &wallet, key, &body).await;
        assert_eq!(outcome(&retry), "not_applied", "{}", retry.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_instance_is_silent_its_inserts_are_in_doubt() {
    let system = System::start().await;
    let (silent, wallet) = (system.wallet_behind_proxy().await, system.wallet().await);
    let reward = system.fund("c", RICH.0, RICH.1, RICH.2).await;
    let body = order("c", &reward);
    pause_points(&system, &wallet).await;
    assert_eq!(outcome(&refused(&system, &wallet, "k", &body).await), "not_applied");
    system.database_proxy.set(Mode::HoldAll);
    let began = std::time::Instant::now();
    tokio::time::sleep(LEASE_OVER).await;
    let doubtful = refused(&system, &wallet, "k", &body).await;
    assert_eq!((doubtful.code(), outcome(&doubtful)), ("overloaded".to_owned(), "unknown".to_owned()));
    // Whatever it had begun has been given up by itself and by the server.
    testkit::until(DOUBT_ENDS, async || {
        outcome(&refused(&system, &wallet, "k", &body).await) == "not_applied"
    })
    .await;
    assert!(began.elapsed() > Duration::from_secs(8), "it could still have written: {:?}", began.elapsed());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_from_before_a_silence_is_not_sent_after_it() {
    let system = System::start().await;
    let (silent, other) = (system.wallet_behind_proxy().await, system.wallet().await);
    let reward = system.fund("c", RICH.0, RICH.1, RICH.2).await;
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(30_000);
    // The database hears nothing of the insert, nor of this instance at all, for longer than a lease.
    system.database_proxy.set(Mode::HoldAll);
    let till = redeem(&system, &silent, "k", body.clone());
    tokio::time::sleep(LEASE_OVER).await;
    system.database_proxy.set(Mode::Pass);
    let told = till.await.expect("a till");
    assert_eq!(told.status, 503, "{}", told.text());
    let written: i64 = system.sql("SELECT count(*) FROM saga.saga").await;
    assert_eq!(written, 0, "another instance may have said that it never will be");
    assert_eq!(system.redeem(&other, "k", &body).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_key_is_told_so_without_a_write() {
    let system = System::start().await;
    let wallet = system.wallet_with(quick()).await;
    let reward = system.fund("c", RICH.0, RICH.1, RICH.2).await;
    let body = order("c", &reward);
    pause_points(&system, &wallet).await;
    // Counts attempts as well: a sequence is not rolled back.
    system.execute("CREATE SEQUENCE saga.writes").await;
    system.execute("GRANT USAGE ON SEQUENCE saga.writes TO PUBLIC").await;
    system
        .execute(
            "CREATE FUNCTION saga.count_writes() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM nextval('saga.writes'); RETURN NEW; END $$",
        )
        .await;
    system
        .execute(
            "CREATE TRIGGER writes BEFORE INSERT OR UPDATE ON saga.saga FOR EACH ROW EXECUTE FUNCTION saga.count_writes()",
        )
        .await;
    for number in 0..30 {
        let told = refused(&system, &wallet, &format!("k{number}"), &body).await;
        assert_eq!(outcome(&told), "not_applied", "{}", told.text());
    }
    assert!(!system.sql::<bool>("SELECT is_called FROM saga.writes").await);
    let credit = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 100, "tenders": [{ "type": "store_credit" }] });
    assert_eq!(system.redeem(&wallet, "k0", &credit).await.status, 201, "the key was left unused");
    assert!(system.sql::<bool>("SELECT is_called FROM saga.writes").await, "the count counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_202_to_a_till_that_does_not_wait_means_that_the_cancel_is_durable() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let reward = system.fund("c", RICH.0, RICH.1, RICH.2).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(1_000);
    body["on_deadline"] = json!("cancel");
    let till = redeem(&system, &wallet, "k", body);
    until(&system, IS_RUNNING).await;
    system.database_proxy.set(Mode::HoldAll);
    let told = till.await.expect("a till");
    assert_eq!((told.status.as_u16(), outcome(&told)), (503, "unknown".to_owned()), "{}", told.text());
    let id: String = system.sql("SELECT redemption_id::text FROM wallet.redemption").await;
    assert_eq!(told.json()["redemption_id"], json!(id));
    system.database_proxy.set(Mode::Pass);
    system.credit.proxy.set(Mode::Pass);
}
