//! Plugs pulled under load: each scenario begins anew, with processes and databases of its own.

use std::{sync::Arc, time::Duration};

use chaos_tests::{Cluster, Load, Sale, Told, check};
use testkit::Tokens;

const TILLS: usize = 32;
const CUSTOMERS: usize = 20;

struct Scenario {
    cluster: Cluster,
    load: Load,
}

/// A cluster under load.
async fn under_load() -> Scenario {
    let mut cluster = Cluster::start().await;
    let mut customers = Vec::new();
    for number in 0..CUSTOMERS {
        let customer = format!("customer{number}");
        let reward = cluster.fund(&customer).await;
        customers.push((customer, reward));
    }
    let tokens = Arc::new(std::mem::replace(&mut cluster.tokens, Tokens::new()));
    let load = Load::start(&cluster, &tokens, &customers, TILLS);
    tokio::time::sleep(Duration::from_secs(2)).await;
    Scenario { cluster, load }
}

impl Scenario {
    /// Ends the load, waits for quiet, checks everything.
    async fn check(self) -> Vec<Sale> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let sales = self.load.finish().await;
        let quiet = check(&self.cluster, &sales).await;
        let count = |told| sales.iter().filter(|sale| sale.told == told).count();
        eprintln!(
            "{} sales: {} completed, {} declined, {} cancelled; {} asked again; quiet after {quiet:?}",
            sales.len(),
            count(Told::Completed),
            count(Told::Declined),
            count(Told::Cancelled),
            sales.iter().filter(|sale| sale.unknown > 0).count(),
        );
        assert!(count(Told::Completed) > TILLS, "the load did nothing");
        sales
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_orchestrators_is_killed() {
    let mut scenario = under_load().await;
    scenario.cluster.wallets[0].1.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    scenario.cluster.wallets[0].1.restart();
    let sales = scenario.check().await;
    assert!(sales.iter().any(|sale| sale.unknown > 0), "nobody noticed: the fault did not fire");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tender_is_killed() {
    let mut scenario = under_load().await;
    scenario.cluster.tenders[1].1.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    scenario.cluster.tenders[1].1.restart();
    let sales = scenario.check().await;
    assert!(sales.iter().any(|sale| sale.unknown > 0), "nobody noticed: the fault did not fire");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tender_is_stopped_and_goes_on() {
    let scenario = under_load().await;
    scenario.cluster.tenders[2].1.stop();
    tokio::time::sleep(Duration::from_secs(6)).await;
    scenario.cluster.tenders[2].1.resume();
    let sales = scenario.check().await;
    assert!(sales.iter().any(|sale| sale.unknown > 0), "nobody noticed: the fault did not fire");
    let slowest = sales.iter().map(|sale| sale.slowest).max().expect("sales");
    assert!(slowest < Duration::from_millis(2_600), "a till waited {slowest:?}, and its deadline was 2 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_is_stopped_and_wakes_as_a_zombie() {
    let scenario = under_load().await;
    scenario.cluster.wallets[1].1.stop();
    tokio::time::sleep(Duration::from_secs(6)).await;
    scenario.cluster.wallets[1].1.resume();
    let sales = scenario.check().await;
    assert!(sales.iter().any(|sale| sale.unknown > 0), "nobody noticed: the fault did not fire");
}
