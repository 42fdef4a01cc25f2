//! What operators ask for costs what they are shown, and nobody else anything.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::{System, Wallet, order, until};

/// A session sends its statistics after a transaction, once a second at most; they arrive a moment later.
const STATISTICS: Duration = Duration::from_millis(1_200);
const WAITS_FOR_A_LOCK: &str = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock')";

/// Dead letters that were dealt with, and actions of operators.
const CLOSED: i32 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_found_without_reading_what_was_dealt_with() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    // Nothing is there when the statements are prepared.
    look(&system, &wallet, 0).await;
    fill(&system).await;
    system.park_unreadable(3).await;
    let mut admin = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    sqlx::query("SELECT pg_stat_reset()").execute(&mut admin).await.expect("reset");
    for _ in 0..5 {
        look(&system, &wallet, 3).await;
    }
    tokio::time::sleep(STATISTICS).await;
    for _ in 0..8 {
        look(&system, &wallet, 3).await;
    }
    tokio::time::sleep(STATISTICS / 4).await;
    let read: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables
         WHERE relname IN ('dead_letter', 'operator_action') ORDER BY relname",
    )
    .fetch_all(&mut admin)
    .await
    .expect("statistics");
    for (table, by_scan, by_index) in read {
        assert!(table != "dead_letter" || by_index > 0, "no statistics came");
        assert!(by_scan + by_index < 2_000, "{table}: {by_scan} rows by scan, {by_index} by index");
    }
}

/// Everything that asks for open dead letters, and for what was done to one of them.
async fn look(system: &System, wallet: &Wallet, open: usize) {
    let get = async |path: &str| system.ops(wallet, Method::GET, path, None).await.json();
    for filter in ["", "&code=unreadable", "&older_than=0"] {
        let list = get(&format!("/ops/dead-letters?limit=2{filter}")).await;
        assert_eq!(list["data"].as_array().expect("a list").len(), open.min(2), "{list}");
    }
    let order = json!({ "operation_id": "dry", "filter": {}, "rate_per_second": 1, "reason": "how many", "dry_run": true });
    let preview = system.ops(wallet, Method::POST, "/ops/dead-letters/replay", Some(&order)).await.json();
    assert_eq!(preview["matched"], json!(open), "{preview}");
    let done = get(&format!("/ops/actions?dead_letter_id={}", uuid::Uuid::nil())).await;
    assert_eq!(done["data"], Value::Array(Vec::new()));
}

async fn fill(system: &System) {
    let mut admin = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    sqlx::query(
        "WITH settled AS (
             INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan,
                 state, epoch, deadline_at, budget_from, due_at, ended_at)
             SELECT gen_random_uuid(), 'demo', 'redeem', '', 'settled-' || n, '', 0, 99, gen_random_uuid(), '{}',
                 5, 1, now(), now(), now(), now() FROM generate_series(1, $1) n RETURNING saga_id
         ), closed AS (
             INSERT INTO saga.dead_letter (saga_id, business_id, code, detail, opened_at, closed_at, closed_as)
             SELECT saga_id, 'demo', 'unreadable', '{}', now() - interval '1 day', now(), 'resolved' FROM settled
             RETURNING dead_letter_id, saga_id
         )
         INSERT INTO saga.operator_action (business_id, operation_id, actor, action, dead_letter_id, saga_id, reason, accepted,
             before, after)
         SELECT 'demo', 'settled', 'a', 'resolve', dead_letter_id, saga_id, 'r', true, '{}', '{}' FROM closed",
    )
    .bind(CLOSED)
    .execute(&mut admin)
    .await
    .expect("filled");
    admin.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_who_wait_for_the_database_cost_no_till_a_connection() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5_000, 2_250).await;
    let body = order("c", &reward);
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    let mut admin = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    let mut locked = admin.begin().await.expect("begun");
    sqlx::query("LOCK TABLE saga.dead_letter IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *locked)
        .await
        .expect("locked");
    let lists = (0..24).map(|_| system.ops(&wallet, Method::GET, "/ops/dead-letters", None));
    let lists = futures_util::future::join_all(lists);
    let tills = async {
        until(&system, WAITS_FOR_A_LOCK).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..3 {
            let begun = Instant::now();
            let again = system.redeem(&wallet, "k", &body).await;
            assert_eq!((again.status.as_u16(), again.replayed), (200, true), "{}", again.text());
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let (_, slowest) = tokio::join!(lists, tills);
    assert!(slowest < Duration::from_millis(500), "a till's look-up took {slowest:?}");
    locked.rollback().await.expect("rolled back");
}
