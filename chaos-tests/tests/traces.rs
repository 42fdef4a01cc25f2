//! One trace id finds everything that was done for a redemption, in the logs of every process.

use chaos_tests::{Cluster, business::BUSINESS, funding::fund};
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The lines of a log that belong to the trace, as JSON.
fn lines_of_trace(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.contains(TRACE));
    lines.map(|line| serde_json::from_str(line).expect("a line is one JSON document")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_id_finds_a_redemption_in_all_four_services() {
    let cluster = Cluster::start().await;
    let reward = fund(&cluster, BUSINESS, "traced").await;
    let body = json!({ "customer_id": "traced", "order_id": "o1", "currency": "USD", "amount": 50, "tenders": [
        { "type": "points", "points": 10 },
        { "type": "digital_reward", "reward_id": reward, "amount": 20 },
        { "type": "store_credit", "amount": 20 } ] });
    let redeem = cluster
        .client
        .post(format!("{}/api/v1/wallet/redeem", cluster.wallets[0].url))
        .bearer_auth(cluster.tokens.staff(BUSINESS, "pos"))
        .header("idempotency-key", "traced")
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
        .json(&body);
    let answer = redeem.send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    let traceparent = answer.headers()["traceparent"].to_str().expect("ASCII").to_owned();
    assert!(traceparent.contains(TRACE), "{traceparent}");

    let wallet = lines_of_trace(&cluster.log("wallet-1"));
    assert!(
        wallet.iter().any(|line| line["message"] == "saga moved" && line["state"] == "completed"),
        "{wallet:#?}"
    );
    assert!(wallet.iter().any(|line| line["message"] == "answered" && line["status"] == 201), "{wallet:#?}");
    let mut legs = Vec::new();
    for tender in ["points", "digital-rewards", "store-credit"] {
        let lines = lines_of_trace(&cluster.log(tender));
        let leg = lines.iter().find(|line| line["message"] == "leg answered" && line["state"] == "applied");
        legs.push(leg.unwrap_or_else(|| panic!("{tender}: {lines:#?}"))["span"]["legs_id"].clone());
    }
    legs.dedup();
    assert_eq!(legs.len(), 1, "the legs of one redemption have one id: {legs:?}");
}
