//! Faults that nothing has to break for: two callers at the same instant.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::{
    business::BUSINESS,
    check::replay_dead_letters,
    cluster::Cluster,
    funding::fund,
    sale::{Sale, Told},
    till::{Heard, Shop, Till},
};

/// How many are under way at once.
const AT_ONCE: usize = 64;
/// What each redemption of the one balance takes from each tender.
const UNITS: i64 = 10;
/// Pause between replays.
const REPLAYED_EVERY: Duration = Duration::from_millis(500);

/// Each key is used on both orchestrators at once; both must say the same, byte for byte, which the checker looks at.
pub async fn same_key(
    cluster: &Cluster,
    name: &str,
    customers: &[(String, String)],
    count: usize,
) -> Vec<Sale> {
    let till = till(cluster, &format!("{name}-pair"), customers);
    let pairs = (0..count).map(|nth| {
        let (till, sale) = (&till, till.numbered(till.sale_of(nth, 1, 1), nth));
        async move {
            let (one, other) = tokio::join!(till.insist(0, &sale), till.insist(1, &sale));
            let sale = told(sale, one);
            if sale.complaint.is_some() { sale } else { told(sale, other) }
        }
    });
    futures_util::stream::iter(pairs).buffer_unordered(AT_ONCE).collect().await
}

/// Many redemptions of one balance at once, through both orchestrators. What is left at the end shows whether all was well.
pub async fn one_balance(cluster: &Cluster, name: &str, count: usize) -> Vec<Sale> {
    let customer = format!("{name}-hot");
    let reward = fund(cluster, BUSINESS, &customer).await;
    let till = till(cluster, &customer, &[(customer.clone(), reward)]);
    let redeems = (0..count).map(|nth| {
        let (till, sale) = (&till, till.sale_of(nth, UNITS, UNITS));
        async move {
            let heard = till.insist(nth % 2, &sale).await;
            told(sale, heard)
        }
    });
    futures_util::stream::iter(redeems).buffer_unordered(AT_ONCE).collect().await
}

/// Dead letters are replayed all the time, on both orchestrators; how many replays were taken on.
pub async fn replays(cluster: &Cluster, hold: Duration) -> u64 {
    let (until, mut taken) = (Instant::now() + hold, 0);
    while Instant::now() < until {
        for wallet in 0..cluster.wallets.len() {
            taken += u64::from(replay_dead_letters(cluster, wallet).await);
        }
        tokio::time::sleep(REPLAYED_EVERY).await;
    }
    taken
}

fn till(cluster: &Cluster, name: &str, customers: &[(String, String)]) -> Till {
    let shop = Shop { name, tills: 1, customers, patience: Duration::from_secs(5) };
    Till::first(cluster, BUSINESS, &shop)
}

fn told(mut sale: Sale, heard: Heard) -> Sale {
    match heard {
        Heard::Told(told) => sale.told = told,
        Heard::Unknown => sale.complaint = Some("no definite answer".to_owned()),
        Heard::Wrong(complaint) => sale.complaint = Some(complaint),
    }
    if sale.complaint.is_some() {
        sale.told = Told::Nothing;
    }
    sale
}
