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

/// From here on no table is vacuumed by itself: that would go over all that was added while something else is measured.
///
/// # Errors
/// When the server refuses.
pub async fn stop_vacuuming() -> anyhow::Result<()> {
    set(&["SET autovacuum = off"]).await
}

/// While rows are added by the million: the server's log need not repair torn pages, nor be written out in between.
pub struct Loading(());

impl Loading {
    /// From now on.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn begin() -> anyhow::Result<Self> {
        set(&["SET full_page_writes = off", "SET max_wal_size = '32GB'", "SET checkpoint_timeout = '1h'"])
            .await?;
        Ok(Self(()))
    }

    /// From now on a crash could lose something again, and nothing of this is left to be written out.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn end(self) -> anyhow::Result<()> {
        set(&["RESET full_page_writes", "RESET max_wal_size", "RESET checkpoint_timeout"]).await?;
        checkpoint().await
    }
}

async fn set(settings: &[&str]) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&server()?).await?;
    for setting in settings {
        sqlx::raw_sql(AssertSqlSafe(format!("ALTER SYSTEM {setting}"))).execute(&mut connection).await?;
    }
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut connection).await?;
    Ok(())
}

/// Drops what makes each row of some tables dear: indexes, keys, and triggers that fire always. The statements that bring it
/// all back, in their order. Partial indexes stay: few rows are in them.
///
/// # Errors
/// When the server refuses.
pub async fn strip(connection: &mut PgConnection, tables: &[&str]) -> anyhow::Result<Vec<String>> {
    let found: Vec<(String, String)> = sqlx::query_as(STRIP).bind(tables).fetch_all(&mut *connection).await?;
    for (drop, _) in found.iter().rev() {
        sqlx::raw_sql(AssertSqlSafe(drop.clone())).execute(&mut *connection).await?;
    }
    Ok(found.into_iter().map(|(_, restore)| restore).collect())
}

/// Keys before the foreign keys that refer to them.
const STRIP: &str = "
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass, c.conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)),
       CASE WHEN c.contype = 'f' THEN 1 ELSE 0 END AS at
FROM pg_constraint c
WHERE (c.contype IN ('p', 'u') AND c.conrelid = ANY ($1::text[]::regclass[]))
   OR (c.contype = 'f' AND c.confrelid = ANY ($1::text[]::regclass[]))
UNION ALL
SELECT format('DROP INDEX %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid), 0
FROM pg_index i
WHERE i.indrelid = ANY ($1::text[]::regclass[])
  AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) LIKE '%IS NOT NULL%')
  AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u'))
UNION ALL
SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', t.tgrelid::regclass, t.tgname),
       format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.tgrelid::regclass, t.tgname), 0
FROM pg_trigger t
WHERE t.tgrelid = ANY ($1::text[]::regclass[]) AND t.tgenabled = 'A' AND NOT t.tgisinternal
ORDER BY at";
