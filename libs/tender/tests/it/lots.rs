//! Work on an account is bounded whatever it has, and what was left of a lot at its end is gone.

use std::time::Duration;

use api::legs::{LegState, Mode, Take};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tender::testing::plan;
use uuid::Uuid;

use crate::support::{Server, cancel, credit, debit, forward, leg_answer, run};

async fn admin(server: &Server) -> PgConnection {
    PgConnection::connect_with(&server.tender.database.admin()).await.unwrap()
}

/// An account with lots of ten units each: so many that have lapsed, then so many that never do.
async fn fill(admin: &mut PgConnection, owner: &str, lapsed: i64, good: i64) {
    let fill = [
        "INSERT INTO tender.account (business_id, owner, asset, posted, version)
         VALUES ('demo', $1, 'points', 10 * ($2 + $3), 1)",
        "INSERT INTO tender.lot (account_no, lot_id, original, remaining, expires_at, funding, kind, operation_id, created_at)
         SELECT account_no, gen_random_uuid(), 10, 10, CASE WHEN n <= $2 THEN now() - n * interval '1 s' END, 'paid', 'earn',
                md5(owner)::uuid, now()
         FROM tender.account CROSS JOIN generate_series(1, $2 + $3) n WHERE owner = $1",
        "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, request_hash, hash_version, response,
                                       created_at, updated_at)
         SELECT md5(owner)::uuid, 'demo', account_no, 'credit', 'applied', 10 * ($2 + $3), sha256('x'), 1, '{}', now(), now()
         FROM tender.account WHERE owner = $1",
        "INSERT INTO tender.entry
         SELECT md5(owner)::uuid, 'demo', 'points', 'credit', s.amount, s.account_no, s.version, s.balance, s.held, s.contra, now()
         FROM tender.account a
         CROSS JOIN LATERAL (VALUES (10 * ($2 + $3), a.account_no, 1, 10 * ($2 + $3), 0, NULL),
                                    (-10 * ($2 + $3), NULL, NULL, NULL, NULL, 'issued:paid'))
                    AS s(amount, account_no, version, balance, held, contra)
         WHERE owner = $1",
    ];
    for statement in fill {
        sqlx::query(statement).bind(owner).bind(lapsed).bind(good).execute(&mut *admin).await.unwrap();
    }
}

/// Rows of a table that were read since the statistics were reset. A session sends its own a second after the last time, and
/// after a transaction.
async fn rows_read(server: &Server, admin: &mut PgConnection, table: &str) -> i64 {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    run(server.executor(), debit("flush", &Uuid::new_v4().to_string(), 0)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let query = "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
                 WHERE schemaname = 'tender' AND relname = $1";
    sqlx::query_scalar(query).bind(table).fetch_one(admin).await.unwrap()
}

async fn reset(admin: &mut PgConnection) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    sqlx::query("SELECT pg_stat_reset()").execute(admin).await.unwrap();
}

#[tokio::test]
async fn a_batch_looks_at_few_lots_however_many_there_are() {
    let server = Server::points().await;
    let mut filling = admin(&server).await;
    for (owner, good) in [("three thousand", 3_000), ("fifty thousand", 50_000)] {
        fill(&mut filling, &owner.replace(' ', "-"), 0, good).await;
    }
    filling.close().await.unwrap();
    let mut admin = admin(&server).await;
    reset(&mut admin).await;
    let rounds = 20;
    for number in 0..rounds {
        for owner in ["three-thousand", "fifty-thousand"] {
            let key = format!("{owner}-{number}");
            let taken = run(server.executor(), debit(owner, &key, 25)).await;
            assert_eq!(taken.state, LegState::Applied, "{}", taken.body);
            run(server.executor(), credit(owner, &key, 1, Some(service::Clock.now() + TimeDelta::days(9))))
                .await;
        }
    }
    let read = rows_read(&server, &mut admin, "lot").await;
    // Eight in the order of spending, and those that are written.
    assert!((rounds..rounds * 2 * 2 * 16).contains(&read), "{read} rows of lots for {} batches", rounds * 4);
    let view = server.get("pos", "/points/accounts/three-thousand").await.json();
    assert_eq!(view["available"], 30_000 - rounds * 25 + rounds);
    let view = server.get("pos", "/points/accounts/fifty-thousand").await.json();
    assert_eq!(view["lots"].as_array().unwrap().len(), 1_000);
}

