//! Row C17 of the crash table: the wallet's database came back without its newest rows.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    recovery::TILL,
    support::{IS_SLOWED, System, WITHIN, Wallet, order, until},
};

/// How often tenders are asked for their legs; where the system runs it is seldom.
const EVERY: Duration = Duration::from_millis(50);
/// Several passes over all tenders: what they leave alone is left alone.
const PASSES: Duration = Duration::from_millis(700);
const ORPHANS: &str = "SELECT count(*) FROM saga.dead_letter WHERE code = 'orphan_leg'";

async fn lose_tail(system: &System) {
    system.execute("DELETE FROM saga.saga").await;
    system.execute("DELETE FROM wallet.redemption").await;
}

/// Compares legs with sagas until this is dropped.
fn comparing(wallet: &Wallet) -> AbortOnDropHandle<()> {
    let compare = wallet::reconcile::compare_legs(wallet.app.clone(), EVERY);
    AbortOnDropHandle::new(TaskTracker::new().spawn(compare))
}

/// Ends lost holds until this is dropped.
fn ending_lost_holds(wallet: &Wallet) -> AbortOnDropHandle<()> {
    let end = wallet::reconcile::end_lost_holds(wallet.app.clone(), EVERY);
    AbortOnDropHandle::new(TaskTracker::new().spawn(end))
}

