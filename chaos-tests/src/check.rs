//! After the storm: every saga ended, every invariant holds, and every till was told the truth.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use schema::Database;
use sqlx::{Connection, PgConnection, Row};

use crate::{Cluster, Sale, Told, cluster::OPENING};

/// After healing every saga is terminal within this.
const BOUND: Duration = Duration::from_secs(30);
/// Checks between databases look at sagas that have been terminal for as long.
const SETTLED: Duration = Duration::from_secs(6);

/// Waits for quiet, then checks everything; how long quiet took.
///
/// # Panics
/// With what is wrong.
pub async fn check(cluster: &Cluster, sales: &[Sale]) -> Duration {
    let healed = Instant::now();
    let mut connections = Vec::new();
    for (database, test) in &cluster.databases {
        connections.push((*database, PgConnection::connect_with(&test.admin()).await.expect("a connection")));
    }
    until_quiet(&mut connections[0].1, healed).await;
    let quiet = healed.elapsed();
    tokio::time::sleep(SETTLED).await;
    let mut findings = Vec::new();
    for (database, connection) in &mut connections {
        findings.extend(schema::check(connection, *database).await.expect("checks"));
    }
    findings.extend(schema::cross_check(&mut connections).await.expect("checks"));
    for finding in findings {
        assert_eq!(finding.violations, 0, "{} ({}): {:#?}", finding.name, finding.statement, finding.rows);
    }
    let ends = told_the_truth(&mut connections[0].1, sales).await;
    nothing_lost_or_doubled(&mut connections, sales, &ends).await;
    quiet
}

async fn until_quiet(wallet: &mut PgConnection, since: Instant) {
    loop {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM saga.saga WHERE state IN (0, 1)")
            .fetch_one(&mut *wallet)
            .await
            .expect("a count");
        if open == 0 {
            return;
        }
        assert!(since.elapsed() < BOUND, "{open} sagas are not terminal {BOUND:?} after healing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// I12: what a till was told is where its redemption ended.
async fn told_the_truth(wallet: &mut PgConnection, sales: &[Sale]) -> HashMap<String, String> {
    let rows = sqlx::query(
        "SELECT s.key, coalesce(r.status, 'nothing') FROM saga.saga s LEFT JOIN wallet.redemption r ON r.redemption_id = s.saga_id
         WHERE s.operation = 'redeem'",
    )
    .fetch_all(wallet)
    .await
    .expect("redemptions");
    let ends: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for sale in sales {
        let end = ends.get(&sale.key).map_or("nothing", String::as_str);
        let is_true = match sale.told {
            Told::Completed => end == "completed",
            Told::Declined => end == "declined",
            Told::Cancelled => ["nothing", "declined", "reversed"].contains(&end),
        };
        assert!(is_true, "{} was told {:?}, and ended {end}", sale.key, sale.told);
    }
    ends
}

/// I1 to I3: each customer's balance in each tender is the opening less what completed redemptions took.
async fn nothing_lost_or_doubled(
    connections: &mut [(Database, PgConnection)],
    sales: &[Sale],
    ends: &HashMap<String, String>,
) {
    let mut spent: HashMap<&str, i64> = HashMap::new();
    for sale in sales {
        let taken = if ends.get(&sale.key).is_some_and(|end| end == "completed") { sale.units } else { 0 };
        *spent.entry(&sale.customer).or_default() += taken;
    }
    for (database, connection) in connections.iter_mut().skip(1) {
        let rows = sqlx::query("SELECT owner, posted, held FROM tender.account")
            .fetch_all(connection)
            .await
            .expect("accounts");
        for row in rows {
            let (owner, posted, held): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
            let expected = OPENING - spent.get(owner.as_str()).copied().unwrap_or(0);
            assert_eq!((posted, held), (expected, 0), "{owner} in {}", database.name());
        }
    }
}
