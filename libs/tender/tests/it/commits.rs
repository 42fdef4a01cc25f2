//! Commits without an answer, connections that die, a database that is not there.

use std::time::{Duration, Instant};

use api::legs::LegState;
use serde_json::json;
use service::{config::Secret, db};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tender::{
    command::Outcome,
    executor::{ExecuteError, Executor, ExecutorConfig, STALLED_AFTER},
};
use testkit::Proxy;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{Server, credit, debit, insist, run};

fn executor_at(url: &str, stop: &CancellationToken) -> Executor {
    let url: Secret = url.parse().unwrap();
    let database = db::for_executor(db::connect_options(&url, "test").unwrap());
    let config = ExecutorConfig { tender: "points", shards: 1, queue: 64, database };
    Executor::start(&config, &TaskTracker::new(), stop)
}

async fn through_a_proxy(server: &Server, stop: &CancellationToken) -> (Proxy, Executor) {
    let admin = server.tender.database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let url = server.tender.database.url();
    let direct = format!("{}:{}", admin.get_host(), admin.get_port());
    let through = url.expose().replace(&direct, &format!("127.0.0.1:{}", proxy.port));
    assert_ne!(through, url.expose());
    let executor = executor_at(&through, stop);
    (proxy, executor)
}

#[tokio::test]
async fn a_commit_without_an_answer_is_done_exactly_once_and_answered() {
    let server = Server::points().await;
    let admin = server.tender.database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let url = server.tender.database.url();
    let through = url
        .expose()
        .replace(&format!("{}:{}", admin.get_host(), admin.get_port()), &format!("127.0.0.1:{}", proxy.port));
    assert_ne!(through, url.expose());
    let stop = CancellationToken::new();
    let executor = executor_at(&through, &stop);
    run(&executor, credit("cus", "c", 1_000, None)).await;

    for round in 0..10 {
        proxy.lose_commits(1 + round % 2);
        let legs = (0..8).map(|number| run(&executor, debit("cus", &format!("k{round}-{number}"), 1)));
        for answer in futures_util::future::join_all(legs).await {
            assert_eq!(answer.state, LegState::Applied);
        }
        proxy.lose_commits(0);
    }
    assert!(proxy.lost_commits() >= 10, "no COMMIT lost its answer");
    let view = server.get("pos", "/points/accounts/cus").await.json();
    assert_eq!((view["available"].as_i64(), view["version"].as_i64()), (Some(920), Some(81)));
    stop.cancel();
}

#[tokio::test]
async fn a_commit_without_an_answer_is_kept_in_hand_until_the_database_is_back() {
    let server = Server::points().await;
    let stop = CancellationToken::new();
    let (proxy, executor) = through_a_proxy(&server, &stop).await;
    run(&executor, credit("cus", "c", 100, None)).await;
    proxy.lose_commits(1);
    proxy.refuse(true);
    let in_doubt = executor.submit(debit("cus", "k1", 10));
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Whoever comes now was surely not tried, and hears so at once.
        let refused = executor.submit(debit("cus", "k2", 10)).await;
        assert_eq!(refused, Err(ExecuteError::Unavailable));
        proxy.refuse(false);
    };
    let (reply, ()) = tokio::join!(in_doubt, meanwhile);
    let Outcome::Replayed(answer) = reply.unwrap().outcome else { panic!("it was committed the first time") };
    assert_eq!(answer.state, LegState::Applied);
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 90);
    stop.cancel();
}

#[tokio::test]
async fn a_killed_backend_costs_nobody_anything() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 1_000, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let kill = async {
        for _ in 0..15 {
            sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'points'",
            )
            .execute(&mut admin)
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let spend = async {
        for number in 0..100 {
            let answer = insist(server.executor(), debit("cus", &format!("k{number}"), 1)).await;
            assert_eq!(answer.state, LegState::Applied);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::join!(kill, spend);
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 900);
}

#[tokio::test]
async fn a_database_that_is_away_is_said_at_once() {
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let executor = executor_at(&format!("postgres://x:x@127.0.0.1:{port}/x"), &stop);
    for number in 0..20 {
        let began = Instant::now();
        let reply = executor.submit(debit("cus", &format!("k{number}"), 1)).await;
        assert_eq!(reply, Err(ExecuteError::Unavailable));
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    assert!(!executor.is_available());
    stop.cancel();
}

#[tokio::test]
async fn a_locked_account_is_waited_for_and_then_refused_for_now() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 10, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let mut lock = admin.begin().await.unwrap();
    sqlx::query("SELECT FROM tender.account FOR UPDATE").execute(&mut *lock).await.unwrap();
    let waiting = server.executor().submit(debit("cus", "k", 4));
    let released = async {
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        lock.rollback().await.unwrap();
    };
    let (reply, ()) = tokio::join!(waiting, released);
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 6);
}

