//! Accounts, entries and operations as others see them.

use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{Server, credit, debit, run};

#[tokio::test]
async fn entries_are_paged_newest_first_and_stable_under_inserts() {
    let server = Server::points().await;
    for number in 1..=5 {
        run(server.executor(), credit("cus", &format!("c{number}"), number, None)).await;
    }
    run(server.executor(), debit("cus", "d", 4)).await;
    let first = server.get("pos", "/points/accounts/cus/entries?limit=2").await.json();
    let versions = |page: &serde_json::Value| -> Vec<i64> {
        page["data"].as_array().unwrap().iter().map(|entry| entry["version"].as_i64().unwrap()).collect()
    };
    assert_eq!(versions(&first), [6, 5]);
    assert_eq!(first["data"][0]["kind"], "debit");
    assert_eq!(first["data"][0]["points"], -4);
    assert_eq!(first["data"][0]["balance_after"], 11);

    run(server.executor(), credit("cus", "new", 1, None)).await;
    let mut seen = versions(&first);
    let mut cursor = first["next_cursor"].as_str().map(str::to_owned);
    while let Some(at) = cursor {
        let page =
            server.get("pos", &format!("/points/accounts/cus/entries?limit=2&cursor={at}")).await.json();
        seen.extend(versions(&page));
        cursor = page["next_cursor"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, [6, 5, 4, 3, 2, 1]);

    for bad in ["limit=0", "limit=201", "limit=x", "cursor=x", "nonsense=1"] {
        let reply = server.get("pos", &format!("/points/accounts/cus/entries?{bad}")).await;
        assert_eq!(reply.code(), "invalid_field", "{bad}");
    }
}

/// So many credits of one unit each, a second apart, the first of them for an order.
async fn long_history(server: &Server, count: i64) -> PgConnection {
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for statement in [
        "INSERT INTO tender.account (business_id, owner, asset, posted, version) VALUES ('demo', 'long', 'points', $1, $1)",
        "INSERT INTO tender.lot (account_no, lot_id, original, remaining, funding, kind, operation_id, created_at)
         SELECT account_no, gen_random_uuid(), $1, $1, 'paid', 'earn', md5('1')::uuid, now() FROM tender.account",
        "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, order_id, created_at,
                                       updated_at)
         SELECT md5(n::text)::uuid, 'demo', account_no, 'credit', 'applied', 1, '{}', CASE WHEN n = 1 THEN 'first' END,
                timestamptz '2026-01-01' + n * interval '1 s', now()
         FROM tender.account, generate_series(1, $1) n",
        "INSERT INTO tender.entry
         SELECT md5(n::text)::uuid, 'demo', 'points', 'credit', s.amount, s.account_no, s.version, s.balance, s.held, s.contra,
                timestamptz '2026-01-01' + n * interval '1 s'
         FROM tender.account a, generate_series(1, $1) n,
              LATERAL (VALUES (1, a.account_no, n, n, 0, NULL), (-1, NULL, NULL, NULL, NULL, 'issued:paid'))
              AS s(amount, account_no, version, balance, held, contra)",
    ] {
        sqlx::query(statement).bind(count).execute(&mut admin).await.unwrap();
    }
    admin
}

