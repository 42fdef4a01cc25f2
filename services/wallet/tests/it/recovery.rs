//! The crash table: for each row, what is lost at that point and what the other instance makes of it.
//!
//! An instance that crashes here stops at once: its tasks, its heartbeat and its writer end without a word. What it has
//! sent may still arrive; what its connections hold is cut.

use std::time::Duration;

use saga::Config;
use serde_json::json;
use testkit::Mode;

use crate::{
    dead_letters::lose_until_parked,
    support::{IS_RUNNING, System, Wallet, order, quick, redeem, until},
};

/// Longer than an answer that is let go takes to be heard, and what follows from it to be sent.
const HEARD: Duration = Duration::from_millis(200);
/// Longer than a message that is let go takes to arrive and to be refused.
const ARRIVED: Duration = Duration::from_millis(300);

pub const TILL: &str = "cus_8Q";

/// What connections to tenders hold is lost; new ones pass.
async fn cut_what_is_on_the_way(system: &System) {
    tokio::join!(system.points.cut_open(), system.credit.cut_open(), system.rewards.cut_open());
}

fn all(system: &System, mode: Mode) {
    for part in [&system.points, &system.credit, &system.rewards] {
        part.proxy.set(mode);
    }
}

async fn is_completed_once(system: &System, wallet: &Wallet, reward: &str) {
    let answer = system.redeem(wallet, "k", &order(TILL, reward)).await;
    assert_eq!((answer.status.as_u16(), answer.replayed), (200, true), "{}", answer.text());
    assert_eq!(system.balances(wallet, TILL).await, (120, 3500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_nothing_was_sent() {
    let system = System::start().await;
    let (dying, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    all(&system, Mode::HoldRequests);
    let _till = redeem(&system, &dying, "k", order(TILL, &reward));
    until(&system, IS_RUNNING).await;
    dying.engine.crash();
    cut_what_is_on_the_way(&system).await;
    system.until_status(&other, "k", "completed").await;
    is_completed_once(&system, &other, &reward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_and_c3_some_legs_were_sent_and_a_reply_was_lost() {
    let system = System::start().await;
    let (dying, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    system.rewards.proxy.set(Mode::HoldRequests);
    let _till = redeem(&system, &dying, "k", order(TILL, &reward));
    system.credit.until_applied().await;
    dying.engine.crash();
    cut_what_is_on_the_way(&system).await;
    system.until_status(&other, "k", "completed").await;
    is_completed_once(&system, &other, &reward).await;
}

/// All legs applied and answered, but the first instance could not write any more.
async fn all_applied_and_t2_lost(system: &System, reward: &str) {
    let dying = system.wallet_behind_proxy().await;
    system.credit.proxy.set(Mode::HoldReplies);
    let _till = redeem(system, &dying, "k", order(TILL, reward));
    system.credit.until_applied().await;
    system.points.until_applied().await;
    system.rewards.until_applied().await;
    system.database_proxy.set(Mode::HoldRequests);
    system.credit.proxy.set(Mode::Pass);
    tokio::time::sleep(HEARD).await;
    dying.engine.crash();
    system.database_proxy.set(Mode::Cut);
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_all_legs_applied_and_t2_not_written() {
    let system = System::start().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    all_applied_and_t2_lost(&system, &reward).await;
    let other = system.wallet().await;
    system.until_status(&other, "k", "completed").await;
    is_completed_once(&system, &other, &reward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_also_past_the_deadline() {
    let system = System::start().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    all_applied_and_t2_lost(&system, &reward).await;
    system.execute("UPDATE saga.saga SET deadline_at = clock_timestamp() - interval '1 hour'").await;
    let other = system.wallet().await;
    system.until_status(&other, "k", "completed").await;
    is_completed_once(&system, &other, &reward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_deadline_a_leg_that_does_not_answer_is_not_applied() {
    let system = System::start().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    let before = system.lots(TILL).await;
    all_applied_and_t2_lost(&system, &reward).await;
    system.execute("UPDATE saga.saga SET deadline_at = clock_timestamp() - interval '1 hour'").await;
    system.credit.proxy.set(Mode::Cut);
    let other = system.wallet().await;
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE operation = 'redeem' AND state = 1)").await;
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&other, "k", "declined").await;
    assert_eq!(system.lots(TILL).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_the_till_went_away_before_its_answer() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let till = redeem(&system, &wallet, "k", order(TILL, &reward));
    system.credit.until_applied().await;
    till.abort();
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "completed").await;
    is_completed_once(&system, &wallet, &reward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_a_decline_was_seen_and_t3_not_written() {
    let system = System::start().await;
    let reward = system.fund(TILL, 620, 5000, 1).await;
    let before = system.lots(TILL).await;
    let dying = system.wallet_behind_proxy().await;
    system.rewards.proxy.set(Mode::HoldReplies);
    let _till = redeem(&system, &dying, "k", order(TILL, &reward));
    system.rewards.until_applied().await;
    system.credit.until_applied().await;
    system.database_proxy.set(Mode::HoldRequests);
    system.rewards.proxy.set(Mode::Pass);
    tokio::time::sleep(HEARD).await;
    dying.engine.crash();
    system.database_proxy.set(Mode::Cut);
    let other = system.wallet().await;
    system.until_status(&other, "k", "declined").await;
    assert_eq!(system.lots(TILL).await, before);
    assert_eq!(system.redeem(&other, "k", &order(TILL, &reward)).await.code(), "insufficient_balance");
}

#[tokio::test(flavor = "multi_thread")]
async fn c9_c11_c12_inside_compensation() {
    let system = System::start().await;
    let (dying, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund(TILL, 620, 5000, 1).await;
    let before = system.lots(TILL).await;
    // Store credit applies and is cancelled, but neither answer is heard; points are not even asked.
    system.credit.proxy.set(Mode::HoldReplies);
    system.points.proxy.set(Mode::HoldRequests);
    let _till = redeem(&system, &dying, "k", order(TILL, &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 1)").await;
    tokio::time::sleep(HEARD).await;
    dying.engine.crash();
    cut_what_is_on_the_way(&system).await;
    system.until_status(&other, "k", "declined").await;
    assert_eq!(system.lots(TILL).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn c10_a_cancel_overtakes_its_forward() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 1).await;
    let before = system.lots(TILL).await;
    system.credit.proxy.hold_next(1);
    let till = redeem(&system, &wallet, "k", order(TILL, &reward)).await.expect("a till");
    assert_eq!((till.status.as_u16(), &till.json()["reversal"]), (422, &json!("done")), "{}", till.text());
    assert!(system.credit.proxy.release(), "the forward was held");
    tokio::time::sleep(ARRIVED).await;
    assert_eq!(system.lots(TILL).await, before, "the tombstone refused the late forward");
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_a_zombie_wakes_after_a_pause() {
    let system = System::start().await;
    let zombie = system.wallet_behind_proxy().await;
    let other = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let _till = redeem(&system, &zombie, "k", order(TILL, &reward));
    system.credit.until_applied().await;
    system.points.until_applied().await;
    system.rewards.until_applied().await;
    // Its database connection stands still: it cannot renew, and its T2 is on the way for a long time.
    system.database_proxy.set(Mode::HoldRequests);
    system.credit.proxy.set(Mode::Pass);
    tokio::time::sleep(HEARD).await;
    system.credit.proxy.set(Mode::HoldReplies);
    until(&system, "SELECT epoch = 2 FROM saga.saga WHERE operation = 'redeem'").await;
    system.database_proxy.set(Mode::Pass);
    tokio::time::sleep(ARRIVED).await;
    let (state, epoch) = (
        system.sql::<i16>("SELECT state FROM saga.saga").await,
        system.sql::<i64>("SELECT epoch FROM saga.saga").await,
    );
    assert_eq!((state, epoch), (0, 2), "the zombie's T2 missed, though the state still was RUNNING");
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&other, "k", "completed").await;
    is_completed_once(&system, &zombie, &reward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_died_before_the_clock_stepped_back_is_dead() {
    let system = System::start().await;
    let (dying, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    all(&system, Mode::HoldRequests);
    let _till = redeem(&system, &dying, "k", order(TILL, &reward));
    until(&system, IS_RUNNING).await;
    dying.engine.crash();
    // To its last beats the database's clock has gone back by an hour; those who live beat on.
    system
        .execute(
            "UPDATE saga.process SET beat_at = beat_at + interval '1 hour'
             WHERE process_id = (SELECT owner FROM saga.saga WHERE operation = 'redeem')",
        )
        .await;
    cut_what_is_on_the_way(&system).await;
    system.until_status(&other, "k", "completed").await;
    is_completed_once(&system, &other, &reward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_a_saga_that_kills_its_owners_is_parked() {
    let system = System::start().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    let config = || Config { poison_limit: 2, ..quick() };
    let first = system.wallet_with(config()).await;
    all(&system, Mode::HoldRequests);
    let _till = redeem(&system, &first, "k", order(TILL, &reward));
    until(&system, IS_RUNNING).await;
    first.engine.crash();
    // By deaths, and not by epochs: a process whose beat was late claims its own saga, which is no death.
    for died in ["SELECT poison = 1 FROM saga.saga", "SELECT poison = 2 FROM saga.saga"] {
        let next = system.wallet_with(config()).await;
        until(&system, died).await;
        next.engine.crash();
    }
    let last = system.wallet_with(config()).await;
    until(&system, "SELECT state = 4 FROM saga.saga").await;
    let letter = system.dead_letter(&last).await;
    assert_eq!(letter["code"], "poison");
    cut_what_is_on_the_way(&system).await;
    system.replay_all(&last, "done").await;
    system.until_status(&last, "k", "completed").await;
    is_completed_once(&system, &last, &reward).await;
}

/// Points and rewards answer each time; it may be what comes of their answers that kills the process.
#[tokio::test(flavor = "multi_thread")]
async fn c16_a_saga_that_kills_its_owner_after_an_answer_is_parked_as_well() {
    let system = System::start().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    let config = || Config { poison_limit: 2, ..quick() };
    system.credit.proxy.set(Mode::HoldRequests);
    let first = system.wallet_with(config()).await;
    let _till = redeem(&system, &first, "k", order(TILL, &reward));
    until(&system, IS_RUNNING).await;
    first.engine.crash();
    for taken_over in ["SELECT poison = 1 FROM saga.saga", "SELECT poison = 2 FROM saga.saga"] {
        let next = system.wallet_with(config()).await;
        until(&system, taken_over).await;
        // Time for the other tenders' answers, which do not acquit it.
        tokio::time::sleep(HEARD).await;
        next.engine.crash();
    }
    let last = system.wallet_with(config()).await;
    until(&system, "SELECT state = 4 FROM saga.saga").await;
    assert_eq!(system.sql::<String>("SELECT code FROM saga.dead_letter").await, "poison");
    drop(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn c19_a_task_is_lost_in_a_process_that_lives_on() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let till = redeem(&system, &wallet, "k", order(TILL, &reward));
    system.credit.until_applied().await;
    let id: uuid::Uuid = system.sql("SELECT saga_id FROM saga.saga").await;
    wallet.engine.lose_run(saga::SagaId(id));
    system.credit.proxy.set(Mode::Pass);
    let answer = till.await.expect("a till");
    assert_eq!(answer.status, 201, "the till that waited hears it all the same: {}", answer.text());
    assert!(system.sql::<i64>("SELECT epoch FROM saga.saga").await > 1);
    is_completed_once(&system, &wallet, &reward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c19_a_task_that_is_lost_again_and_again_is_poison() {
    let system = System::start().await;
    let wallet = system.wallet_with(Config { poison_limit: 2, ..quick() }).await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let _till = redeem(&system, &wallet, "k", order(TILL, &reward));
    system.credit.until_applied().await;
    lose_until_parked(&system, &wallet).await;
    system.credit.proxy.set(Mode::Pass);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transition_that_the_database_refuses_parks_its_saga_alone() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 1620, 5000, 5000).await;
    system.execute("ALTER TABLE wallet.redemption ADD CONSTRAINT planted CHECK (redeemed <> 4250)").await;
    let mut small = order(TILL, &reward);
    small["amount"] = json!(2100);
    let mut body = order(TILL, &reward);
    body["deadline_ms"] = json!(1000);
    let (parked, fine) =
        tokio::join!(system.redeem(&wallet, "k", &body), system.redeem(&wallet, "fine", &small));
    assert_eq!(
        (fine.status.as_u16(), parked.status.as_u16()),
        (201, 202),
        "{} {}",
        fine.text(),
        parked.text()
    );
    until(&system, "SELECT count(*) = 1 FROM saga.dead_letter WHERE code = 'unwritable'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_hands_over_at_once() {
    let system = System::start().await;
    let slow = Config { ttl: Duration::from_secs(60), drain_grace: Duration::from_millis(50), ..quick() };
    let (leaving, other) = (system.wallet_with(slow).await, system.wallet().await);
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let till = redeem(&system, &leaving, "k", order(TILL, &reward));
    system.credit.until_applied().await;
    leaving.engine.drain().await;
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&other, "k", "completed").await;
    let answer = till.await.expect("a till");
    assert_eq!(answer.status, 201, "the leaving instance still tells its till: {}", answer.text());
    assert_eq!(system.sql::<i16>("SELECT poison FROM saga.saga").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_never_stops_the_pass() {
    let system = System::start().await;
    let dying = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    all(&system, Mode::HoldRequests);
    let _till = redeem(&system, &dying, "k", order(TILL, &reward));
    until(&system, IS_RUNNING).await;
    dying.engine.crash();
    system.execute(
        "INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state, epoch, deadline_at, budget_from, due_at)
         SELECT '00000000-0000-7000-8000-000000000001', 'demo', 'redeem', '', 'unreadable', '', 0, version, gen_random_uuid(), '{\"type\": \"of tomorrow\"}', 0, 1, now(), now(), now() FROM saga.saga",
    ).await;
    cut_what_is_on_the_way(&system).await;
    let other = system.wallet().await;
    system.until_status(&other, "k", "completed").await;
    until(&system, "SELECT count(*) = 1 FROM saga.dead_letter WHERE code = 'unreadable'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_hundred_in_flight_are_finished_by_the_other_instance() {
    let system = System::start().await;
    let dying = system.wallet_with(Config::default()).await;
    let other = system.wallet_with(Config::default()).await;
    system.fund(TILL, 100_000, 100_000, 0).await;
    all(&system, Mode::HoldReplies);
    let bodies = |i: usize| {
        json!({ "customer_id": TILL, "order_id": format!("o{i}"), "currency": "USD", "amount": 20,
        "tenders": [{ "type": "points", "points": 10 }, { "type": "store_credit" }] })
    };
    let keys: Vec<&'static str> = (0..300).map(|i| &*Box::leak(format!("k{i}").into_boxed_str())).collect();
    let tills: Vec<_> =
        keys.iter().enumerate().map(|(i, key)| redeem(&system, &dying, key, bodies(i))).collect();
    until(&system, "SELECT count(*) = 300 FROM saga.saga").await;
    dying.engine.crash();
    let died = std::time::Instant::now();
    cut_what_is_on_the_way(&system).await;
    until(&system, "SELECT bool_and(state IN (2, 3)) FROM saga.saga").await;
    assert!(died.elapsed() < Duration::from_secs(6), "{:?}", died.elapsed());
    drop(tills);
    let retries = keys.iter().enumerate().map(|(i, key)| {
        let (system, other, body) = (&system, &other, bodies(i));
        async move { system.redeem(other, key, &body).await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(retries).await;
    let done = i64::try_from(statuses.iter().filter(|s| **s == 200).count()).expect("a count");
    assert!(statuses.iter().all(|s| [200, 422].contains(s)), "{statuses:?}");
    assert_eq!(system.balances(&other, TILL).await, (100_000 - 10 * done, 100_000 - 10 * done, 0));
}
