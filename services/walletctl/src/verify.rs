//! Every invariant, in every database, on a running system.

use std::{process::ExitCode, str::FromStr};

use anyhow::Context;
use clap::Args;
use schema::{Compared, Database, Finding};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::{environment::Environment, output, table};

/// What `walletctl verify` takes.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    /// Most rows to show for each rule between the databases; after a restore, all that lack a leg are wanted.
    #[arg(long, default_value_t = Finding::ROWS_SHOWN)]
    rows: usize,
}

/// Limits of a session that reads the history: a statement may take long, but never for ever, and it waits for nobody's lock.
const SESSION: [(&str, &str); 2] = [("statement_timeout", "10min"), ("lock_timeout", "5s")];

/// Checks all databases and prints what was found; exit code 1 if a rule is broken.
///
/// # Errors
/// When a database cannot be read.
pub async fn verify(environment: &Environment, arguments: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let (mut findings, compared) = check_all(environment, arguments.rows).await?;
    if !compared.is_whole {
        eprintln!("walletctl: too much is broken: the comparison of wallet and tenders ended early");
    }
    findings.extend(compared.findings);
    let broken = findings.iter().filter(|finding| finding.violations > 0).count();
    let unfinished = findings.iter().filter(|finding| !finding.is_finished).count();
    let is_ok = broken == 0 && unfinished == 0;
    if arguments.json {
        let report = json!({ "ok": is_ok, "compared_rows": compared.rows, "checks": findings });
        output::json(&report)?;
    } else {
        print_report(&findings)?;
        let (checks, rows) = (findings.len(), compared.rows);
        output::line(format!("{checks} checks, {broken} broken; {rows} sagas and legs were compared"));
        if unfinished > 0 {
            output::line(format!("{unfinished} checks did not finish: nothing is known of their rules"));
        }
    }
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check_all(environment: &Environment, rows: usize) -> anyhow::Result<(Vec<Finding>, Compared)> {
    let mut findings = Vec::new();
    let mut connections = Vec::new();
    for database in Database::ALL {
        let url = environment.require(database.url_variable())?;
        let options = PgConnectOptions::from_str(&url).ok();
        let options = options.with_context(|| format!("{} cannot be read", database.url_variable()))?;
        let options = options.application_name("walletctl verify").options(SESSION);
        let mut connection = PgConnection::connect_with(&options)
            .await
            .with_context(|| format!("cannot connect to the database of {}", database.name()))?;
        findings.extend(schema::check(&mut connection, database).await?);
        connections.push((database, connection));
    }
    let compared = schema::compare(&mut connections, None, rows).await?;
    Ok((findings, compared))
}

fn print_report(findings: &[Finding]) -> anyhow::Result<()> {
    let line = |finding: &Finding| {
        json!({
            "result": match finding.violations {
                _ if !finding.is_finished => "unfinished",
                0 => "ok",
                _ => "BROKEN",
            },
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
