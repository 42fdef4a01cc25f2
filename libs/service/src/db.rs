//! Connections to Postgres with the settings that the rest of the system relies on.

use std::time::Duration;

use anyhow::Context;
use sqlx::{
    ConnectOptions, Connection, FromRow, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::sync::Mutex;

use crate::config::Secret;

/// How long a request waits for a connection before it is answered 503.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(800);

/// A connection that was used so recently is handed out without a ping.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// How long a connection has to answer whose statement was given up, before it is closed.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// How long opening a connection of one's own may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Session settings of every connection.
///
/// A client that freezes inside a transaction keeps its row locks, and `SKIP LOCKED` then hides those rows
/// from everybody else: the server ends such a session after two seconds. Waiting for a lock or running a
/// statement is bounded as well, and a peer that vanished is noticed by keepalives in about ten seconds.
const SESSION: [(&str, &str); 8] = [
    ("idle_in_transaction_session_timeout", "2s"),
    ("lock_timeout", "1s"),
    ("statement_timeout", "5s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
    ("timezone", "UTC"),
];

/// Planner settings of executor connections.
///
/// Statements prepared while tables are empty get plans that scan whole tables, and keep them. An
/// executor's statements look rows up by key and nothing else, so the other ways are switched off.
const PLANNER: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// Options for connections to the database at `url`, shown there as `application_name`.
///
/// # Errors
/// When the URL cannot be read.
pub fn connect_options(url: &Secret, application_name: &str) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions =
        // The parser's own error may quote the URL, and with it the password.
        url.expose().parse().ok().context("the database URL cannot be read")?;
    Ok(options
        .application_name(application_name)
        .options(SESSION)
        // Errors are logged where they are handled; statements would only repeat the code.
        .disable_statement_logging())
}

/// The same options with the planner settings of an executor.
#[must_use]
pub fn for_executor(options: PgConnectOptions) -> PgConnectOptions {
    options.options(PLANNER)
}

/// A pool of at most `max` connections. It opens none by itself: a service starts and answers 503 while
/// its database is away, and recovers when it is back.
///
/// A caller may hang up at any moment. In the middle of a statement that costs no connection: the pool waits for the
/// statement's end and keeps the connection, if that comes soon. In the middle of the ping before a statement it does: sqlx then
/// drops the connection. So only a connection that was idle for a while is asked whether it still lives, which also saves the
/// others a round trip.
#[must_use]
pub fn pool(options: PgConnectOptions, max: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(Duration::from_mins(30))
        .test_before_acquire(false)
        .before_acquire(|connection, known| {
            Box::pin(async move {
                if known.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| {
            // sqlx asks without a limit whether a connection works whose statement was given up, and keeps its place meanwhile.
            Box::pin(async move {
                let answered = tokio::time::timeout(ANSWERS_WITHIN, connection.ping()).await;
                answered.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
            })
        })
        .connect_lazy_with(options)
}

/// A connection that belongs to its caller alone.
///
/// # Errors
/// When none can be opened within two seconds.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options))
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// Asks whether the database answers, on a connection of its own: requests that keep a pool busy say nothing about the
/// database.
#[derive(Debug)]
pub struct Probe {
    options: PgConnectOptions,
    connection: Mutex<Option<PgConnection>>,
}

impl Probe {
    /// A probe that connects when it first asks.
    #[must_use]
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, connection: Mutex::new(None) }
    }

    /// Asks whether it answers, as [`Probe::fetch`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ask(&self) -> Result<(), sqlx::Error> {
        self.fetch::<(i32,)>("SELECT 1").await.map(drop)
    }

    /// The rows of a query. A future that is dropped costs the connection, and the next call opens another.
    ///
    /// # Errors
    /// When the database does not answer, or refuses.
    pub async fn fetch<T>(&self, query: &'static str) -> Result<Vec<T>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => connect(&self.options).await?,
        };
        let rows = sqlx::query_as(query).fetch_all(&mut connection).await?;
        *kept = Some(connection);
        Ok(rows)
    }
}

/// Whether an error says that the database cannot be used now, rather than that the statement is wrong.
#[must_use]
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    use sqlx::Error;
    match error {
        Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => true,
        // A connection that is closed in the middle of a message, as by a proxy whose server is away.
        Error::Protocol(_) => true,
        Error::Database(error) => error.code().is_some_and(|code| says_unavailable(&code)),
        _ => false,
    }
}

/// Whether an SQLSTATE says that the server, or this session of it, cannot work now: connection (08), resources (53), operator
/// intervention (57, which a statement timeout is too), I/O (58), internal errors and corrupted files (XX), a standby (25006), a
/// transaction that was idle for too long (25P03), and conflicts that a second try resolves.
fn says_unavailable(code: &str) -> bool {
    ["08", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class))
        || ["25006", "25P03", "40001", "40P01", "55P03"].contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_work_is_unavailable_and_a_wrong_statement_is_not() {
        for code in [
            "08006", "53300", "57014", "57P01", "58030", "XX000", "XX001", "25006", "25P03", "40P01", "55P03",
        ] {
            assert!(says_unavailable(code), "{code}");
        }
        for code in ["23505", "22021", "25P02", "42P01", "42501", ""] {
            assert!(!says_unavailable(code), "{code}");
        }
    }
}
