//! From an empty cluster to a database that its service can use.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{Migrate, Migration},
    postgres::PgConnectOptions,
};
use uuid::Uuid;

use crate::{
    Database,
    migrate::{self, Applied, migrate},
    scram,
};

/// How long migrations may take by default, waits for locks included.
pub const WITHIN: Duration = Duration::from_mins(10);

/// One at a time: roles belong to the cluster, and two sessions that grant at once disturb each other.
const LOCK: i64 = 0x0077_616c_6c65_7400;

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Whose schema.
    pub database: Database,
    /// Name of the database.
    pub name: &'a str,
    /// Login role of the service: it may connect and do what the writer role may.
    pub role: &'a str,
    /// The role's password.
    pub password: &'a str,
}

/// Makes the database and its login role if they are missing, sets the password, and migrates. Safe to
/// run again and to run several times at once.
///
/// `admin` owns everything; it needs the right to create databases and roles.
///
/// # Errors
/// When the server cannot be reached or refuses, a migration fails or is not done `within` the time, one that is offline meets
/// a process of the service, or the database has rows of a release that this one does not take over from.
pub async fn provision(
    admin: &PgConnectOptions,
    target: &Target<'_>,
    within: Duration,
) -> anyhow::Result<Vec<Applied>> {
    let mut server = PgConnection::connect_with(admin).await.context("cannot connect to the server")?;
    migrate::lock(&mut server, LOCK, Instant::now() + within).await?;
    make_role(&mut server, target).await.with_context(|| format!("role {}", target.role))?;
    make_database(&mut server, target.name).await.with_context(|| format!("database {}", target.name))?;
    let mut owner = PgConnection::connect_with(&admin.clone().database(target.name)).await?;
    // From here on nobody else migrates it: a run that was killed may have left a session that still does.
    migrate::lock(&mut owner, migrate::LOCK, Instant::now() + within).await?;
    let migrated = bring_up_to_date(&mut owner, target.database, within).await;
    // Whatever came of it: this run failed, or one that was killed has left the service's role without its right to connect.
    let granted = grant(&mut server, target).await.with_context(|| format!("grants on {}", target.name));
    let applied = migrated.with_context(|| format!("migrating {}", target.database.name()))?;
    granted?;
    owner.close().await?;
    server.close().await?;
    Ok(applied)
}

async fn bring_up_to_date(
    owner: &mut PgConnection,
    database: Database,
    within: Duration,
) -> anyhow::Result<Vec<Applied>> {
    refuse_rows_of_an_earlier_release(owner, database).await?;
    migrate(owner, database.writer(), &database.migrations(), within).await
}

/// Later migrations keep the rows, these changed what rows mean: how requests are hashed, how ids are made.
async fn refuse_rows_of_an_earlier_release(
    owner: &mut PgConnection,
    database: Database,
) -> anyhow::Result<()> {
    owner.ensure_migrations_table(migrate::TABLE).await?;
    let applied = owner.list_applied_migrations(migrate::TABLE).await?;
    let is_applied = |version| applied.iter().any(|one| one.version == version);
    let mut base = database.migrations().into_iter().filter(|one| database.is_base(one.version));
    if applied.is_empty() || base.all(|one| is_applied(one.version)) {
        return Ok(());
    }
    let has_rows: bool = sqlx::query_scalar(database.has_rows()).fetch_one(owner).await?;
    ensure!(
        !has_rows,
        "this release cannot take over the rows of an earlier one: start from an empty database (in development: --fresh)"
    );
    Ok(())
}

/// The migrations of `database` that were not applied yet, or were changed since, on a connection of its owner.
///
/// # Errors
/// When they cannot be read.
pub async fn pending(owner: &mut PgConnection, database: Database) -> anyhow::Result<Vec<String>> {
    let applied: HashMap<i64, Vec<u8>> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success")
            .fetch_all(owner)
            .await?
            .into_iter()
            .collect();
    let is_pending = |m: &&Migration| applied.get(&m.version).is_none_or(|checksum| *checksum != *m.checksum);
    Ok(database.migrations().iter().filter(is_pending).map(migrate::name).collect())
}

async fn make_role(server: &mut PgConnection, target: &Target<'_>) -> sqlx::Result<()> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(target.role)
        .fetch_one(&mut *server)
        .await?;
    let template =
        if exists { "ALTER ROLE %I LOGIN PASSWORD %L" } else { "CREATE ROLE %I LOGIN PASSWORD %L" };
    let verifier = scram::verifier(target.password, Uuid::new_v4().into_bytes());
    run(server, template, &[target.role, &verifier]).await
}

async fn make_database(server: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(&mut *server)
        .await?;
    if exists {
        return Ok(());
    }
    // From template0 with the C collation: keys compare by bytes, the same on every machine.
    run(server, "CREATE DATABASE %I TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'", &[name])
        .await
}

async fn grant(server: &mut PgConnection, target: &Target<'_>) -> sqlx::Result<()> {
    run(server, "REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC", &[target.name]).await?;
    run(server, "GRANT CONNECT ON DATABASE %I TO %I", &[target.name, target.role]).await?;
    run(server, "GRANT %I TO %I", &[target.database.writer(), target.role]).await?;
    // An offline migration that was killed has left the others without the right that it took from all.
    let members: Vec<String> = sqlx::query_scalar(
        "SELECT m.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles w ON w.oid = a.roleid
         WHERE w.rolname = $1",
    )
    .bind(target.database.writer())
    .fetch_all(&mut *server)
    .await?;
    for member in &members {
        run(server, "GRANT CONNECT ON DATABASE %I TO %I", &[target.name, member]).await?;
    }
    Ok(())
}

/// Runs a statement that takes no parameters, with names and literals quoted by the server itself.
async fn run(server: &mut PgConnection, template: &str, arguments: &[&str]) -> sqlx::Result<()> {
    let statement: String = sqlx::query_scalar("SELECT format($1, VARIADIC $2::text[])")
        .bind(template)
        .bind(arguments)
        .fetch_one(&mut *server)
        .await?;
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(server).await.map(drop)
}
