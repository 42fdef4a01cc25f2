//! Brings a schema up to date while its service works, or says that the service has to stop first.
//!
//! Online: a statement waits for a lock for half a second at most, because every later writer waits behind it. Then the
//! attempt is rolled back, writers pass, and it is tried again after a pause, until it succeeds or the time is over. What reads a
//! whole table runs outside a transaction and lets writers pass; it may wait long.
//!
//! Offline: refused while the service's role has sessions in the database. Every process of a service has some (its pool, which
//! readiness asks every second, and the connections of its executors), so no process is missed that could use the schema. The role may not connect
//! until the migration is done.

mod online;
mod service;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use backon::{BackoffBuilder, ExponentialBuilder};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{Migrate, Migration},
};

use online::{Concurrent, Kind};

/// Where it is kept which migrations were applied.
pub(crate) const TABLE: &str = "_sqlx_migrations";
/// As `provision`'s, in the database itself: one migrates at a time.
pub(crate) const LOCK: i64 = 0x006d_6967_7261_7465;
/// How long a statement waits for a lock, and every writer behind it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a statement of an online migration may run: it may hold a lock that writers wait for.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// A transaction that has been open for so long is named when a lock cannot be had.
const LONG_OPEN: &str = "5 s";

/// A migration that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its number and its name.
    pub name: String,
    /// How many attempts it took until its locks were free.
    pub attempts: u32,
}

/// Applies those of `migrations` that were not applied yet, in order, on a connection of the schema's owner. `writer` is the
/// group role of the service. A database without any is made in one go.
///
/// # Errors
/// When a migration is neither online nor declared offline, when an offline one meets a process of the service, when one fails or
/// gets no lock `within` the time, when an applied one was changed, or when the database knows more than `migrations`.
pub async fn migrate(
    owner: &mut PgConnection,
    writer: &str,
    migrations: &[Migration],
    within: Duration,
) -> anyhow::Result<Vec<Applied>> {
    let until = Instant::now() + within;
    lock(owner, LOCK, until).await?;
    let done = apply_all(owner, writer, migrations, until).await;
    // A connection that broke has lost the lock by itself.
    let unlocked = sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(owner).await;
    let done = done?;
    unlocked?;
    Ok(done)
}

