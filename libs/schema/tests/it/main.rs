//! Databases, migrations and invariants on a real server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cross;
mod databases;
mod migrations;

use std::str::FromStr;

use sqlx::{AssertSqlSafe, PgConnection, postgres::PgConnectOptions};

fn server() -> PgConnectOptions {
    let url = std::env::var("TEST_DATABASE_URL").expect("TEST_DATABASE_URL is not set: run script/test");
    PgConnectOptions::from_str(&url).expect("TEST_DATABASE_URL")
}

async fn run(connection: &mut PgConnection, statement: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(drop)
}
