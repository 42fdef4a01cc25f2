//! Where a redemption stands follows its sagas, also where one is parked or cannot be.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use testkit::Mode;
use tokio::task::JoinHandle;
use wallet::redemption::{Standing, status::HOLDS_SEQUENCE};

use crate::{
    dead_letters::impatient,
    support::{Answer, System, Wallet, order, redeem, until},
};

/// Several attempts at making a redemption follow its saga.
const FOLLOWS: Duration = Duration::from_millis(1_500);

/// The same sale at the same till, whatever it is paid with.
fn at_till(mut sale: Value) -> Value {
    sale["location_id"] = json!("L");
    sale["terminal_id"] = json!("T");
    sale["sequence"] = json!(7);
    sale
}

/// The cashier's next attempt: the same sequence under another key, without the tender that is away.
fn by_points() -> Value {
    at_till(json!({ "customer_id": "c", "order_id": "S042-77120", "currency": "USD", "amount": 100,
        "tenders": [{ "type": "points", "points": 100 }] }))
}

const PARKED_ON_ITS_WAY_BACK: &str = "SELECT EXISTS (SELECT 1 FROM saga.dead_letter WHERE closed_at IS NULL)
    AND EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'under_review' AND reversal = 'pending')";

/// Store credit, which could not be asked to take its leg back, is there again, and an operator has what is parked replayed.
async fn replay_what_could_not_go_back(system: &System, wallet: &Wallet) {
    until(system, PARKED_ON_ITS_WAY_BACK).await;
    system.credit.proxy.set(Mode::Pass);
    system.replay_all(wallet, "done").await;
}