/// Compares until so many legs are parked as orphans.
async fn park_orphans(system: &System, wallet: &Wallet, count: i64) {
    let _comparing = comparing(wallet);
    testkit::until(WITHIN, async || {
        let parked = system.sql::<i64>(ORPHANS).await;
        if parked == count { Ok(()) } else { Err(format!("{parked} orphans")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_after_a_lost_tail_a_retry_meets_its_own_legs() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    lose_tail(&system).await;
    let retry = system.redeem(&wallet, "k", &order(TILL, &reward)).await;
    assert_eq!(retry.status, 201, "{}", retry.text());
    assert_eq!(system.balances(&wallet, TILL).await, (120, 3500, 0), "taken once");
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_legs_that_nobody_retries_are_parked_and_never_cancelled_by_themselves() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    lose_tail(&system).await;
    park_orphans(&system, &wallet, 3).await;
    let comparing = comparing(&wallet);
    tokio::time::sleep(PASSES).await;
    drop(comparing);
    assert_eq!(system.sql::<i64>("SELECT count(*) FROM saga.dead_letter").await, 3, "each leg once");
    assert_eq!(system.balances(&wallet, TILL).await, (120, 3500, 0), "nothing is undone by itself");
    system.replay_all(&wallet, "done").await;
    until(&system, "SELECT bool_and(state = 3) FROM saga.saga WHERE operation = 'orphan'").await;
    assert_eq!(system.balances(&wallet, TILL).await, (620, 5000, 2250), "an operator may give it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_an_orphan_whose_till_came_back_is_not_given_back() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund(TILL, 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    lose_tail(&system).await;
    park_orphans(&system, &wallet, 3).await;
    assert_eq!(system.redeem(&wallet, "k", &order(TILL, &reward)).await.status, 201);
    system.replay_all(&wallet, "saga_exists").await;
    assert_eq!(system.balances(&wallet, TILL).await, (120, 3500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_after_a_lost_tail_hides_no_legs() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    lose_tail(&system).await;
    assert_eq!(system.cancel(&wallet, "k").await["result"], "cancelled_before_arrival");
    park_orphans(&system, &wallet, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_after_a_lost_tail_hides_no_legs() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 500, 1500, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 2000 });
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    lose_tail(&system).await;
    let retry = system.redeem(&wallet, "k", &body).await;
    assert_eq!(
        (retry.status.as_u16(), retry.code()),
        (422, "insufficient_balance".to_owned()),
        "nothing is left"
    );
    park_orphans(&system, &wallet, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_that_is_given_back_is_not_redeemed_meanwhile() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    lose_tail(&system).await;
    park_orphans(&system, &wallet, 3).await;
    let letters = system.dead_letters(&wallet).await;
    let credit = letters.iter().find(|letter| letter["tender"] == "store_credit").expect("a letter");
    // The operator's cancel is on its way for a while; the till comes back in the meantime.
    system.credit.proxy.hold_next(1);
    assert_eq!(system.replay(&wallet, credit).await.json()["result"], "done");
    testkit::until(WITHIN, async || system.credit.proxy.is_holding()).await;
    let retry = system.redeem(&wallet, "k", &order("c", &reward)).await;
    system.credit.proxy.release();
    until(&system, "SELECT bool_and(state IN (3, 5)) FROM saga.saga WHERE state <> 4").await;
    assert_eq!((retry.status.as_u16(), retry.code().as_str()), (409, "key_cancelled"));
    assert_eq!(system.balances(&wallet, "c").await, (120, 5000, 0), "store credit is back, the rest is not");
}

/// The replay is paused inside its transaction, where no other transaction sees what it has written.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_beside_an_orphans_replay_waits_for_it() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    lose_tail(&system).await;
    park_orphans(&system, &wallet, 3).await;
    system
        .execute(
            "CREATE FUNCTION saga.pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END $$;
             CREATE TRIGGER pause BEFORE INSERT ON saga.operator_action FOR EACH ROW EXECUTE FUNCTION saga.pause()",
        )
        .await;
    let letter = system.dead_letter(&wallet).await;
    let retrying = async {
        until(&system, IS_SLOWED).await;
        system.redeem(&wallet, "k", &order("c", &reward)).await
    };
    let (replay, retry) = tokio::join!(system.replay(&wallet, &letter), retrying);
    assert_eq!(replay.json()["result"], "done", "{}", replay.text());
    assert_eq!((retry.status.as_u16(), retry.code().as_str()), (409, "key_cancelled"), "{}", retry.text());
    system.execute("DROP TRIGGER pause ON saga.operator_action").await;
}

/// The till was first: what an operator would give back is in force again.
#[tokio::test(flavor = "multi_thread")]
async fn an_orphans_replay_after_the_retry_is_refused() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    lose_tail(&system).await;
    park_orphans(&system, &wallet, 3).await;
    let letter = system.dead_letter(&wallet).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    let replay = system.replay(&wallet, &letter).await;
    assert_eq!(replay.json()["result"], "saga_exists", "{}", replay.text());
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_after_a_lost_tail_a_retry_meets_its_own_holds() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    body["deadline_ms"] = json!(15_000);
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    lose_tail(&system).await;
    let retry = system.redeem(&wallet, "k", &body).await;
    assert_eq!(retry.status, 201, "{}", retry.text());
}

/// Slow legs, quickly given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_reused_after_a_lost_tail_undoes_nothing() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let told = system.redeem(&wallet, "k", &order("c", &reward)).await;
    assert_eq!(told.status, 201);
    lose_tail(&system).await;
    let mut other = order("c", &reward);
    other["amount"] = json!(2100);
    other["tenders"][2]["amount"] = json!(1000);
    other["deadline_ms"] = json!(15_000);
    let reused = system.redeem(&wallet, "k", &other).await;
    assert_eq!(
        system.balances(&wallet, "c").await,
        (120, 3500, 0),
        "what a till was told is taken was given back: {}",
        reused.text()
    );
}

/// A leg's time is its batch's, and batches commit out of order.
#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_commits_late_is_compared_as_well() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 10_000, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 1, "tenders": [{ "type": "points" }] });
    let keys: Vec<String> = (0..240).map(|i| format!("k{i}")).collect();
    for chunk in keys.chunks(40) {
        futures_util::future::join_all(chunk.iter().map(|key| system.redeem(&wallet, key, &body))).await;
    }
    let comparing = comparing(&wallet);
    tokio::time::sleep(PASSES).await;
    drop(comparing);
    assert_eq!(system.sql::<i64>(ORPHANS).await, 0);
    assert_eq!(system.redeem(&wallet, "late", &body).await.status, 201);
    let pool = sqlx::PgPool::connect_with(system.points.tender.database.admin()).await.expect("a pool");
    unguard(&pool).await;
    sqlx::query(
        "UPDATE tender.operation SET created_at = (SELECT created_at FROM tender.operation WHERE legs_id IS NOT NULL ORDER BY created_at OFFSET 180 LIMIT 1)
         WHERE operation_id = (SELECT operation_id FROM tender.operation WHERE legs_id IS NOT NULL ORDER BY created_at DESC LIMIT 1)",
    )
    .execute(&pool)
    .await
    .expect("done");
    pool.close().await;
    system.execute("DELETE FROM saga.saga WHERE key = 'late'").await;
    system
        .execute("DELETE FROM wallet.redemption WHERE redemption_id NOT IN (SELECT saga_id FROM saga.saga)")
        .await;
    // It began a moment before the cursor, and committed a moment after.
    park_orphans(&system, &wallet, 1).await;
}

/// The cursor is a time of the tender's clock.
#[tokio::test(flavor = "multi_thread")]
async fn legs_that_were_applied_after_a_tenders_clock_was_set_back_are_compared_as_well() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    lose_tail(&system).await;
    // What was compared last is an hour ahead of what the clocks say now.
    system
        .execute(
            "INSERT INTO wallet.reconciliation (tender, cursor, compared_at)
             SELECT t, to_char(now() AT TIME ZONE 'UTC' + interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
                       || '_00000000-0000-0000-0000-000000000000', now()
             FROM unnest(ARRAY['points', 'store_credit', 'digital_reward']) t",
        )
        .await;
    park_orphans(&system, &wallet, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_moves_over_legs_that_are_few_and_old() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k", &order("c", &reward)).await.status, 201);
    let comparing = comparing(&wallet);
    tokio::time::sleep(PASSES).await;
    let cursors = "SELECT count(*) FROM wallet.reconciliation";
    assert_eq!(system.sql::<i64>(cursors).await, 0, "they are still young");
    let pool = sqlx::PgPool::connect_with(system.points.tender.database.admin()).await.expect("a pool");
    unguard(&pool).await;
    sqlx::query("UPDATE tender.operation SET created_at = created_at - interval '2 minutes'")
        .execute(&pool)
        .await
        .expect("done");
    pool.close().await;
    until(&system, "SELECT count(*) = 1 FROM wallet.reconciliation").await;
    drop(comparing);
    assert_eq!(system.sql::<i64>(ORPHANS).await, 0, "their saga is known");
}

async fn authorize(system: &System, wallet: &Wallet, key: &str, ttl: i64) -> String {
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    body["hold_ttl_s"] = json!(ttl);
    let held = system.redeem(wallet, key, &body).await;
    assert_eq!(held.status, 201, "{}", held.text());
    assert_eq!(system.balances(wallet, "c").await, (120, 3500, 0));
    held.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_a_hold_whose_saga_is_lost_is_given_back_once_it_has_ended() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    authorize(&system, &wallet, "k", 2).await;
    lose_tail(&system).await;
    let ending = ending_lost_holds(&wallet);
    tokio::time::sleep(PASSES).await;
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0), "not before its end and the margin");
    until(&system, "SELECT count(*) = 3 AND bool_and(state = 3) FROM saga.saga WHERE operation = 'orphan'")
        .await;
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));
    tokio::time::sleep(PASSES).await;
    drop(ending);
    let done =
        "SELECT count(*) FROM saga.operator_action WHERE actor = 'wallet' AND action = 'replay' AND accepted";
    assert_eq!(system.sql::<i64>(done).await, 3, "each leg once, on record");
    assert_eq!(system.sql::<i64>("SELECT count(*) FROM saga.dead_letter WHERE closed_at IS NULL").await, 0);
}

