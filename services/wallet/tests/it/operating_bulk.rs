//! Replaying many dead letters.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::Method;
use saga::{Config, Orphan, machine::Limits};
use serde_json::{Value, json};
use testkit::Mode;
use wallet::plan::{OrphanPlan, Plan};

use crate::support::{System, WITHIN, Wallet, quick, until};

/// Longest time that hundreds of dead letters may take, or a few at one a second.
const MANY_WITHIN: Duration = Duration::from_secs(40);

/// An engine that parks a saga after one attempt to take it back, but takes as many as come before it has.
fn parking() -> Config {
    Config {
        // Until the first cancel times out nothing says that store credit is silent, and nobody is refused at the door.
        forward_timeout: Duration::from_secs(20),
        cancel_timeout: Duration::from_secs(6),
        limits: Limits { unreachable_for: 500, ..Config::default().limits },
        ..quick()
    }
}

/// Redemptions that points decline, and that store credit cannot be asked to take back: one dead letter each.
async fn park(system: &System, wallets: &[Wallet], count: usize) {
    system.credit.proxy.set(Mode::HoldRequests);
    let calls = (0..count).map(|i| async move {
        let body = json!({
            "customer_id": format!("c{}", i % 10), "order_id": format!("o{i}"), "currency": "USD", "amount": 200,
            "tenders": [{ "type": "points", "points": 100 }, { "type": "store_credit", "amount": 100 }],
        });
        let till = system.redeem(&wallets[i % wallets.len()], &format!("k{i}"), &body).await;
        assert_eq!(till.status, 422, "{}", till.text());
    });
    futures_util::future::join_all(calls).await;
    testkit::until(MANY_WITHIN, async || {
        let open: i64 = system.sql("SELECT count(*) FROM saga.dead_letter WHERE closed_at IS NULL").await;
        if usize::try_from(open) == Ok(count) { Ok(()) } else { Err(format!("{open} are parked")) }
    })
    .await;
    system.credit.proxy.set(Mode::Pass);
}

fn bulk(operation_id: &str, rate: u32, filter: &Value) -> Value {
    json!({ "operation_id": operation_id, "filter": filter, "rate_per_second": rate, "reason": "credit is back" })
}

async fn file(system: &System, wallet: &Wallet, body: &Value) -> (u16, Value) {
    let answer = system.ops(wallet, Method::POST, "/ops/dead-letters/replay", Some(body)).await;
    (answer.status.as_u16(), answer.json())
}