#[tokio::test]
async fn what_a_batch_issues_can_be_taken_in_it_whatever_was_read_before() {
    let server = Server::points().await;
    for (owner, lots) in [("seven", 7), ("eight", 8), ("nine", 9), ("sixty-four", 64)] {
        let credits =
            (0..lots).map(|n| run(server.executor(), credit(owner, &format!("{owner}-{n}"), 1, None)));
        futures_util::future::join_all(credits).await;
        // Both wait for the same batch, the credit first.
        let (_, taken) = tokio::join!(
            run(server.executor(), credit(owner, &format!("{owner}-more"), 5, None)),
            run(server.executor(), debit(owner, owner, lots + 5)),
        );
        assert_eq!(taken.state, LegState::Applied, "{owner}: {}", taken.body);
    }
}

#[tokio::test]
async fn an_account_with_very_many_lapsed_lots_is_swept_alone_and_nobody_waits_for_that() {
    let server = Server::points().await;
    let mut admin = admin(&server).await;
    fill(&mut admin, "old", 20_000, 3).await;
    run(server.executor(), credit("other", "c", 1_000, None)).await;
    let swept = run(server.executor(), debit("old", "k", 12));
    let others = async {
        let mut at = Vec::new();
        for number in 0..20 {
            let reply = server.executor().submit(debit("other", &format!("o{number}"), 1)).await.unwrap();
            at.push(reply.at);
        }
        at
    };
    let (swept, others) = tokio::join!(swept, others);
    let answer = leg_answer(&swept);
    assert_eq!((answer.state, answer.after.unwrap().available), (LegState::Applied, 18));

    let (batches, most, last): (i64, i64, DateTime<Utc>) = sqlx::query_as(
        "SELECT count(*), max(lots), max(at) FROM (
             SELECT count(*) AS lots, created_at AS at FROM tender.entry WHERE kind = 'expire' AND account_no IS NOT NULL
             GROUP BY created_at) b",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert_eq!((batches, most), (40, 500));
    assert!(others.iter().all(|at| *at < last), "somebody waited for the whole sweep");
    assert_agrees(&server, &mut admin, "old", 18).await;
}

/// The ledger, what is shown and what was told last are one balance.
async fn assert_agrees(server: &Server, admin: &mut PgConnection, owner: &str, available: i64) {
    let view = server.get("pos", &format!("/points/accounts/{owner}")).await.json();
    let query = "SELECT posted, held, version FROM tender.account WHERE owner = $1";
    let (posted, held, version): (i64, i64, i64) =
        sqlx::query_as(query).bind(owner).fetch_one(&mut *admin).await.unwrap();
    assert_eq!((view["available"].as_i64(), posted - held), (Some(available), available));
    assert_eq!((view["posted"].as_i64(), view["version"].as_i64()), (Some(posted), Some(version)));
    let query = "SELECT m FROM tender.outbox, json_array_elements(payload) m WHERE m ->> 'customer_id' = $1
                 ORDER BY (m ->> 'version')::bigint DESC LIMIT 1";
    let told: Value = sqlx::query_scalar(query).bind(owner).fetch_one(&mut *admin).await.unwrap();
    assert_eq!((&told["available"], &told["version"]), (&json!(available), &json!(version)));
}

