//! One batch in one transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, Utc};
use fail::fail_point;
use sqlx::{Executor as _, PgConnection};

use super::failure::Failure;
use crate::{
    command::{Command, Outcome},
    fold::{self, book::Book},
    store::{lock, read, read::Needs, write},
};

/// A batch that is done but for its COMMIT.
pub struct Prepared {
    /// What each command came to, in their order.
    pub outcomes: Vec<Outcome>,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// Whether the outbox has something new.
    pub has_news: bool,
}

/// Begins a transaction, locks, reads, folds and writes. After a failure the transaction is still open: the
/// caller rolls back, or gives the connection up.
///
/// # Errors
/// The class of what went wrong.
pub async fn prepare(
    connection: &mut PgConnection,
    commands: &[&Command],
    tender: &'static str,
) -> Result<Prepared, Failure> {
    let needs = Needs::of(commands.iter().copied());
    fail_point!("tender::before_begin");
    let mut book = begin(connection, &needs).await.map_err(classify)?;
    fail_point!("tender::locked");
    read::read(connection, &mut book, &needs).await.map_err(classify)?;
    let outcomes = fold_all(&mut book, commands)?;
    let has_news = write::write(connection, &book, tender).await.map_err(classify)?;
    fail_point!("tender::written");
    Ok(Prepared { outcomes, now: book.now, has_news })
}

/// Commits what was prepared.
///
/// # Errors
/// [`Failure::CommitUnknown`] unless the server itself refused.
pub async fn commit(connection: &mut PgConnection) -> Result<(), Failure> {
    connection.execute("COMMIT").await.map(drop).map_err(|error| {
        tracing::warn!(%error, "commit failed");
        Failure::at_commit(&error)
    })
}

/// Ends a transaction that failed.
///
/// # Errors
/// When the connection is of no more use.
pub async fn roll_back(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("ROLLBACK").await.map(drop)
}

/// A transaction that holds the locks of all accounts.
async fn begin(connection: &mut PgConnection, needs: &Needs) -> Result<Book, sqlx::Error> {
    let keys = needs.accounts();
    connection.execute("BEGIN").await?;
    if let Some(book) = lock::lock(connection, &keys).await? {
        return Ok(book);
    }
    // Some account is new. It is created while no lock is held, so that nobody waits in a circle.
    connection.execute("ROLLBACK").await?;
    lock::create(connection, &keys).await?;
    connection.execute("BEGIN").await?;
    lock::lock(connection, &keys).await?.ok_or(sqlx::Error::RowNotFound)
}

fn fold_all(book: &mut Book, commands: &[&Command]) -> Result<Vec<Outcome>, Failure> {
    // The book is thrown away after a panic, so nobody ever sees one that is half changed.
    let fold = || {
        fail_point!("tender::fold");
        commands.iter().map(|command| fold::apply(book, command)).collect()
    };
    catch_unwind(AssertUnwindSafe(fold)).map_err(|_| Failure::Poison)
}

fn classify(error: sqlx::Error) -> Failure {
    let class = Failure::of(&error);
    match class {
        Failure::Conflict | Failure::Duplicate => tracing::debug!(%error, "batch in conflict"),
        _ => tracing::warn!(%error, ?class, "batch failed"),
    }
    class
}
