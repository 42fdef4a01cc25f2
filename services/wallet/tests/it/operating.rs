//! Dead letters and what operators do with them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Mode, snapshot};

use crate::{
    dead_letters::{impatient, of},
    support::{System, WITHIN, order},
};

#[tokio::test(flavor = "multi_thread")]
async fn compensation_past_its_budget_is_a_dead_letter_and_a_replay_finishes_it() {
    let system = System::start().await;
    let wallet = system.wallet_with(impatient()).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    let before = system.lots("c").await;
    system.credit.proxy.set(Mode::HoldReplies);
    let till = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    assert_eq!((till.status.as_u16(), &till.json()["reversal"]), (422, &json!("pending")), "{}", till.text());

    let letter = system.dead_letter(&wallet).await;
    assert_eq!(
        (&letter["code"], &letter["tender"]),
        (&json!("participant_unreachable"), &json!("store_credit"))
    );
    assert_eq!(letter["detail"]["pending_legs"], json!([2]));
    assert_eq!(
        system.get(&wallet, "/wallet/redemptions?idempotency_key=k1").await.json()["data"][0]["status"],
        "under_review"
    );
    let saga = system
        .ops(&wallet, Method::GET, &format!("/ops/sagas/{}", letter["saga_id"].as_str().expect("id")), None)
        .await
        .json();
    tells_its_story(&saga);

    system.credit.proxy.set(Mode::Pass);
    let path = of(&letter, "replay");
    let order_ = |operation: &str, dry_run| json!({ "operation_id": operation, "reason": "credit is back", "dry_run": dry_run });
    let dry = system.ops(&wallet, Method::POST, &path, Some(&order_("op1", true))).await;
    snapshot!(dry, @r#"
        200 application/json
        {
          "after": "compensating",
          "before": "dead_letter",
          "dead_letter_id": "[id 1]",
          "result": "would_do"
        }
        "#);
    let replay = system.ops(&wallet, Method::POST, &path, Some(&order_("op1", false))).await;
    snapshot!(replay, @r#"
        200 application/json
        {
          "after": "compensating",
          "before": "dead_letter",
          "dead_letter_id": "[id 1]",
          "result": "done"
        }
        "#);
    system.until_status(&wallet, "k1", "declined").await;
    assert_eq!(system.lots("c").await, before);
    for (operation, result) in [("op1", "already_done"), ("op2", "already_closed")] {
        let again = system.ops(&wallet, Method::POST, &path, Some(&order_(operation, false))).await;
        assert_eq!(again.json()["result"], result, "{}", again.text());
    }
    assert_eq!(system.lots("c").await, before, "replayed again it changes nothing");
    let stored = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    assert_eq!(stored.bytes, till.bytes, "what the till was told stays what it was told");
    let actions: i64 = system.sql("SELECT count(*) FROM saga.operator_action WHERE actor = 'test-ops'").await;
    assert_eq!(actions, 2, "the one that was carried out, and the one that was refused");
}

/// The saga of a decline whose compensation could not reach store credit.
fn tells_its_story(saga: &Value) {
    let timeline = saga["timeline"].as_array().expect("events");
    let time = |event: &Value| event["at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok());
    let times: Vec<_> = timeline.iter().map(|event| time(event).expect("a time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    let (attempts, told): (Vec<_>, Vec<_>) = timeline.iter().partition(|event| event["event"] == "attempt");
    let events: Vec<_> = told.iter().map(|event| event["event"].clone()).collect();
    assert_eq!(events, [json!("began"), json!("compensating"), json!("dead_letter")]);
    assert_eq!(told[1]["detail"]["because"]["reason"], "refused");
    let text = told[1]["text"].as_str().expect("a sentence");
    assert!(text.contains("leg 1 (digital_reward): insufficient_balance"), "{text}");
    let in_vain = attempts.iter().filter(|attempt| attempt["detail"]["note"] == "timeout").count();
    assert!(in_vain > 2, "{attempts:?}");
    let legs: Vec<_> =
        saga["legs"].as_array().expect("legs").iter().map(|leg| leg["status"].clone()).collect();
    assert_eq!(legs, [json!("undone"), json!("undone"), json!("pending")]);
    assert_eq!(saga["legs"][0]["back"]["state"], "reversed", "{}", saga["legs"][0]);
    assert_eq!(saga["dead_letters"].as_array().expect("dead letters").len(), 1);
    assert_eq!(saga["answer"]["status"], 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_replays_one_wins() {
    let system = System::start().await;
    let wallets = [system.wallet_with(impatient()).await, system.wallet_with(impatient()).await];
    let reward = system.fund("c", 620, 5000, 1).await;
    system.credit.proxy.set(Mode::HoldReplies);
    system.redeem(&wallets[0], "k1", &order("c", &reward)).await;
    let letter = system.dead_letter(&wallets[0]).await;
    system.credit.proxy.set(Mode::Pass);
    let path = of(&letter, "replay");
    let bodies: Vec<_> =
        (0..10).map(|i| json!({ "operation_id": format!("op{i}"), "reason": "r" })).collect();
    let calls = bodies
        .iter()
        .enumerate()
        .map(|(i, body)| system.ops(&wallets[i % 2], Method::POST, &path, Some(body)));
    let results: Vec<_> =
        futures_util::future::join_all(calls).await.iter().map(|a| a.json()["result"].clone()).collect();
    assert_eq!(results.iter().filter(|r| **r == json!("done")).count(), 1, "{results:?}");
    system.until_status(&wallets[0], "k1", "declined").await;
    assert_eq!(system.balances(&wallets[0], "c").await, (620, 5000, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_settled_by_hand_needs_a_reference_and_stays_as_it_is() {
    let system = System::start().await;
    let wallet = system.wallet_with(impatient()).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    system.credit.proxy.set(Mode::HoldRequests);
    system.redeem(&wallet, "k1", &order("c", &reward)).await;
    let letter = system.dead_letter(&wallet).await;
    let path = of(&letter, "resolve");
    let refused =
        system.ops(&wallet, Method::POST, &path, Some(&json!({ "operation_id": "o", "reason": "r" }))).await;
    snapshot!(refused, @r#"
        400 application/problem+json
        {
          "code": "invalid_field",
          "detail": "A field is missing or invalid",
          "errors": [{ "code": "invalid_field", "detail": "is required", "pointer": "/reference" }],
          "instance": "/api/v1/ops/dead-letters/[id 1]/resolve",
          "outcome": "not_applied",
          "retryable": false,
          "status": 400,
          "suggestion": "Correct the request; this is a fault of the till's software.",
          "title": "A field is missing or invalid",
          "trace_id": "[trace]",
          "type": "/problems/invalid_field"
        }
        "#);
    let body = json!({ "operation_id": "o", "reason": "paid out in cash", "reference": "TICKET-7" });
    let foreign = system.tokens.staff("other", "ops");
    let answer = system
        .client
        .post(format!("{}/api/v1{path}", wallet.url))
        .bearer_auth(foreign)
        .json(&body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 404, "another business's");
    snapshot!(system.ops(&wallet, Method::POST, &path, Some(&body)).await, @r#"
        200 application/json
        {
          "after": "resolved",
          "before": "dead_letter",
          "dead_letter_id": "[id 1]",
          "result": "done"
        }
        "#);
    let found = system.get(&wallet, "/wallet/redemptions?idempotency_key=k1").await.json();
    assert_eq!(found["data"][0]["status"], "resolved");
    assert_eq!(system.cancel(&wallet, "k1").await["result"], "resolved");
    system.credit.proxy.set(Mode::Pass);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tender_that_is_known_down_is_refused_at_the_door() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 1620, 5000, 5000).await;
    let done = system.redeem(&wallet, "done", &order("c", &reward)).await;
    system.credit.proxy.set(Mode::Cut);
    let mut body = order("c", &reward);
    body["deadline_ms"] = json!(1500);
    // Attempts at this one's leg are what opens the breaker.
    system.redeem(&wallet, "a", &body).await;
    let refused = system.redeem(&wallet, "new", &body).await;
    snapshot!(refused, @r#"
        503 application/problem+json, retry-after: 1
        {
          "code": "tender_unavailable",
          "detail": "A tender that this redemption needs cannot be reached. Nothing was written.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "not_applied",
          "retryable": true,
          "status": 503,
          "suggestion": "Try again shortly with the same key, or use another tender.",
          "tender": "store_credit",
          "title": "A tender is unavailable",
          "trace_id": "[trace]",
          "type": "/problems/tender_unavailable"
        }
        "#);
    let sagas: i64 = system.sql("SELECT count(*) FROM saga.saga WHERE key = 'new'").await;
    assert_eq!(sagas, 0, "nothing is written");
    let replayed = system.redeem(&wallet, "done", &order("c", &reward)).await;
    assert_eq!(
        (replayed.status.as_u16(), &replayed.bytes),
        (200, &done.bytes),
        "a key with an answer gives it, door or not"
    );
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "a", "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_the_answer_is_503_at_once_and_never_a_guess() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    system.database_proxy.set(Mode::Cut);
    testkit::until(WITHIN, async || !wallet.engine.is_available()).await;
    let began = std::time::Instant::now();
    let refused = system.redeem(&wallet, "k", &order("c", &reward)).await;
    snapshot!(refused, @r#"
        503 application/problem+json, retry-after: 1
        {
          "code": "overloaded",
          "detail": "Whether this key was used cannot be said now. Ask again with the same key.",
          "instance": "/api/v1/wallet/redeem",
          "outcome": "unknown",
          "retryable": true,
          "status": 503,
          "suggestion": "Try again shortly with the same key.",
          "title": "The service is overloaded or starting",
          "trace_id": "[trace]",
          "type": "/problems/overloaded"
        }
        "#);
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    system.database_proxy.set(Mode::Pass);
    testkit::until(WITHIN, async || {
        let answer = system.redeem(&wallet, "k", &order("c", &reward)).await;
        if answer.status == 201 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

/// What waits is on every process's `/metrics`, whichever one parked it.
#[tokio::test(flavor = "multi_thread")]
async fn gauges_show_what_waits_and_fall_back_to_nothing() {
    let metrics = service::telemetry::metrics().expect("a recorder");
    let system = System::start().await;
    system.park_unreadable(3).await;
    let wallet = system.wallet().await;
    let shown = async |line: &str| {
        testkit::until(WITHIN, async || {
            let rendered = metrics.render();
            if rendered.lines().any(|shown| shown == line) {
                Ok(())
            } else {
                Err(format!("no {line}:\n{rendered}"))
            }
        })
        .await;
    };
    shown("dead_letters_open{code=\"unreadable\"} 3").await;
    shown("sagas_unfinished{state=\"running\"} 0").await;
    shown("saga_oldest_unfinished_seconds 0").await;
    shown("bulk_replays_running 0").await;
    shown("wallet_tender_paused_businesses{tender=\"points\"} 0").await;
    for letter in system.dead_letters(&wallet).await {
        assert_eq!(system.resolve(&wallet, &letter).await.status, 200);
    }
    shown("dead_letters_open{code=\"unreadable\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_by_hand_is_told_as_it_is() {
    let system = System::start().await;
    let wallet = system.wallet_with(impatient()).await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    let held = system.redeem(&wallet, "k", &body).await.json();
    let id = held["id"].as_str().expect("an id");
    system.credit.proxy.set(Mode::Cut);
    let capture = format!("/wallet/redemptions/{id}/capture");
    let empty = json!({});
    let call = || system.call(&wallet, "pos", Method::POST, &capture, Some("c"), Some(&empty));
    assert_eq!(call().await.status, 202);
    let letter = system.dead_letter(&wallet).await;
    assert_eq!(system.resolve(&wallet, &letter).await.status, 200);

    let told = call().await;
    assert_eq!(
        (told.status.as_u16(), told.replayed, &told.json()["status"]),
        (200, true, &json!("resolved")),
        "{}",
        told.text()
    );
    let cancelled = system.cancel(&wallet, "k").await;
    assert_eq!(cancelled, json!({ "result": "resolved", "redemption_id": id }));
    assert_eq!(system.redeem(&wallet, "k", &body).await.code(), "key_cancelled");
}
