use serde_json::json;

use crate::support::{System, WITHIN};

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
