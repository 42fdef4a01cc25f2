//! Statements that were first planned on empty tables still look rows up by key when the tables are full.

use std::time::{Duration, Instant};

use service::db;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use testkit::TestDatabase;

use crate::support::{Server, credit, debit, run};

#[tokio::test]
async fn statements_planned_on_empty_tables_do_not_scan_full_ones() {
    // Nothing is in this database when the executor prepares its statements.
    let server = Server::points().await;
    run(server.executor(), debit("first", "k", 1)).await;
    run(server.executor(), credit("first", "c", 1, None)).await;
    // A session sends its statistics when it ends, or now and then after a transaction.
    let admin = server.tender.database.admin();
    let mut filling = PgConnection::connect_with(&admin).await.unwrap();
    fill(&mut filling).await;
    filling.close().await.unwrap();
    let mut admin = PgConnection::connect_with(&admin).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    sqlx::query("SELECT pg_stat_reset()").execute(&mut admin).await.unwrap();

    let began = Instant::now();
    let count = 200;
    for number in 0..count {
        run(server.executor(), debit(&format!("cus-{}", number * 37), &format!("d{number}"), 1)).await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    run(server.executor(), debit("first", "last", 1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let scans: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, coalesce(seq_tup_read, 0), coalesce(idx_tup_fetch, 0)
         FROM pg_stat_user_tables WHERE relname IN ('account', 'lot', 'operation') ORDER BY relname",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    for (table, by_scan, by_index) in scans {
        // Nothing is found among operations: every command here is new.
        assert!(table == "operation" || by_index >= count, "{table}: no statistics came");
        assert!(by_scan < 1_000, "{table}: {by_scan} rows read by scans, {by_index} by index");
        assert!(by_index < 20 * count, "{table}: {by_index} rows read by index for {count} debits");
    }
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

/// 8,000 accounts of one lot each.
async fn fill(admin: &mut PgConnection) {
    for statement in [
        "INSERT INTO tender.account (business_id, owner, asset, posted, version)
         SELECT 'demo', 'cus-' || n, 'points', 100, 1 FROM generate_series(0, 7999) n",
        "INSERT INTO tender.lot (account_no, lot_id, original, remaining, funding, kind, operation_id, created_at)
         SELECT account_no, gen_random_uuid(), 100, 100, 'paid', 'earn', md5(owner)::uuid, now()
         FROM tender.account WHERE owner LIKE 'cus-%'",
        "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, request_hash,
                                       hash_version, response, created_at, updated_at)
         SELECT md5(owner)::uuid, 'demo', account_no, 'credit', 'applied', 100, sha256('x'), 1, '{}', now(), now()
         FROM tender.account WHERE owner LIKE 'cus-%'",
        "INSERT INTO tender.entry
         SELECT md5(owner)::uuid, 'demo', 'points', 'credit', s.amount, s.account_no, s.version, s.balance, s.held,
                s.contra, now()
         FROM tender.account a
         CROSS JOIN LATERAL (VALUES (100, a.account_no, 1, 100, 0, NULL),
                                    (-100, NULL, NULL, NULL, NULL, 'issued:paid'))
                    AS s(amount, account_no, version, balance, held, contra)
         WHERE owner LIKE 'cus-%'",
    ] {
        sqlx::query(statement).execute(&mut *admin).await.unwrap();
    }
}

#[tokio::test]
async fn the_executors_statements_use_the_index_made_for_them() {
    // The tender of rewards has every table that a statement of an executor reads.
    let database = TestDatabase::create(schema::Database::DigitalRewards).await;
    let options = db::connect_options(&database.url(), "test").unwrap();
    let mut connection = PgConnection::connect_with(&db::for_executor(options)).await.unwrap();
    let post = format!(
        "WITH entry AS ({}), {}",
        ledger::INSERT_ENTRIES,
        include_str!("../../src/store/write_set.sql")
    );
    for (statement, parameters, index) in [
        (post.as_str(), 44, "lot_pkey"),
        (post.as_str(), 44, "account_pkey"),
        (post.as_str(), 44, "entry_version_once"),
        (include_str!("../../src/store/lots.sql"), 4, "lot_free"),
        (include_str!("../../src/store/lots.sql"), 4, "lot_ends"),
        (include_str!("../../src/store/holds.sql"), 2, "operation_holds_of_account"),
        (include_str!("../../src/store/stored_accounts.sql"), 3, "account_owner_once"),
        (include_str!("../../src/store/operations.sql"), 1, "operation_pkey"),
        (include_str!("../../src/store/rewards.sql"), 2, "lot_reward_once"),
        (include_str!("../../src/store/rewards.sql"), 2, "reward_code_reward_once"),
        (include_str!("../../src/store/references.sql"), 3, "credit_reference_once"),
        (include_str!("../../src/store/lock.sql"), 3, "account_owner_once"),
        (include_str!("../../src/store/allocations.sql"), 1, "allocation_pkey"),
    ] {
        let prepare = format!("PREPARE s AS {statement}");
        sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
        let explain = format!("EXPLAIN EXECUTE s({})", vec!["NULL"; parameters].join(", "));
        let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
        sqlx::raw_sql("DEALLOCATE s").execute(&mut connection).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index), "{index}:\n{plan}");
        assert!(!plan.contains("Seq Scan"), "{index}:\n{plan}");
    }
}
