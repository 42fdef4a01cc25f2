//! The accounts of a batch, locked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::BusinessId;
use chrono::{DateTime, Utc};
use ledger::{AccountRef, Balance};
use sqlx::{FromRow, PgConnection};

use super::rows::{self, decode};
use crate::{
    command::AccountKey,
    fold::book::{AccountState, Book, Mark},
};

const LOCK: &str = include_str!("lock.sql");
const CREATE: &str = include_str!("create_accounts.sql");

#[derive(FromRow)]
struct AccountRow {
    account_no: i64,
    business_id: String,
    owner: String,
    asset: String,
    posted: i64,
    held: i64,
    version: i64,
    status: String,
    now: DateTime<Utc>,
}

/// Locks the accounts; a book that holds them, or none if some are missing.
///
/// # Errors
/// What the database says.
pub async fn lock(
    connection: &mut PgConnection,
    keys: &BTreeSet<AccountKey>,
) -> Result<Option<Book>, sqlx::Error> {
    let [businesses, owners, assets] = columns(keys);
    let rows: Vec<AccountRow> =
        sqlx::query_as(LOCK).bind(businesses).bind(owners).bind(assets).fetch_all(connection).await?;
    let Some(now) = rows.iter().map(|row| row.now).max().filter(|_| rows.len() == keys.len()) else {
        return Ok(None);
    };
    let mut book = Book::new(now);
    for row in rows {
        let (key, account) = account(row)?;
        book.accounts.insert(key, account);
    }
    Ok(Some(book))
}

/// Creates those of the accounts that are missing. On its own, outside a batch's transaction, so that nobody waits
/// for a new account while holding the lock of an old one.
///
/// # Errors
/// What the database says.
pub async fn create(connection: &mut PgConnection, keys: &BTreeSet<AccountKey>) -> Result<(), sqlx::Error> {
    let [businesses, owners, assets] = columns(keys);
    sqlx::query(CREATE).bind(businesses).bind(owners).bind(assets).execute(connection).await?;
    Ok(())
}

fn columns(keys: &BTreeSet<AccountKey>) -> [Vec<&str>; 3] {
    let column = |field: fn(&AccountKey) -> &str| keys.iter().map(field).collect();
    [column(|key| key.business_id.as_str()), column(|key| &key.owner), column(|key| key.asset.as_str())]
}

fn account(row: AccountRow) -> Result<(AccountKey, AccountState), sqlx::Error> {
    let asset = row.asset.parse().map_err(decode)?;
    let reference =
        AccountRef { account_no: row.account_no, business_id: Arc::from(row.business_id.as_str()), asset };
    let business_id = BusinessId::try_from(row.business_id).map_err(decode)?;
    let account = AccountState {
        reference,
        balance: Balance::try_new(row.posted, row.held, row.version).map_err(decode)?,
        status: rows::status(&row.status)?,
        available: 0,
        lots: BTreeMap::new(),
        ranks: HashMap::new(),
        read_to: None,
        mark: Mark::Stored,
    };
    Ok((AccountKey { business_id, owner: row.owner, asset }, account))
}