#[tokio::test]
async fn a_filter_that_little_matches_looks_at_a_bounded_part_and_goes_on() {
    let server = Server::points().await;
    long_history(&server, 5_000).await;
    let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let path = format!("/points/accounts/long/entries?order_id=first{cursor}");
        let page = server.get("pos", &path).await.json();
        pages += 1;
        found.extend(page["data"].as_array().unwrap().iter().map(|entry| entry["version"].as_i64().unwrap()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((found, pages), (vec![1], 3), "two thousand entries a page");
    let all = server.get("pos", "/points/accounts/long/entries?limit=200").await.json();
    assert_eq!(all["data"].as_array().unwrap().len(), 200);
}

#[tokio::test]
async fn a_balance_at_any_past_time_is_found_by_a_few_looks() {
    let server = Server::points().await;
    let mut admin = long_history(&server, 5_000).await;
    let at = async |second: i64, fraction: &str| {
        let time = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1_767_225_600 + second);
        let time = format!("{}{fraction}Z", time.format("%Y-%m-%dT%H:%M:%S"));
        let past = server.get("pos", &format!("/points/accounts/long?at={time}")).await.json();
        past["accounts"][0]["version"].as_i64()
    };
    for second in [1, 2, 3, 2_499, 2_500, 4_999, 5_000] {
        assert_eq!(at(second, "").await, Some(second));
        assert_eq!(at(second, ".5").await, Some(second));
    }
    assert_eq!((at(0, ".9").await, at(99_999, "").await), (None, Some(5_000)));
    // The oldest is as near as the newest. A session sends its statistics once it has been idle for a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_300)).await;
    sqlx::query("SELECT pg_stat_reset()").execute(&mut admin).await.unwrap();
    for _ in 0..10 {
        assert_eq!(at(2, "").await, Some(2));
    }
    tokio::time::sleep(std::time::Duration::from_millis(1_300)).await;
    let looks: i64 = sqlx::query_scalar(
        "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'entry'",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert!((10..10 * 40).contains(&looks), "{looks} entries were looked at for ten answers");
}

#[tokio::test]
async fn an_operation_is_found_by_id_and_by_key() {
    let server = Server::points().await;
    let body =
        json!({ "customer_id": "cus", "points": 7, "kind": "earn", "funding": "paid", "reference": "r" });
    let made = server.post("pos", "/points/credits", "key 1".replace(' ', "-").as_str(), &body).await.json();
    let id = made["operation_id"].as_str().unwrap();
    let by_id = server.get("pos", &format!("/points/operations/{id}")).await;
    assert_eq!(by_id.json()["status"], "applied");
    assert_eq!(by_id.json()["response"]["lot"], made["lot"]);
    let by_key = server.get("pos", "/points/operations?customer_id=cus&idempotency_key=key-1").await;
    assert_eq!(by_key.text, by_id.text);
    assert_eq!(server.get_as_customer("cus", &format!("/points/operations/{id}")).await.text, by_id.text);

    for path in [
        "/points/operations/00000000-0000-0000-0000-000000000000".to_owned(),
        "/points/operations/nonsense".to_owned(),
        "/points/operations?customer_id=cus&idempotency_key=other".to_owned(),
    ] {
        assert_eq!(server.get("pos", &path).await.code(), "not_found", "{path}");
    }
}

#[tokio::test]
async fn what_belongs_to_others_looks_like_nothing() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 7, None)).await;
    let path = "/points/accounts/cus";
    assert_eq!(server.get_as_customer("cus", path).await.json()["available"], 7);

    let foreign = server.get_as_customer("other", path).await;
    let nobody = server.get("pos", "/points/accounts/nobody").await;
    assert_eq!(foreign.text.replace("\"cus\"", "\"nobody\""), nobody.text);
    assert_eq!(foreign.status, 200);
    let entries = server.get_as_customer("other", &format!("{path}/entries")).await.json();
    assert_eq!(entries, json!({ "data": [], "next_cursor": null }));

    let url = format!("{}/api/v1{path}", server.tender.public_url);
    let elsewhere = server.tokens.staff("another", "admin");
    let reply = server.send(reqwest::Method::GET, &url, &elsewhere, &[], None).await;
    assert_eq!(reply.text.replace("\"cus\"", "\"nobody\""), nobody.text);

    let id = api::derive::public_operation_id(&crate::support::business(), "cus", "credit", "c");
    let operation = format!("/points/operations/{id}");
    assert_eq!(server.get("pos", &operation).await.status, 200);
    assert_eq!(server.get_as_customer("other", &operation).await.code(), "not_found");
    let url = format!("{}/api/v1{operation}", server.tender.public_url);
    assert_eq!(server.send(reqwest::Method::GET, &url, &elsewhere, &[], None).await.code(), "not_found");
}

