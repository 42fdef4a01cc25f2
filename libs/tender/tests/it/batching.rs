//! Batches form under load, one alone is not delayed, and a poison fails alone.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tender::{
    command::{Action, Command},
    executor::ExecuteError,
};

use crate::support::{Server, credit, debit, run};

#[tokio::test]
async fn what_waits_together_is_written_together_and_one_alone_at_once() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 1_000, None)).await;
    let legs = (0..400).map(|number| run(server.executor(), debit("cus", &format!("k{number}"), 1)));
    futures_util::future::join_all(legs).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    // One transaction is one moment: entries of a batch share it.
    let batches: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT created_at) FROM tender.entry WHERE kind = 'debit'")
            .fetch_one(&mut admin)
            .await
            .unwrap();
    assert!(batches <= 20, "400 commands took {batches} batches");

    let mut fastest = Duration::MAX;
    for number in 0..10 {
        let began = Instant::now();
        run(server.executor(), debit("cus", &format!("alone{number}"), 1)).await;
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < Duration::from_millis(50), "one alone took {fastest:?}");
}

/// PostgreSQL's text takes no U+0000, so this command cannot be written, whatever else is in its batch.
fn poison(key: &str) -> Command {
    let mut command = debit("cus", key, 1);
    if let Action::Forward(leg) = &mut command.action {
        leg.plan.order_id = Some("\0".to_owned());
    }
    command
}

#[tokio::test]
async fn a_poison_command_fails_alone() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 1_000, None)).await;
    let commands = (0..64).map(|number| {
        let key = format!("k{number}");
        let command = if number % 20 == 7 { poison(&key) } else { debit("cus", &key, 1) };
        let executor = server.executor().clone();
        async move { (number, executor.submit(command).await) }
    });
    for (number, reply) in futures_util::future::join_all(commands).await {
        if number % 20 == 7 {
            assert_eq!(reply, Err(ExecuteError::Failed), "{number}");
        } else {
            assert!(reply.is_ok(), "{number}: {reply:?}");
        }
    }
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 1_000 - 61);
}

#[tokio::test]
async fn a_debit_over_very_many_lots_is_declined_not_run() {
    let server = Server::points().await;
    let credits =
        (0..1_001).map(|number| run(server.executor(), credit("cus", &format!("c{number}"), 1, None)));
    futures_util::future::join_all(credits).await;
    let declined = run(server.executor(), debit("cus", "k1", 1_001)).await;
    assert!(declined.body.contains("limit_exceeded"), "{}", declined.body);
    let applied = run(server.executor(), debit("cus", "k2", 1_000)).await;
    assert_eq!(crate::support::leg_answer(&applied).lots.len(), 1_000);
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 1);
}