/// Waits for an advisory lock without a snapshot: an index that is built concurrently waits for every snapshot to go.
///
/// # Errors
/// When it is not free in time.
pub(crate) async fn lock(connection: &mut PgConnection, key: i64, until: Instant) -> anyhow::Result<()> {
    loop {
        let is_mine: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(key)
            .fetch_one(&mut *connection)
            .await?;
        if is_mine {
            return Ok(());
        }
        ensure!(Instant::now() < until, "another migration has been running for too long");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn apply_all(
    owner: &mut PgConnection,
    writer: &str,
    migrations: &[Migration],
    until: Instant,
) -> anyhow::Result<Vec<Applied>> {
    owner.ensure_migrations_table(TABLE).await?;
    let is_new = owner.list_applied_migrations(TABLE).await?.is_empty();
    let pending = pending(owner, migrations).await?;
    // All are read before the first is applied.
    let kinds = pending.iter().map(|migration| kind(migration)).collect::<anyhow::Result<Vec<_>>>()?;
    let offline = kinds.iter().any(|kind| matches!(kind, Kind::Offline(_)));
    let revoked = match offline && !is_new {
        true => {
            Some(service::revoke_connect(owner, writer).await.with_context(|| reasons(&pending, &kinds))?)
        }
        false => None,
    };
    let mut done = Vec::new();
    let mut result = Ok(());
    for (migration, kind) in pending.into_iter().zip(kinds) {
        match apply(owner, migration, &kind, is_new, until).await.with_context(|| name(migration)) {
            Ok(attempts) => done.push(Applied { name: name(migration), attempts }),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    match (revoked, result) {
        (Some(revoked), Ok(())) => {
            revoked.give_back(owner).await.context("the service may not connect yet")?
        }
        (Some(revoked), Err(error)) => return Err(revoked.give_back_after(owner, error).await),
        (None, result) => result?,
    }
    Ok(done)
}

fn kind(migration: &Migration) -> anyhow::Result<Kind> {
    online::kind(migration).map_err(|faults| {
        let fault = anyhow::anyhow!("{}", faults.join("; "));
        fault.context(format!("{} is neither online nor declared `-- offline: reason`", name(migration)))
    })
}

fn reasons(pending: &[&Migration], kinds: &[Kind]) -> String {
    let reason = |(migration, kind): (&&Migration, &Kind)| match kind {
        Kind::Offline(reason) => Some(format!("{} is offline ({reason})", name(migration))),
        _ => None,
    };
    pending.iter().zip(kinds).filter_map(reason).collect::<Vec<_>>().join(", ")
}

pub(crate) fn name(migration: &Migration) -> String {
    format!("{:04} {}", migration.version, migration.description)
}

/// Those that were not applied yet.
async fn pending<'a>(
    owner: &mut PgConnection,
    migrations: &'a [Migration],
) -> anyhow::Result<Vec<&'a Migration>> {
    let applied = owner.list_applied_migrations(TABLE).await?;
    for one in &applied {
        let known = migrations.iter().find(|migration| migration.version == one.version);
        let known = known.with_context(|| {
            format!(
                "the database has migration {}, which this version does not know: use the newer one",
                one.version
            )
        })?;
        ensure!(known.checksum == one.checksum, "{} was changed after it was applied", name(known));
    }
    let is_pending = |migration: &&Migration| applied.iter().all(|one| one.version != migration.version);
    Ok(migrations.iter().filter(is_pending).collect())
}

/// How many attempts it took.
async fn apply(
    owner: &mut PgConnection,
    migration: &Migration,
    kind: &Kind,
    is_new: bool,
    until: Instant,
) -> anyhow::Result<u32> {
    let pauses =
        ExponentialBuilder::default().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1).with_jitter();
    let mut pauses = pauses.without_max_times().build();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let attempt = match kind {
            Kind::Concurrent(statement) => concurrently(owner, migration, statement, until).await,
            Kind::Online if !is_new => in_transaction(owner, migration, Some(STATEMENT_TIMEOUT)).await,
            Kind::Online | Kind::Offline(_) => in_transaction(owner, migration, None).await,
        };
        match attempt {
            Ok(()) => return Ok(attempts),
            Err(error) if is_locked(&error) && Instant::now() < until => {
                tokio::time::sleep(pauses.next().unwrap_or(PAUSES.1)).await;
            }
            Err(error) if is_locked(&error) => {
                let open = open_transactions(owner).await.unwrap_or_default();
                bail!(
                    "its locks were not free in {attempts} attempts; transactions that are open for more than {LONG_OPEN}: {open}"
                );
            }
            Err(error) if code(&error) == "57014" => {
                return Err(anyhow::Error::from(error).context(format!(
                    "a statement ran for more than {STATEMENT_TIMEOUT:?} with a lock that writers wait for, and was taken back"
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The migration and its record, or neither.
async fn in_transaction(
    owner: &mut PgConnection,
    migration: &Migration,
    limit: Option<Duration>,
) -> sqlx::Result<()> {
    let mut transaction = owner.begin().await?;
    // 0: a statement may run for as long as it needs.
    set(&mut transaction, "SET LOCAL", LOCK_TIMEOUT, limit.unwrap_or_default()).await?;
    sqlx::raw_sql(migration.sql.clone()).execute(&mut *transaction).await?;
    record(&mut transaction, migration).await?;
    transaction.commit().await
}

/// Outside a transaction: what an attempt leaves behind is taken away before the next one.
async fn concurrently(
    owner: &mut PgConnection,
    migration: &Migration,
    statement: &Concurrent,
    until: Instant,
) -> sqlx::Result<()> {
    let left = until.saturating_duration_since(Instant::now()).max(STATEMENT_TIMEOUT);
    // Writers do not wait for a statement of this kind, so it may wait.
    set(owner, "SET", left, left).await?;
    if let Concurrent::Index { name, table } = statement {
        drop_invalid(owner, name, table).await?;
    }
    sqlx::raw_sql(migration.sql.clone()).execute(&mut *owner).await?;
    record(owner, migration).await?;
    sqlx::raw_sql("RESET lock_timeout; RESET statement_timeout").execute(owner).await.map(drop)
}

async fn set(
    connection: &mut PgConnection,
    command: &str,
    for_locks: Duration,
    for_statements: Duration,
) -> sqlx::Result<()> {
    let (locks, statements) = (for_locks.as_millis(), for_statements.as_millis());
    let limits = format!("{command} lock_timeout = {locks}; {command} statement_timeout = {statements}");
    sqlx::raw_sql(AssertSqlSafe(limits)).execute(connection).await.map(drop)
}

/// An index that was not built to its end is not used, and costs every write.
async fn drop_invalid(owner: &mut PgConnection, name: &str, table: &str) -> sqlx::Result<()> {
    let drop: Option<String> = sqlx::query_scalar(
        "SELECT 'DROP INDEX CONCURRENTLY ' || i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = to_regclass($2) AND c.relname = $1 AND NOT i.indisvalid",
    )
    .bind(name)
    .bind(table)
    .fetch_optional(&mut *owner)
    .await?;
    match drop {
        Some(drop) => sqlx::raw_sql(AssertSqlSafe(drop)).execute(owner).await.map(|_| ()),
        None => Ok(()),
    }
}

async fn record(connection: &mut PgConnection, migration: &Migration) -> sqlx::Result<()> {
    // The time it took is not kept.
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES ($1, $2, true, $3, -1)",
    )
    .bind(migration.version)
    .bind(&*migration.description)
    .bind(&*migration.checksum)
    .execute(connection)
    .await
    .map(drop)
}

/// Sessions with a transaction that others may have to wait for.
async fn open_transactions(owner: &mut PgConnection) -> sqlx::Result<String> {
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s (pid %s, since %s)', coalesce(nullif(application_name, ''), usename, '?'), pid, xact_start)
         FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - $1::interval
         ORDER BY xact_start LIMIT 10",
    )
    .bind(LONG_OPEN)
    .fetch_all(owner)
    .await?;
    Ok(if open.is_empty() { "none".to_owned() } else { open.join(", ") })
}

fn code(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    code.unwrap_or_default()
}

/// Whether another attempt may get what this one did not: a lock that was not free, or a deadlock.
fn is_locked(error: &sqlx::Error) -> bool {
    matches!(code(error).as_str(), "55P03" | "40P01")
}
