//! What the server reads for what tills, apps, ops and finance ask: the plans of the services' own statements, as
//! `auto_explain` writes them to the server's log.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{
    database::server,
    http::Connection,
    report::Row,
    system::{BUSINESS, System},
};

/// No request may have the server look at more rows than this.
const MOST_ROWS: f64 = 1_000.0;
/// A plan is in the log a moment after its answer.
const LOG_LAGS: Duration = Duration::from_millis(100);
/// Long enough for everything that the services do by themselves.
const BACKGROUND: Duration = Duration::from_secs(6);

/// Whose token a request bears, its path, and what it is for.
const REQUESTS: [(&str, &str, &str); 21] = [
    ("pos", "/wallet/redemptions/SAGA", "a redemption by id"),
    ("pos", "/wallet/redemptions?idempotency_key=KEY", "a redemption by its key"),
    ("pos", "/wallet/redemptions?order_id=KEY", "redemptions of an order"),
    ("pos", "/wallet/redemptions?customer_id=customer-7", "redemptions of a customer"),
    ("pos", "/wallet/redemptions?customer_id=customer-7&status=completed", "completed ones of a customer"),
    ("pos", "/wallet/redemptions?status=pending", "pending redemptions"),
    ("pos", "/wallet/redemptions?status=declined", "declined redemptions"),
    ("pos", "/wallet/redemptions?status=completed", "completed redemptions"),
    ("pos", "/wallet/balance?customer_id=customer-7", "a customer's balance"),
    ("pos", "/wallet/transactions?customer_id=customer-7", "a customer's transactions"),
    ("ops", "/ops/sagas", "the newest sagas"),
    ("ops", "/ops/sagas?status=running", "sagas on their way"),
    ("ops", "/ops/sagas?status=completed", "completed sagas"),
    ("ops", "/ops/sagas?status=compensated", "sagas that went back"),
    ("ops", "/ops/sagas?status=dead_letter", "sagas that are parked"),
    ("ops", "/ops/sagas?customer=customer-7", "sagas of a customer"),
    ("ops", "/ops/sagas?key=KEY", "a saga by its key"),
    ("ops", "/ops/sagas/SAGA", "a saga"),
    ("ops", "/ops/dead-letters", "open dead letters"),
    ("ops", "/ops/dead-letters?status=all", "all dead letters"),
    ("ops", "/ops/actions", "what operators did"),
];

/// A statement's plan.
struct Plan {
    query: String,
    text: String,
    /// Of tables: by which index, or none, and how many rows were looked at.
    scans: Vec<(String, f64)>,
}

/// Asks for everything once, says how much was read, and keeps the plans in `plans.md`.
///
/// # Errors
/// When something cannot be asked.
pub async fn run(system: &System, there: i64, results: &Path) -> anyhow::Result<Row> {
    explain(system, true).await?;
    let log = Log(std::env::var("BENCH_POSTGRES_LOG").context("BENCH_POSTGRES_LOG: run script/bench")?);
    let (saga, key): (uuid::Uuid, String) = {
        let mut connection = PgConnection::connect_with(&system.databases[0].admin()).await?;
        sqlx::query_as("SELECT saga_id, key FROM saga.saga ORDER BY saga_id OFFSET 777 LIMIT 1")
            .fetch_one(&mut connection)
            .await?
    };
    // Everything once, so that connections are open and pages are in memory; then what the services do by themselves.
    for request in REQUESTS {
        ask(system, request, saga, &key).await?;
    }
    let from = log.end()?;
    tokio::time::sleep(BACKGROUND).await;
    let own: BTreeMap<String, Plan> =
        log.plans(from)?.into_iter().map(|plan| (plan.query.clone(), plan)).collect();
    let mut text = format!("# Plans on {there} redemptions\n");
    let (mut most, mut slowest) = (0.0_f64, 0.0_f64);
    for request in REQUESTS {
        let from = log.end()?;
        let millis = ask(system, request, saga, &key).await?;
        tokio::time::sleep(LOG_LAGS).await;
        let plans = log.plans(from)?;
        let asked = plans.iter().filter(|plan| !own.contains_key(&plan.query));
        let rows = write_down(&mut text, &format!("{} — `{}`, {millis:.1} ms", request.2, request.1), asked)?;
        (most, slowest) = (most.max(rows), slowest.max(millis));
    }
    most = most.max(write_down(&mut text, "what the services do by themselves", own.values())?);
    fs::create_dir_all(results)?;
    fs::write(results.join("plans.md"), text)?;
    explain(system, false).await?;
    Ok(Row {
        name: format!("what is asked of {there} redemptions"),
        rival: String::new(),
        goal: format!("≤ {MOST_ROWS:.0} rows read"),
        reached: format!("{most:.0} rows, {slowest:.1} ms at most"),
        of_goal: MOST_ROWS / most.max(1.0),
        ours: None,
        theirs: None,
        cost: None,
    })
}

