//! Who may look at what, and which questions make no sense.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{System, order};

const LISTS: [&str; 6] = [
    "/ops/sagas",
    "/ops/dead-letters",
    "/ops/actions",
    "/ops/tenders",
    "/ops/bulk-replays/x",
    "/ops/sagas/01a1fcb2-76a9-72c5-9f45-bec352eedae6",
];

#[tokio::test(flavor = "multi_thread")]
async fn operators_alone_may_look_and_act() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let body = json!({ "operation_id": "o", "reason": "r" });
    for role in ["pos", "manager", "finance", "admin"] {
        for path in LISTS {
            let answer = system.call(&wallet, role, Method::GET, path, None, None).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (403, "role_missing".to_owned()),
                "{role} {path}"
            );
        }
        for path in ["/ops/dead-letters/replay", "/ops/tenders/points/pause", "/ops/tenders/points/resume"] {
            let answer = system.call(&wallet, role, Method::POST, path, None, Some(&body)).await;
            assert_eq!(answer.status, 403, "{role} {path}");
        }
    }
    let own = system.client.get(format!("{}/api/v1/ops/sagas", wallet.url));
    let own = own.bearer_auth(system.tokens.customer("demo", "c")).send().await.expect("an answer");
    assert_eq!(own.status(), 403, "not even a customer's own");
    let written: i64 = system.sql("SELECT count(*) FROM saga.operator_action").await;
    assert_eq!(written, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_make_no_sense_are_refused_and_name_the_parameter() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    for (path, parameter) in [
        ("/ops/sagas?status=asleep", "status"),
        ("/ops/sagas?tender=cash", "tender"),
        ("/ops/sagas?code=bad_luck", "code"),
        ("/ops/sagas?older_than=-1", "older_than"),
        ("/ops/sagas?older_than=9223372036854775807", "older_than"),
        ("/ops/sagas?customer=a%20b", "customer"),
        ("/ops/sagas?limit=201", "limit"),
        ("/ops/sagas?cursor=7", "cursor"),
        ("/ops/sagas?colour=red", "colour"),
        ("/ops/dead-letters?status=closed", "status"),
        ("/ops/dead-letters?code=insufficient_balance", "code"),
        ("/ops/dead-letters?older_than=x", "older_than"),
        ("/ops/dead-letters?cursor=9223372036854775807-00", "cursor"),
        ("/ops/actions?accepted=perhaps", "accepted"),
        ("/ops/actions?dead_letter_id=7", "dead_letter_id"),
    ] {
        let answer = system.ops(&wallet, Method::GET, path, None).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (400, "invalid_field".to_owned()),
            "{path} {}",
            answer.text()
        );
        assert_eq!(answer.json()["errors"][0]["pointer"], parameter, "{path}");
    }
    let order = |change: Value| {
        let mut body = json!({ "operation_id": "o", "reason": "r", "rate_per_second": 20, "filter": {} });
        for (name, value) in change.as_object().expect("an object") {
            body[name] = value.clone();
        }
        body
    };
    for (change, pointer) in [
        (json!({ "operation_id": "" }), "/operation_id"),
        (json!({ "reason": "  " }), "/reason"),
        (json!({ "rate_per_second": 0 }), "/rate_per_second"),
        (json!({ "rate_per_second": 501 }), "/rate_per_second"),
        (json!({ "filter": { "code": "bad_luck" } }), "/filter/code"),
        (json!({ "filter": { "tender": "cash" } }), "/filter/tender"),
        (json!({ "filter": { "older_than_s": -1 } }), "/filter/older_than_s"),
        (json!({ "filter": { "colour": "red" } }), "/filter/colour"),
        (json!({ "filter": [] }), "/filter"),
    ] {
        let answer =
            system.ops(&wallet, Method::POST, "/ops/dead-letters/replay", Some(&order(change))).await;
        assert_eq!(answer.status, 400, "{pointer}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_found_by_what_is_known_of_them() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 1_000, 5_000, 5_000).await;
    assert_eq!(system.redeem(&wallet, "k1", &order("c", &reward)).await.status, 201);
    assert_eq!(system.cancel(&wallet, "k1").await["result"], "will_reverse");
    system.until_status(&wallet, "k1", "reversed").await;
    let poor = json!({ "customer_id": "poor", "order_id": "o", "currency": "USD", "amount": 100,
        "tenders": [{ "type": "points", "points": 100 }] });
    assert_eq!(system.redeem(&wallet, "k2", &poor).await.status, 422);

    for (query, keys) in [
        ("customer=c&status=completed", 2), // the redemption, and the return of it
        ("customer=c&tender=digital_reward", 2),
        ("customer=poor", 1),
        ("customer=nobody", 0),
        ("tender=store_credit", 2),
        ("code=insufficient_balance", 1),
        ("code=refused&customer=poor", 1),
        ("code=refused&customer=c", 0),
        ("key=k1", 2),
        ("status=compensated", 1),
        ("older_than=3600", 0),
        ("older_than=0", 3),
    ] {
        let found = system.ops(&wallet, Method::GET, &format!("/ops/sagas?{query}"), None).await.json();
        assert_eq!(
            found["data"].as_array().unwrap_or_else(|| panic!("{found}")).len(),
            keys,
            "{query}: {found}"
        );
    }
    let found = system.ops(&wallet, Method::GET, "/ops/sagas?key=k1", None).await.json();
    let path = format!("/ops/sagas/{}", found["data"][1]["saga_id"].as_str().expect("an id"));
    let saga = system.ops(&wallet, Method::GET, &path, None).await.json();
    let events: Vec<_> =
        saga["timeline"].as_array().expect("events").iter().map(|e| e["event"].clone()).collect();
    assert_eq!(events.first(), Some(&json!("began")), "{saga}");
    assert!(events.contains(&json!("completed")), "{events:?}");
    let legs: Vec<_> = saga["legs"]
        .as_array()
        .expect("legs")
        .iter()
        .map(|leg| (leg["tender"].clone(), leg["status"].clone()))
        .collect();
    let confirmed = |tender: &str| (json!(tender), json!("confirmed"));
    assert_eq!(legs, [confirmed("points"), confirmed("digital_reward"), confirmed("store_credit")]);
    assert_eq!(saga["answer"]["body"]["redeemed"], 4250);

    let foreign = system.client.get(format!("{}/api/v1{path}", wallet.url));
    let foreign = foreign.bearer_auth(system.tokens.staff("other", "ops")).send().await.expect("an answer");
    assert_eq!(foreign.status(), 404, "another business's");
}
