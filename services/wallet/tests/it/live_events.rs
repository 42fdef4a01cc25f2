//! What became of redemptions is told to whoever reads the stream, at least once.

use std::collections::BTreeSet;

use redis::{AsyncCommands, streams::StreamRangeReply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    live_support::{LiveSystem, points_order},
    support::{WITHIN, until},
};

/// All events so far, once there are so many.
async fn events(live: &LiveSystem, count: usize) -> Vec<Value> {
    let mut redis = live.redis.connection().await;
    let stream = testkit::until(WITHIN, async || {
        let stream: StreamRangeReply = redis.xrange_all(events::REDEMPTIONS).await.expect("a stream");
        let there = stream.ids.len();
        if there >= count { Ok(stream) } else { Err(format!("{there} events")) }
    })
    .await;
    let event = |id: &redis::streams::StreamId| {
        let event: Value = serde_json::from_str(&id.get::<String>("event").expect("an event")).expect("JSON");
        assert_eq!(id.get::<String>("event_id").as_deref(), event["event_id"].as_str());
        assert_eq!(id.get::<String>("type").as_deref(), event["type"].as_str());
        event
    };
    stream.ids.iter().map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ending_is_told() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    system.fund("c", 100, 0, 0).await;
    let held = async |key: &str| {
        let mut body = points_order("c", 10);
        body["capture"] = json!("manual");
        system.redeem(&wallet, key, &body).await.json()["id"].as_str().expect("an id").to_owned()
    };
    let then = async |id: String, verb: &str| {
        let path = format!("/wallet/redemptions/{id}/{verb}");
        let key = uuid::Uuid::new_v4().to_string();
        let answer = system.call(&wallet, "pos", Method::POST, &path, Some(&key), Some(&json!({}))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    assert_eq!(system.redeem(&wallet, "completed", &points_order("c", 20)).await.status, 201);
    assert_eq!(system.redeem(&wallet, "declined", &points_order("c", 5_000)).await.status, 422);
    let mut refused = points_order("c", 10);
    refused["amount"] = json!(9);
    assert_eq!(system.redeem(&wallet, "refused", &refused).await.code(), "tenders_do_not_cover");
    then(held("captured").await, "capture").await;
    then(held("voided").await, "void").await;
    system.cancel(&wallet, "completed").await;
    until(system, "SELECT bool_and(state IN (2, 3)) FROM saga.saga").await;

    let events = events(&live, 8).await;
    let mut told: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().expect("a type").trim_start_matches("wallet.redemption_"))
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        ["authorized", "authorized", "captured", "completed", "declined", "declined", "reversed", "voided"]
    );
    let ids: BTreeSet<&str> = events.iter().filter_map(|event| event["event_id"].as_str()).collect();
    assert_eq!(ids.len(), events.len(), "each has an id of its own");
    let completed =
        events.iter().find(|event| event["type"] == "wallet.redemption_completed").expect("completed");
    for (field, value) in [
        ("business_id", json!("demo")),
        ("customer_id", json!("c")),
        ("order_id", json!("o")),
        ("status", json!("completed")),
        ("currency", json!("USD")),
        ("amount", json!(20)),
        ("redeemed", json!(20)),
    ] {
        assert_eq!(completed[field], value, "{field}");
    }
    assert!(completed["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{completed}");
    assert_eq!(completed["trace_id"].as_str().map(str::len), Some(32), "{completed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_redis_is_away_is_told_when_it_is_back() {
    let mut live = LiveSystem::start().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 0, 0).await;
    live.redis.kill().await;
    for _ in 0..3 {
        assert_eq!(live.spend(&wallet, "c", 1).await.status, 201);
    }
    until(&live.system, "SELECT count(*) = 3 FROM wallet.outbox").await;
    live.redis.restart().await;
    let events = events(&live, 3).await;
    assert!(events.iter().all(|event| event["type"] == "wallet.redemption_completed"));
    until(&live.system, "SELECT count(*) = 0 FROM wallet.outbox").await;
}
