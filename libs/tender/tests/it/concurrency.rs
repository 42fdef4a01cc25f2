//! Many callers, two instances.

use std::time::Duration;

use api::legs::LegState;
use service::db;
use sqlx::{Connection, PgConnection};
use tender::executor::{Executor, ExecutorConfig};
use testkit::executor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{Server, cancel, credit, debit, insist, leg_answer, run};

#[tokio::test]
async fn one_hundred_units_are_spent_by_exactly_one_hundred_of_many() {
    let server = Server::points().await;
    run(server.executor(), credit("hot", "c", 100, None)).await;
    let stop = CancellationToken::new();
    let second = executor(&server.tender.database, "points", &stop);
    let executors = [server.executor().clone(), second];
    let legs = (0..320).map(|number| {
        let executor = executors[number % 2].clone();
        async move { insist(&executor, debit("hot", &format!("k{number}"), 1)).await.state }
    });
    let states = futures_util::future::join_all(legs).await;
    assert_eq!(states.iter().filter(|state| **state == LegState::Applied).count(), 100);
    assert_eq!(states.iter().filter(|state| **state == LegState::Declined).count(), 220);
    stop.cancel();
}

#[tokio::test]
async fn instances_wait_for_each_other_instead_of_failing_on_each_others_writes() {
    let server = Server::points().await;
    run(server.executor(), credit("hot", "c", 10_000, None)).await;
    let stop = CancellationToken::new();
    let second = executor(&server.tender.database, "points", &stop);
    let executors = [server.executor().clone(), second];
    // One after the other in each of eight lanes, so that there are many small batches on both instances.
    let lanes = (0..8).map(|lane| {
        let executor = executors[lane % 2].clone();
        async move {
            for number in 0..60 {
                run(&executor, debit("hot", &format!("k{lane}-{number}"), 1)).await;
            }
        }
    });
    futures_util::future::join_all(lanes).await;
    // A session sends its statistics at most once a second, and after a transaction.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for (number, executor) in executors.iter().enumerate() {
        run(executor, debit("hot", &format!("last{number}"), 1)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let query = "SELECT xact_commit, xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let (committed, rolled_back): (i64, i64) = sqlx::query_as(query).fetch_one(&mut admin).await.unwrap();
    assert!(committed > 60, "no statistics came: {committed}");
    // The account's creation is one.
    assert!(rolled_back < 5, "{rolled_back} batches failed beside {committed} that did not");
    stop.cancel();
}

#[tokio::test]
async fn the_same_leg_on_two_instances_at_once_applies_once() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 1_000, None)).await;
    let stop = CancellationToken::new();
    let second = executor(&server.tender.database, "points", &stop);
    for number in 0..100 {
        let key = format!("k{number}");
        let (one, two) = tokio::join!(
            insist(server.executor(), debit("cus", &key, 3)),
            insist(&second, debit("cus", &key, 3)),
        );
        assert_eq!(one.body, two.body);
    }
    let view = server.get("pos", "/points/accounts/cus").await.json();
    assert_eq!((view["available"].as_i64(), view["version"].as_i64()), (Some(700), Some(101)));
    stop.cancel();
}

#[tokio::test]
async fn batches_over_the_same_accounts_in_any_order_do_not_deadlock() {
    let server = Server::points().await;
    let stop = CancellationToken::new();
    let second = executor(&server.tender.database, "points", &stop);
    // New accounts too: both instances create and lock them at the same time, in opposite orders.
    let names: Vec<String> = (0..40).map(|number| format!("cus-{number}")).collect();
    let forwards =
        names.iter().map(|name| insist(server.executor(), credit(name, &format!("1-{name}"), 10, None)));
    let backwards =
        names.iter().rev().map(|name| insist(&second, credit(name, &format!("2-{name}"), 10, None)));
    let both = futures_util::future::join(
        futures_util::future::join_all(forwards),
        futures_util::future::join_all(backwards),
    );
    let (one, two) = both.await;
    assert!(one.iter().chain(&two).all(|answer| answer.state == LegState::Applied));
    stop.cancel();
}

#[tokio::test]
async fn a_cancel_and_its_leg_at_once_never_leave_value_taken() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 1_000, None)).await;
    let stop = CancellationToken::new();
    let second = executor(&server.tender.database, "points", &stop);
    for number in 0..60 {
        let key = format!("k{number}");
        let (_, cancelled) = tokio::join!(
            insist(server.executor(), debit("cus", &key, 5)),
            insist(&second, cancel("cus", &key)),
        );
        assert!(matches!(cancelled.state, LegState::Reversed | LegState::Tombstoned));
        let late = insist(server.executor(), debit("cus", &key, 5)).await;
        assert_eq!(leg_answer(&late).state, LegState::Tombstoned);
    }
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 1_000);
    stop.cancel();
}

#[tokio::test]
async fn two_shards_share_the_owners_between_them() {
    let server = Server::points().await;
    let stop = CancellationToken::new();
    let options = db::connect_options(&server.tender.database.url(), "points").unwrap();
    let config =
        ExecutorConfig { tender: "points", shards: 2, queue: 4096, database: db::for_executor(options) };
    let sharded = Executor::start(&config, &TaskTracker::new(), &stop);
    let names: Vec<String> = (0..50).map(|number| format!("cus-{number}")).collect();
    let work = names.iter().map(async |name| {
        run(&sharded, credit(name, &format!("c-{name}"), 10, None)).await;
        let legs = (0..12).map(|number| run(&sharded, debit(name, &format!("{name}-{number}"), 1)));
        let states = futures_util::future::join_all(legs).await;
        states.iter().filter(|answer| answer.state == LegState::Applied).count()
    });
    let applied = futures_util::future::join_all(work).await;
    assert!(applied.iter().all(|count| *count == 10), "{applied:?}");
    stop.cancel();
}
