//! After the storm: every saga ended, every invariant holds, and every till was told the truth.

use std::{
    collections::HashSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use checker::{Counts, Healing, format};
use schema::{Database, Finding};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    business::{BUSINESS, OTHER},
    cluster::Cluster,
    dumps::{What, dump, fingerprint},
    sale::{Sale, Told},
    spent::Watch,
    till::Till,
    witnesses::{Witnesses, connect},
};

/// After healing every saga is terminal within this.
const BOUND: Duration = Duration::from_secs(30);
/// Checks between databases look at sagas that have been terminal for as long.
const SETTLED: Duration = Duration::from_secs(6);
/// The product's own checks that name what a database has lost.
const NAME_WHAT_IS_LOST: [&str; 3] = [
    "completed_means_every_leg_applied",
    "compensated_means_no_leg_applied",
    "given_back_means_nothing_in_force",
];
/// Answers of each scenario that are asked for again.
const REPLAYS: usize = 60;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything that must not be.
    pub violations: Vec<String>,
    /// Sagas that were written down as dead letters and replayed.
    pub dead_letters: i64,
    /// How long sagas took that were open when faults ended.
    pub healing: Healing,
    /// How long it took to become quiet.
    pub quiet_after: Duration,
    /// How much the checker looked at.
    pub counts: Counts,
    /// Where the evidence is.
    pub evidence: PathBuf,
    /// What the scenario left in each ledger, which nothing may change from here on.
    pub left: Left,
}

/// The entries of a scenario's accounts, as they were in the end.
#[derive(Debug, Default)]
pub struct Left {
    tag: String,
    fingerprints: Vec<String>,
}

/// Whether the product's own checks run, over everything that any scenario has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Yes, once every saga can be compared.
    All,
    /// After a later scenario: they take the longer the more there is.
    Later,
}

/// What a scenario was, as far as its check asks.
pub(crate) struct Played<'a> {
    /// Begins every key and customer.
    pub(crate) tag: &'a str,
    /// What was there before it.
    pub(crate) before: &'a Before,
    /// What was sold in it, to be asked for again.
    pub(crate) sales: &'a [Sale],
    /// Who asks again.
    pub(crate) till: Till,
    pub(crate) settle: Settle,
}

/// Waits for quiet after healing, replaying dead letters, then checks everything.
///
/// # Panics
/// When a database cannot be read, or evidence not be written.
pub(crate) async fn check(cluster: &mut Cluster, played: &Played<'_>, witnesses: Witnesses) -> Report {
    let mut watch = Watch::start();
    let mut connections = connect(cluster).await;
    let mut report = Report::default();
    if let Err(stuck) = until_quiet(cluster, &mut connections[0].1).await {
        report.violations.push(stuck);
    }
    report.dead_letters = played.before.dead_letters(&mut connections[0].1).await;
    let is_definite = |sale: &&Sale| matches!(sale.told, Told::Completed | Told::Declined);
    played.till.replay(played.sales.iter().rev().filter(is_definite).take(REPLAYS)).await;
    witnesses.finish(cluster, &mut connections).await.expect("room for evidence");
    report.quiet_after = watch.lap();
    let quiet = Instant::now();
    cluster.evidence.mark(format::Moment::Quiet);
    report.left = left(&mut connections, played.tag).await;
    dump_all(cluster, &mut connections, played).await;
    judge(cluster, &mut report).await;
    if played.settle == Settle::All {
        tokio::time::sleep(SETTLED.saturating_sub(quiet.elapsed())).await;
        report.violations.extend(by_sql(&mut connections, &cluster.lost).await);
    }
    report
}

/// What the product's own checks say, but for what is known to be lost.
async fn by_sql(connections: &mut [(Database, PgConnection)], lost: &HashSet<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (database, connection) in connections.iter_mut() {
        findings.extend(schema::check(connection, *database).await.expect("checks"));
    }
    findings.extend(schema::cross_check(connections).await.expect("checks"));
    let broken = findings.into_iter().filter(|finding| finding.violations > 0 && !is_known(finding, lost));
    broken
        .map(|finding| {
            format!(
                "{}: {} ({} rows) {:?}",
                finding.name, finding.statement, finding.violations, finding.rows
            )
        })
        .collect()
}

/// Whether a finding names only sagas that are known to be lost. As many as are known, at most: it shows the first few.
fn is_known(finding: &Finding, lost: &HashSet<String>) -> bool {
    let is_lost = |row: &serde_json::Value| row["saga_id"].as_str().is_some_and(|saga| lost.contains(saga));
    NAME_WHAT_IS_LOST.contains(&finding.name.as_str())
        && finding.violations <= lost.len()
        && finding.rows.iter().all(is_lost)
}

/// Writes the last rows down, as they are.
async fn dump_all(cluster: &Cluster, connections: &mut [(Database, PgConnection)], played: &Played<'_>) {
    let Some(folder) = cluster.evidence.folder() else { return };
    for (database, connection) in connections {
        dump(connection, *database, folder, (2, What::All), played.tag).await.expect("a dump");
    }
}

