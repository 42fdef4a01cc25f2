//! Stored data that contradict themselves, and statements that do not fit the database: nothing is done, and nothing too little.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tender::{
    command::{Outcome, Rejection},
    executor::ExecuteError,
};

use crate::support::{Server, cancel, credit, debit, run};

async fn execute(admin: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(admin).await.unwrap();
}

const LOT: &str = "account_no, lot_id, original, remaining, held, funding, kind, operation_id, created_at";

#[tokio::test]
async fn a_cancel_whose_lot_is_missing_gives_nothing_back_and_says_so() {
    let server = Server::points().await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for key in ["c1", "c2"] {
        run(server.executor(), credit("cus", key, 10, None)).await;
    }
    run(server.executor(), debit("cus", "k", 20)).await;
    let lose = format!(
        "CREATE TEMP TABLE lost AS SELECT {LOT} FROM tender.lot ORDER BY lot_id DESC LIMIT 1;
         ALTER TABLE tender.lot DISABLE TRIGGER lot_kept;
         DELETE FROM tender.lot l USING lost WHERE l.lot_id = lost.lot_id"
    );
    execute(&mut admin, &lose).await;
    let reply = server.executor().submit(cancel("cus", "k")).await.unwrap();
    let Outcome::Rejected(Rejection::Corrupt(what)) = reply.outcome else { panic!("{reply:?}") };
    assert!(what.contains("lot"), "{what}");
    let find = format!(
        "INSERT INTO tender.lot ({LOT}) SELECT {LOT} FROM lost;
         ALTER TABLE tender.lot ENABLE ALWAYS TRIGGER lot_kept"
    );
    execute(&mut admin, &find).await;
    run(server.executor(), cancel("cus", "k")).await;
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 20);
}

#[tokio::test]
async fn a_cancel_with_an_allocation_missing_gives_nothing_back_and_says_so() {
    let server = Server::points().await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for key in ["c1", "c2"] {
        run(server.executor(), credit("cus", key, 10, None)).await;
    }
    run(server.executor(), debit("cus", "k", 20)).await;
    for position in [0, 1] {
        let lose = format!(
            "CREATE TEMP TABLE lost AS SELECT * FROM tender.allocation WHERE position = {position};
             ALTER TABLE tender.allocation DISABLE TRIGGER ALL;
             DELETE FROM tender.allocation WHERE position = {position}"
        );
        execute(&mut admin, &lose).await;
        let reply = server.executor().submit(cancel("cus", "k")).await.unwrap();
        assert!(matches!(reply.outcome, Outcome::Rejected(Rejection::Corrupt(_))), "{reply:?}");
        let find = "INSERT INTO tender.allocation SELECT * FROM lost; DROP TABLE lost;
                    ALTER TABLE tender.allocation ENABLE ALWAYS TRIGGER allocation_kept;
                    ALTER TABLE tender.allocation ENABLE ALWAYS TRIGGER allocation_only_reversed";
        execute(&mut admin, find).await;
    }
    run(server.executor(), cancel("cus", "k")).await;
}

