//! Where a redemption stands follows its sagas, also where one is parked or cannot be.

use std::time::Duration;

use reqwest::Method;
use saga::{Config, machine::Limits};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use testkit::Mode;
use wallet::redemption::{Standing, status::HOLDS_SEQUENCE};

use crate::support::{System, Wallet, order, quick, redeem, until};

/// An engine that gives up after a second, so that a dead letter takes no hour.
fn impatient() -> Config {
    Config {
        cancel_timeout: Duration::from_millis(300),
        cancel_retry: saga::Retry { first: Duration::from_millis(50), cap: Duration::from_millis(100) },
        limits: Limits { unreachable_for: 1_000, ..Config::default().limits },
        ..quick()
    }
}

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

async fn replay(system: &System, wallet: &Wallet) {
    let letters = system.ops(wallet, Method::GET, "/ops/dead-letters", None).await.json();
    let letter = letters["data"][0]["dead_letter_id"].as_str().expect("a dead letter").to_owned();
    let body = json!({ "operation_id": "o", "reason": "the tender is back" });
    let path = format!("/ops/dead-letters/{letter}/replay");
    let answer = system.ops(wallet, Method::POST, &path, Some(&body)).await;
    assert_eq!(answer.json()["result"], "done", "{}", answer.text());
}

const PARKED_ON_ITS_WAY_BACK: &str = "SELECT EXISTS (SELECT 1 FROM saga.dead_letter WHERE closed_at IS NULL)
    AND EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'under_review' AND reversal = 'pending')";

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
    until(&system, PARKED_ON_ITS_WAY_BACK).await;
    system.credit.proxy.set(Mode::Pass);
    replay(&system, &wallet).await;
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
    until(&system, PARKED_ON_ITS_WAY_BACK).await;
    system.credit.proxy.set(Mode::Pass);
    replay(&system, &wallet).await;
    system.until_status(&wallet, "k1", "reversed").await;
    assert_eq!(system.balances(&wallet, "c").await, (520, 5000, 2250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_whose_row_is_refused_follows_its_saga_once_it_is_not() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldRequests);
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'pending')").await;
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
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(
        system.sql::<String>("SELECT status FROM wallet.redemption").await,
        "pending",
        "it is refused"
    );
    system.execute("DROP TRIGGER refuse ON wallet.redemption").await;
    until(&system, "SELECT status = 'under_review' AND reversal IS NULL FROM wallet.redemption").await;
    replay(&system, &wallet).await;
    system.until_status(&wallet, "k", "completed").await;
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
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
    replay(&system, &wallet).await;
    system.until_status(&wallet, "k", "completed").await;
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_leads_nowhere_parks_its_saga_and_drops_nothing() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.credit.proxy.set(Mode::HoldRequests);
    let till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'pending')").await;
    // Nothing that runs would do this: only a redemption that is pending can be completed.
    system.execute("UPDATE wallet.redemption SET status = 'capturing'").await;
    system.credit.proxy.set(Mode::Pass);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.dead_letter WHERE code = 'unwritable')").await;
    until(&system, "SELECT status = 'under_review' FROM wallet.redemption").await;
    let told = system.sql::<String>("SELECT detail ->> 'error' FROM saga.dead_letter").await;
    assert!(told.contains("is capturing: Completed leads nowhere"), "{told}");
    replay(&system, &wallet).await;
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
