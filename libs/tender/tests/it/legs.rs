//! The leg protocol over HTTP.

use api::legs::{BatchLine, LegAnswer, LegState, Mode, Take};
use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::{Server, credit, legs_id, run};

fn account() -> Value {
    json!({ "business_id": "demo", "customer_id": "cus", "asset": "points" })
}

fn forward(mode: &str, amount: i64, take: &str) -> Value {
    let mut forward = json!({ "mode": mode, "amount": amount, "take": take });
    if mode == "hold" {
        forward["hold_until"] = json!("2100-01-01T00:00:00Z");
    }
    json!({ "account": account(), "forward": forward, "epoch": 1 })
}

async fn put(server: &Server, key: &str, body: Value) -> crate::support::Reply {
    server.internal(Method::PUT, &format!("/legs/{}/0", legs_id(key)), Some(body)).await
}

async fn post(server: &Server, key: &str, what: &str, body: Value) -> crate::support::Reply {
    server.internal(Method::POST, &format!("/legs/{}/0/{what}", legs_id(key)), Some(body)).await
}

async fn query(server: &Server, key: &str) -> crate::support::Reply {
    let path = format!("/legs/{}/0?business_id=demo&customer_id=cus&asset=points", legs_id(key));
    server.internal(Method::GET, &path, None).await
}

async fn available(server: &Server) -> i64 {
    server.get("pos", "/points/accounts/cus").await.json()["available"].as_i64().unwrap()
}

#[tokio::test]
async fn a_leg_answers_with_the_same_bytes_until_it_is_cancelled() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    let first = put(&server, "k", forward("debit", 30, "exact")).await;
    let answer: LegAnswer = serde_json::from_str(&first.text).unwrap();
    assert_eq!((answer.state, answer.amount), (LegState::Applied, 30));
    assert_eq!((answer.after.unwrap().available, answer.after.unwrap().version), (70, 2));

    // A retry may carry another epoch and a later limit.
    let mut retry = forward("debit", 30, "exact");
    retry["epoch"] = json!(9);
    retry["forward"]["not_after"] = json!("2001-01-01T00:00:00Z");
    assert_eq!(put(&server, "k", retry).await.text, first.text);
    assert_eq!(query(&server, "k").await.text, first.text);
    let mut plain = forward("debit", 30, "exact");
    (plain["forward"]["step"], plain["forward"]["order_id"]) = (json!(1), json!(null));
    assert_eq!(put(&server, "k", plain).await.text, first.text);
    let other = put(&server, "k", forward("debit", 31, "exact")).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (409, "leg_conflict"));

    let cancelled = post(&server, "k", "cancel", account()).await;
    let back: LegAnswer = serde_json::from_str(&cancelled.text).unwrap();
    assert_eq!((back.state, back.amount, &back.lots), (LegState::Reversed, 30, &answer.lots));
    assert_eq!(post(&server, "k", "cancel", account()).await.text, cancelled.text);
    assert_eq!(put(&server, "k", forward("debit", 30, "exact")).await.json()["state"], "tombstoned");
    assert_eq!(available(&server).await, 100);
}

#[tokio::test]
async fn what_was_meant_for_another_tender_does_nothing() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    let url = format!("{}/internal/v1/legs/{}/0", server.tender.internal_url, legs_id("k"));
    let body = forward("debit", 30, "exact").to_string();
    let meant = async |tender| {
        let headers = [(api::legs::TENDER, tender)];
        server.send(Method::PUT, &url, &server.tokens.peer(), &headers, Some(body.clone())).await
    };
    let refused = meant("store_credit").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (421, "wrong_tender".to_owned()));
    assert_eq!(query(&server, "k").await.code(), "not_found");
    assert_eq!(available(&server).await, 100);
    assert_eq!(meant("points").await.status, 200);
    assert_eq!(available(&server).await, 70);
}

#[tokio::test]
async fn a_cancel_that_overtakes_its_leg_leaves_a_tombstone() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    assert_eq!(query(&server, "k").await.code(), "not_found");
    let cancelled = post(&server, "k", "cancel", account()).await;
    assert_eq!(cancelled.json()["state"], "tombstoned");
    assert_eq!(put(&server, "k", forward("debit", 30, "exact")).await.json()["state"], "tombstoned");
    assert_eq!(available(&server).await, 100);
}

