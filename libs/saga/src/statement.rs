//! Statements on a pool: how long each is waited for, and how a locked row is asked for without holding a connection.

use std::time::Duration;

use tokio::time::Instant;

/// A statement on a pool that takes longer than this has lost its connection, whatever the socket says: the server ends it earlier.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(7);
/// How long a row that is locked is asked for,
const LOCKED_FOR: Duration = Duration::from_secs(1);
/// and the first pause between two attempts; each further one doubles it, up to [`LOCKED_PAUSE_MAX`].
const LOCKED_PAUSE: Duration = Duration::from_millis(10);
const LOCKED_PAUSE_MAX: Duration = Duration::from_millis(200);

/// Runs a statement that fails at once where a row is locked (`NOWAIT`) until it is not, for a second at most. What waits in the server
/// for a lock holds a connection, and a pool has few: here none is held between two attempts.
///
/// # Errors
/// Of the database; 55P03 if the row was locked for all that time.
pub async fn past_locks<T, F>(attempt: impl Fn() -> F) -> sqlx::Result<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    let (until, mut pause) = (Instant::now() + LOCKED_FOR, LOCKED_PAUSE);
    loop {
        match attempt().await {
            Err(error) if is_locked(&error) && Instant::now() + pause < until => {}
            result => return result,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOCKED_PAUSE_MAX);
    }
}

fn is_locked(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("55P03"))
}

/// Ends a statement on a pool that is not answered in time, so that what asks goes on; the pool closes its connection.
///
/// # Errors
/// Of the statement; [`sqlx::Error::Io`] if there was no answer in time.
pub async fn in_time<T>(statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let answered = tokio::time::timeout(STATEMENT_TIMEOUT, statement).await;
    answered.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}