/// A redeem that waits for store credit, which hears nothing of it yet.
async fn redeem_up_to_credit(system: &System, wallet: &Wallet, reward: &str) -> JoinHandle<Answer> {
    system.credit.proxy.set(Mode::HoldRequests);
    let till = redeem(system, wallet, "k", order("c", reward));
    until(system, "SELECT EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'pending')").await;
    till
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_redemption_that_cannot_go_back_is_parked_beside_the_next_with_its_sequence() {
    let system = System::start().await;
    let wallet = system.wallet_with(impatient()).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let first = system.redeem(&wallet, "k1", &at_till(order("c", &reward))).await;
    assert_eq!(
        (first.status.as_u16(), &first.json()["reversal"]),
        (422, &json!("pending")),
        "{}",
        first.text()
    );
    let second = system.redeem(&wallet, "k2", &by_points()).await;
    assert_eq!(second.status, 201, "{}", second.text());
    replay_what_could_not_go_back(&system, &wallet).await;
    system.until_status(&wallet, "k1", "declined").await;
    assert_eq!(system.balances(&wallet, "c").await, (520, 5000, 1));
    let third = system.redeem(&wallet, "k3", &by_points()).await;
    assert_eq!(third.code(), "duplicate_reference", "the second has the sequence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_redemption_that_cannot_go_back_is_parked_beside_the_next_with_its_sequence() {
    let system = System::start().await;
    let wallet = system.wallet_with(impatient()).await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k1", &at_till(order("c", &reward))).await.status, 201);
    system.credit.proxy.set(Mode::Cut);
    assert_eq!(system.cancel(&wallet, "k1").await["result"], "will_reverse");
    let second = system.redeem(&wallet, "k2", &by_points()).await;
    assert_eq!(second.status, 201, "{}", second.text());
    replay_what_could_not_go_back(&system, &wallet).await;
    system.until_status(&wallet, "k1", "reversed").await;
    assert_eq!(system.balances(&wallet, "c").await, (520, 5000, 2250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_whose_row_is_refused_follows_its_saga_once_it_is_not() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let till = redeem_up_to_credit(&system, &wallet, &reward).await;
    system
        .execute(
            "CREATE FUNCTION wallet.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'no redemption moves'; END $$",
        )
        .await;
    system
        .execute("CREATE TRIGGER refuse BEFORE UPDATE ON wallet.redemption FOR EACH ROW EXECUTE FUNCTION wallet.refuse()")
        .await;
    system.credit.proxy.set(Mode::Pass);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.dead_letter WHERE code = 'unwritable')").await;
    till.await.expect("a till");
    tokio::time::sleep(FOLLOWS).await;
    assert_eq!(
        system.sql::<String>("SELECT status FROM wallet.redemption").await,
        "pending",
        "it is refused"
    );
    system.execute("DROP TRIGGER refuse ON wallet.redemption").await;
    until(&system, "SELECT status = 'under_review' AND reversal IS NULL FROM wallet.redemption").await;
    system.replay_all(&wallet, "done").await;
    system.until_status(&wallet, "k", "completed").await;
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
}

/// How often something was counted.
fn counted(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.trim().parse().expect("a count"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_that_two_instances_bring_after_its_saga_is_refused_to_neither() {
    let metrics = service::telemetry::metrics().expect("a recorder");
    let system = System::start().await;
    let (wallet, _other) = tokio::join!(system.wallet(), system.wallet());
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldRequests);
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'pending')").await;
    system.execute("UPDATE wallet.redemption SET status = 'capturing'").await;
    system.credit.proxy.set(Mode::Pass);
    until(&system, "SELECT status = 'under_review' FROM wallet.redemption").await;
    till.await.expect("a till");
    // Both see that the redemption is behind, and wait for its saga's row.
    let mut hand = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM saga.saga FOR UPDATE").execute(&mut *locking).await.expect("a lock");
    system.execute("UPDATE wallet.redemption SET status = 'pending'").await;
    until(
        &system,
        "SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
             AND query LIKE 'SELECT trace_id FROM saga.saga%FOR UPDATE'",
    )
    .await;
    locking.rollback().await.expect("done");
    until(&system, "SELECT status = 'under_review' FROM wallet.redemption").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let told = metrics.render();
    assert_eq!(counted(&told, "wallet_redemptions_followed_total "), 1);
    assert_eq!(counted(&told, "wallet_redemption_follow_refused_total "), 0, "it was done, not refused");
    system.replay_all(&wallet, "done").await;
    system.until_status(&wallet, "k", "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_whose_row_stays_locked_follows_its_saga_once_it_is_not() {
    let system = System::start().await;
    let wallet = system.wallet_with(impatient()).await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldRequests);
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'pending')").await;
    let mut hand = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM wallet.redemption FOR UPDATE").execute(&mut *locking).await.expect("locked");
    system.credit.proxy.set(Mode::Pass);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.dead_letter WHERE code = 'unwritable')").await;
    till.await.expect("a till");
    assert_eq!(system.sql::<String>("SELECT status FROM wallet.redemption").await, "pending");
    locking.rollback().await.expect("done");
    until(&system, "SELECT status = 'under_review' AND reversal IS NULL FROM wallet.redemption").await;
    system.replay_all(&wallet, "done").await;
    system.until_status(&wallet, "k", "completed").await;
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_leads_nowhere_parks_its_saga_and_drops_nothing() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let till = redeem_up_to_credit(&system, &wallet, &reward).await;
    // Nothing that runs would do this: only a redemption that is pending can be completed.
    system.execute("UPDATE wallet.redemption SET status = 'capturing'").await;
    system.credit.proxy.set(Mode::Pass);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.dead_letter WHERE code = 'unwritable')").await;
    until(&system, "SELECT status = 'under_review' FROM wallet.redemption").await;
    let told = system.sql::<String>("SELECT detail ->> 'error' FROM saga.dead_letter").await;
    assert!(told.contains("is capturing: Completed leads nowhere"), "{told}");
    system.replay_all(&wallet, "done").await;
    system.until_status(&wallet, "k", "completed").await;
    till.await.expect("a till");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_the_guard_and_the_code_agree_on_what_holds_a_sequence() {
    let system = System::start().await;
    let admin = sqlx::PgPool::connect_with(system.database.admin()).await.expect("a pool");
    let index: String = sqlx::query_scalar(
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_index WHERE indexrelid = 'wallet.redemption_sequence'::regclass",
    )
    .fetch_one(&admin)
    .await
    .expect("an index");
    for standing in Standing::ALL {
        let sql = format!(
            "SELECT {index}, {HOLDS_SEQUENCE} FROM (SELECT 7 AS sequence, $1 AS status, $2::text AS reversal) AS r"
        );
        let held: (bool, bool) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(standing.status.as_str())
            .bind(standing.reversal.map(api::wallet::Reversal::as_str))
            .fetch_one(&admin)
            .await
            .expect("a row");
        assert_eq!(held, (standing.holds_sequence(), standing.holds_sequence()), "{standing}");
    }
    admin.close().await;
}

/// A list by customer looks at a thousand redemptions a page, and goes on behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_a_customers_sagas_is_bounded_and_ends_where_they_end() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let fill = "WITH made AS (
            INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state,
                epoch, backward, deadline_at, budget_from, due_at, ended_at)
            SELECT lpad(to_hex(n), 32, '0')::uuid, 'demo', 'redeem', '', 'k' || n, '', 0, 1, gen_random_uuid(),
                '{\"type\": \"redeem\", \"customer_id\": \"c\", \"legs\": []}', CASE n WHEN 1 THEN 3 ELSE 2 END, 1, n = 1,
                now(), now(), now(), now()
            FROM generate_series(1, 1005) AS n RETURNING saga_id, state
        )
        INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, currency, amount, status, reversal)
        SELECT saga_id, 'demo', 'c', 'o', 'USD', 1, CASE state WHEN 3 THEN 'declined' ELSE 'completed' END,
            CASE state WHEN 3 THEN 'done' END
        FROM made";
    system.execute(fill).await;
    let path = "/ops/sagas?customer=c&status=compensated";
    let first = system.ops(&wallet, Method::GET, path, None).await.json();
    assert_eq!(first["data"], json!([]));
    let cursor = first["next_cursor"].as_str().expect("more to look at").to_owned();
    let second = system.ops(&wallet, Method::GET, &format!("{path}&cursor={cursor}"), None).await.json();
    assert_eq!(second["data"].as_array().expect("sagas").len(), 1);
    assert_eq!(second["next_cursor"], Value::Null);
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
