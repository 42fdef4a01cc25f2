//! A balance that was read a moment ago is shown again, and never one that is out of date.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{legs::Account, tender::Owner, tender::Totals, wallet::TenderKind};
use money::{Asset, Currency};
use serde_json::json;
use testkit::Mode;
use tokio_util::task::TaskTracker;
use wallet::live::account_balance::AccountBalance;

use crate::{
    live_support::LiveSystem,
    support::{BUSINESS, until},
};

/// A credit shows within this time.
const SOON: Duration = Duration::from_secs(1);
/// Entries live for five seconds.
const ENTRY_OVER: Duration = Duration::from_millis(5_200);
/// So long after its end no answer has a lot any more, though the clocks of the test and of the database are two.
const LAPSED: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_is_never_older_than_a_redeem_that_was_answered() {
    let live = LiveSystem::start().await;
    let (a, b) = (live.wallet().await, live.wallet().await);
    live.system.fund("c", 1_000, 0, 0).await;
    // Readers that fill the cache at every moment.
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks = TaskTracker::new();
    for wallet in [&a, &b, &a, &b] {
        let request = live
            .system
            .client
            .get(format!("{}/api/v1/wallet/balance?customer_id=c", wallet.url))
            .bearer_auth(live.system.tokens.staff(BUSINESS, "pos"));
        let (stop, reads) = (stop.clone(), reads.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = request.try_clone().expect("no body").send().await.expect("an answer");
                assert_eq!(answer.status(), 200);
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for round in 1..=200 {
        let (redeems, looks) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert_eq!(live.spend(redeems, "c", 1).await.status, 201);
        assert_eq!(live.points(looks, "c").await, (1_000 - round, 1 + round), "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    tasks.close();
    tasks.wait().await;
    println!("{} reads beside 200 redeems", reads.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_shown_without_asking_anybody() {
    let live = LiveSystem::start().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 500, 0).await;
    let balance = async || live.system.get(&wallet, "/wallet/balance?customer_id=c").await.json();
    let first = balance().await;
    for part in [&live.system.points, &live.system.credit, &live.system.rewards] {
        part.proxy.set(Mode::Cut);
    }
    assert_eq!(balance().await, first);
    // Another customer's balance is another's.
    let other = live.system.get(&wallet, "/wallet/balance?customer_id=d").await.json();
    assert_eq!(other["degraded"].as_array().map(Vec::len), Some(3), "{other}");
    tokio::time::sleep(ENTRY_OVER).await;
    assert_eq!(balance().await["degraded"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_shows_soon_and_a_lot_that_expires_at_once() {
    let live = LiveSystem::start().await;
    let wallet = live.wallet().await;
    assert_eq!(live.points(&wallet, "c").await, (0, 0));
    live.system.fund("c", 100, 0, 0).await;
    let begun = std::time::Instant::now();
    testkit::until(SOON, async || live.points(&wallet, "c").await.0 == 100).await;
    println!("the credit showed after {} ms", begun.elapsed().as_millis());

    let expires_at = service::Clock.now() + chrono::TimeDelta::milliseconds(1_500);
    let body = json!({ "customer_id": "c", "points": 7, "kind": "earn", "funding": "paid", "reference": "r",
                       "expires_at": expires_at });
    let url = format!("{}/api/v1/points/credits", live.system.points.tender.public_url);
    let token = live.system.tokens.staff(BUSINESS, "admin");
    let request = live.system.client.post(url).bearer_auth(token).header("idempotency-key", "r").json(&body);
    assert_eq!(request.send().await.expect("an answer").status(), 201);
    testkit::until(SOON, async || live.points(&wallet, "c").await == (107, 2)).await;
    let left = (expires_at - service::Clock.now()).to_std().expect("it has not expired yet");
    tokio::time::sleep(left + LAPSED).await;
    assert_eq!(live.points(&wallet, "c").await, (100, 2));
}

fn line(currency: Option<Currency>, version: i64) -> AccountBalance {
    AccountBalance {
        currency,
        totals: Totals { version, posted: 1, held: 0, available: 1 },
        expiring: Vec::new(),
    }
}

fn owner(customer: &str) -> Owner {
    Owner {
        business_id: BUSINESS.to_owned().try_into().expect("an id"),
        customer_id: customer.to_owned().try_into().expect("an id"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_is_too_long_for_a_read_is_not_too_long_for_a_floor() {
    let live = LiveSystem::start_mute().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 0, 0).await;
    let cache = &wallet.app.live.cache;
    assert_eq!(live.points(&wallet, "c").await, (100, 1));
    assert!(cache.read(&owner("c")).await.take(TenderKind::Points).is_some(), "it is cached");
    let mut redis = live.redis.connection().await;
    let mut pause = redis::cmd("CLIENT");
    pause.arg("PAUSE").arg(200).arg("ALL");
    // On a busy machine a pause may be over before the read begins.
    while cache.is_up() {
        let _: String = pause.query_async(&mut redis).await.expect("paused");
        cache.read(&owner("c")).await;
    }
    assert_eq!(live.spend(&wallet, "c", 1).await.status, 201);
    live.until_redis(&wallet, true).await;
    assert_eq!(live.points(&wallet, "c").await, (99, 2), "what was cached is below the floor");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_cannot_bring_an_older_balance_back() {
    let live = LiveSystem::start_mute().await;
    let wallet = live.wallet().await;
    let cache = &wallet.app.live.cache;
    let owner = owner("c");
    let account =
        |asset| Account { business_id: owner.business_id.clone(), customer_id: "c".to_owned(), asset };
    let credit = TenderKind::StoreCredit;
    let (usd, eur) = (Currency::USD, "EUR".parse::<Currency>().expect("a currency"));
    let store =
        async |lines: &[AccountBalance]| cache.store(&owner, credit, lines, Duration::from_secs(5)).await;
    let versions = async || {
        let lines = cache.read(&owner).await.take(credit)?;
        Some(lines.iter().map(|line| line.totals.version).collect::<Vec<_>>())
    };
    store(&[line(Some(usd), 4)]).await;
    assert_eq!(versions().await, Some(vec![4]));
    store(&[line(Some(usd), 3)]).await;
    assert_eq!(versions().await, Some(vec![4]), "an older one does not replace it");

    cache.raise(credit, &[(&account(Asset::Money(usd)), 6)]).await;
    cache.raise(credit, &[(&account(Asset::Money(usd)), 5)]).await;
    assert_eq!(versions().await, None, "it is below the floor");
    store(&[line(Some(usd), 5)]).await;
    assert_eq!(versions().await, None, "and nothing below is stored");
    store(&[line(Some(usd), 6)]).await;
    assert_eq!(versions().await, Some(vec![6]));

    cache.raise(credit, &[(&account(Asset::Money(eur)), 1)]).await;
    assert_eq!(versions().await, None, "an account has come");
    store(&[line(Some(usd), 6)]).await;
    assert_eq!(versions().await, None);
    store(&[line(Some(eur), 1), line(Some(usd), 6)]).await;
    assert_eq!(versions().await, Some(vec![1, 6]));
    store(&[line(Some(usd), 7)]).await;
    assert_eq!(versions().await, Some(vec![1, 6]), "an account does not go");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_doubt_shows_as_soon_as_the_till_hears_of_it() {
    let live = LiveSystem::start().await;
    let wallet = live.wallet().await;
    live.system.fund("c", 100, 0, 0).await;
    let in_doubt = async || {
        let balance = live.system.get(&wallet, "/wallet/balance?customer_id=c").await.json();
        balance["balances"][0]["in_doubt"].as_i64().expect("units")
    };
    assert_eq!(in_doubt().await, 0);
    live.system.points.proxy.set(Mode::HoldRequests);
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 30, "deadline_ms": 500,
                       "tenders": [{ "type": "points", "points": 30 }] });
    assert_eq!(in_doubt().await, 0, "and is remembered");
    assert_eq!(live.system.redeem(&wallet, "k", &body).await.status, 202);
    assert_eq!(in_doubt().await, 30);
    live.system.points.proxy.set(Mode::Pass);
    until(&live.system, "SELECT bool_and(state IN (2, 3)) FROM saga.saga").await;
    assert_eq!(in_doubt().await, 0);
}
