//! After the storm: every saga ended, every invariant holds, and every till was told the truth.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use schema::Database;
use serde_json::json;
use sqlx::{Connection, PgConnection, Row};

use crate::{
    Cluster, Sale, Told,
    cluster::{BUSINESS, OPENING},
    load::replay,
};

/// After healing every saga is terminal within this.
const BOUND: Duration = Duration::from_secs(30);
/// Checks between databases look at sagas that have been terminal for as long.
const SETTLED: Duration = Duration::from_secs(6);
/// Answers of each scenario that are asked for again.
const REPLAYS: usize = 60;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything that must not be.
    pub violations: Vec<String>,
    /// Sagas that were written down as dead letters and replayed.
    pub dead_letters: i64,
}

/// How long to wait before databases are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Until every saga can be compared.
    All,
    /// Not at all: what ended just now is compared after a later scenario.
    Later,
}

/// Waits for quiet after healing, replaying dead letters, then checks everything. `since`: the database's clock when the
/// scenario began.
///
/// # Panics
/// When a database cannot be read.
pub async fn check(cluster: &Cluster, sales: &[Sale], since: &Moment, settle: Settle) -> Report {
    let mut connections = Vec::new();
    for (database, test) in &cluster.databases {
        let connection = PgConnection::connect_with(&test.admin()).await.expect("a connection");
        connections.push((*database, connection));
    }
    let mut report = Report::default();
    if let Err(stuck) = until_quiet(cluster, &mut connections[0].1, since).await {
        report.violations.push(stuck);
        return report;
    }
    report.dead_letters = since.dead_letters(&mut connections[0].1).await;
    if settle == Settle::All {
        tokio::time::sleep(SETTLED).await;
    }
    let mut findings = Vec::new();
    for (database, connection) in &mut connections {
        findings.extend(schema::check(connection, *database).await.expect("checks"));
    }
    findings.extend(schema::cross_check(&mut connections).await.expect("checks"));
    let broken = findings.into_iter().filter(|finding| finding.violations > 0);
    report.violations.extend(broken.map(|finding| {
        format!("{}: {} ({} rows) {:?}", finding.name, finding.statement, finding.violations, finding.rows)
    }));
    report.violations.extend(
        sales
            .iter()
            .filter_map(|sale| sale.complaint.as_ref().map(|complaint| format!("{}: {complaint}", sale.key))),
    );
    let ends = ends(&mut connections[0].1).await;
    report.violations.extend(sales.iter().filter_map(|sale| is_a_lie(sale, &ends)));
    report.violations.extend(lost_or_doubled(&mut connections, sales, &ends).await);
    let answered = sales.iter().rev().filter(|sale| sale.answer.is_some()).take(REPLAYS);
    report.violations.extend(
        futures_util::future::join_all(answered.map(|sale| replay(cluster, sale)))
            .await
            .into_iter()
            .flatten(),
    );
    report
}

/// A moment by the database's clock, and how many dead letters there were.
#[derive(Debug)]
pub struct Moment {
    at: String,
    letters: i64,
}

impl Moment {
    /// Now.
    ///
    /// # Panics
    /// When the wallet's database cannot be read.
    pub async fn now(cluster: &Cluster) -> Self {
        let mut wallet =
            PgConnection::connect_with(&cluster.databases[0].1.admin()).await.expect("a connection");
        let row = sqlx::query("SELECT clock_timestamp()::text, (SELECT count(*) FROM saga.dead_letter)")
            .fetch_one(&mut wallet)
            .await
            .expect("a clock");
        Self { at: row.get(0), letters: row.get(1) }
    }

    async fn dead_letters(&self, wallet: &mut PgConnection) -> i64 {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM saga.dead_letter")
            .fetch_one(wallet)
            .await
            .expect("a count");
        count - self.letters
    }

    /// Of the sagas that were open at this moment and have ended since, how long half of them and the slowest took.
    ///
    /// # Panics
    /// When the wallet's database cannot be read.
    pub async fn healing(&self, cluster: &Cluster) -> (Duration, Duration) {
        let mut wallet =
            PgConnection::connect_with(&cluster.databases[0].1.admin()).await.expect("a connection");
        let row = sqlx::query(
            "SELECT coalesce((percentile_disc(0.5) WITHIN GROUP (ORDER BY took))::bigint, 0), coalesce(max(took)::bigint, 0)
             FROM (SELECT extract(epoch FROM ended_at - $1::timestamptz) * 1000 AS took FROM saga.saga
                   WHERE created_at < $1::timestamptz AND ended_at > $1::timestamptz
                     -- Not what ended before, while the clock was ahead.
                     AND ended_at <= clock_timestamp()) AS open",
        )
        .bind(&self.at)
        .fetch_one(&mut wallet)
        .await
        .expect("times");
        let millis = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        (millis(row.get(0)), millis(row.get(1)))
    }
}