/// Tenders keep holds for longer than the wallet; here their clocks run ahead, or the wallet is late.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_past_its_end_is_left_to_the_saga_that_knows_it() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let id = authorize(&system, &wallet, "k", 600).await;
    end_holds(&system).await;
    let ending = ending_lost_holds(&wallet);
    tokio::time::sleep(PASSES).await;
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0), "it is authorized");
    let path = format!("/wallet/redemptions/{id}/capture");
    let captured = system.call(&wallet, "pos", Method::POST, &path, Some("c"), Some(&json!({}))).await;
    assert_eq!(captured.status, 200, "{}", captured.text());
    tokio::time::sleep(PASSES).await;
    drop(ending);
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0), "it is taken");
    assert_eq!(system.sql::<i64>("SELECT count(*) FROM saga.saga WHERE operation = 'orphan'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_captured_while_its_sagas_are_looked_for_has_not_outlived_them() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let id = authorize(&system, &wallet, "k", 600).await;
    end_holds(&system).await;
    // The page of holds is read, and waits for the one connection to read the sagas.
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect_with(system.database.admin())
        .await
        .expect("a pool");
    let busy = pool.acquire().await.expect("a connection");
    let app = wallet.app.clone().with_pools(wallet.app.keyed_pool.clone(), pool);
    let ending =
        AbortOnDropHandle::new(TaskTracker::new().spawn(wallet::reconcile::end_lost_holds(app, EVERY)));
    tokio::time::sleep(PASSES).await;
    let path = format!("/wallet/redemptions/{id}/capture");
    let captured = system.call(&wallet, "pos", Method::POST, &path, Some("c"), Some(&json!({}))).await;
    assert_eq!(captured.status, 200, "{}", captured.text());
    drop(busy);
    tokio::time::sleep(PASSES).await;
    drop(ending);
    assert_eq!(system.sql::<i64>("SELECT count(*) FROM saga.saga WHERE operation = 'orphan'").await, 0);
}

/// An operator settled an authorisation by hand; its hold is nobody's to end but an operator's.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_outlived_its_saga_is_parked_and_its_replay_gives_it_back() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    authorize(&system, &wallet, "k", 2).await;
    system
        .execute(
            "UPDATE wallet.redemption SET status = 'resolved', hold_expires_at = NULL;
             ALTER TABLE saga.saga DISABLE TRIGGER USER;
             UPDATE saga.saga SET state = 5",
        )
        .await;
    let ending = ending_lost_holds(&wallet);
    until(&system, "SELECT count(*) = 3 FROM saga.dead_letter WHERE closed_at IS NULL").await;
    drop(ending);
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0), "nothing goes back by itself");
    system.replay_all(&wallet, "done").await;
    until(&system, "SELECT count(*) = 3 FROM saga.saga WHERE operation = 'orphan' AND state = 3").await;
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));
}

/// Puts the end of each tender's one hold into the past.
async fn end_holds(system: &System) {
    for tender in [&system.points, &system.credit, &system.rewards] {
        let pool = sqlx::PgPool::connect_with(tender.tender.database.admin()).await.expect("a pool");
        unguard(&pool).await;
        let past = "UPDATE tender.operation SET hold_until = now() - interval '1 s' WHERE state = 'held'";
        assert_eq!(sqlx::query(past).execute(&pool).await.expect("done").rows_affected(), 1);
        pool.close().await;
    }
}

/// Lets the test write what no service could: an operation with another time.
async fn unguard(tender: &sqlx::PgPool) {
    sqlx::query("ALTER TABLE tender.operation DISABLE TRIGGER operation_state_guarded")
        .execute(tender)
        .await
        .expect("done");
}
