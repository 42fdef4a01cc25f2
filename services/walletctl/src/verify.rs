//! Every invariant, in every database, on a running system.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use schema::{Database, Finding};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{environment::Environment, output, table};

/// What `walletctl verify` takes.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks all databases and prints what was found; exit code 1 if a rule is broken.
///
/// # Errors
/// When a database cannot be read.
pub async fn verify(environment: &Environment, arguments: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let findings = check_all(environment).await?;
    let broken = findings.iter().filter(|finding| finding.violations > 0).count();
    if arguments.json {
        let report = json!({ "ok": broken == 0, "checks": findings });
        output::json(&report)?;
    } else {
        print_report(&findings)?;
        output::line(format!("{} checks, {broken} broken", findings.len()));
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check_all(environment: &Environment) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut connections = Vec::new();
    for database in Database::ALL {
        let url = environment.require(database.url_variable())?;
        let mut connection = PgConnection::connect(&url)
            .await
            .with_context(|| format!("cannot connect to the database of {}", database.name()))?;
        findings.extend(schema::check(&mut connection, database).await?);
        connections.push((database, connection));
    }
    findings.extend(schema::cross_check(&mut connections).await?);
    Ok(findings)
}

fn print_report(findings: &[Finding]) -> anyhow::Result<()> {
    let line = |finding: &Finding| {
        json!({
            "result": if finding.violations == 0 { "ok" } else { "BROKEN" },
            "database": finding.database,
            "check": finding.name,
            "rows": finding.violations,
            "statement": finding.statement,
        })
    };
    let lines: Vec<Value> = findings.iter().map(line).collect();
    output::line(table::render(&["result", "database", "check", "rows", "statement"], &lines));
    for finding in findings.iter().filter(|finding| finding.violations > 0) {
        output::line(format!("\n{} is broken in {}:", finding.name, finding.database));
        for row in &finding.rows {
            output::line(format!("  {}", serde_json::to_string(row)?));
        }
    }
    Ok(())
}
