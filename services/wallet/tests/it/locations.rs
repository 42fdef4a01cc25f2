//! A till whose token names locations finds and moves nothing that another location did.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, System, Wallet, order};

/// A call of a till of one location.
async fn at(
    system: &System,
    wallet: &Wallet,
    location: &str,
    (method, path, key): (Method, &str, Option<&str>),
    body: Option<Value>,
) -> Answer {
    let mut claims = testkit::Tokens::claims("demo", "pos");
    claims.location_ids = Some(vec![location.to_owned()]);
    let url = format!("{}/api/v1{path}", wallet.url);
    let mut request = system.client.request(method, url).bearer_auth(system.tokens.sign(&claims));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::read(request.send().await.expect("an answer")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_location_did_does_not_exist() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 2_000, 20_000, 20_000).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    let nowhere = system.redeem(&wallet, "nowhere", &body).await;
    assert_eq!(nowhere.status, 201, "{}", nowhere.text());
    body["location_id"] = json!("B");
    let mut ids = Vec::new();
    for key in ["k1", "k2"] {
        let held =
            at(&system, &wallet, "B", (Method::POST, "/wallet/redeem", Some(key)), Some(body.clone())).await;
        assert_eq!(held.status, 201, "{}", held.text());
        ids.push(held.json()["id"].as_str().expect("an id").to_owned());
    }
    let (first, second) =
        (format!("/wallet/redemptions/{}", ids[0]), format!("/wallet/redemptions/{}", ids[1]));
    let (capture, void) = (format!("{first}/capture"), format!("{second}/void"));
    let cancel = |key: &str| Some(json!({ "idempotency_key": key }));
    let by_key = "/wallet/redemptions/cancel-by-key";
    let elsewhere = format!("/wallet/redemptions/{}", nowhere.json()["id"].as_str().expect("an id"));

    for (call, sent) in [
        ((Method::GET, first.as_str(), None), None),
        ((Method::GET, elsewhere.as_str(), None), None),
        ((Method::POST, capture.as_str(), Some("c")), Some(json!({}))),
        ((Method::POST, void.as_str(), Some("v")), Some(json!({}))),
        ((Method::POST, by_key, None), cancel("k1")),
        ((Method::POST, by_key, None), cancel("nowhere")),
    ] {
        let (method, path, _) = call.clone();
        let told = at(&system, &wallet, "A", call, sent).await;
        assert_eq!((told.status.as_u16(), told.code()), (404, "not_found".to_owned()), "{method} {path}");
    }
    for filter in ["customer_id=c", "order_id=S042-77120", "idempotency_key=k1", "status=authorized"] {
        let path = format!("/wallet/redemptions?{filter}");
        let found = async |location| {
            let found = at(&system, &wallet, location, (Method::GET, &path, None), None).await.json();
            found["data"].as_array().expect("redemptions").len()
        };
        assert_eq!(found("A").await, 0, "{filter}");
        assert!(found("B").await > 0, "{filter}");
    }
    let untouched: i64 = system
        .sql("SELECT count(*) FROM wallet.redemption WHERE status = 'authorized' AND NOT cancel_requested")
        .await;
    assert_eq!(untouched, 3);

    for (call, sent) in [
        ((Method::GET, first.as_str(), None), None),
        ((Method::POST, capture.as_str(), Some("c")), Some(json!({}))),
        ((Method::POST, void.as_str(), Some("v")), Some(json!({}))),
        ((Method::POST, by_key, None), cancel("k1")),
    ] {
        let (method, path, _) = call.clone();
        let told = at(&system, &wallet, "B", call, sent).await;
        assert!(told.status.is_success(), "{method} {path}: {}", told.text());
    }
    // A key that nobody has used belongs to no location.
    let told = at(&system, &wallet, "A", (Method::POST, by_key, None), cancel("unseen")).await;
    assert_eq!(told.json(), json!({ "result": "cancelled_before_arrival" }));
}