#[tokio::test]
async fn what_is_left_of_a_lot_at_its_end_is_gone() {
    let server = Server::points().await;
    let mut admin = admin(&server).await;
    let end = service::Clock.now() + TimeDelta::milliseconds(400);
    run(server.executor(), credit("cus", "c1", 10, Some(end))).await;
    run(server.executor(), credit("cus", "c2", 5, None)).await;
    run(server.executor(), debit("cus", "k1", 6)).await;
    let held = plan(Mode::Hold, 3, Take::Exact);
    run(server.executor(), forward("cus", "h", held)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    // Before anything meets the account, it is shown as it will be found; what is set aside has not lapsed.
    let view = server.get("pos", "/points/accounts/cus").await.json();
    assert_eq!((&view["available"], &view["posted"], &view["version"]), (&json!(5), &json!(9), &json!(4)));
    assert_eq!(view["lots"].as_array().unwrap().len(), 2);
    let taken = leg_answer(&run(server.executor(), debit("cus", "k2", 1)).await);
    assert_eq!((taken.after.unwrap().available, taken.after.unwrap().version), (4, 6));
    assert_agrees(&server, &mut admin, "cus", 4).await;

    // A cancel gives back to the very lot, which lapses again.
    let back = leg_answer(&run(server.executor(), cancel("cus", "k1")).await);
    assert_eq!((back.state, back.amount, back.after.unwrap().available), (LegState::Reversed, 6, 4));
    let released = leg_answer(&run(server.executor(), cancel("cus", "h")).await);
    assert_eq!((released.amount, released.after.unwrap().available), (3, 4));
    assert_agrees(&server, &mut admin, "cus", 4).await;
    let kinds: Vec<(String, i64)> =
        sqlx::query_as("SELECT kind, amount FROM tender.entry WHERE account_no IS NOT NULL ORDER BY version")
            .fetch_all(&mut admin)
            .await
            .unwrap();
    let kinds: Vec<(&str, i64)> = kinds.iter().map(|(kind, amount)| (kind.as_str(), *amount)).collect();
    assert_eq!(
        kinds,
        [
            ("credit", 10),
            ("credit", 5),
            ("debit", -6),
            ("hold", 0),
            ("expire", -1),
            ("debit", -1),
            ("cancel", 6),
            ("expire", -6),
            ("release", 0),
            ("expire", -3),
        ]
    );
    let times: i32 =
        sqlx::query_scalar("SELECT max(times_expired) FROM tender.lot").fetch_one(&mut admin).await.unwrap();
    assert_eq!(times, 3);
    let history = server.get("pos", "/points/accounts/cus/entries?kind=expire").await.json();
    let id = history["data"][2]["operation_id"].as_str().unwrap();
    let operation = server.get("pos", &format!("/points/operations/{id}")).await.json();
    assert_eq!((&operation["kind"], &operation["response"]["amount"]), (&json!("expire"), &json!(1)));
}

#[tokio::test]
async fn an_account_that_nobody_has_met_for_long_is_swept_before_it_is_shown() {
    let server = Server::points().await;
    let mut admin = admin(&server).await;
    fill(&mut admin, "old", 1_600, 2).await;
    let view = server.get("pos", "/points/accounts/old").await.json();
    assert_eq!((&view["available"], &view["posted"]), (&json!(20), &json!(20)));
    assert_eq!(view["lots"].as_array().unwrap().len(), 2);
    assert_agrees(&server, &mut admin, "old", 20).await;
}

#[tokio::test]
async fn what_has_lapsed_of_many_accounts_at_once_is_moved_out_in_batches_of_a_bounded_size() {
    let server = Server::points().await;
    let mut admin = admin(&server).await;
    for number in 0..40 {
        fill(&mut admin, &format!("cus-{number}"), 300, 2).await;
    }
    // The first keeps the executor busy while the others queue up behind it.
    let debits = (0..40).map(|number| {
        let server = &server;
        async move { run(server.executor(), debit(&format!("cus-{number}"), &format!("k{number}"), 12)).await }
    });
    for taken in futures_util::future::join_all(debits).await {
        assert_eq!((taken.state, leg_answer(&taken).after.unwrap().available), (LegState::Applied, 8));
    }
    let (all, most): (i64, i64) = sqlx::query_as(
        "SELECT sum(lots)::bigint, max(lots) FROM (
             SELECT count(*) AS lots FROM tender.entry WHERE kind = 'expire' AND account_no IS NOT NULL GROUP BY created_at) b",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert_eq!(all, 40 * 300);
    assert!(most <= 2_048, "{most} lots in one batch");
}
