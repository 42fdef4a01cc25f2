//! `walletctl doctor`: whether everything that the system stands on is as it should be, and how to mend what is not.

mod databases;
mod files;
mod machines;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{environment::Environment, output, table};

/// What `walletctl doctor` takes.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// How one check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// As it should be.
    Ok,
    /// It could not be looked at from here.
    Skipped,
    /// It has to be mended.
    Wrong,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    /// What was looked at.
    subject: String,
    /// What should be so.
    check: &'static str,
    outcome: Outcome,
    /// What is so.
    found: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// Looks at databases, Redis, clocks, keys and services; exit code 1 if something has to be mended.
///
/// # Errors
/// When the findings cannot be printed.
pub async fn doctor(environment: &Environment, arguments: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut checks = databases::check(environment).await;
    checks.extend(machines::redis(environment).await);
    checks.extend(files::check(environment));
    checks.push(files::codes(environment).await);
    checks.extend(machines::services(environment).await);
    let wrong = checks.iter().filter(|check| check.outcome == Outcome::Wrong).count();
    if arguments.json {
        output::json(&json!({ "ok": wrong == 0, "checks": checks }))?;
    } else {
        print(&checks);
        output::line(format!("\n{} checks, {wrong} to be mended", checks.len()));
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(checks: &[Check]) {
    let name = |outcome: Outcome| match outcome {
        Outcome::Ok => "ok",
        Outcome::Skipped => "-",
        Outcome::Wrong => "WRONG",
    };
    let row = |check: &Check| json!({ "result": name(check.outcome), "subject": check.subject, "check": check.check, "found": check.found });
    let rows: Vec<Value> = checks.iter().map(row).collect();
    output::line(table::render(&["result", "subject", "check", "found"], &rows));
    for check in checks {
        if let Some(mend) = check.mend.as_ref().filter(|_| check.outcome == Outcome::Wrong) {
            output::line(format!("\n{}: {}: {}\n  {mend}", check.subject, check.check, check.found));
        }
    }
}

/// Makes the findings about one subject.
struct About<'a>(&'a str);

impl About<'_> {
    fn ok(&self, check: &'static str, found: impl Into<String>) -> Check {
        let subject = self.0.to_owned();
        Check { subject, check, outcome: Outcome::Ok, found: found.into(), mend: None }
    }

    fn skipped(&self, check: &'static str, found: impl Into<String>) -> Check {
        Check { outcome: Outcome::Skipped, ..self.ok(check, found) }
    }

    fn wrong(&self, check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { outcome: Outcome::Wrong, mend: Some(mend.into()), ..self.ok(check, found) }
    }

    /// Ok where nothing is found that should not be.
    fn none(&self, check: &'static str, found: &[String], mend: impl Into<String>) -> Check {
        if found.is_empty() {
            self.ok(check, "no exception")
        } else {
            self.wrong(check, found.join(", "), mend)
        }
    }
}

/// Clocks may differ by this much, in milliseconds.
const SKEW_MAX_MS: i64 = 1_000;

/// A clock against this machine's, read between two looks at the latter.
fn clock(about: &About<'_>, theirs_ms: i64, before_ms: i64, after_ms: i64) -> Check {
    const CHECK: &str = "clock within 1 s of this machine's";
    let skew = theirs_ms - before_ms.midpoint(after_ms);
    let found = format!("{skew:+} ms");
    if skew.abs() <= SKEW_MAX_MS {
        return about.ok(CHECK, found);
    }
    about.wrong(
        CHECK,
        found,
        "Run a time service (chrony, systemd-timesyncd) on both machines; expiry and holds are judged by the databases' clocks.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_with_the_middle_of_the_look() {
        let outcome = |theirs| clock(&About("x"), theirs, 10_000, 10_400).outcome;
        assert_eq!(
            [9_201, 11_200, 9_199, 11_201].map(outcome),
            [Outcome::Ok, Outcome::Ok, Outcome::Wrong, Outcome::Wrong]
        );
    }
}