/// How long the answer took, in milliseconds.
async fn ask(
    system: &System,
    (role, path, _): (&str, &str, &str),
    saga: uuid::Uuid,
    key: &str,
) -> anyhow::Result<f64> {
    let path = format!("/api/v1{}", path.replace("SAGA", &saga.to_string()).replace("KEY", key));
    let bearer = format!("Bearer {}", system.tokens.staff(BUSINESS, role));
    let mut connection = Connection::to(system.wallets[0].public);
    let begun = Instant::now();
    let answer = connection.send(Method::GET, &path, &[("authorization", &bearer)], Vec::new()).await?;
    let millis = begun.elapsed().as_secs_f64() * 1_000.0;
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "{path}: {} {body}", answer.status);
    Ok(millis)
}

/// A section: each plan with what it read; the most rows that a statement looked at.
fn write_down<'a>(
    text: &mut String,
    title: &str,
    plans: impl Iterator<Item = &'a Plan>,
) -> anyhow::Result<f64> {
    writeln!(text, "\n## {title}\n")?;
    let mut most = 0.0_f64;
    for plan in plans {
        let rows: f64 = plan.scans.iter().map(|(_, rows)| rows).sum();
        most = most.max(rows);
        for (scan, rows) in &plan.scans {
            writeln!(text, "- {scan}: {rows:.0} rows")?;
        }
        writeln!(text, "\n```\n{}\n{}\n```\n", plan.query, plan.text)?;
    }
    Ok(most)
}

/// Switches plans in the log on or off, for sessions that begin now: those that are open are ended.
async fn explain(system: &System, is_on: bool) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&server()?).await?;
    for database in &system.databases {
        let options = database.admin();
        let name = options.get_database().context("a database")?;
        let settings = [
            ("session_preload_libraries", "'auto_explain'"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_timing", "off"),
            ("auto_explain.log_format", "'json'"),
        ];
        for (setting, value) in settings {
            let change = if is_on { format!("SET {setting} = {value}") } else { format!("RESET {setting}") };
            let statement = format!("ALTER DATABASE \"{name}\" {change}");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
            .bind(name)
            .execute(&mut connection)
            .await?;
    }
    drop(connection);
    // Sessions come back, and leases with them.
    system.resume().await
}

/// The server's log.
struct Log(String);

impl Log {
    fn end(&self) -> anyhow::Result<usize> {
        Ok(usize::try_from(fs::metadata(&self.0)?.len())?)
    }

    /// Plans that were written from here on.
    fn plans(&self, from: usize) -> anyhow::Result<Vec<Plan>> {
        let bytes = fs::read(&self.0)?;
        let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned();
        // A line that goes on begins with a tab.
        let entries = text.split("plan:\n").skip(1);
        let plans = entries.map(|entry| {
            let lines: Vec<&str> = entry.lines().take_while(|line| line.starts_with('\t')).collect();
            Plan::read(&lines.concat())
        });
        plans.collect()
    }
}

impl Plan {
    fn read(json: &str) -> anyhow::Result<Self> {
        let document: Value = serde_json::from_str(json).context("a plan in the log")?;
        let query = document["Query Text"].as_str().unwrap_or_default();
        let query = query.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut plan = Self { query, text: String::new(), scans: Vec::new() };
        plan.node(&document["Plan"], 0)?;
        Ok(plan)
    }

    fn node(&mut self, node: &Value, depth: usize) -> anyhow::Result<()> {
        let text = |name: &str| node[name].as_str().unwrap_or_default();
        let number = |name: &str| node[name].as_f64().unwrap_or_default();
        let (kind, relation, index) = (text("Node Type"), text("Relation Name"), text("Index Name"));
        let loops = number("Actual Loops");
        let seen = loops
            * (number("Actual Rows")
                + number("Rows Removed by Filter")
                + number("Rows Removed by Index Recheck"));
        let by = if index.is_empty() { relation.to_owned() } else { format!("{relation} by {index}") };
        writeln!(self.text, "{}{kind} {by} ({seen:.0} rows) {}", "  ".repeat(depth), text("Index Cond"))?;
        if kind.ends_with("Scan") && !(relation.is_empty() && index.is_empty()) {
            self.scans.push((format!("{kind} {by}"), seen));
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            self.node(child, depth + 1)?;
        }
        Ok(())
    }
}
