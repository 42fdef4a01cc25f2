//! What keeps one account waiting keeps no other.

use std::time::{Duration, Instant};

use api::legs::LegState;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tender::executor::ExecuteError;

use crate::support::{Server, cancel, credit, debit, run};

/// Well below what a lock is held for.
const SOON: Duration = Duration::from_millis(900);

async fn funded() -> (Server, PgConnection) {
    let server = Server::points().await;
    let customers = (0..30).map(|number| format!("cus-{number}"));
    for customer in customers.chain(["locked".to_owned()]) {
        run(server.executor(), credit(&customer, &customer, 100, None)).await;
    }
    let admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    (server, admin)
}

/// Commands of all customers at the same moment, also of the one that is locked; how long the others took.
async fn all_at_once(server: &Server, round: usize) -> (Duration, Result<(), ExecuteError>) {
    let locked = server.executor().submit(debit("locked", &format!("locked-{round}"), 1));
    let others = (0..30).map(async |number| {
        let began = Instant::now();
        run(server.executor(), debit(&format!("cus-{number}"), &format!("k{number}-{round}"), 1)).await;
        began.elapsed()
    });
    let (locked, others) = tokio::join!(locked, futures_util::future::join_all(others));
    (others.into_iter().max().unwrap(), locked.map(drop))
}

/// Another session locks what this finds for some seconds.
async fn while_locked(statement: &str, seconds: f64) {
    let (server, mut admin) = funded().await;
    let mut lock = admin.begin().await.unwrap();
    let found = sqlx::query(AssertSqlSafe(statement.to_owned())).fetch_all(&mut *lock).await.unwrap();
    assert!(!found.is_empty());
    let released = async {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        lock.rollback().await.unwrap();
    };
    let (rounds, ()) = tokio::join!(
        futures_util::future::join_all((0..3).map(|round| {
            let server = &server;
            async move {
                tokio::time::sleep(Duration::from_millis(500 * u64::try_from(round).unwrap())).await;
                all_at_once(server, round).await
            }
        })),
        released,
    );
    for (slowest, locked) in rounds {
        assert!(slowest < SOON, "others of the batch took {slowest:?}");
        // The account came free in time, and its commands were done then.
        assert_eq!(locked, Ok(()));
    }
    assert_eq!(server.get("pos", "/points/accounts/locked").await.json()["available"], 97);
}

#[tokio::test]
async fn a_locked_account_keeps_nobody_else_waiting() {
    while_locked("SELECT 1 FROM tender.account WHERE owner = 'locked' FOR UPDATE", 1.3).await;
}

#[tokio::test]
async fn a_locked_lot_keeps_nobody_else_waiting() {
    let lot = "SELECT 1 FROM tender.lot JOIN tender.account USING (account_no) WHERE owner = 'locked' FOR UPDATE OF lot";
    while_locked(lot, 1.3).await;
}

#[tokio::test]
async fn what_stays_locked_is_refused_alone_and_in_the_order_in_which_it_came() {
    let (server, mut admin) = funded().await;
    let mut lock = admin.begin().await.unwrap();
    let statement = "SELECT FROM tender.account WHERE owner = 'locked' FOR UPDATE";
    sqlx::query(statement).execute(&mut *lock).await.unwrap();
    let began = Instant::now();
    let (slowest, locked) = all_at_once(&server, 0).await;
    assert!(slowest < SOON, "{slowest:?}");
    assert_eq!(locked, Err(ExecuteError::Unavailable));
    // The wallet waits for 2 s, and hears that nothing was done.
    assert!((1_400..2_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());

    // A leg and its cancel keep their order while their account is aside.
    let leg = server.executor().submit(debit("locked", "k", 5));
    let undone = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        run(server.executor(), cancel("locked", "k")).await
    };
    let released = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        lock.rollback().await.unwrap();
    };
    let (leg, undone, ()) = tokio::join!(leg, undone, released);
    assert!(leg.is_ok(), "{leg:?}");
    assert_eq!(undone.state, LegState::Reversed);
}

#[tokio::test]
async fn accounts_that_were_locked_come_back_in_one_transaction() {
    const ACCOUNTS: i64 = 200;
    let server = Server::points().await;
    let all = 0..ACCOUNTS;
    let credits =
        all.clone().map(|n| run(server.executor(), credit(&format!("c{n}"), &format!("c{n}"), 9, None)));
    futures_util::future::join_all(credits).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let mut lock = admin.begin().await.unwrap();
    sqlx::query("SELECT FROM tender.account FOR UPDATE").execute(&mut *lock).await.unwrap();
    let debits = all.map(|n| run(server.executor(), debit(&format!("c{n}"), &format!("d{n}"), 1)));
    let released = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        lock.rollback().await.unwrap();
    };
    tokio::join!(futures_util::future::join_all(debits), released);
    let batches: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT created_at) FROM tender.entry WHERE kind = 'debit'")
            .fetch_one(&mut admin)
            .await
            .unwrap();
    assert!(batches <= 5, "{ACCOUNTS} accounts came back in {batches} transactions");
}
