//! What the database refuses, whoever asks.

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use crate::support::{Server, cancel, credit, debit, run};

async fn refusal(options: &PgConnectOptions, statement: &str) -> String {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    let result = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await;
    match result {
        Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
        other => panic!("{statement}: {other:?}"),
    }
}

#[tokio::test]
async fn history_cannot_be_changed_by_the_service_nor_by_the_owner() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 10, None)).await;
    run(server.executor(), debit("cus", "k", 4)).await;
    run(server.executor(), cancel("cus", "k")).await;
    run(server.executor(), debit("cus", "declined", 40)).await;
    let service: PgConnectOptions = server.tender.database.url().expose().parse().unwrap();
    let owner = server.tender.database.admin();
    for table in ["entry", "allocation_reversal", "credit_reference"] {
        for statement in [
            format!("UPDATE tender.{table} SET operation_id = operation_id"),
            format!("DELETE FROM tender.{table}"),
            format!("TRUNCATE tender.{table}"),
        ] {
            assert_eq!(refusal(&service, &statement).await, "42501", "{statement}");
            assert_eq!(refusal(&owner, &statement).await, "23001", "{statement}");
            let replica = format!("SET session_replication_role = replica; {statement}");
            assert_eq!(refusal(&owner, &replica).await, "23001", "{replica}");
        }
    }
    for table in ["operation", "allocation", "lot", "account"] {
        for statement in [format!("DELETE FROM tender.{table}"), format!("TRUNCATE tender.{table}")] {
            assert_eq!(refusal(&service, &statement).await, "42501", "{statement}");
            assert_eq!(refusal(&owner, &statement).await, "23001", "{statement}");
        }
    }
    for (statement, code) in [
        ("UPDATE tender.allocation SET reversed = 0", "23001"),
        ("UPDATE tender.allocation SET reversed = amount + 1", "23514"),
        ("UPDATE tender.allocation SET amount = amount + 1", "42501"),
        ("UPDATE tender.operation SET request_hash = NULL", "42501"),
        ("UPDATE tender.operation SET response = '{}' WHERE kind = 'credit'", "23001"),
        ("UPDATE tender.operation SET amount = 1 WHERE state = 'reversed'", "23001"),
        ("UPDATE tender.operation SET state = 'applied' WHERE state = 'reversed'", "23001"),
        ("UPDATE tender.operation SET state = 'held' WHERE kind = 'credit'", "23001"),
        ("UPDATE tender.operation SET state = 'applied' WHERE state = 'declined'", "23001"),
        ("UPDATE tender.operation SET response = '{}' WHERE state = 'declined'", "23001"),
        ("UPDATE tender.lot SET original = 1", "42501"),
        ("UPDATE tender.lot SET times_expired = 1", "23514"),
        ("UPDATE tender.lot SET remaining = 11", "23514"),
        ("UPDATE tender.account SET posted = -1", "23514"),
        ("DROP TABLE tender.entry", "42501"),
        ("ALTER TABLE tender.entry DISABLE TRIGGER ALL", "42501"),
    ] {
        assert_eq!(refusal(&service, statement).await, code, "{statement}");
    }
}

#[tokio::test]
async fn entries_that_do_not_balance_are_refused() {
    let server = Server::points().await;
    let service: PgConnectOptions = server.tender.database.url().expose().parse().unwrap();
    let insert = |amount: i64| {
        format!(
            "INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount, account_no, version,
                                       balance_after, held_after, contra, created_at)
             SELECT '00000000-0000-0000-0000-000000000001', 'demo', 'points', 'debit', u.*, now()
             FROM (VALUES (5, 1, 1, 5, 0, NULL), ({amount}, NULL, NULL, NULL, NULL, 'redeemed')) u"
        )
    };
    assert_eq!(refusal(&service, &insert(-4)).await, "23514");
    let both = "INSERT INTO tender.entry VALUES (gen_random_uuid(), 'demo', 'points', 'hold', 0, 1, 1, 0, 0, 'x', now())";
    assert_eq!(refusal(&service, both).await, "23514");
    let neither = "INSERT INTO tender.entry VALUES (gen_random_uuid(), 'demo', 'points', 'hold', 0, NULL, NULL, NULL, NULL, NULL, now())";
    assert_eq!(refusal(&service, neither).await, "23514");
}
