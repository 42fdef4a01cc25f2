//! One call of an SQL function per debit, by `pgbench`: no service, no HTTP, no token.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use sqlx::{Connection as _, PgConnection};

use super::row_lock::TABLES;
use crate::database::{Scratch, server};

/// Connections of `pgbench`.
const CLIENTS: u32 = 32;
/// A debit as one statement: lock, check, update, insert.
const FUNCTION: &str = "
CREATE FUNCTION debit(of bigint, units bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE left_over bigint; reached bigint;
BEGIN
    SELECT balance, version INTO left_over, reached FROM account WHERE id = of FOR UPDATE;
    IF left_over < units THEN RETURN -1; END IF;
    UPDATE account SET balance = balance - units, version = version + 1 WHERE id = of;
    INSERT INTO debit (key, account, amount, version) VALUES (gen_random_uuid(), of, units, reached + 1);
    RETURN left_over - units;
END $$";
const SCRIPT: &str = "\\set account random(1, 100000)\nSELECT debit(:account, 1);\n";

/// Debits a second over 100,000 accounts, and the mean latency in milliseconds.
///
/// # Errors
/// When `pgbench` is not there, or fails.
pub async fn rate(lasts: Duration) -> anyhow::Result<(f64, f64)> {
    let database = Scratch::create("pgbench").await?;
    let url = database.url(&server()?);
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql(TABLES).execute(&mut connection).await?;
    sqlx::raw_sql(FUNCTION).execute(&mut connection).await?;
    let script: PathBuf = std::env::temp_dir().join(format!("bench-{}.sql", uuid::Uuid::new_v4()));
    std::fs::write(&script, SCRIPT)?;
    let program = std::env::var("BENCH_PGBENCH").context("BENCH_PGBENCH: run script/bench")?;
    let done = tokio::process::Command::new(program)
        .args(["-n", "-M", "prepared", "-c", &CLIENTS.to_string(), "-j", "2", "-T"])
        .arg(lasts.as_secs().max(1).to_string())
        .arg("-f")
        .arg(&script)
        .arg(&url)
        .stderr(Stdio::null())
        .output()
        .await?;
    std::fs::remove_file(&script)?;
    ensure!(done.status.success(), "pgbench failed");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(['=', ' ']).filter_map(|word| word.parse::<f64>().ok()).next()
    };
    Ok((number("tps").context("no rate")?, number("latency average").context("no latency")?))
}
