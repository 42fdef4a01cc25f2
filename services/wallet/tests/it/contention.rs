use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use testkit::Mode;

use crate::support::{System, WITHIN, Wallet, order, redeem, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_tills_at_one_wallet_of_a_hundred_units() {
    let system = System::start().await;
    let wallets = [system.wallet().await, system.wallet().await];
    system.fund("c", 100, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 1, "tenders": [{ "type": "points", "points": 1 }] });
    let (system, wallets, body) = (&system, &wallets, &body);
    let tills = (0..64).map(|till| async move {
        let mut statuses = Vec::new();
        for sale in 0..3 {
            statuses.push(
                system.redeem(&wallets[till % 2], &format!("t{till}-{sale}"), body).await.status.as_u16(),
            );
        }
        statuses
    });
    let statuses: Vec<u16> = futures_util::future::join_all(tills).await.into_iter().flatten().collect();
    let count = |status| statuses.iter().filter(|s| **s == status).count();
    assert_eq!((count(201), count(422)), (100, 92), "{statuses:?}");
    assert_eq!(system.balances(&wallets[0], "c").await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wallet_of_three_tenders_is_never_spent_twice() {
    let system = System::start().await;
    let wallets = [system.wallet().await, system.wallet().await];
    let reward = system.fund("c", 1_000, 1_000, 1_000).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 300, "tenders": [
        { "type": "points", "points": 100 }, { "type": "store_credit", "amount": 100 }, { "type": "digital_reward", "reward_id": reward }] });
    let calls = (0..40).map(|i| {
        let (system, wallets, body) = (&system, &wallets, &body);
        async move { system.redeem(&wallets[i % 2], &format!("k{i}"), body).await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(calls).await;
    // Concurrent redemptions may decline each other while one of them is on its way back, but never all of them.
    let done = i64::try_from(statuses.iter().filter(|s| **s == 201).count()).expect("a count");
    assert!((1..=10).contains(&done) && statuses.iter().all(|s| [201, 422].contains(s)), "{statuses:?}");
    let left = 1_000 - 100 * done;
    testkit::until(WITHIN, async || {
        let balances = system.balances(&wallets[0], "c").await;
        if balances == (left, left, left) { Ok(()) } else { Err(format!("{balances:?} is not {left}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_saga_store_forms_batches_under_load_and_delays_nobody_who_is_alone() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 100_000, 0, 0).await;
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 1, "tenders": [{ "type": "points", "points": 1 }] });
    let mut quickest = std::time::Duration::MAX;
    for sale in 0..20 {
        let began = std::time::Instant::now();
        assert_eq!(system.redeem(&wallet, &format!("alone{sale}"), &body).await.status, 201);
        quickest = quickest.min(began.elapsed());
    }
    // Two commits and a call: a timer that collects batches would show.
    assert!(quickest < std::time::Duration::from_millis(50), "{quickest:?}");
    // Rows that were written by one transaction have one xmin.
    let alone: i64 = system.sql("SELECT count(DISTINCT xmin::text) FROM saga.saga").await;
    assert_eq!(alone, 20);
    let keys: Vec<_> = (0..256).map(|sale| format!("crowd{sale}")).collect();
    let answers =
        futures_util::future::join_all(keys.iter().map(|key| system.redeem(&wallet, key, &body))).await;
    assert!(answers.iter().all(|answer| answer.status == 201));
    let crowd: i64 =
        system.sql("SELECT count(DISTINCT xmin::text) FROM saga.saga WHERE key LIKE 'crowd%'").await;
    assert!(crowd < 128, "256 sagas ended in {crowd} transactions");
}

/// Tills that redeem, beside those that come back for the locked redemption.
const TILLS: usize = 6;
/// For how long they are counted.
const COUNTED: Duration = Duration::from_secs(4);

/// What the tills redeem, one sale after the other, until the time is over.
async fn sales(system: &System, wallet: &Wallet, round: &str) -> usize {
    let body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 1, "tenders": [{ "type": "points", "points": 1 }] });
    let (body, until) = (&body, Instant::now() + COUNTED);
    let tills = (0..TILLS).map(|till| async move {
        let mut sales = 0;
        while Instant::now() < until {
            let answer = system.redeem(wallet, &format!("{round}-{till}-{sales}"), body).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            sales += 1;
        }
        sales
    });
    futures_util::future::join_all(tills).await.into_iter().sum()
}

/// One that comes back again and again: it asks for a capture of a redemption, or that its key be cancelled.
async fn insist(
    system: &System,
    wallet: &Wallet,
    (client, capture): (usize, Option<String>),
    is_over: &AtomicBool,
) {
    for call in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let began = Instant::now();
        let answer = if let Some(id) = &capture {
            let path = format!("/wallet/redemptions/{id}/capture");
            let key = format!("capture-{client}-{call}");
            system.call(wallet, "pos", Method::POST, &path, Some(&key), Some(&json!({}))).await
        } else {
            let body = json!({ "idempotency_key": "held" });
            let path = "/wallet/redemptions/cancel-by-key";
            system.call(wallet, "pos", Method::POST, path, None, Some(&body)).await
        };
        if !is_over.load(Ordering::Relaxed) {
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert!(began.elapsed() < Duration::from_secs(6), "it waited for {:?}", began.elapsed());
        }
    }
}

/// What is sold while rows of redemptions are locked for which these clients come back.
async fn sold_beside(
    system: &System,
    wallet: &Wallet,
    (lock, rows): (&'static str, u64),
    captures: Vec<Option<String>>,
) -> usize {
    let mut hand = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    let locked = sqlx::query(lock).execute(&mut *locking).await.expect("locked");
    assert_eq!(locked.rows_affected(), rows);
    let is_over = AtomicBool::new(false);
    let clients = captures.into_iter().enumerate();
    let insisting = clients.map(|client| insist(system, wallet, client, &is_over));
    let selling = async {
        let sold = sales(system, wallet, "beside").await;
        is_over.store(true, Ordering::Relaxed);
        locking.rollback().await.expect("done");
        sold
    };
    tokio::join!(selling, futures_util::future::join_all(insisting)).0
}

fn hold_of_one_point() -> Value {
    json!({ "customer_id": "d", "order_id": "o", "currency": "USD", "amount": 1, "capture": "manual",
        "tenders": [{ "type": "points", "points": 1 }] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_locked_redemption_costs_nobody_else_a_sale() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 1_000_000, 0, 0).await;
    system.fund("d", 100, 0, 0).await;
    let hold = hold_of_one_point();
    let held = system.redeem(&wallet, "held", &hold).await.json();
    let capture = Some(held["id"].as_str().expect("an id").to_owned());
    sales(&system, &wallet, "warm").await;
    let before = sales(&system, &wallet, "before").await;
    let lock = "SELECT FROM wallet.redemption WHERE customer_id = 'd' FOR UPDATE";
    let beside = sold_beside(&system, &wallet, (lock, 1), vec![capture.clone(), None, capture, None]).await;
    assert!(beside * 2 > before, "{before} before, {beside} beside");
    system.cancel(&wallet, "held").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_locked_redemptions_cost_nobody_else_a_sale() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 1_000_000, 0, 0).await;
    system.fund("d", 100, 0, 0).await;
    let hold = hold_of_one_point();
    let keys: Vec<_> = (0..60).map(|till| format!("held-{till}")).collect();
    let holds = keys.iter().map(|key| system.redeem(&wallet, key, &hold));
    let held = futures_util::future::join_all(holds).await;
    let captures = held.iter().map(|held| held.json()["id"].as_str().map(str::to_owned)).collect();
    sales(&system, &wallet, "warm").await;
    let before = sales(&system, &wallet, "before").await;
    let lock = "SELECT FROM wallet.redemption WHERE customer_id = 'd' FOR UPDATE";
    let beside = sold_beside(&system, &wallet, (lock, 60), captures).await;
    assert!(beside * 4 > before, "{before} before, {beside} beside");
    for key in &keys {
        system.cancel(&wallet, key).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_locked_saga_costs_nobody_else_a_sale() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 1_000_000, 0, 0).await;
    let reward = system.fund("d", 620, 5_000, 2_250).await;
    sales(&system, &wallet, "warm").await;
    let before = sales(&system, &wallet, "before").await;
    system.credit.proxy.set(Mode::HoldRequests);
    let till = redeem(&system, &wallet, "held", order("d", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE key = 'held')").await;
    let lock = "SELECT FROM saga.saga WHERE key = 'held' FOR UPDATE";
    let beside = sold_beside(&system, &wallet, (lock, 1), vec![None; 4]).await;
    assert!(beside * 2 > before, "{before} before, {beside} beside");
    system.cancel(&wallet, "held").await;
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "held", "declined").await;
    till.await.expect("a till");
}
