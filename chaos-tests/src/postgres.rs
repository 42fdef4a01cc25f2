//! What can be done to a database server as somebody who may connect to it.

use std::{process::Command, time::Duration};

use schema::Database;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::{process::signal, server::Server};

/// Sessions of the services.
const SESSIONS: &str = "SELECT pid FROM pg_stat_activity
    WHERE datname = ANY($1) AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY state_change DESC";
/// Ends those that are at work, and half of the others.
const TERMINATE: &str = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = ANY($1) AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'chaos'
      AND (state <> 'idle' OR random() < 0.5)";

/// Cancels what they are doing.
const CANCEL: &str = "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity
    WHERE datname = ANY($1) AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'chaos'
      AND state = 'active'";

/// Ends sessions of the services by the server's own word; how many.
///
/// # Panics
/// When the server cannot be asked.
pub async fn terminate_sessions(server: &Server) -> u64 {
    terminate(&mut admin(server).await, server).await
}

async fn terminate(connection: &mut PgConnection, server: &Server) -> u64 {
    count(connection, TERMINATE, server).await
}

/// Cancels every statement of the services that runs at this moment; how many.
///
/// # Panics
/// When the server cannot be asked.
pub async fn cancel_statements(server: &Server) -> u64 {
    count(&mut admin(server).await, CANCEL, server).await
}

async fn count(connection: &mut PgConnection, query: &'static str, server: &Server) -> u64 {
    let count: i64 =
        sqlx::query_scalar(query).bind(names(server)).fetch_one(connection).await.expect("a count");
    u64::try_from(count).unwrap_or(0)
}

/// Locks the rows that services write, in every database of the server, until the connections are dropped; how many rows.
///
/// # Panics
/// When the server cannot be asked.
pub async fn lock(server: &Server) -> (Vec<PgConnection>, u64) {
    let (mut holders, mut rows) = (Vec::new(), 0);
    for (database, owner) in &server.databases {
        let mut holder = PgConnection::connect_with(owner).await.expect("a connection");
        let query = match database {
            Database::Wallet => "SELECT FROM saga.saga WHERE state IN (0, 1) FOR UPDATE SKIP LOCKED",
            _ => "SELECT FROM tender.account FOR UPDATE SKIP LOCKED",
        };
        sqlx::raw_sql("BEGIN").execute(&mut holder).await.expect("a transaction");
        rows += sqlx::query(query).execute(&mut holder).await.expect("locks").rows_affected();
        holders.push(holder);
    }
    (holders, rows)
}

/// Locks whole tables, as a migration does, until the connections are dropped; how many.
///
/// # Panics
/// When the server cannot be asked.
pub async fn lock_tables(server: &Server) -> Vec<PgConnection> {
    let mut holders = Vec::new();
    for (database, owner) in &server.databases {
        let mut holder = PgConnection::connect_with(owner).await.expect("a connection");
        let statement = match database {
            Database::Wallet => "BEGIN; LOCK TABLE saga.saga IN ACCESS EXCLUSIVE MODE",
            _ => "BEGIN; LOCK TABLE tender.account IN ACCESS EXCLUSIVE MODE",
        };
        sqlx::raw_sql(statement).execute(&mut holder).await.expect("a lock");
        holders.push(holder);
    }
    holders
}

/// Takes locks of two accounts in the opposite of the services' order, in every tender's database of the server at once, so often; how many
/// deadlocks came of it, each of which ended a transaction of a service.
///
/// # Panics
/// When the server cannot be asked.
pub async fn deadlock(server: &Server, times: u32) -> u64 {
    let mut connection = admin(server).await;
    let before = deadlocks(&mut connection, server).await;
    // Found before anybody gives up waiting.
    set(&mut connection, &[("deadlock_timeout", "20ms")]).await;
    let tenders = server.databases.iter().filter(|(database, _)| *database != Database::Wallet);
    let lockers = tenders.map(|(_, owner)| lock_backwards(owner.clone(), times));
    futures_util::future::join_all(lockers).await;
    set(&mut connection, &[("deadlock_timeout", "1s")]).await;
    // Sessions count in their own time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    deadlocks(&mut connection, server).await - before
}

/// Changes settings of the server for all sessions, at once.
async fn set(connection: &mut PgConnection, settings: &[(&str, &str)]) {
    let mut statements: Vec<String> =
        settings.iter().map(|(name, value)| format!("ALTER SYSTEM SET {name} = '{value}'")).collect();
    statements.push("SELECT pg_reload_conf()".to_owned());
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *connection).await.expect("a setting");
    }
}

