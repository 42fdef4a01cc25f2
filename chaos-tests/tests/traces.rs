//! One trace id finds everything that was done for a redemption, in the logs of every process.

use std::time::{Duration, Instant};

use chaos_tests::{Cluster, business::BUSINESS, funding::fund};
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The lines of a log that belong to the trace, as JSON.
fn lines_of_trace(log: &str) -> Vec<Value> {
    // The last one may be half written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter(|line| line.contains(TRACE));
    lines.map(|line| serde_json::from_str(line).expect("a line is one JSON document")).collect()
}

/// A line of the trace in a process's log, which is written a moment after what it tells.
async fn logged(cluster: &Cluster, process: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let lines = lines_of_trace(&cluster.log(process));
        if let Some(line) = lines.iter().find(|line| is_wanted(line)) {
            return line.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{process}: {lines:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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

    let is_moved = |line: &Value| line["message"] == "saga moved" && line["state"] == "completed";
    logged(&cluster, "wallet-1", is_moved).await;
    logged(&cluster, "wallet-1", |line| line["message"] == "answered" && line["status"] == 201).await;
    let mut legs = Vec::new();
    for tender in ["points", "digital-rewards", "store-credit"] {
        let is_applied = |line: &Value| line["message"] == "leg answered" && line["state"] == "applied";
        legs.push(logged(&cluster, tender, is_applied).await["span"]["legs_id"].clone());
    }
    legs.dedup();
    assert_eq!(legs.len(), 1, "the legs of one redemption have one id: {legs:?}");
}
