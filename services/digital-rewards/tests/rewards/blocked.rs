//! Blocked rewards: nothing new is taken of them, and what was agreed before the block goes on.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{Server, reward, spend};

async fn issue(server: &Server, key: &str, amount: i64) -> Value {
    serde_json::from_str(&server.issue(key, &reward(Some("cus"), amount, key)).await.1).unwrap()
}

async fn set_blocked(server: &Server, reward: &Value, blocked: bool) {
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let id: Uuid = reward["reward_id"].as_str().unwrap().parse().unwrap();
    let set = sqlx::query("UPDATE tender.reward_code SET blocked = $2 WHERE reward_id = $1");
    assert_eq!(set.bind(id).bind(blocked).execute(&mut admin).await.unwrap().rows_affected(), 1);
}

/// A leg, with what it asks of its reward.
async fn forward(server: &Server, legs_id: Uuid, reward: &Value, mut forward: Value) -> Value {
    forward["reward_id"] = reward["reward_id"].clone();
    let body = json!({ "account": account(), "forward": forward });
    server.internal(Method::PUT, &format!("/legs/{legs_id}/0"), &body).await
}

fn account() -> Value {
    json!({ "business_id": "demo", "customer_id": "cus", "asset": "USD" })
}

fn hold(amount: i64) -> Value {
    json!({ "mode": "hold", "amount": amount, "take": "exact", "hold_until": "2999-01-01T00:00:00Z" })
}

#[tokio::test]
async fn nothing_new_is_taken_of_a_blocked_reward_and_all_that_was_agreed_before_goes_on() {
    let server = Server::start().await;
    let (blocked, other) = (issue(&server, "k1", 100).await, issue(&server, "k2", 900).await);
    let [taken, captured, released] = [(); 3].map(|()| Uuid::new_v4());
    let debit = json!({ "mode": "debit", "amount": 20, "take": "exact" });
    assert_eq!(forward(&server, taken, &blocked, debit).await["state"], "applied");
    assert_eq!(forward(&server, captured, &blocked, hold(30)).await["state"], "held");
    assert_eq!(forward(&server, released, &blocked, hold(10)).await["state"], "held");

    set_blocked(&server, &blocked, true).await;
    let at_most = json!({ "mode": "debit", "amount": 5, "take": "at_most" });
    for plan in [json!({ "mode": "debit", "amount": 1, "take": "exact" }), at_most, hold(1)] {
        let refused = forward(&server, Uuid::new_v4(), &blocked, plan).await;
        assert_eq!(refused["decline"], json!({ "code": "reward_not_usable" }), "{refused}");
    }
    assert_eq!(spend(&server, "cus", &other, 100).await["state"], "applied", "a block is one reward's");
    // Lots are what can be spent; the balance is the ledger's, and a block moves nothing.
    let shown = server.account("cus").await.json();
    let lots: Vec<&Value> = shown["lots"].as_array().unwrap().iter().map(|lot| &lot["reward_id"]).collect();
    assert_eq!(lots, [&other["reward_id"]]);
    assert_eq!(
        (&shown["posted"], &shown["held"], &shown["available"]),
        (&json!(880), &json!(40), &json!(840))
    );

    let capture = json!({ "account": account(), "amount": 25 });
    let capture = server.internal(Method::POST, &format!("/legs/{captured}/0/capture"), &capture).await;
    assert_eq!((&capture["state"], &capture["amount"]), (&json!("applied"), &json!(25)), "{capture}");
    let release = server.internal(Method::POST, &format!("/legs/{released}/0/cancel"), &account()).await;
    assert_eq!((&release["state"], &release["amount"]), (&json!("reversed"), &json!(10)), "{release}");
    let of = json!({ "legs_id": taken, "leg": 0 });
    let refund = json!({ "mode": "reverse", "amount": 20, "take": "exact", "of": of });
    let refund = json!({ "account": account(), "forward": refund });
    let refund = server.internal(Method::PUT, &format!("/legs/{}/0", Uuid::new_v4()), &refund).await;
    assert_eq!((&refund["state"], &refund["amount"]), (&json!("applied"), &json!(20)), "{refund}");

    assert_eq!(spend(&server, "cus", &blocked, 1).await["decline"]["code"], "reward_not_usable");
    set_blocked(&server, &blocked, false).await;
    assert_eq!(spend(&server, "cus", &blocked, 75).await["after"]["available"], 0);
}

/// The bearer's account cannot be named by a request; the tender does not rely on that.
#[tokio::test]
async fn a_blocked_reward_of_its_bearer_is_not_taken_from_either() {
    let server = Server::start().await;
    let made: Value = serde_json::from_str(&server.issue("k", &reward(None, 500, "r")).await.1).unwrap();
    set_blocked(&server, &made, true).await;
    let owner = format!("bearer:{}", made["reward_id"].as_str().unwrap());
    assert_eq!(spend(&server, &owner, &made, 1).await["decline"]["code"], "reward_not_usable");
}