#[tokio::test]
async fn a_balance_at_a_past_time_is_what_the_ledger_says() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c1", 7, None)).await;
    let between = server
        .tender
        .app
        .executor()
        .submit(credit("other", "x", 1, None))
        .await
        .unwrap()
        .at
        .to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    run(server.executor(), credit("cus", "c2", 5, None)).await;
    let past = server.get("pos", &format!("/points/accounts/cus?at={between}")).await.json();
    assert_eq!(past["accounts"], json!([{ "version": 1, "posted": 7, "held": 0 }]));
    let before = server.get("pos", "/points/accounts/cus?at=2001-01-01T00:00:00Z").await.json();
    assert_eq!(before["accounts"], json!([]));
}

#[tokio::test]
async fn a_balance_at_a_time_waits_for_the_batch_that_is_dated_before_it() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c1", 7, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    // A batch that has its locks and its clock, and has not committed.
    let mut batch = admin.begin().await.unwrap();
    sqlx::query("SELECT FROM tender.account FOR UPDATE").execute(&mut *batch).await.unwrap();
    let at: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *batch).await.unwrap();
    let at = at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    for statement in [
        "INSERT INTO tender.entry
         SELECT md5('x')::uuid, 'demo', 'points', 'credit', s.amount, s.account_no, s.version, s.balance, s.held, s.contra,
                $1::timestamptz
         FROM tender.account a
         CROSS JOIN LATERAL (VALUES (5, a.account_no, 2, 12, 0, NULL), (-5, NULL, NULL, NULL, NULL, 'issued:paid'))
                    AS s(amount, account_no, version, balance, held, contra)",
        "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at)
         SELECT md5('x')::uuid, 'demo', account_no, 'credit', 'applied', 5, '{}', $1, $1 FROM tender.account",
        "UPDATE tender.lot SET original = 12, remaining = 12 WHERE $1::timestamptz IS NOT NULL",
        "UPDATE tender.account SET posted = 12, version = 2 WHERE $1::timestamptz IS NOT NULL",
    ] {
        let time: chrono::DateTime<chrono::Utc> = at.parse().unwrap();
        sqlx::query(statement).bind(time).execute(&mut *batch).await.unwrap();
    }
    let path = format!("/points/accounts/cus?at={at}");
    let commit = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        batch.commit().await.unwrap();
    };
    let (first, ()) = tokio::join!(server.get("pos", &path), commit);
    assert_eq!(first.json()["accounts"], json!([{ "version": 2, "posted": 12, "held": 0 }]));
    assert_eq!(server.get("pos", &path).await.text, first.text);

    let ahead = (service::Clock.now() + chrono::TimeDelta::minutes(1))
        .to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let path = format!("/points/accounts/cus?at={ahead}");
    for reply in [server.get("pos", &path).await, server.get_as_customer("other", &path).await] {
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "invalid_field"), "{}", reply.text);
    }
}

