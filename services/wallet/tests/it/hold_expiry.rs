//! Holds that end by themselves.

use serde_json::json;

use crate::support::{System, order};

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_never_stops_the_sweep_of_holds() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    body["hold_ttl_s"] = json!(1);
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);
    system
        .execute(
            "INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state, epoch, deadline_at, budget_from, due_at, ended_at)
             SELECT '00000000-0000-7000-8000-000000000001', 'demo', 'redeem', '', 'unreadable', '', 0, 2, gen_random_uuid(), '{\"type\": \"of tomorrow\"}', 2, 1, now(), now(), now(), now() FROM saga.saga",
        )
        .await;
    system
        .execute(
            "INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, currency, amount, status, hold_expires_at)
             VALUES ('00000000-0000-7000-8000-000000000001', 'demo', 'd', 'o', 'USD', 1, 'authorized', now() - interval '1 hour')",
        )
        .await;
    system.until_status(&wallet, "k", "expired").await;
}
