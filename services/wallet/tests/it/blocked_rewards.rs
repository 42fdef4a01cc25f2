//! Rewards that were blocked, as after a pepper has leaked: neither named by their id nor chosen.

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::System;

fn redeem(amount: i64, tenders: Option<Value>) -> Value {
    let mut body = json!({ "customer_id": "cus", "order_id": "o", "currency": "USD", "amount": amount });
    if let Some(tenders) = tenders {
        body["tenders"] = tenders;
    }
    body
}

#[tokio::test]
async fn a_blocked_reward_is_neither_taken_by_its_id_nor_chosen() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let blocked = system.fund("cus", 0, 500, 900).await;
    let reissued = system.fund("cus", 0, 0, 300).await;
    let id: Uuid = blocked.parse().expect("an id");
    let mut admin =
        PgConnection::connect_with(&system.rewards.tender.database.admin()).await.expect("a connection");
    let block = sqlx::query("UPDATE tender.reward_code SET blocked = true WHERE reward_id = $1").bind(id);
    assert_eq!(block.execute(&mut admin).await.expect("blocked").rows_affected(), 1);

    let by_id = json!([
        { "type": "store_credit", "amount": 100 },
        { "type": "digital_reward", "reward_id": blocked },
    ]);
    let refused = system.redeem(&wallet, "by-id", &redeem(900, Some(by_id))).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (404, &json!("reward_not_usable")));
    let capped = json!([{ "type": "digital_reward", "reward_id": blocked, "max_amount": 900 }]);
    let refused = system.redeem(&wallet, "capped", &redeem(900, Some(capped))).await;
    assert_eq!(refused.json()["code"], "insufficient_balance", "{}", refused.text());
    let refused = system.redeem(&wallet, "too-much", &redeem(801, None)).await;
    let refused = refused.json();
    assert_eq!((&refused["code"], &refused["available"]), (&json!("insufficient_balance"), &json!(800)));

    let done = system.redeem(&wallet, "chosen", &redeem(800, None)).await;
    assert_eq!(done.status, 201, "{}", done.text());
    let done = done.json();
    let legs = done["tenders"].as_array().expect("tenders").iter();
    let rewards: Vec<&Value> = legs.filter_map(|leg| leg.get("reward_id")).collect();
    assert_eq!(rewards, [&json!(reissued)]);
}