#[tokio::test]
async fn a_decline_is_recorded_and_at_most_takes_what_is_there() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 25, None)).await;
    let declined = put(&server, "k1", forward("debit", 26, "exact")).await;
    assert_eq!(declined.status, 200);
    assert_eq!(declined.json()["decline"], json!({ "code": "insufficient_balance", "available": 25 }));
    run(server.executor(), credit("cus", "more", 1, None)).await;
    assert_eq!(put(&server, "k1", forward("debit", 26, "exact")).await.text, declined.text);
    // A cancel has nothing to take back from it.
    assert_eq!(post(&server, "k1", "cancel", account()).await.text, declined.text);

    let mut stepped = forward("debit", 100, "at_most");
    stepped["forward"]["step"] = json!(10);
    assert_eq!(put(&server, "k2", stepped).await.json()["amount"], 20);
    assert_eq!(put(&server, "k3", forward("debit", 100, "at_most")).await.json()["amount"], 6);
    let nothing = put(&server, "k4", forward("debit", 100, "at_most")).await.json();
    assert_eq!((&nothing["state"], &nothing["amount"]), (&json!("applied"), &json!(0)));
}

#[tokio::test]
async fn the_soonest_expiring_pays_first_and_gets_its_own_back_last() {
    let server = Server::points().await;
    let now = service::Clock.now();
    run(server.executor(), credit("cus", "never", 10, None)).await;
    run(server.executor(), credit("cus", "late", 10, Some(now + TimeDelta::days(2)))).await;
    run(server.executor(), credit("cus", "soon", 10, Some(now + TimeDelta::days(1)))).await;
    let taken = put(&server, "k", forward("debit", 25, "exact")).await;
    let taken: LegAnswer = serde_json::from_str(&taken.text).unwrap();
    let amounts: Vec<i64> = taken.lots.iter().map(|lot| lot.amount).collect();
    assert_eq!(amounts, [10, 10, 5]);
    assert!(taken.lots[0].expires_at < taken.lots[1].expires_at);
    assert_eq!(taken.lots[2].expires_at, None);

    let mut part = forward("reverse", 8, "exact");
    part["forward"]["of"] = json!({ "legs_id": legs_id("k"), "leg": 0 });
    let back: LegAnswer = serde_json::from_str(&put(&server, "r1", part.clone()).await.text).unwrap();
    let parts: Vec<_> = back.lots.iter().map(|lot| (lot.lot_id, lot.amount)).collect();
    assert_eq!(parts, [(taken.lots[2].lot_id, 5), (taken.lots[1].lot_id, 3)]);

    part["forward"]["amount"] = json!(18);
    let refused = put(&server, "r2", part).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "refund_exceeds_redeemed"));
    assert_eq!(refused.json()["available"], 17);
    // Refused without a trace: the key is free.
    let rest = post(&server, "k", "cancel", account()).await.json();
    assert_eq!(rest["amount"], 17);
    assert_eq!(available(&server).await, 30);
}

#[tokio::test]
async fn a_hold_is_captured_in_part_and_the_rest_is_free_again() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    assert_eq!(put(&server, "k", forward("hold", 60, "exact")).await.json()["state"], "held");
    let view = server.get("pos", "/points/accounts/cus").await.json();
    assert_eq!((&view["posted"], &view["held"], &view["available"]), (&json!(100), &json!(60), &json!(40)));

    let capture = |amount: i64| json!({ "account": account(), "amount": amount });
    assert_eq!(post(&server, "k", "capture", capture(61)).await.code(), "leg_conflict");
    let captured = post(&server, "k", "capture", capture(45)).await;
    assert_eq!((&captured.json()["state"], &captured.json()["amount"]), (&json!("applied"), &json!(45)));
    assert_eq!(post(&server, "k", "capture", capture(45)).await.text, captured.text);
    assert_eq!(post(&server, "k", "capture", capture(44)).await.code(), "leg_conflict");
    let view = server.get("pos", "/points/accounts/cus").await.json();
    assert_eq!((&view["posted"], &view["held"], &view["available"]), (&json!(55), &json!(0), &json!(55)));

    assert_eq!(put(&server, "v", forward("hold", 55, "exact")).await.json()["state"], "held");
    assert_eq!(post(&server, "v", "cancel", account()).await.json()["amount"], 55);
    assert_eq!(post(&server, "v", "capture", capture(1)).await.code(), "already_final");
    assert_eq!(post(&server, "none", "capture", capture(1)).await.code(), "not_found");
}

