//! Databases of rivals, and what the server says of itself.

use std::str::FromStr as _;

use anyhow::Context;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

/// The server's URL: `TEST_DATABASE_URL`.
///
/// # Errors
/// When it is not set.
pub fn server() -> anyhow::Result<String> {
    std::env::var("TEST_DATABASE_URL").context("TEST_DATABASE_URL: run script/bench")
}

/// An empty database. The server is private, and goes with all its databases.
pub struct Scratch {
    name: String,
}

impl Scratch {
    /// Creates one whose name begins so.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(prefix: &str) -> anyhow::Result<Self> {
        let name = format!("{prefix}_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&server()?).await?;
        let statement = format!("CREATE DATABASE {name} TEMPLATE template0");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        Ok(Self { name })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self, server: &str) -> String {
        server.rsplit_once('/').map_or_else(String::new, |(head, _)| format!("{head}/{}", self.name))
    }
}

/// What the server has written to its log (the write-ahead one) so far.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Wal {
    /// Bytes.
    pub bytes: f64,
    /// Times that it was made durable.
    pub syncs: f64,
    /// Images of whole pages.
    pub images: f64,
}

impl Wal {
    /// Now.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn now() -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect_with(&PgConnectOptions::from_str(&server()?)?).await?;
        let (bytes, syncs, images): (f64, f64, f64) = sqlx::query_as(
            "SELECT wal_bytes::float8, wal_sync::float8, wal_fpi::float8 FROM pg_stat_wal, pg_stat_clear_snapshot()",
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(Self { bytes, syncs, images })
    }

    /// What was written since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            syncs: self.syncs - before.syncs,
            images: self.images - before.images,
        }
    }
}

/// Writes everything out, so that what comes next is not charged for what came before.
///
/// # Errors
/// When the server refuses.
pub async fn checkpoint() -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&server()?).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
    Ok(())
}