/// Has the evidence checked, by the code that reads it again later.
async fn judge(cluster: &mut Cluster, report: &mut Report) {
    cluster.evidence.flush().expect("room for evidence");
    let Some(folder) = cluster.evidence.folder().map(std::path::Path::to_owned) else { return };
    let read = folder.clone();
    let checking = tokio::task::spawn_blocking(move || checker::check_folder(&read));
    let checked = checking.await.expect("a checker").expect("evidence");
    let missing = checked.counts.nothing_of();
    report.violations.extend(missing.into_iter().map(|what| format!("there is no evidence: no {what}")));
    report.violations.extend(checked.violations.iter().map(ToString::to_string));
    cluster.lost.extend(checked.lost);
    (report.healing, report.counts, report.evidence) = (checked.healing, checked.counts, folder);
}

async fn left(connections: &mut [(Database, PgConnection)], tag: &str) -> Left {
    let mut fingerprints = Vec::new();
    for (_, connection) in connections.iter_mut().skip(1) {
        fingerprints.push(fingerprint(connection, tag).await.expect("entries"));
    }
    Left { tag: tag.to_owned(), fingerprints }
}

/// What earlier scenarios left and is not any more as it was then.
///
/// # Panics
/// When a database cannot be read.
pub async fn changed_since(cluster: &Cluster, all: &[&Left]) -> Vec<String> {
    let mut connections = connect(cluster).await;
    let mut changed = Vec::new();
    for before in all {
        let now = left(&mut connections, &before.tag).await;
        if now.fingerprints != before.fingerprints {
            changed.push(format!("I10: entries of {before:?} have changed since: {now:?}"));
        }
    }
    changed
}

/// How many dead letters there were, ever, before a scenario.
#[derive(Debug)]
pub struct Before(i64);

impl Before {
    /// Now.
    ///
    /// # Panics
    /// When the wallet's database cannot be read.
    pub async fn now(cluster: &Cluster) -> Self {
        let mut connections = connect(cluster).await;
        Self(letters(&mut connections[0].1).await)
    }

    async fn dead_letters(&self, wallet: &mut PgConnection) -> i64 {
        letters(wallet).await - self.0
    }
}

async fn letters(wallet: &mut PgConnection) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM saga.dead_letter");
    count.fetch_one(wallet).await.expect("a count")
}

/// Waits until no saga is open and no dead letter is. What it says instead is for whoever finds out why.
async fn until_quiet(cluster: &Cluster, wallet: &mut PgConnection) -> Result<(), String> {
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
            return Err(stuck(cluster, wallet).await);
        }
        if letters > 0 {
            replay_dead_letters(cluster, 0).await;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// What an operator does once the tenders are back; whether there was something to replay.
pub(crate) async fn replay_dead_letters(cluster: &Cluster, wallet: usize) -> bool {
    let mut any = false;
    for business in [BUSINESS, OTHER] {
        let request = cluster
            .client
            .post(format!("{}/api/v1/ops/dead-letters/replay", cluster.wallets[wallet].url))
            .bearer_auth(cluster.tokens.staff(business, "ops"));
        let body = json!({ "operation_id": uuid::Uuid::new_v4().to_string(), "reason": "healed", "rate_per_second": 500 });
        let Ok(answer) = request.json(&body).send().await else { continue };
        let said: serde_json::Value = answer.json().await.unwrap_or_default();
        any |= said["matched"].as_i64().is_some_and(|matched| matched > 0);
    }
    any
}

/// What holds up: open sagas with their owners, what each database is doing, and what passed the proxies.
async fn stuck(cluster: &Cluster, wallet: &mut PgConnection) -> String {
    const SAGAS: &str = "
        SELECT to_jsonb(s) - 'plan' - 'response' || jsonb_build_object('beat_at', p.beat_at) FROM saga.saga s
        LEFT JOIN saga.process p ON p.process_id = s.owner WHERE s.state IN (0, 1, 4) LIMIT 5";
    const EVENTS: &str = "
        SELECT to_jsonb(e) FROM saga.saga_event e JOIN saga.saga s USING (saga_id) WHERE s.state IN (0, 1, 4)
        ORDER BY e DESC LIMIT 10";
    const ACTIVITY: &str = "
        SELECT jsonb_build_object('database', datname, 'application', application_name, 'state', state, 'wait', wait_event,
            'since', state_change, 'query', left(query, 120))
        FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'";
    let mut text = format!("sagas are not terminal {BOUND:?} after healing\n");
    text.push_str(&rows(wallet, "saga", SAGAS).await);
    text.push_str(&rows(wallet, "event", EVENTS).await);
    for (_, connection) in &mut connect(cluster).await {
        text.push_str(&rows(connection, "activity", ACTIVITY).await);
    }
    text + &cluster.links.state()
}

/// A line a row.
async fn rows(connection: &mut PgConnection, what: &str, query: &'static str) -> String {
    let rows = sqlx::query_scalar::<_, serde_json::Value>(query).fetch_all(connection).await;
    rows.unwrap_or_default().into_iter().map(|row| format!("{what}: {row}\n")).collect()
}