#[tokio::test]
async fn a_batch_answers_each_of_its_commands() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 50, None)).await;
    let command = |key: &str, action: Value| json!({ "legs_id": legs_id(key), "leg": 0, "account": account(), "action": action });
    let debit = json!({ "forward": { "mode": "debit", "amount": 20, "take": "exact" } });
    let mut foreign = command("k5", debit.clone());
    foreign["account"]["asset"] = json!("USD");
    let commands = json!({ "commands": [
        command("k1", debit.clone()), command("k2", debit.clone()), command("k1", debit.clone()),
        command("k3", debit), command("k4", json!("cancel")), foreign, command("k6", json!("query")),
    ]});
    let reply = server.internal(Method::POST, "/legs/batch", Some(commands)).await;
    let mut lines: Vec<BatchLine> =
        reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line.index);
    assert_eq!(lines.len(), 7);
    let state = |index: usize| lines[index].answer.as_ref().unwrap().state;
    assert_eq!(state(0), LegState::Applied);
    assert_eq!(lines[0].answer, lines[2].answer);
    assert_eq!((state(1), state(3)), (LegState::Applied, LegState::Declined));
    assert_eq!(state(4), LegState::Tombstoned);
    assert_eq!(lines[5].problem.as_ref().unwrap().code, "invalid_field");
    assert_eq!(lines[6].problem.as_ref().unwrap().code, "not_found");
    assert!(lines[0].at_ms > 1_600_000_000_000);

    for bad in [json!({ "commands": [] }), json!({ "commands": vec![command("x", json!("cancel")); 65] })] {
        assert_eq!(server.internal(Method::POST, "/legs/batch", Some(bad)).await.status, 400);
    }
}