/// Loses the last half second of what it has acknowledged, as a standby does that takes over without having heard of it; how
/// many bytes of its log.
///
/// # Panics
/// When the server cannot be asked, or does not come back.
pub async fn forget(server: &Server) -> u64 {
    const LOST: &str =
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn())::bigint";
    let mut connection = admin(server).await;
    set(
        &mut connection,
        &[("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("wal_writer_flush_after", "2GB")],
    )
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let lost: i64 = sqlx::query_scalar(LOST).fetch_one(&mut connection).await.expect("bytes");
    drop(connection);
    server.restart().await;
    until_ready(server).await;
    let mut connection = admin(server).await;
    set(
        &mut connection,
        &[("synchronous_commit", "on"), ("wal_writer_delay", "200ms"), ("wal_writer_flush_after", "1MB")],
    )
    .await;
    u64::try_from(lost).unwrap_or(0)
}

async fn lock_backwards(options: PgConnectOptions, times: u32) {
    let mut connection = PgConnection::connect_with(&options).await.expect("a connection");
    // The services' transactions look for deadlocks first, and lose.
    sqlx::raw_sql("SET deadlock_timeout = '20s'").execute(&mut connection).await.expect("a setting");
    let accounts: Vec<i64> =
        sqlx::query_scalar("SELECT account_no FROM tender.account ORDER BY account_no DESC LIMIT 20")
            .fetch_all(&mut connection)
            .await
            .expect("accounts");
    for (first, second) in accounts.iter().zip(accounts.iter().skip(1)).cycle().take(times as usize) {
        sqlx::raw_sql("BEGIN").execute(&mut connection).await.expect("a transaction");
        for account in [first, second] {
            let lock =
                sqlx::query("SELECT FROM tender.account WHERE account_no = $1 FOR UPDATE").bind(account);
            lock.execute(&mut connection).await.expect("a lock");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sqlx::raw_sql("COMMIT").execute(&mut connection).await.expect("an end");
    }
}

async fn deadlocks(connection: &mut PgConnection, server: &Server) -> u64 {
    const DEADLOCKS: &str =
        "SELECT coalesce(sum(deadlocks), 0)::bigint FROM pg_stat_database WHERE datname = ANY($1)";
    count(connection, DEADLOCKS, server).await
}

/// How many sessions wait for the disk, or for somebody who does.
///
/// # Panics
/// When the server cannot be asked.
pub async fn waiting_for_disk(server: &Server) -> u64 {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY($1) AND state = 'active'
        AND (wait_event_type = 'IO' OR wait_event IN ('WALWrite', 'WALInsert'))";
    count(&mut admin(server).await, WAITING, server).await
}

/// By how many seconds the server's clock is ahead of this machine's.
///
/// # Panics
/// When the server cannot be asked.
pub async fn clock_ahead(server: &Server) -> i64 {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let theirs: i64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::bigint")
        .fetch_one(&mut admin(server).await)
        .await
        .expect("a clock");
    theirs - i64::try_from(now).unwrap_or(i64::MAX)
}

/// Whether new sessions may only read, from now on; every session is ended, so that all are new. How many were.
///
/// # Panics
/// When the server cannot be asked.
pub async fn set_read_only(server: &Server, is_read_only: bool) -> u64 {
    let mut connection = admin(server).await;
    sqlx::raw_sql("SET default_transaction_read_only = off")
        .execute(&mut connection)
        .await
        .expect("a setting");
    for name in names(server) {
        let statement = format!("ALTER DATABASE {name} SET default_transaction_read_only = {is_read_only}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.expect("a setting");
    }
    // Each time spares half of those that are idle.
    let mut ended = 0;
    for _ in 0..6 {
        ended += terminate(&mut connection, server).await;
    }
    ended
}

/// `kill -9` of one backend, after which the server takes all others down and recovers; how many were killed.
///
/// # Panics
/// When the server cannot be asked.
pub async fn kill_backend(server: &Server) -> u64 {
    let pids = pids(server).await;
    pids.first().map_or(0, |pid| {
        signal(*pid, "KILL");
        1
    })
}

/// Stops every session of the services, as a server whose machine hangs would; their process ids, for [`thaw`].
///
/// # Panics
/// When the server cannot be asked.
pub async fn freeze(server: &Server) -> Vec<u32> {
    let pids = pids(server).await;
    pids.into_iter().filter(|pid| try_signal(*pid, "STOP")).collect()
}

/// Lets frozen sessions go on; some may have been told to end meanwhile.
pub fn thaw(pids: &[u32]) {
    for pid in pids {
        try_signal(*pid, "CONT");
    }
}

/// Takes every connection that is left, and most of those that are in use; they are given back when the value is dropped.
///
/// # Panics
/// When the server cannot be asked.
pub async fn exhaust(server: &Server) -> Vec<PgConnection> {
    let mut taken = vec![admin(server).await];
    for _ in 0..3 {
        while let Ok(connection) = PgConnection::connect_with(&options(server)).await {
            taken.push(connection);
        }
        terminate(&mut taken[0], server).await;
    }
    taken
}

/// Waits until the server answers.
///
/// # Panics
/// When it does not for a minute.
pub async fn until_ready(server: &Server) {
    for _ in 0..600 {
        if PgConnection::connect_with(&options(server)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("Postgres does not answer");
}

fn try_signal(pid: u32, name: &str) -> bool {
    Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().is_ok_and(|done| done.success())
}

async fn pids(server: &Server) -> Vec<u32> {
    let mut connection = admin(server).await;
    let pids: Vec<i32> =
        sqlx::query_scalar(SESSIONS).bind(names(server)).fetch_all(&mut connection).await.expect("sessions");
    pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect()
}

/// Of the suite itself, which nobody ends.
fn options(server: &Server) -> PgConnectOptions {
    server.databases[0].1.clone().application_name("chaos")
}

async fn admin(server: &Server) -> PgConnection {
    PgConnection::connect_with(&options(server)).await.expect("a connection")
}

fn names(server: &Server) -> Vec<String> {
    let name = |owner: &PgConnectOptions| owner.get_database().unwrap_or_default().to_owned();
    server.databases.iter().map(|(_, owner)| name(owner)).collect()
}
