//! `POST credits` and what it leaves behind.

use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::Server;

fn earn(customer: &str, points: i64, reference: &str) -> serde_json::Value {
    json!({ "customer_id": customer, "points": points, "kind": "earn", "funding": "promo", "reference": reference })
}

#[tokio::test]
async fn a_credit_is_made_once_and_its_answer_is_the_same_for_ever() {
    let server = Server::points().await;
    let first = server.post("pos", "/points/credits", "k1", &earn("cus", 120, "r1")).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(first.json()["balance_after"], json!({ "points": 120, "version": 1 }));
    assert_eq!(first.json()["lot"]["remaining"], 120);

    let again = server.post("pos", "/points/credits", "k1", &earn("cus", 120, "r1")).await;
    assert_eq!((again.status.as_u16(), again.is_replayed), (200, true));
    assert_eq!(again.text, first.text);

    let mut plain = earn("cus", 120, "r1");
    (plain["reason"], plain["metadata"], plain["expires_at"]) = (json!(null), json!({}), json!(null));
    assert_eq!(server.post("pos", "/points/credits", "k1", &plain).await.text, first.text);

    let other = server.post("pos", "/points/credits", "k1", &earn("cus", 121, "r1")).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "idempotency_key_reused"));

    let view = server.get("pos", "/points/accounts/cus").await.json();
    assert_eq!(view["posted"], 120);
    assert_eq!(view["available"], 120);
    assert_eq!(view["version"], 1);
    assert_eq!(view["status"], "active");
    assert_eq!(view["lots"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_credit_that_was_taken_back_since_is_still_answered_as_it_was() {
    let server = Server::points().await;
    let first = server.post("pos", "/points/credits", "k1", &earn("cus", 120, "r1")).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    sqlx::query("UPDATE tender.operation SET state = 'reversed'").execute(&mut admin).await.unwrap();
    let again = server.post("pos", "/points/credits", "k1", &earn("cus", 120, "r1")).await;
    assert_eq!((again.status.as_u16(), again.is_replayed, again.text), (200, true, first.text));
}

#[tokio::test]
async fn a_reference_counts_once_per_kind_and_its_refusal_is_replayed_byte_for_byte() {
    let server = Server::points().await;
    assert_eq!(server.post("manager", "/points/credits", "k1", &earn("a", 1, "r1")).await.status, 201);
    let refused = server.post("manager", "/points/credits", "k2", &earn("b", 1, "r1")).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "duplicate_reference"));
    let problem = refused.json();
    assert_eq!(problem["retryable"], false);
    assert_eq!(problem["outcome"], "not_applied");
    assert_eq!(problem["instance"], "/api/v1/points/credits");
    assert!(problem["trace_id"].is_string());

    let again = server.post("manager", "/points/credits", "k2", &earn("b", 1, "r1")).await;
    assert_eq!((again.status.as_u16(), again.is_replayed), (409, true));
    assert_eq!(again.text, refused.text);

    let bonus =
        json!({ "customer_id": "b", "points": 1, "kind": "bonus", "funding": "promo", "reference": "r1" });
    assert_eq!(server.post("manager", "/points/credits", "k3", &bonus).await.status, 201);
}

#[tokio::test]
async fn the_same_reference_at_the_same_instant_counts_once() {
    let server = Server::points().await;
    let posts = (0..24).map(|number| {
        let server = &server;
        async move {
            let body = earn(&format!("cus-{number}"), 5, "same");
            server.post("manager", "/points/credits", "k", &body).await
        }
    });
    let replies = futures_util::future::join_all(posts).await;
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    let refused = replies.iter().filter(|reply| reply.code() == "duplicate_reference").count();
    assert_eq!((made, refused), (1, 23));
}

#[tokio::test]
async fn roles_are_what_the_matrix_says() {
    let server = Server::points().await;
    let bonus =
        json!({ "customer_id": "a", "points": 1, "kind": "bonus", "funding": "promo", "reference": "r" });
    assert_eq!(server.post("pos", "/points/credits", "k", &bonus).await.code(), "role_missing");
    assert_eq!(server.post("finance", "/points/credits", "k", &bonus).await.code(), "role_missing");
    assert_eq!(server.post("ops", "/points/credits", "k", &bonus).await.code(), "role_missing");
    assert_eq!(server.post("admin", "/points/credits", "k", &bonus).await.status, 201);

    let server = Server::money().await;
    // The role is refused before the body is looked at.
    let refused = server.post("pos", "/store-credits/credits", "k", &json!([])).await;
    assert_eq!(refused.code(), "role_missing");
}

