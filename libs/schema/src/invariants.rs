//! What must always be true of one database, as SQL that finds the rows where it is not.

use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::Database;

const TENDER: &str = include_str!("../../../migrations/invariants/tender.sql");
const WALLET: &str = include_str!("../../../migrations/invariants/wallet.sql");

/// How long one rule may take: a scan of the history is not a request.
const RULE_TIMEOUT: &str = "SET LOCAL statement_timeout = '10min'";

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invariant {
    /// Its name.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub statement: &'static str,
    /// A query that returns the rows that break it.
    query: &'static str,
}

/// What a check of one rule found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The database that was looked at.
    pub database: String,
    /// The rule's name.
    pub name: String,
    /// What the rule says.
    pub statement: String,
    /// How many rows break it.
    pub violations: usize,
    /// The first of them.
    pub rows: Vec<Value>,
    /// False where looking took longer than a rule may take: nothing is known then.
    pub is_finished: bool,
}

impl Finding {
    /// Most rows that a finding shows, unless more are asked for.
    pub const ROWS_SHOWN: usize = 20;

    pub(crate) fn new(
        database: &str,
        name: &str,
        statement: &str,
        violations: usize,
        rows: Vec<Value>,
    ) -> Self {
        let [database, name, statement] = [database, name, statement].map(str::to_owned);
        Self { database, name, statement, violations, rows, is_finished: true }
    }
}

/// The rules of `database`, in the order of their file.
#[must_use]
pub fn invariants(database: Database) -> Vec<Invariant> {
    parse(match database {
        Database::Wallet => WALLET,
        _ => TENDER,
    })
}

/// A file of rules: each begins with `-- check: name`, then comment lines that say what it demands, then its query.
fn parse(file: &'static str) -> Vec<Invariant> {
    file.split("-- check: ")
        .skip(1)
        .filter_map(|part| {
            let (name, rest) = part.split_once('\n')?;
            let (statement, query) = rest.split_once('\n')?;
            let statement = statement.strip_prefix("-- ")?;
            Some(Invariant { name: name.trim(), statement, query: query.trim().trim_end_matches(';') })
        })
        .collect()
}

/// Runs every rule of `database`, each in a snapshot of its own: a rule is one query, so the answer is right while services work, and no snapshot
/// is held for longer than one rule takes.
///
/// # Errors
/// When the database cannot be read.
pub async fn check(connection: &mut PgConnection, database: Database) -> sqlx::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for rule in invariants(database) {
        findings.push(check_one(connection, database, &rule).await?);
    }
    Ok(findings)
}

/// Counts all violations, and fetches the first of them.
async fn check_one(
    connection: &mut PgConnection,
    database: Database,
    rule: &Invariant,
) -> sqlx::Result<Finding> {
    let (query, shown) = (rule.query, Finding::ROWS_SHOWN);
    let counted = format!(
        "WITH violation AS MATERIALIZED ({query}\n)
         SELECT (SELECT count(*) FROM violation),
                ARRAY(SELECT to_jsonb(violation) FROM violation LIMIT {shown})"
    );
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql("SET TRANSACTION READ ONLY").execute(&mut *transaction).await?;
    sqlx::raw_sql(RULE_TIMEOUT).execute(&mut *transaction).await?;
    let counted = sqlx::query_as(AssertSqlSafe(counted)).fetch_one(&mut *transaction).await;
    transaction.rollback().await?;
    let (violations, rows): (i64, Vec<Value>) = match counted {
        Ok(counted) => counted,
        // One rule that takes too long must not hide what the others find.
        Err(error) if is_timeout(&error) => {
            let unknown = Finding::new(database.name(), rule.name, rule.statement, 0, Vec::new());
            return Ok(Finding { is_finished: false, ..unknown });
        }
        Err(error) => return Err(error),
    };
    let violations = usize::try_from(violations).unwrap_or(usize::MAX);
    Ok(Finding::new(database.name(), rule.name, rule.statement, violations, rows))
}

fn is_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "57014")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_read_whole() {
        for (database, file) in [(Database::Wallet, WALLET), (Database::Points, TENDER)] {
            let rules = invariants(database);
            assert_eq!(rules.len(), file.matches("-- check: ").count());
            for rule in rules {
                assert!(rule.statement.ends_with('.'), "{}: its statement is one line", rule.name);
                assert!(rule.query.contains("SELECT"), "{}", rule.name);
            }
        }
    }
}