#[tokio::test]
async fn balances_at_a_time_of_a_locked_account_stand_in_nobodys_way() {
    let server = Server::points().await;
    run(server.executor(), credit("locked", "c1", 7, None)).await;
    run(server.executor(), credit("cus", "c2", 5, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let mut lock = admin.begin().await.unwrap();
    let statement = "SELECT FROM tender.account WHERE owner = 'locked' FOR UPDATE";
    sqlx::query(statement).execute(&mut *lock).await.unwrap();
    let at = (0..12).map(|_| server.get("pos", "/points/accounts/locked?at=2020-01-01T00:00:00Z"));
    let others = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let began = std::time::Instant::now();
        let path = "/accounts/cus?business_id=demo";
        let peer = async { (server.internal(reqwest::Method::GET, path, None).await, began.elapsed()) };
        let public = async { (server.get("pos", "/points/accounts/cus").await, began.elapsed()) };
        tokio::join!(peer, public)
    };
    let (at, (peer, public)) = tokio::join!(futures_util::future::join_all(at), others);
    assert!(at.iter().all(|reply| reply.status == 503), "{at:?}");
    assert!(peer.0.status == 200 && peer.1.as_millis() < 200, "{peer:?}");
    // It waits for its turn behind those that were sent before.
    assert!(public.0.status == 200 && public.1.as_millis() < 700, "{public:?}");
}

#[tokio::test]
async fn time_does_not_fall_from_one_version_to_the_next_where_the_clock_is_set_back() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c1", 7, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for statement in [
        "ALTER TABLE tender.entry DISABLE TRIGGER entry_append_only",
        "UPDATE tender.entry SET created_at = created_at + interval '1 hour'",
    ] {
        sqlx::query(statement).execute(&mut admin).await.unwrap();
    }
    // In one batch, or in two.
    let both = [run(server.executor(), debit("cus", "d1", 1)), run(server.executor(), debit("cus", "d2", 1))];
    futures_util::future::join_all(both).await;
    run(server.executor(), credit("other", "c2", 7, None)).await;
    let times: Vec<(String, bool, i64)> = sqlx::query_as(
        "SELECT kind, created_at > now() + interval '50 minutes' AS ahead, count(*) FROM tender.entry GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let times: Vec<_> = times.iter().map(|(kind, ahead, count)| (kind.as_str(), *ahead, *count)).collect();
    // Both sides of both debits; another account's time is its own.
    assert_eq!(times, [("credit", false, 2), ("credit", true, 2), ("debit", true, 4)]);
}

#[tokio::test]
async fn only_services_reach_the_internal_listener() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 7, None)).await;
    let path = "/accounts/cus?business_id=demo";
    let view = server.internal(reqwest::Method::GET, path, None).await;
    assert_eq!(view.text, server.get("pos", "/points/accounts/cus").await.text);
    let url = format!("{}/internal/v1{path}", server.tender.internal_url);
    let admin = server.tokens.staff("demo", "admin");
    let reply = server.send(reqwest::Method::GET, &url, &admin, &[], None).await;
    assert_eq!(reply.code(), "token_invalid");
    let url = format!("{}/internal/v1{path}", server.tender.public_url);
    let reply = server.send(reqwest::Method::GET, &url, &server.tokens.peer(), &[], None).await;
    assert_eq!(reply.code(), "not_found");
}

#[tokio::test]
async fn versions_of_many_owners_are_one_call() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c1", 7, None)).await;
    run(server.executor(), debit("cus", "d", 4)).await;
    run(server.executor(), credit("versions", "c2", 7, None)).await;
    let owners = |customers: &[&str]| {
        let owners = customers.iter().map(|id| json!({ "business_id": "demo", "customer_id": id }));
        json!({ "owners": owners.collect::<Vec<_>>() })
    };
    let ask = async |body| server.internal(reqwest::Method::POST, "/account-versions", Some(body)).await;
    let answer = ask(owners(&["nobody", "versions", "cus"])).await.json();
    assert_eq!(
        answer["accounts"],
        json!([
            { "owner": { "business_id": "demo", "customer_id": "versions" }, "asset": "points", "version": 1 },
            { "owner": { "business_id": "demo", "customer_id": "cus" }, "asset": "points", "version": 2 },
        ])
    );
    // As many as may be asked for fit into a body, whatever their names.
    let names: Vec<String> = (0..100).map(|number| format!("{number:0>3}{}", "\"".repeat(125))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(ask(owners(&names)).await.json()["accounts"], json!([]));
    assert_eq!(ask(owners(&["x"; 101])).await.code(), "invalid_field");
    assert_eq!(ask(owners(&[])).await.code(), "invalid_field");
}
