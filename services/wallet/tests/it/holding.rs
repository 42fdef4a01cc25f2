//! Redemptions that are held first: captured, in full or in part, or voided.

use std::time::Duration;

use reqwest::Method;
use schema::Database;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};
use testkit::{Mode, snapshot};

use crate::support::{Answer, System, Wallet, order, until};

async fn authorize(system: &System, wallet: &Wallet, key: &str, reward: &str) -> String {
    let mut body = order("c", reward);
    body["capture"] = json!("manual");
    let held = system.redeem(wallet, key, &body).await;
    assert_eq!(
        (held.status.as_u16(), &held.json()["status"]),
        (201, &json!("authorized")),
        "{}",
        held.text()
    );
    held.json()["id"].as_str().expect("an id").to_owned()
}

async fn act(system: &System, wallet: &Wallet, id: &str, action: &str, key: &str, body: &Value) -> Answer {
    let path = format!("/wallet/redemptions/{id}/{action}");
    system.call(wallet, "pos", Method::POST, &path, Some(key), Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_takes_all_that_is_held_and_answers_the_same_for_ever() {
    let system = System::start().await;
    let (wallet, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", 620, 5000, 2250).await;
    let id = authorize(&system, &wallet, "k", &reward).await;
    let captured = act(&system, &wallet, &id, "capture", "c1", &json!({})).await;
    assert_eq!(captured.status, 200, "{}", captured.text());
    let again = act(&system, &other, &id, "capture", "c1", &json!({})).await;
    assert_eq!((again.replayed, &again.bytes), (true, &captured.bytes));
    assert_eq!(
        act(&system, &wallet, &id, "capture", "c1", &json!({ "amount": 1 })).await.code(),
        "idempotency_key_reused"
    );
    snapshot!(act(&system, &wallet, &id, "capture", "c2", &json!({})).await, @r#"
        409 application/problem+json
        {
          "code": "already_final",
          "detail": "The redemption holds nothing any more. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redemptions/[id 1]/capture",
          "outcome": "not_applied",
          "redemption_id": "[id 1]",
          "retryable": false,
          "status": 409,
          "suggestion": "Look the object up; nothing is left to do.",
          "title": "This is already final",
          "trace_id": "[trace]",
          "type": "/problems/already_final"
        }
        "#);
    assert_eq!(act(&system, &wallet, &id, "void", "v1", &json!({})).await.code(), "already_final");
    assert_eq!(system.balances(&wallet, "c").await, (120, 3500, 0));
    assert_eq!(system.get(&wallet, &format!("/wallet/redemptions/{id}")).await.json(), captured.json());
    // And its key still gives it all back.
    system.cancel(&other, "k").await;
    system.until_status(&other, "k", "reversed").await;
    assert_eq!(system.balances(&wallet, "c").await, (620, 5000, 2250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_captured_in_request_order_and_the_rest_released() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let id = authorize(&system, &wallet, "k", &reward).await;
    snapshot!(act(&system, &wallet, &id, "capture", "c0", &json!({ "amount": 4251 })).await, @r#"
        422 application/problem+json
        {
          "available": 4250,
          "code": "above_maximum",
          "detail": "More than the redemption holds. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redemptions/[id 1]/capture",
          "outcome": "not_applied",
          "redemption_id": "[id 1]",
          "required": 4251,
          "retryable": false,
          "status": 422,
          "suggestion": "Take less from this tender.",
          "title": "Above the maximum",
          "trace_id": "[trace]",
          "type": "/problems/above_maximum"
        }
        "#);
    let captured = act(&system, &wallet, &id, "capture", "c1", &json!({ "amount": 1000 })).await;
    snapshot!(captured, @r#"
        200 application/json
        {
          "amount": 4250,
          "amount_due": 3250,
          "completed_at": "[time]",
          "created_at": "[time]",
          "currency": "USD",
          "customer_id": "c",
          "id": "[id 1]",
          "links": { "self": "/api/v1/wallet/redemptions/[id 1]" },
          "order_id": "S042-77120",
          "redeemed": 1000,
          "status": "completed",
          "tenders": [
            {
              "amount": 500,
              "balance_after": { "points": 120 },
              "leg": 0,
              "lots": [{ "lot_id": "[id 2]", "points": 500 }],
              "points": 500,
              "rate": "0.01",
              "status": "applied",
              "type": "points"
            },
            {
              "amount": 500,
              "leg": 1,
              "lots": [],
              "reward_id": "[id 3]",
              "status": "applied",
              "type": "digital_reward"
            }
          ]
        }
        "#);
    assert_eq!(system.balances(&wallet, "c").await, (120, 5000, 1750));
    let legs = "SELECT leg_taken::text || leg_returned::text FROM wallet.redemption";
    assert_eq!(system.sql::<String>(legs).await, "{500,500}{}");
    system.cancel(&wallet, "k").await;
    system.until_status(&wallet, "k", "reversed").await;
    assert_eq!(system.sql::<String>(legs).await, "{500,500}{500,500}", "reserved leg by leg, and given back");
}

/// A capture that is under way is shown as authorized, so a list of what is authorized has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_by_status_has_what_is_shown_with_that_status() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 6200, 50000, 22500).await;
    let mut ids = Vec::new();
    for key in ["a", "b", "c"] {
        ids.push(authorize(&system, &wallet, key, &reward).await);
    }
    system.credit.proxy.set(Mode::HoldRequests);
    let path = format!("{}/api/v1/wallet/redemptions/{}/capture", wallet.url, ids[1]);
    let call = system.client.post(path).bearer_auth(system.tokens.staff("demo", "pos"));
    let call = call.header("idempotency-key", "capture").json(&json!({}));
    let call = tokio_util::task::TaskTracker::new().spawn(call.send());
    until(&system, "SELECT EXISTS (SELECT 1 FROM wallet.redemption WHERE status = 'capturing')").await;
    let mut listed = Vec::new();
    let mut path = "/wallet/redemptions?status=authorized&limit=2".to_owned();
    loop {
        let page = system.get(&wallet, &path).await.json();
        for line in page["data"].as_array().expect("redemptions") {
            assert_eq!(line["status"], "authorized");
            assert!(line["hold_expires_at"].is_string(), "until when it is held is told: {line}");
            listed.push(line["id"].as_str().expect("an id").to_owned());
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/wallet/redemptions?status=authorized&limit=2&cursor={cursor}");
    }
    ids.reverse();
    assert_eq!(listed, ids, "newest first, each once");
    assert_eq!(system.get(&wallet, "/wallet/redemptions?status=capturing").await.status, 400);
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "b", "completed").await;
    drop(call.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_capture_void_and_cancel_at_once_exactly_one_wins() {
    let system = System::start().await;
    let wallets = [system.wallet().await, system.wallet().await];
    let reward = system.fund("c", 6200, 50000, 22500).await;
    for round in 0..6 {
        let key = format!("k{round}");
        let id = authorize(&system, &wallets[0], &key, &reward).await;
        let (before, empty) = (system.balances(&wallets[0], "c").await, json!({}));
        let (captured, voided) = tokio::join!(
            act(&system, &wallets[0], &id, "capture", &key, &empty),
            act(&system, &wallets[1], &id, "void", &key, &empty),
        );
        let statuses = (captured.status.as_u16(), voided.status.as_u16());
        let after = system.balances(&wallets[0], "c").await;
        match statuses {
            (200, 409) => assert_eq!(after, before),
            (409, 200) => {
                assert_eq!(after, (before.0 + 500, before.1 + 1500, before.2 + 2250));
                assert_eq!(
                    system.get(&wallets[0], &format!("/wallet/redemptions/{id}")).await.json(),
                    voided.json()
                );
            }
            _ => panic!("{} {}", captured.text(), voided.text()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_survives_its_owner_and_a_tender_that_is_away() {
    let system = System::start().await;
    let (dying, other) = (system.wallet().await, system.wallet().await);
    let reward = system.fund("c", 620, 5000, 2250).await;
    let id = authorize(&system, &dying, "k", &reward).await;
    system.credit.proxy.set(Mode::HoldReplies);
    let path = format!("{}/api/v1/wallet/redemptions/{id}/capture", dying.url);
    let call = system
        .client
        .post(path)
        .bearer_auth(system.tokens.staff("demo", "pos"))
        .header("idempotency-key", "c1")
        .json(&json!({}));
    let call = tokio_util::task::TaskTracker::new().spawn(call.send());
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE operation = 'capture')").await;
    assert_eq!(system.get(&other, &format!("/wallet/redemptions/{id}")).await.json()["status"], "authorized");
    dying.engine.crash();
    call.abort();
    system.credit.cut_open().await;
    system.until_status(&other, "k", "completed").await;
    let answer = act(&system, &other, &id, "capture", "c1", &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.replayed), (200, true), "{}", answer.text());
    assert_eq!(system.balances(&other, "c").await, (120, 3500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_has_ended_is_neither_captured_nor_voided() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let id = authorize(&system, &wallet, "k", &reward).await;
    system.execute("UPDATE wallet.redemption SET hold_expires_at = clock_timestamp() - interval '1 s'").await;
    let late = act(&system, &wallet, &id, "capture", "c1", &json!({})).await;
    snapshot!(late, @r#"
        422 application/problem+json
        {
          "code": "hold_expired",
          "detail": "The hold has ended; its value goes back. This answer is stored: use a new key to try again.",
          "instance": "/api/v1/wallet/redemptions/[id 1]/capture",
          "outcome": "not_applied",
          "redemption_id": "[id 1]",
          "retryable": false,
          "status": 422,
          "suggestion": "Authorize again with a new key.",
          "title": "The hold has expired",
          "trace_id": "[trace]",
          "type": "/problems/hold_expired"
        }
        "#);
    let again = act(&system, &wallet, &id, "capture", "c1", &json!({})).await;
    assert_eq!((again.replayed, again.bytes), (true, late.bytes));
    let foreign = system.tokens.staff("other", "pos");
    let path = format!("{}/api/v1/wallet/redemptions/{id}/void", wallet.url);
    let call = system.client.post(path).bearer_auth(foreign).header("idempotency-key", "v").json(&json!({}));
    assert_eq!(call.send().await.expect("an answer").status(), 404);
}

/// What ended less than five seconds ago is not compared by the rules between databases.
const COMPARED_FROM: Duration = Duration::from_millis(5_500);

/// Names of the rules between databases that are broken, as `walletctl verify` finds them.
async fn broken(system: &System) -> Vec<String> {
    let mut connections = Vec::new();
    for (database, admin) in [
        (Database::Wallet, system.database.admin()),
        (Database::Points, system.points.tender.database.admin()),
        (Database::StoreCredit, system.credit.tender.database.admin()),
        (Database::DigitalRewards, system.rewards.tender.database.admin()),
    ] {
        connections.push((database, PgConnection::connect_with(&admin).await.expect("a connection")));
    }
    let findings = schema::cross_check(&mut connections).await.expect("checks");
    findings.into_iter().filter(|finding| finding.violations > 0).map(|finding| finding.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_what_is_held_verify_finds_nothing_wrong_with_it() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 6200, 50000, 22500).await;
    let mut ids = Vec::new();
    for key in ["void", "part", "back", "held"] {
        ids.push(authorize(&system, &wallet, key, &reward).await);
    }
    let done = [
        act(&system, &wallet, &ids[0], "void", "1", &json!({})).await,
        act(&system, &wallet, &ids[1], "capture", "2", &json!({ "amount": 1000 })).await,
        act(&system, &wallet, &ids[2], "capture", "3", &json!({})).await,
    ];
    done.iter().for_each(|answer| assert_eq!(answer.status, 200, "{}", answer.text()));
    assert_eq!(act(&system, &wallet, &ids[0], "void", "4", &json!({})).await.code(), "already_final");
    system.cancel(&wallet, "back").await;
    system.until_status(&wallet, "back", "reversed").await;
    tokio::time::sleep(COMPARED_FROM).await;
    assert_eq!(broken(&system).await, Vec::<String>::new());

    let admin = PgPool::connect_with(system.database.admin()).await.expect("a pool");
    let void_of = async |parent: Option<&str>| {
        sqlx::query("UPDATE saga.saga SET parent_id = $1::text::uuid WHERE operation = 'void' AND kind = 1")
            .bind(parent)
            .execute(&admin)
            .await
            .expect("moved");
    };
    void_of(None).await;
    assert_eq!(broken(&system).await, ["completed_means_every_leg_applied"], "nobody knows why it went back");
    void_of(Some(&ids[1])).await;
    let names = ["completed_means_every_leg_applied", "given_back_means_nothing_in_force"];
    assert_eq!(broken(&system).await, names, "what is said to be back is not");
    void_of(Some(&ids[0])).await;
    assert_eq!(broken(&system).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_captures_and_voids_are_each_redemptions_own() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 6200, 50000, 22500).await;
    let mut ids = Vec::new();
    for key in ["k0", "k1", "k2", "k3"] {
        ids.push(authorize(&system, &wallet, key, &reward).await);
    }
    for (id, action) in ids.iter().zip(["capture", "capture", "void", "void"]) {
        let done = act(&system, &wallet, id, action, "1", &json!({})).await;
        assert!(done.status.is_success() && !done.replayed, "{}", done.text());
        assert_eq!(done.json()["id"], json!(id));
        let again = act(&system, &wallet, id, action, "1", &json!({})).await;
        assert_eq!((again.replayed, again.bytes), (true, done.bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_that_is_not_there_is_said_before_what_is_wrong_with_the_call() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let id = authorize(&system, &wallet, "k", &reward).await;
    let unknown = uuid::Uuid::now_v7().to_string();
    let bad = json!({ "amount": 0, "unknown": true });
    for action in ["capture", "void"] {
        for key in [None, Some("c")] {
            let call = async |id: &str| {
                let path = format!("/wallet/redemptions/{id}/{action}");
                system.call(&wallet, "pos", Method::POST, &path, key, Some(&bad)).await
            };
            assert_eq!(call(&unknown).await.status, 404, "{action} {key:?}");
            assert_eq!(call("no-id").await.status, 404, "{action} {key:?}");
            assert_eq!(call(&id).await.status, 400, "{action} {key:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tills_that_hang_up_on_a_capture_cost_no_connection_to_the_database() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let id = authorize(&system, &wallet, "k", &reward).await;
    let empty = json!({});
    assert!(act(&system, &wallet, &id, "capture", "c1", &empty).await.status.is_success());
    let before = system.database_proxy.connections();
    for call in 0..400_u64 {
        // Now and then, so that some hang up in the middle of each read.
        let patience = Duration::from_micros(500 + call % 40 * 250);
        let _ = tokio::time::timeout(patience, act(&system, &wallet, &id, "capture", "c1", &empty)).await;
    }
    let opened = system.database_proxy.connections() - before;
    assert!(opened < 20, "{opened} connections were opened");
    assert!(act(&system, &wallet, &id, "capture", "c1", &empty).await.replayed);
}
