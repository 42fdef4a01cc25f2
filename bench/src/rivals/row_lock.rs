//! The plain way: a transaction per debit that locks the account's row, checks, updates and inserts.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use crate::{
    database::{Scratch, server},
    load::{Caller, Outcome, Sample, closed},
};

/// One account, and a row for each debit.
pub const TABLES: &str = "
CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0), version bigint NOT NULL);
CREATE TABLE debit (key uuid PRIMARY KEY, account bigint NOT NULL, amount bigint NOT NULL, version bigint NOT NULL,
                    at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO account SELECT n, 1000000000, 0 FROM generate_series(1, 100000) n";

/// So many callers on one account, each over a connection of its own, for so long.
///
/// # Errors
/// When the database cannot be used.
pub async fn load(callers: usize, lasts: Duration) -> anyhow::Result<Sample> {
    let database = Scratch::create("row_lock").await?;
    let url = database.url(&server()?);
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql(TABLES).execute(&mut connection).await?;
    let mut debits = Vec::new();
    for _ in 0..callers {
        debits.push(Debits(PgConnection::connect(&url).await?));
    }
    Ok(closed(debits, lasts).await)
}

struct Debits(PgConnection);

impl Debits {
    async fn debit(&mut self) -> sqlx::Result<()> {
        let mut transaction = self.0.begin().await?;
        let (balance, version): (i64, i64) =
            sqlx::query_as("SELECT balance, version FROM account WHERE id = 1 FOR UPDATE")
                .fetch_one(&mut *transaction)
                .await?;
        if balance < 1 {
            return Err(sqlx::Error::RowNotFound);
        }
        sqlx::query("UPDATE account SET balance = balance - 1, version = version + 1 WHERE id = 1")
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO debit (key, account, amount, version) VALUES ($1, 1, 1, $2)")
            .bind(uuid::Uuid::new_v4())
            .bind(version + 1)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }
}

impl Caller for Debits {
    async fn call(&mut self, _: u64) -> Outcome {
        if self.debit().await.is_ok() { Outcome::Done } else { Outcome::Failed }
    }
}