async fn finished(system: &System, wallet: &Wallet, operation_id: &str) -> Value {
    let path = format!("/ops/bulk-replays/{operation_id}");
    testkit::until(MANY_WITHIN, async || {
        let bulk = system.ops(wallet, Method::GET, &path, None).await.json();
        if bulk["status"] == "finished" { Ok(bulk) } else { Err(bulk) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_are_found_replayed_and_never_replayed_twice() {
    let system = System::start().await;
    let wallets = [system.wallet_with(parking()).await, system.wallet_with(parking()).await];
    park(&system, &wallets, 500).await;
    orphan(&wallets[0]).await;
    assert_eq!(pages(&system, &wallets[0], "code=participant_unreachable&tender=store_credit").await, 500);
    assert_eq!(pages(&system, &wallets[0], "code=orphan_leg").await, 1);
    assert_eq!(pages(&system, &wallets[0], "customer=c3").await, 50);
    assert_eq!(pages(&system, &wallets[0], "older_than=3600").await, 0);

    let filter = json!({ "code": "participant_unreachable", "tender": "store_credit" });
    let order = bulk("bulk-1", 500, &filter);
    let mut dry = order.clone();
    dry["dry_run"] = json!(true);
    let (status, preview) = file(&system, &wallets[0], &dry).await;
    assert_eq!((status, &preview["matched"]), (200, &json!(500)));
    assert_eq!(preview["by_code"], json!({ "participant_unreachable": 500 }));
    assert_eq!(preview["by_tender"], json!({ "store_credit": 500 }));
    assert_eq!(preview["sample"].as_array().expect("ids").len(), 20);
    let written: i64 = system.sql("SELECT count(*) FROM saga.bulk_replay").await;
    assert_eq!(written, 0, "a dry run writes nothing");

    let (status, started) = file(&system, &wallets[0], &order).await;
    assert_eq!((status, &started["matched"], &started["truncated"]), (202, &json!(500), &json!(false)));
    let done = finished(&system, &wallets[1], "bulk-1").await;
    assert_eq!(
        [&done["replayed"], &done["already_closed"], &done["refused"], &done["remaining"]],
        [&json!(500), &json!(0), &json!(0), &json!(0)]
    );
    assert_eq!((&done["actor"], &done["reason"]), (&json!("test-ops"), &json!("credit is back")));
    until(&system, "SELECT count(*) = 500 FROM saga.saga WHERE state = 3").await;

    // The same again, on whichever instance, changes nothing; another order under the same name is refused.
    for wallet in &wallets {
        let again = file(&system, wallet, &order).await;
        assert_eq!(again, (200, done.clone()));
    }
    let (status, reused) = file(&system, &wallets[0], &bulk("bulk-1", 499, &filter)).await;
    assert_eq!((status, &reused["code"]), (422, &json!("idempotency_key_reused")));
    let (status, none) = file(&system, &wallets[0], &bulk("bulk-2", 500, &filter)).await;
    assert_eq!((status, &none["matched"], &none["status"]), (202, &json!(0), &json!("finished")));
    let actions: i64 = system
        .sql("SELECT count(DISTINCT dead_letter_id) FROM saga.operator_action
              WHERE accepted AND action = 'replay' AND actor = 'test-ops' AND reason = 'credit is back' AND operation_id = 'bulk-1'")
        .await;
    assert_eq!(actions, 500);
    assert_eq!(replayed_twice(&system).await, 0);
    assert_eq!(pages(&system, &wallets[0], "status=open").await, 1, "the orphan was not asked for");
    others_see_and_touch_nothing(&system, &wallets[0]).await;
}

/// A call of another business's operator.
async fn as_another(
    system: &System,
    wallet: &Wallet,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let request = system.client.request(method, format!("{}/api/v1/ops{path}", wallet.url));
    let request = request.bearer_auth(system.tokens.staff("other", "ops"));
    let request = match &body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
}

/// Another business's operator, who knows the operation id.
async fn others_see_and_touch_nothing(system: &System, wallet: &Wallet) {
    let call = async |method: Method, path: &str, body: Option<Value>| {
        as_another(system, wallet, method, path, body).await
    };
    assert_eq!(call(Method::GET, "/bulk-replays/bulk-1", None).await.0, 404);
    for list in ["/dead-letters?status=all", "/sagas", "/actions"] {
        assert_eq!(call(Method::GET, list, None).await.1["data"], json!([]), "{list}");
    }
    let order = bulk("bulk-1", 20, &json!({}));
    let (status, filed) = call(Method::POST, "/dead-letters/replay", Some(order)).await;
    assert_eq!((status, &filed["matched"]), (202, &json!(0)), "the name is another one there");
}

/// A leg that a tender holds and no saga knows.
async fn orphan(wallet: &Wallet) {
    let of = api::LegsId(uuid::Uuid::new_v4());
    let orphan = Orphan {
        id: saga::SagaId(uuid::Uuid::now_v7()),
        business_id: "demo".to_owned(),
        name: "orphan-1".to_owned(),
        legs_id: of.0,
        has_outlived: false,
        participant: "points".to_owned(),
        plan: Plan::Orphan(OrphanPlan { of, legs: Vec::new() }),
        detail: json!({}),
    };
    assert!(wallet.engine.park_orphan(&orphan).await.expect("parked"));
}

/// How many dead letters a list has, page by page, each once and in the order of their opening.
async fn pages(system: &System, wallet: &Wallet, filter: &str) -> usize {
    let (mut places, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/ops/dead-letters?limit=120&{filter}{cursor}");
        let page = system.ops(wallet, Method::GET, &path, None).await.json();
        for letter in page["data"].as_array().unwrap_or_else(|| panic!("{page}")) {
            let text = |name: &str| letter[name].as_str().expect("text").to_owned();
            let opened_at: DateTime<Utc> = text("opened_at").parse().expect("a time");
            places.push((opened_at, text("dead_letter_id")));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(places.is_sorted(), "by the time of their opening, then by id");
    let ids: HashSet<_> = places.iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), places.len(), "each once");
    places.len()
}

async fn replayed_twice(system: &System) -> i64 {
    system
        .sql("SELECT count(*) FROM (SELECT FROM saga.saga_event WHERE event = 'replayed' GROUP BY saga_id HAVING count(*) > 1) t")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_survives_the_process_that_carries_it_out_and_keeps_its_pace() {
    let system = System::start().await;
    let first = [system.wallet_with(parking()).await];
    park(&system, &first, 60).await;
    let (status, _) = file(&system, &first[0], &bulk("paced", 20, &json!({}))).await;
    assert_eq!(status, 202);
    until(&system, "SELECT count(*) >= 15 FROM saga.bulk_replay_item WHERE outcome = 'replayed'").await;
    let second = system.wallet_with(parking()).await;
    let [first] = first;
    drop(first); // as a kill would: nothing is handed over
    let left: i64 = system.sql("SELECT count(*) FROM saga.bulk_replay_item WHERE outcome IS NULL").await;
    assert!(left > 10, "it was over before its process died: {left}");

    let done = finished(&system, &second, "paced").await;
    assert_eq!((&done["replayed"], &done["refused"]), (&json!(60), &json!(0)));
    until(&system, "SELECT count(*) = 60 FROM saga.saga WHERE state = 3").await;
    assert_eq!(replayed_twice(&system).await, 0);
    let most: i64 = system
        .sql("SELECT max(n) FROM (SELECT count(*) OVER (ORDER BY done_at RANGE BETWEEN interval '1 second' PRECEDING AND CURRENT ROW) AS n
              FROM saga.bulk_replay_item) w")
        .await;
    assert!(most <= 20, "{most} in one second");
    assert!(most >= 15, "slower than it may be: {most} in the best second");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_refused_and_says_why() {
    let system = System::start().await;
    let wallets = [system.wallet_with(parking()).await];
    park(&system, &wallets, 3).await;
    let letters = system.ops(&wallets[0], Method::GET, "/ops/dead-letters", None).await.json();
    let id = |i: usize| letters["data"][i]["dead_letter_id"].as_str().expect("an id").to_owned();
    system
        .execute("UPDATE saga.saga SET version = 99 WHERE saga_id = (SELECT saga_id FROM saga.dead_letter ORDER BY opened_at, dead_letter_id LIMIT 1)")
        .await;
    let (status, _) = file(&system, &wallets[0], &bulk("b", 1, &json!({ "tender": "store_credit" }))).await;
    assert_eq!(status, 202);
    // At one a second there is time to deal with the last one by hand.
    let path = format!("/ops/dead-letters/{}/replay", id(2));
    let by_hand = json!({ "operation_id": "by-hand", "reason": "could not wait" });
    let replay = system.ops(&wallets[0], Method::POST, &path, Some(&by_hand)).await;
    assert_eq!(replay.json()["result"], "done", "{}", replay.text());
    let done = finished(&system, &wallets[0], "b").await;
    assert_eq!(
        [&done["replayed"], &done["already_closed"], &done["refused"]],
        [&json!(1), &json!(1), &json!(1)],
        "{done}"
    );
    assert_eq!(done["refusals"][0]["dead_letter_id"], json!(id(0)));
    assert!(done["refusals"][0]["reason"].as_str().expect("why").contains("cannot read"), "{done}");

    let path = format!("/ops/actions?dead_letter_id={}&accepted=false", id(0));
    let actions = system.ops(&wallets[0], Method::GET, &path, None).await.json();
    assert_eq!(actions["data"][0]["after"]["refused"], "unreadable", "{actions}");
    let path = format!("/ops/dead-letters/{}/resolve", id(0));
    let body = json!({ "operation_id": "r", "reason": "settled", "reference": "T-1" });
    assert_eq!(system.ops(&wallets[0], Method::POST, &path, Some(&body)).await.json()["result"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_has_at_most_ten_thousand_and_says_that_there_are_more() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.park_unreadable(10_001).await;
    let mut order = bulk("many", 1, &json!({}));
    order["dry_run"] = json!(true);
    let (_, preview) = file(&system, &wallet, &order).await;
    assert_eq!((&preview["matched"], &preview["truncated"]), (&json!(10_001), &json!(true)));
    order["dry_run"] = json!(false);
    let (status, started) = file(&system, &wallet, &order).await;
    assert_eq!((status, &started["matched"], &started["truncated"]), (202, &json!(10_000), &json!(true)));
    assert_eq!(started["remaining"], json!(10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_replays_one_business_has_anothers_begin() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.park_unreadable(40).await;
    system.park_unreadable_of("other", 3).await;
    for n in 0..16 {
        let (status, _) = file(&system, &wallet, &bulk(&format!("slow-{n}"), 1, &json!({}))).await;
        assert_eq!(status, 202);
    }
    until(&system, "SELECT count(*) > 0 FROM saga.bulk_replay_item WHERE outcome IS NOT NULL").await;
    let order = bulk("theirs", 500, &json!({}));
    let filed = as_another(&system, &wallet, Method::POST, "/dead-letters/replay", Some(order)).await;
    assert_eq!((filed.0, &filed.1["matched"]), (202, &json!(3)));
    let shown = testkit::until(WITHIN, async || {
        let shown = as_another(&system, &wallet, Method::GET, "/bulk-replays/theirs", None).await.1;
        if shown["status"] == "finished" { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert_eq!(shown["refused"], json!(3), "no version can read them: {shown}");
    let begun: i64 = system
        .sql("SELECT count(*) FROM saga.bulk_replay WHERE business_id = 'demo' AND owner IS NOT NULL")
        .await;
    assert_eq!(begun, 2, "so many replays of one business at the same time");
}