#[tokio::test]
async fn a_row_that_is_not_there_when_it_is_written_fails_the_command() {
    let server = Server::points().await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    run(server.executor(), credit("cus", "c", 10, None)).await;
    execute(
        &mut admin,
        "CREATE FUNCTION pg_temp_skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )
    .await;
    for table in ["account", "lot"] {
        let skip = format!(
            "CREATE TRIGGER skipped BEFORE UPDATE ON tender.{table} FOR EACH ROW EXECUTE FUNCTION pg_temp_skip()"
        );
        execute(&mut admin, &skip).await;
        assert_eq!(
            server.executor().submit(debit("cus", table, 1)).await,
            Err(ExecuteError::Failed),
            "{table}"
        );
        execute(&mut admin, &format!("DROP TRIGGER skipped ON tender.{table}")).await;
    }
    run(server.executor(), debit("cus", "k", 1)).await;
}

#[tokio::test]
async fn a_database_that_does_not_fit_the_program_is_no_commands_fault() {
    let server = Server::points().await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    run(server.executor(), credit("cus", "c", 100, None)).await;
    execute(&mut admin, "ALTER TABLE tender.lot RENAME COLUMN funding TO paid_by").await;
    let before = rolled_back(&mut admin).await;
    let submits = (0..32).map(|number| server.executor().submit(debit("cus", &format!("k{number}"), 1)));
    for reply in futures_util::future::join_all(submits).await {
        assert_eq!(reply, Err(ExecuteError::Unavailable));
    }
    execute(&mut admin, "ALTER TABLE tender.lot RENAME COLUMN paid_by TO funding").await;
    run(server.executor(), debit("cus", "k0", 1)).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    run(server.executor(), debit("cus", "k1", 1)).await;
    let failed = rolled_back(&mut admin).await - before;
    assert!(failed < 10, "{failed} transactions for 32 commands that came together");
}

/// A page of lots that is damaged, and one that the disk does not give back.
#[tokio::test]
async fn one_damaged_row_fails_its_own_commands_and_no_others() {
    let server = Server::points().await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for number in 0..32 {
        run(server.executor(), credit(&format!("cus-{number}"), &format!("c{number}"), 100, None)).await;
    }
    for code in ["XX001", "58030"] {
        let damage = format!(
            "CREATE OR REPLACE FUNCTION tender.damaged() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'invalid page' USING ERRCODE = '{code}'; END $$;
             CREATE OR REPLACE TRIGGER damaged BEFORE UPDATE ON tender.lot FOR EACH ROW
             WHEN (OLD.account_no = (SELECT_NO)) EXECUTE FUNCTION tender.damaged()"
        );
        let number: i64 = sqlx::query_scalar("SELECT account_no FROM tender.account WHERE owner = 'cus-7'")
            .fetch_one(&mut admin)
            .await
            .unwrap();
        execute(&mut admin, &damage.replace("SELECT_NO", &number.to_string())).await;
        let debits = (0..32).map(|number| debit(&format!("cus-{number}"), &format!("{code}-{number}"), 1));
        let replies = debits.map(|debit| server.executor().submit(debit));
        for (number, reply) in futures_util::future::join_all(replies).await.into_iter().enumerate() {
            match number {
                7 => assert_eq!(reply, Err(ExecuteError::Failed), "{code}"),
                _ => assert!(reply.is_ok(), "{code}: {number}: {reply:?}"),
            }
        }
        assert!(server.executor().is_committing(), "{code}: the shard can commit");
        execute(&mut admin, "DROP TRIGGER damaged ON tender.lot").await;
    }
}

/// What every batch needs is damaged, and a batch of nothing does not meet it: an index of all accounts, a disk that takes no more.
#[tokio::test]
async fn what_fails_every_command_is_not_looked_for_in_each_of_them() {
    let server = Server::points().await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let credits = (0..128).map(|n| credit(&format!("cus-{n}"), &format!("c{n}"), 100, None));
    let credits = credits.map(|credit| server.executor().submit(credit));
    assert!(futures_util::future::join_all(credits).await.iter().all(Result::is_ok));
    execute(
        &mut admin,
        "CREATE FUNCTION tender.damaged() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'invalid page' USING ERRCODE = 'XX001'; END $$;
         CREATE TRIGGER damaged BEFORE UPDATE ON tender.lot FOR EACH ROW EXECUTE FUNCTION tender.damaged()",
    )
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let before = rolled_back(&mut admin).await;
    let debits = (0..128).map(|n| server.executor().submit(debit(&format!("cus-{n}"), &format!("k{n}"), 1)));
    let replies = futures_util::future::join_all(debits).await;
    assert!(replies.iter().all(Result::is_err), "{replies:?}");
    execute(&mut admin, "DROP TRIGGER damaged ON tender.lot").await;
    run(server.executor(), debit("cus-1", "again", 1)).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    run(server.executor(), debit("cus-1", "once more", 1)).await;
    let failed = rolled_back(&mut admin).await - before;
    assert!(failed < 100, "{failed} transactions for 128 commands that came together");
}

async fn rolled_back(admin: &mut PgConnection) -> i64 {
    let query = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(query).fetch_one(admin).await.unwrap()
}