#[tokio::test]
async fn a_database_that_goes_away_is_said_at_once_and_used_again_when_it_is_back() {
    let server = Server::points().await;
    let earn = |reference: &str| json!({ "customer_id": "cus", "points": 5, "kind": "earn", "funding": "paid", "reference": reference });
    assert_eq!(server.post("pos", "/points/credits", "k1", &earn("r1")).await.status, 201);
    let admin = server.tender.database.admin();
    let name = admin.get_database().unwrap().to_owned();
    // From another database: nobody but superusers may come in now, and whoever is inside is thrown out.
    let mut outside = PgConnection::connect_with(&admin.database("postgres")).await.unwrap();
    let close = format!(
        "ALTER DATABASE {name} CONNECTION LIMIT 0;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    sqlx::raw_sql(AssertSqlSafe(close)).execute(&mut outside).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..5 {
        let began = Instant::now();
        let refused = server.post("pos", "/points/credits", "k2", &earn("r2")).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "overloaded"));
        // Nobody can ask whether the key was used before: `not_applied` would invite its caller to issue anew under another.
        assert_eq!(
            (&refused.json()["retryable"], &refused.json()["outcome"]),
            (&json!(true), &json!("unknown"))
        );
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    // The key that was used hears the same: its caller, whose answer was lost, must not issue anew under another key.
    let retried = server.post("pos", "/points/credits", "k1", &earn("r1")).await;
    assert_eq!((retried.status.as_u16(), &retried.json()["outcome"]), (503, &json!("unknown")));
    let by_key = "/points/operations?customer_id=cus&idempotency_key=k1";
    let looked_up = server.get("pos", by_key).await;
    assert_eq!((looked_up.status.as_u16(), &looked_up.json()["outcome"]), (503, &json!("unknown")));
    assert_eq!(server.get("pos", "/points/accounts/cus").await.status, 503);

    let open = format!("ALTER DATABASE {name} CONNECTION LIMIT -1");
    sqlx::raw_sql(AssertSqlSafe(open)).execute(&mut outside).await.unwrap();
    let began = Instant::now();
    while server.post("pos", "/points/credits", "k2", &earn("r2")).await.status == 503 {
        assert!(began.elapsed() < Duration::from_secs(5), "it did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["available"], 10);
}

/// The first try of each key is applied, and its answer lost; what the retry meets says nothing of the first.
#[tokio::test]
async fn a_retry_that_cannot_be_carried_out_does_not_say_that_its_key_was_not_used() {
    let server = Server::points().await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let body =
        json!({ "customer_id": "cus", "points": 5, "kind": "earn", "funding": "paid", "reference": "r" });
    assert_eq!(server.post("pos", "/points/credits", "k", &body).await.status, 201);
    let mut lock = admin.begin().await.unwrap();
    sqlx::query("SELECT FROM tender.account FOR UPDATE").execute(&mut *lock).await.unwrap();
    let locked = server.post("pos", "/points/credits", "k", &body).await;
    assert_eq!((locked.status.as_u16(), &locked.json()["outcome"]), (503, &json!("unknown")));
    lock.rollback().await.unwrap();

    for statement in [
        "ALTER TABLE tender.operation DISABLE TRIGGER USER",
        "ALTER TABLE tender.operation DROP CONSTRAINT operation_kind_known",
        "UPDATE tender.operation SET kind = 'of tomorrow'",
    ] {
        sqlx::query(statement).execute(&mut admin).await.unwrap();
    }
    let unreadable = server.post("pos", "/points/credits", "k", &body).await;
    assert_eq!((unreadable.status.as_u16(), &unreadable.json()["outcome"]), (503, &json!("unknown")));
    let nothing = server.get("pos", "/points/operations?customer_id=cus&idempotency_key=other").await;
    assert_eq!((nothing.code().as_str(), &nothing.json()["outcome"]), ("not_found", &json!("unknown")));
}

#[tokio::test]
async fn an_executor_that_cannot_commit_says_so_until_it_can_or_nobody_asks() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 1_000, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let mut lock = admin.begin().await.unwrap();
    sqlx::query("LOCK TABLE tender.account IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let (began, mut asked) = (Instant::now(), 0);
    let mut calls = tokio::task::JoinSet::new();
    while server.executor().is_committing() {
        assert!(began.elapsed() < STALLED_AFTER * 2, "it never says so");
        let (executor, command) = (server.executor().clone(), debit("cus", &format!("k{asked}"), 1));
        calls.spawn(async move { drop(executor.submit(command).await) });
        asked += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(began.elapsed() >= STALLED_AFTER, "{:?} is a moment", began.elapsed());
    assert!(server.executor().is_available(), "the database itself can be reached");
    lock.rollback().await.unwrap();
    comes_to_commit(server.executor()).await;
    calls.join_all().await;
}

async fn comes_to_commit(executor: &Executor) {
    let committing = async {
        while !executor.is_committing() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(4), committing).await.expect("it commits again");
}

#[tokio::test]
async fn an_executor_whose_every_batch_fails_says_so_and_finds_out_by_itself_when_it_can() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 1_000, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for (number, [spoil, mend]) in [
        [
            "ALTER TABLE tender.lot RENAME COLUMN funding TO paid_by",
            "ALTER TABLE tender.lot RENAME COLUMN paid_by TO funding",
        ],
        ["REVOKE INSERT ON tender.entry FROM tender_writer", "GRANT INSERT ON tender.entry TO tender_writer"],
    ]
    .into_iter()
    .enumerate()
    {
        sqlx::query(spoil).execute(&mut admin).await.unwrap();
        let failed = server.executor().submit(debit("cus", &format!("k{number}"), 1)).await;
        assert_eq!(failed, Err(ExecuteError::Unavailable), "{spoil}");
        // Neither that nobody asks nor that nobody has asked yet tells that it can.
        let stop = CancellationToken::new();
        let other = executor_at(server.tender.database.url().expose(), &stop);
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!server.executor().is_committing(), "{spoil}");
            assert!(!other.is_committing(), "{spoil}");
        }
        sqlx::query(mend).execute(&mut admin).await.unwrap();
        comes_to_commit(server.executor()).await;
        comes_to_commit(&other).await;
        stop.cancel();
    }
}
