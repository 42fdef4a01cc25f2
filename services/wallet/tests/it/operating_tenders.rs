//! Tenders that a business takes out of service.

use api::wallet::TenderKind;
use reqwest::Method;
use serde_json::{Value, json};

use testkit::{Answer, snapshot};

use crate::support::{BUSINESS, System, WITHIN, Wallet, order};

async fn order_change(system: &System, wallet: &Wallet, what: &str, operation_id: &str) -> Answer {
    let body = json!({ "operation_id": operation_id, "reason": "the provider is being moved" });
    system.ops(wallet, Method::POST, &format!("/ops/tenders/{what}"), Some(&body)).await
}

async fn change(system: &System, wallet: &Wallet, what: &str, operation_id: &str) -> Value {
    let answer = order_change(system, wallet, what, operation_id).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn paused(system: &System, wallet: &Wallet) -> Vec<bool> {
    let answer = system.ops(wallet, Method::GET, "/ops/tenders", None).await.json();
    let tenders = answer["data"].as_array().expect("tenders");
    assert!(tenders.iter().all(|tender| tender["reachable"] == true && tender["breaker_open"] == false));
    tenders.iter().map(|tender| tender["paused"] == true).collect()
}

/// Waits until an instance has heard whether a tender is paused: half a second, and more on a busy machine.
pub async fn until_paused(wallet: &Wallet, tender: TenderKind, is_paused: bool) {
    let business = api::BusinessId::try_from(BUSINESS.to_owned()).expect("an id");
    testkit::until(WITHIN, async || wallet.app.paused.is_paused(&business, tender) == is_paused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_tender_takes_nothing_new_on_any_instance_and_finishes_what_exists() {
    let system = System::start().await;
    let wallets = [system.wallet().await, system.wallet().await];
    let reward = system.fund("c", 1_620, 5_000, 5_000).await;
    let body = order("c", &reward);
    let done = system.redeem(&wallets[0], "done", &body).await;
    assert_eq!(done.status, 201, "{}", done.text());
    let mut held = body.clone();
    held["capture"] = json!("manual");
    let held = system.redeem(&wallets[0], "held", &held).await.json();

    snapshot!(order_change(&system, &wallets[0], "store_credit/pause", "p1").await, @r#"
        200 application/json
        {
          "paused": true,
          "result": "done",
          "tender": "store_credit"
        }
        "#);
    let refused = system.redeem(&wallets[0], "new", &body).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "tender_unavailable".to_owned()), "at once");
    assert_eq!(
        (&refused.json()["tender"], &refused.json()["retryable"]),
        (&json!("store_credit"), &json!(true))
    );
    until_paused(&wallets[1], TenderKind::StoreCredit, true).await;
    assert_eq!(paused(&system, &wallets[1]).await, [false, false, true]);
    let strategy = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 100, "strategy": "merchant_order" });
    for (key, body) in [("new", &body), ("new2", &strategy)] {
        assert_eq!(system.redeem(&wallets[1], key, body).await.status, 503, "on the other instance, too");
    }
    let written: i64 = system.sql("SELECT count(*) FROM saga.saga WHERE key LIKE 'new%'").await;
    assert_eq!(written, 0, "nothing is written");

    // What exists goes on: stored answers, captures, cancels; and so does what needs other tenders only.
    let again = system.redeem(&wallets[1], "done", &body).await;
    assert_eq!((again.status.as_u16(), &again.bytes), (200, &done.bytes));
    let capture = format!("/wallet/redemptions/{}/capture", held["id"].as_str().expect("an id"));
    let captured =
        system.call(&wallets[1], "pos", Method::POST, &capture, Some("cap"), Some(&json!({}))).await;
    assert_eq!(captured.status, 200, "{}", captured.text());
    assert_eq!(system.cancel(&wallets[1], "done").await["result"], "will_reverse");
    system.until_status(&wallets[1], "done", "reversed").await;
    let points = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 100,
        "tenders": [{ "type": "points", "points": 100 }] });
    assert_eq!(system.redeem(&wallets[1], "points", &points).await.status, 201);

    assert_eq!(change(&system, &wallets[1], "store_credit/resume", "r1").await["result"], "done");
    assert_eq!(system.redeem(&wallets[1], "new", &body).await.status, 201, "the key was left unused");
    until_paused(&wallets[0], TenderKind::StoreCredit, false).await;
    assert_eq!(paused(&system, &wallets[0]).await, [false, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_one_businesss_own_and_every_order_is_on_record() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let results = [
        change(&system, &wallet, "points/pause", "p1").await,
        change(&system, &wallet, "points/pause", "p1").await,
        change(&system, &wallet, "points/pause", "p2").await,
        change(&system, &wallet, "store_credit/resume", "r0").await,
    ];
    let results = results.map(|answer| answer["result"].clone());
    assert_eq!(results, ["done", "already_done", "already_so", "already_so"].map(|result| json!(result)));
    let body = json!({ "operation_id": "p1", "reason": "r" });
    let reused = system.ops(&wallet, Method::POST, "/ops/tenders/points/resume", Some(&body)).await;
    assert_eq!((reused.status.as_u16(), reused.code()), (422, "idempotency_key_reused".to_owned()));
    let unknown = system.ops(&wallet, Method::POST, "/ops/tenders/cash/pause", Some(&body)).await;
    assert_eq!(unknown.status, 404);

    let actions = system.ops(&wallet, Method::GET, "/ops/actions", None).await.json();
    let told: Vec<_> = actions["data"]
        .as_array()
        .expect("actions")
        .iter()
        .map(|a| {
            (a["action"].clone(), a["tender"].clone(), a["accepted"] == true, a["after"]["refused"].clone())
        })
        .collect();
    let refused = |action: &str, tender: &str, why: &str| (json!(action), json!(tender), false, json!(why));
    let expected = [
        refused("resume", "points", "operation_id_reused"),
        refused("resume", "store_credit", "already_so"),
        refused("pause", "points", "already_so"),
        (json!("pause"), json!("points"), true, Value::Null),
    ];
    assert_eq!(told, expected, "newest first; a repetition is not another action");
    assert_eq!(
        (&actions["data"][3]["actor"], &actions["data"][3]["before"], &actions["data"][3]["after"]),
        (&json!("test-ops"), &json!({ "paused": false }), &json!({ "paused": true }))
    );

    // Another business neither sees it nor is touched by it.
    let foreign = |path: &str| {
        let url = format!("{}/api/v1{path}", wallet.url);
        system.client.get(url).bearer_auth(system.tokens.staff("other", "ops")).send()
    };
    let theirs: Value = foreign("/ops/tenders").await.expect("an answer").json().await.expect("JSON");
    assert_eq!(theirs["data"][0]["paused"], false);
    let theirs: Value = foreign("/ops/actions").await.expect("an answer").json().await.expect("JSON");
    assert_eq!(theirs["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenders_are_listed_with_who_paused_them_and_why() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    change(&system, &wallet, "store_credit/pause", "p1").await;
    snapshot!(system.ops(&wallet, Method::GET, "/ops/tenders", None).await, @r#"
        200 application/json
        {
          "data": [
            {
              "breaker_open": false,
              "paused": false,
              "paused_at": null,
              "paused_by": null,
              "reachable": true,
              "reason": null,
              "tender": "points"
            },
            {
              "breaker_open": false,
              "paused": false,
              "paused_at": null,
              "paused_by": null,
              "reachable": true,
              "reason": null,
              "tender": "digital_reward"
            },
            {
              "breaker_open": false,
              "paused": true,
              "paused_at": "[time]",
              "paused_by": "test-ops",
              "reachable": true,
              "reason": "the provider is being moved",
              "tender": "store_credit"
            }
          ]
        }
        "#);
}
