//! One database server alone is not as the others are: its clock is wrong, or its accounts are locked. What must go on, and
//! what must be seen of it.
//!
//! Whoever measures the difference between two databases against a third clock, that of a process, sees nothing of it where
//! it matters, or sees it where it does not.

use std::time::Duration;

use schema::Database;

use crate::{
    business::BUSINESS,
    cluster::Cluster,
    funding::TENDERS,
    postgres,
    sale::{Sale, Told},
    scene::{Armed, Scene},
    till::{Heard, Shop, Till},
};

/// Redemptions that have to complete while the clocks are apart.
const REDEMPTIONS: usize = 6;
/// What is measured may differ from what is so by so many milliseconds.
const TOLERANCE_MS: i64 = 2_000;
/// How long a till waits for a connection that says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// One server's clock is ahead by so many seconds, or behind, for so long; what was seen of it.
pub(crate) async fn apart(scene: &Scene<'_>, database: Database, seconds: i64, hold: Duration) -> Armed {
    let cluster = &*scene.cluster;
    let server = cluster.server(database);
    server.restart_with_clock(&format!("{seconds:+}")).await;
    tokio::time::sleep(hold).await;
    let ahead = postgres::clock_ahead(server).await;
    let mut armed = Armed {
        fired: u64::from(ahead.abs_diff(seconds) * 1_000 <= TOLERANCE_MS.unsigned_abs()),
        ..Armed::default()
    };
    armed.complaints = shown(cluster, database, seconds * 1_000).await;
    redeem(scene, &mut armed).await;
    armed
}

/// Everybody waits for the accounts of one tender, for so long. Halfway through, what needs only the others is sold.
pub(crate) async fn legs_hang(scene: &Scene<'_>, database: Database, hold: Duration) -> Armed {
    let taken = postgres::lock_tables(scene.cluster.server(database)).await;
    let mut armed = Armed { fired: taken.len() as u64, taken, ..Armed::default() };
    tokio::time::sleep(hold / 2).await;
    let till = till(scene, "beside");
    for nth in 0..REDEMPTIONS {
        // Store credit is the tender that a sale can do without.
        let sale = till.sale_of(nth, 1, 0);
        let heard = till.redeem(&till.wallets[nth % 2], &sale).await;
        armed.sales.push(completed(sale, &heard, "while another tender hangs"));
    }
    tokio::time::sleep(hold / 2).await;
    armed
}

/// The right time again.
pub(crate) async fn together(cluster: &Cluster, database: Database) {
    let server = cluster.server(database);
    server.restart().await;
    postgres::until_ready(server).await;
}

/// Every orchestrator says of each tender how far its database's clock is ahead of the wallet's; what is said wrongly.
async fn shown(cluster: &Cluster, database: Database, offset_ms: i64) -> Vec<String> {
    let mut complaints = Vec::new();
    for node in &cluster.wallets {
        let metrics = cluster.metrics(node).await;
        for (tender, (_, name)) in Database::ALL.into_iter().skip(1).zip(TENDERS) {
            let expected = match database {
                Database::Wallet => -offset_ms,
                other if other == tender => offset_ms,
                _ => 0,
            };
            let shown = skew_ms(&metrics, name);
            if shown.is_none_or(|shown| (shown - expected).abs() > TOLERANCE_MS) {
                complaints.push(format!(
                    "{} shows a skew of {shown:?} ms to {name}, whose database is {expected} ms ahead",
                    node.name
                ));
            }
        }
    }
    complaints
}

/// The skew of a tender in an orchestrator's metrics.
fn skew_ms(metrics: &str, tender: &str) -> Option<i64> {
    let name = format!("tender_clock_skew_ms{{tender=\"{tender}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name))?.trim().parse().ok()
}

/// Redemptions go on: what is refused for its time alone was judged by clocks that cannot be compared.
async fn redeem(scene: &Scene<'_>, armed: &mut Armed) {
    let till = till(scene, "apart");
    for nth in 0..REDEMPTIONS {
        let sale = till.sale_of(nth, 1, 1);
        let heard = till.insist(nth % 2, &sale).await;
        armed.sales.push(completed(sale, &heard, "while clocks are apart"));
    }
}

fn till(scene: &Scene<'_>, name: &str) -> Till {
    let name = format!("{}-{name}", scene.name);
    let shop = Shop { name: &name, tills: 1, customers: scene.customers, patience: PATIENCE };
    Till::first(scene.cluster, BUSINESS, &shop)
}

/// A sale that has to be completed.
fn completed(mut sale: Sale, heard: &Heard, when: &str) -> Sale {
    if *heard == Heard::Told(Told::Completed) {
        sale.told = Told::Completed;
    } else {
        sale.complaint = Some(format!("not completed {when}: {heard:?}"));
    }
    sale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenders_skew_is_found_among_the_metrics() {
        let metrics = "# TYPE x\ntender_clock_skew_ms{tender=\"points\"} -13004\ntender_clock_skew_ms{tender=\"store_credit\"} 3\n";
        assert_eq!(skew_ms(metrics, "points"), Some(-13_004));
        assert_eq!(skew_ms(metrics, "store_credit"), Some(3));
        assert_eq!(skew_ms(metrics, "digital_reward"), None);
    }
}
