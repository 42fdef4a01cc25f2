//! Changes reach whoever watches, through whichever instance they are made and whatever becomes of Redis.

use std::time::{Duration, Instant};

use api::{tender::BalanceChanged, wallet::TenderKind};
use chrono::DateTime;
use money::Asset;
use redis::AsyncCommands;
use serde_json::json;

use crate::{
    live_support::{Client, LiveSystem, points},
    support::{BUSINESS, order},
};

/// Longer than subscribers and relays take to notice that Redis is back.
const SUBSCRIBED_AGAIN: Duration = Duration::from_millis(1_500);
/// Longer than a change takes to be handed on, so that the next one is not handed on with it.
const HANDLED: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_kinds_see_what_another_instance_does() {
    let live = LiveSystem::start().await;
    let (a, b) = (live.wallet().await, live.wallet().await);
    let reward = live.system.fund("c", 620, 5000, 2250).await;
    let mut clients =
        [Client::events(&live.system, &a, "c").await, Client::socket(&live.system, &a, "c").await];
    let shown = live.system.get(&a, "/wallet/balance?customer_id=c").await.json();
    for client in &mut clients {
        let snapshot = client.message().await;
        assert_eq!(snapshot["type"], "wallet.snapshot");
        assert_eq!((&snapshot["balances"], &snapshot["degraded"]), (&shown["balances"], &json!([])));
    }
    let answer = live.system.redeem(&b, "k", &order("c", &reward)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let begun = Instant::now();
    for client in &mut clients {
        let mut seen = std::collections::BTreeMap::new();
        while seen.len() < 3 {
            let message = client.message().await;
            assert_eq!(
                (&message["type"], &message["customer_id"]),
                (&json!("wallet.balance_updated"), &json!("c"))
            );
            seen.insert(message["tender"].as_str().expect("a tender").to_owned(), message);
        }
        let points = &seen["points"];
        assert_eq!(points["balance"], json!({ "available": 120, "held": 0, "posted": 120 }));
        assert!(points.get("currency").is_none(), "{points}");
        assert_eq!(seen["store_credit"]["currency"], "USD");
        assert_eq!(seen["store_credit"]["balance"]["available"], 3500);
        assert_eq!(seen["digital_reward"]["balance"]["posted"], 0);
    }
    println!("all clients knew {} ms after the till", begun.elapsed().as_millis());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn redemptions_go_on_without_redis_and_clients_know_soon_after_it_is_back() {
    let mut live = LiveSystem::start().await;
    let (a, b) = (live.wallet().await, live.wallet().await);
    live.system.fund("c", 100, 0, 0).await;
    let mut clients =
        [Client::events(&live.system, &a, "c").await, Client::socket(&live.system, &b, "c").await];
    for client in &mut clients {
        client.until_points(1).await;
    }
    live.redis.kill().await;
    let mut slowest = Duration::ZERO;
    for left in (90..100).rev() {
        let begun = Instant::now();
        assert_eq!(live.spend(&a, "c", 1).await.status, 201);
        assert_eq!(live.points(&b, "c").await.0, left);
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest redeem and balance without Redis: {} ms", slowest.as_millis());
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");

    live.redis.restart().await;
    let back = Instant::now();
    assert_eq!(live.spend(&a, "c", 1).await.status, 201);
    for client in &mut clients {
        client.until_points(12).await;
    }
    println!("clients were up to date {} ms after Redis was back", back.elapsed().as_millis());
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // And live again, not by comparison alone.
    live.until_redis(&a, true).await;
    tokio::time::sleep(SUBSCRIBED_AGAIN).await;
    assert_eq!(live.spend(&b, "c", 1).await.status, 201);
    for client in &mut clients {
        let took = client.until_points(13).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_cut_off_misses_nothing_for_long() {
    let live = LiveSystem::start().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 0, 0).await;
    let mut client = Client::events(&live.system, &wallet, "c").await;
    client.until_points(1).await;
    for version in 2..5 {
        live.cut_subscribers().await;
        assert_eq!(live.spend(&wallet, "c", 1).await.status, 201);
        let took = client.until_points(version).await;
        println!("known {} ms after the redeem", took.as_millis());
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_to_nobody_is_found_on_reconnecting() {
    let live = LiveSystem::start_mute().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 0, 0).await;
    let mut client = Client::events(&live.system, &wallet, "c").await;
    client.until_points(1).await;
    // Sooner than comparisons by the clock would find it, three times in a row.
    for version in 2..5 {
        assert_eq!(live.spend(&wallet, "c", 1).await.status, 201);
        live.cut_subscribers().await;
        let took = client.until_points(version).await;
        println!("known {} ms after the cut", took.as_millis());
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_never_published_is_found_by_comparison() {
    let live = LiveSystem::start_mute().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 0, 0).await;
    let mut client = Client::socket(&live.system, &wallet, "c").await;
    client.until_points(1).await;
    assert_eq!(live.spend(&wallet, "c", 40).await.status, 201);
    let took = client.until_points(2).await;
    println!("found after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(4), "{took:?}");
    // An account that was not there when the client came.
    live.system.fund("c", 0, 700, 0).await;
    let message = client.message().await;
    assert_eq!((&message["tender"], &message["balance"]["available"]), (&json!("store_credit"), &json!(700)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_change_after_a_newer_one_is_dropped() {
    let live = LiveSystem::start_mute().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 0, 0).await;
    let mut client = Client::socket(&live.system, &wallet, "c").await;
    client.until_points(1).await;
    let mut redis = live.redis.connection().await;
    for version in [7, 5, 6, 8] {
        let changed = BalanceChanged {
            tender: TenderKind::Points.as_str().to_owned(),
            business_id: BUSINESS.to_owned().try_into().expect("an id"),
            customer_id: "c".to_owned(),
            asset: Asset::Points,
            version,
            posted: version,
            held: 0,
            available: version,
            at: DateTime::UNIX_EPOCH,
        };
        let payload = serde_json::to_string(&changed).expect("JSON");
        let _: i64 = redis.publish(events::balance_channel(BUSINESS, "c"), payload).await.expect("published");
        tokio::time::sleep(HANDLED).await;
    }
    let versions = [client.message().await, client.message().await].map(|message| message["version"].clone());
    assert_eq!(versions, [7, 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_every_later_snapshot() {
    let live = LiveSystem::start().await;
    let (a, b) = (live.wallet().await, live.wallet().await);
    live.system.fund("c", 100, 0, 0).await;
    for left in (80..100).rev() {
        assert_eq!(live.spend(&a, "c", 1).await.status, 201);
        let mut client = Client::events(&live.system, &b, "c").await;
        assert_eq!(points(&client.message().await["balances"]).0, left);
    }
}
