//! What must always be true of one database, as SQL that finds the rows where it is not.

use serde::Serialize;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::Database;

const TENDER: &str = include_str!("../../../migrations/invariants/tender.sql");
const WALLET: &str = include_str!("../../../migrations/invariants/wallet.sql");

/// Most rows that a finding shows.
const ROWS_SHOWN: usize = 20;

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
}

impl Finding {
    pub(crate) fn new(database: &str, name: &str, statement: &str, rows: Vec<Value>) -> Self {
        Self {
            database: database.to_owned(),
            name: name.to_owned(),
            statement: statement.to_owned(),
            violations: rows.len(),
            rows: rows.into_iter().take(ROWS_SHOWN).collect(),
        }
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

/// Runs every rule of `database` in one snapshot, so that the answer is right while services work.
///
/// # Errors
/// When the database cannot be read.
pub async fn check(connection: &mut PgConnection, database: Database) -> sqlx::Result<Vec<Finding>> {
    let mut snapshot = connection.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *snapshot).await?;
    // A scan of the history is not a request: it may take its time.
    sqlx::query("SET LOCAL statement_timeout = '10min'").execute(&mut *snapshot).await?;
    let mut findings = Vec::new();
    for rule in invariants(database) {
        let rows: Vec<Value> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT to_jsonb(violation) FROM ({}\n) AS violation",
            rule.query
        )))
        .fetch_all(&mut *snapshot)
        .await?;
        findings.push(Finding::new(database.name(), rule.name, rule.statement, rows));
    }
    snapshot.rollback().await?;
    Ok(findings)
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