/// The same rule as for a redemption.
#[tokio::test]
async fn a_token_for_some_locations_issues_there_and_nowhere_else() {
    let server = Server::points().await;
    let url = format!("{}/api/v1/points/credits", server.tender.public_url);
    let issue = async |locations: Option<&[&str]>, location: Option<&str>, key: &str| {
        let mut claims = testkit::Tokens::claims("demo", "pos");
        claims.location_ids = locations.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
        let mut body = earn("cus", 1, key);
        if let Some(location) = location {
            body["location_id"] = json!(location);
        }
        let token = server.tokens.sign(&claims);
        server
            .send(reqwest::Method::POST, &url, &token, &[("idempotency-key", key)], Some(body.to_string()))
            .await
    };
    let ours: Option<&[&str]> = Some(&["KH-PP-01", "KH-PP-02"]);
    for (locations, location) in [(ours, None), (ours, Some("KH-PP-03")), (Some(&[][..]), Some("KH-PP-01"))] {
        let refused = issue(locations, location, "k1").await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "role_missing"), "{location:?}");
    }
    assert_eq!(issue(ours, Some("KH-PP-02"), "k1").await.status, 201);
    // Another location is another request.
    assert_eq!(issue(ours, Some("KH-PP-01"), "k1").await.code(), "idempotency_key_reused");
    assert_eq!(issue(None, None, "k2").await.status, 201);
    assert_eq!(issue(None, Some("KH-PP-03"), "k3").await.status, 201);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_leaves_the_key_unused() {
    let server = Server::points().await;
    let good = earn("cus", 1, "r1");
    for (field, value, pointer) in [
        ("points", json!(0), "/points"),
        ("points", json!(-1), "/points"),
        ("points", json!(1.0), "/points"),
        ("points", json!("1"), "/points"),
        ("points", json!(null), "/points"),
        ("amount", json!(1), "/amount"),
        ("currency", json!("USD"), "/currency"),
        ("kind", json!("gift"), "/kind"),
        ("funding", json!("stolen"), "/funding"),
        ("reference", json!(""), "/reference"),
        ("reference", json!("a b"), "/reference"),
        ("customer_id", json!("bearer:x"), "/customer_id"),
        ("customer_id", json!(""), "/customer_id"),
        ("customer_id", json!(null), "/customer_id"),
        ("expires_at", json!("2001-01-01T00:00:00Z"), "/expires_at"),
        ("location_id", json!(""), "/location_id"),
        ("location_id", json!("a b"), "/location_id"),
        ("reason", json!("x".repeat(501)), "/reason"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let reply = server.post("manager", "/points/credits", "k1", &body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text);
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{body}: {}", reply.text);
    }
    assert_eq!(server.post("manager", "/points/credits", "k1", &good).await.status, 201);

    // An end that has passed since is no reason to forget what was answered before.
    let view = server.get("manager", "/points/accounts/nobody").await.json();
    assert_eq!((&view["posted"], &view["lots"]), (&json!(0), &json!([])));
}

#[tokio::test]
async fn money_is_kept_by_currency() {
    let server = Server::money().await;
    let issue = |amount: i64, currency: &str, reference: &str| {
        json!({ "customer_id": "cus", "amount": amount, "currency": currency, "kind": "issue", "funding": "paid",
                "reference": reference })
    };
    let first = server.post("manager", "/store-credits/credits", "k1", &issue(4250, "USD", "r1")).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(first.json()["balance_after"], json!({ "amount": 4250, "currency": "USD", "version": 1 }));
    let one = server.get("pos", "/store-credits/accounts/cus").await.json();
    assert_eq!(one["available"], 4250);
    assert_eq!(one["accounts"][0]["currency"], "USD");

    // The same key with another currency is another body, though it is another account.
    let other = server.post("manager", "/store-credits/credits", "k1", &issue(4250, "KHR", "r1")).await;
    assert_eq!(other.code(), "idempotency_key_reused");
    assert_eq!(
        server.post("manager", "/store-credits/credits", "k2", &issue(9, "KHR", "r2")).await.status,
        201
    );
    let both = server.get("pos", "/store-credits/accounts/cus").await.json();
    assert_eq!(both["accounts"].as_array().unwrap().len(), 2);
    assert!(both.get("available").is_none());
    let riel = server.get("pos", "/store-credits/accounts/cus?currency=KHR").await.json();
    assert_eq!(riel["available"], 9);
    let bad = server.post("manager", "/store-credits/credits", "k3", &issue(1, "usd", "r3")).await;
    assert_eq!(bad.json()["errors"][0]["pointer"], "/currency");
}