/// Waits until no saga is open and no dead letter is. What it says instead is for whoever finds out why.
async fn until_quiet(cluster: &Cluster, wallet: &mut PgConnection, since: &Moment) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let (open, letters): (i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE state IN (0, 1)), count(*) FILTER (WHERE state = 4) FROM saga.saga
             WHERE state IN (0, 1, 4)",
        )
        .fetch_one(&mut *wallet)
        .await
        .expect("a count");
        if open + letters == 0 {
            return Ok(());
        }
        if begun.elapsed() > BOUND {
            return Err(stuck(cluster, wallet, since).await);
        }
        if letters > 0 {
            replay_dead_letters(cluster, 0).await;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// What an operator does once the tenders are back; whether there was something to replay.
pub(crate) async fn replay_dead_letters(cluster: &Cluster, wallet: usize) -> bool {
    let request = cluster
        .client
        .post(format!("{}/api/v1/ops/dead-letters/replay", cluster.wallets[wallet].url))
        .bearer_auth(cluster.tokens.staff(BUSINESS, "ops"));
    let body = json!({ "operation_id": uuid::Uuid::new_v4().to_string(), "reason": "healed", "rate_per_second": 500 });
    let Ok(answer) = request.json(&body).send().await else { return false };
    let said: serde_json::Value = answer.json().await.unwrap_or_default();
    said["matched"].as_i64().is_some_and(|matched| matched > 0)
}

/// What holds up: open sagas with their owners, what Postgres is doing, and what passed the proxies.
async fn stuck(cluster: &Cluster, wallet: &mut PgConnection, since: &Moment) -> String {
    let mut text = format!("sagas are not terminal {BOUND:?} after healing (scenario began {})\n", since.at);
    for (what, query) in [
        (
            "saga",
            "SELECT to_jsonb(s) - 'plan' - 'response' || jsonb_build_object('beat_at', p.beat_at) FROM saga.saga s
             LEFT JOIN saga.process p ON p.process_id = s.owner WHERE s.state IN (0, 1, 4) LIMIT 5",
        ),
        (
            "event",
            "SELECT to_jsonb(e) FROM saga.saga_event e JOIN saga.saga s USING (saga_id) WHERE s.state IN (0, 1, 4)
             ORDER BY e DESC LIMIT 10",
        ),
        (
            "activity",
            "SELECT jsonb_build_object('database', datname, 'application', application_name, 'state', state, 'wait',
             wait_event, 'since', state_change, 'query', left(query, 120)) FROM pg_stat_activity WHERE state <> 'idle'",
        ),
    ] {
        let rows: Vec<serde_json::Value> = sqlx::query_scalar(query).fetch_all(&mut *wallet).await.unwrap_or_default();
        for row in rows {
            text.push_str(&format!("{what}: {row}\n"));
        }
    }
    text + &cluster.links.state()
}

/// Where the redemption of each key ended.
async fn ends(wallet: &mut PgConnection) -> HashMap<String, String> {
    let rows = sqlx::query(
        "SELECT s.key, coalesce(r.status, 'nothing') FROM saga.saga s LEFT JOIN wallet.redemption r ON r.redemption_id = s.saga_id
         WHERE s.operation = 'redeem'",
    )
    .fetch_all(wallet)
    .await
    .expect("redemptions");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// I12: what a till was told is where its redemption ended.
fn is_a_lie(sale: &Sale, ends: &HashMap<String, String>) -> Option<String> {
    let end = ends.get(&sale.key).map_or("nothing", String::as_str);
    let is_true = match sale.told {
        Told::Completed => end == "completed",
        Told::Declined => end == "declined",
        Told::Cancelled => ["nothing", "declined", "reversed"].contains(&end),
        Told::Nothing => true,
    };
    (!is_true).then(|| format!("{} was told {:?}, and ended {end}", sale.key, sale.told))
}

/// I1 to I3: each customer's balance in each tender is the opening less what completed redemptions took.
async fn lost_or_doubled(
    connections: &mut [(Database, PgConnection)],
    sales: &[Sale],
    ends: &HashMap<String, String>,
) -> Vec<String> {
    let mut spent: HashMap<&str, i64> = HashMap::new();
    for sale in sales {
        let taken = if ends.get(&sale.key).is_some_and(|end| end == "completed") { sale.units } else { 0 };
        *spent.entry(&sale.customer).or_default() += taken;
    }
    let mut wrong = Vec::new();
    for (database, connection) in connections.iter_mut().skip(1) {
        let rows = sqlx::query("SELECT owner, posted, held FROM tender.account")
            .fetch_all(connection)
            .await
            .expect("accounts");
        for row in rows {
            let (owner, posted, held): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
            // Customers of earlier scenarios were looked at then.
            let Some(spent) = spent.get(owner.as_str()) else { continue };
            if (posted, held) != (OPENING - spent, 0) {
                wrong.push(format!(
                    "{owner} in {}: {posted} posted and {held} held, not {}",
                    database.name(),
                    OPENING - spent
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sale(told: Told) -> Sale {
        Sale {
            key: "key".to_owned(),
            customer: "customer".to_owned(),
            units: 1,
            request: json!({}),
            told,
            answer: None,
            slowest: Duration::ZERO,
            unknown: 0,
            complaint: None,
        }
    }

    #[test]
    fn a_lie_is_found() {
        for (told, end, is_lie) in [
            (Told::Completed, "completed", false),
            (Told::Completed, "declined", true),
            (Told::Completed, "nothing", true),
            (Told::Declined, "completed", true),
            (Told::Declined, "declined", false),
            (Told::Cancelled, "reversed", false),
            (Told::Cancelled, "completed", true),
            (Told::Nothing, "completed", false),
        ] {
            let ends = HashMap::from([("key".to_owned(), end.to_owned())]);
            assert_eq!(is_a_lie(&sale(told), &ends).is_some(), is_lie, "{told:?}, {end}");
        }
        assert!(is_a_lie(&sale(Told::Completed), &HashMap::new()).is_some(), "nothing was ever written");
    }
}