#[tokio::test]
async fn open_legs_are_listed_oldest_first() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 50, None)).await;
    for key in ["a", "b", "c", "d"] {
        put(&server, key, forward("debit", 5, "exact")).await;
    }
    post(&server, "b", "cancel", account()).await;
    let mut keys = Vec::new();
    let mut path = "/legs?limit=2".to_owned();
    loop {
        let page = server.internal(Method::GET, &path, None).await.json();
        for leg in page["data"].as_array().unwrap() {
            assert_eq!((&leg["amount"], &leg["state"]), (&json!(5), &json!("applied")));
            keys.push(leg["key"]["legs_id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/legs?limit=2&after={next}");
    }
    let expected: Vec<String> = ["a", "c", "d"].iter().map(|key| legs_id(key).to_string()).collect();
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn legs_that_are_not_open_are_passed_over_a_bounded_number_a_page() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 50, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    sqlx::query(
        "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, request_hash, hash_version, response,
                                       legs_id, leg, created_at, updated_at)
         SELECT md5(n::text)::uuid, 'demo', account_no, 'debit', 'declined', 0, sha256('x'), 1, '{}', md5(n::text)::uuid, 0,
                timestamptz '2026-01-01' + n * interval '1 s', now()
         FROM tender.account, generate_series(1, 5000) n",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    put(&server, "open", forward("debit", 5, "exact")).await;
    let (mut open, mut pages, mut path) = (Vec::new(), 0, "/legs?limit=200".to_owned());
    loop {
        let page = server.internal(Method::GET, &path, None).await.json();
        assert!(page["at"].is_string(), "{page}");
        open.extend(page["data"].as_array().unwrap().iter().map(|leg| leg["key"]["legs_id"].clone()));
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/legs?limit=200&after={next}");
    }
    assert_eq!(open, [json!(legs_id("open"))]);
    assert_eq!(pages, 4, "two thousand legs a page, and one without any");
}

#[tokio::test]
async fn a_leg_that_cannot_be_read_keeps_no_other_from_being_listed() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c1", 50, None)).await;
    run(server.executor(), credit("broken", "c2", 50, None)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let until = chrono::DateTime::UNIX_EPOCH;
    for owner in ["broken", "cus"] {
        for (mode, key) in [(Mode::Debit, "taken"), (Mode::Hold, "held")] {
            let plan = api::legs::Forward {
                hold_until: (mode == Mode::Hold).then_some(until),
                ..tender::testing::plan(mode, 5, Take::Exact)
            };
            run(server.executor(), crate::support::forward(owner, &format!("{owner} {key}"), plan)).await;
        }
    }
    let name = "UPDATE tender.account SET asset = $1 WHERE owner = 'broken'";
    sqlx::query(name).bind("of tomorrow").execute(&mut admin).await.unwrap();
    for (path, expected) in [("/legs", vec!["cus taken", "cus held"]), ("/holds-past-end", vec!["cus held"])]
    {
        let page = server.internal(Method::GET, path, None).await.json();
        let keys: Vec<_> =
            page["data"].as_array().unwrap().iter().map(|leg| leg["key"]["legs_id"].clone()).collect();
        let expected: Vec<_> = expected.into_iter().map(|key| json!(legs_id(key))).collect();
        assert_eq!(keys, expected, "{path}: {page}");
    }
    sqlx::query(name).bind("points").execute(&mut admin).await.unwrap();
}

#[tokio::test]
async fn a_leg_that_cannot_be_meant_is_refused() {
    let server = Server::points().await;
    for (field, value) in [
        ("amount", json!(-1)),
        ("step", json!(0)),
        ("mode", json!("steal")),
        ("order_id", json!("a b")),
        ("reward_id", json!("00000000-0000-0000-0000-000000000001")),
        ("of", json!({ "legs_id": legs_id("x"), "leg": 0 })),
        ("unknown", json!(1)),
    ] {
        let mut body = forward("debit", 5, "exact");
        body["forward"][field] = value;
        let reply = put(&server, "k", body.clone()).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text);
    }
    assert_eq!(put(&server, "k", forward("reverse", 5, "exact")).await.status, 400);
    assert_eq!(query(&server, "k").await.code(), "not_found");
}

#[tokio::test]
async fn nothing_leaves_a_frozen_account_but_everything_comes_back() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 50, None)).await;
    put(&server, "taken", forward("debit", 20, "exact")).await;
    put(&server, "held", forward("hold", 10, "exact")).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for status in ["frozen", "closed"] {
        let freeze = sqlx::query("UPDATE tender.account SET status = $1").bind(status);
        freeze.execute(&mut admin).await.unwrap();
        let refused = put(&server, status, forward("debit", 1, "at_most")).await.json();
        assert_eq!(refused["decline"]["code"], "account_frozen", "{refused}");
        assert_eq!(server.get("pos", "/points/accounts/cus").await.json()["status"], status);
    }
    assert_eq!(post(&server, "taken", "cancel", account()).await.json()["amount"], 20);
    assert_eq!(post(&server, "held", "cancel", account()).await.json()["amount"], 10);
    assert_eq!(available(&server).await, 50);
    let body =
        json!({ "customer_id": "cus", "points": 1, "kind": "earn", "funding": "paid", "reference": "r" });
    let closed = server.post("pos", "/points/credits", "k", &body).await;
    assert_eq!((closed.status.as_u16(), closed.code().as_str()), (422, "account_frozen"));
}

#[tokio::test]
async fn a_hold_without_an_end_is_turned_away() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 50, None)).await;
    let mut endless = forward("hold", 10, "exact");
    endless["forward"]["hold_until"] = Value::Null;
    let refused = put(&server, "k", endless).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "invalid_field"));
    assert!(refused.text.contains("/forward/hold_until"), "{}", refused.text);
    assert_eq!(available(&server).await, 50);
}
