//! The accounts of a batch, locked.

use std::{collections::BTreeSet, sync::LazyLock};

use api::BusinessId;
use chrono::{DateTime, Utc};
use ledger::Balance;
use sqlx::{FromRow, PgConnection};

use super::rows::{self, decode};
use crate::{
    command::AccountKey,
    fold::working_set::{AccountState, WorkingSet},
};

const LOCK: &str = include_str!("lock.sql");
const CREATE: &str = include_str!("create_accounts.sql");
const STORED: &str = include_str!("stored_accounts.sql");

static LOCK_FREE: LazyLock<String> = LazyLock::new(|| LOCK.replace("FOR UPDATE", "FOR UPDATE SKIP LOCKED"));

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

/// What is done about an account that another transaction has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// It is waited for, as long as the session allows.
    Wait,
    /// It is left out.
    Skip,
}

/// The accounts of a batch, after an attempt to lock them.
pub struct Locked {
    /// Those that are locked.
    pub set: WorkingSet,
    /// Those that are not stored.
    pub missing: BTreeSet<AccountKey>,
}

/// Locks the accounts. Those that are neither in the working set nor missing are locked by others.
///
/// # Errors
/// What the database says.
pub async fn lock(
    connection: &mut PgConnection,
    keys: &BTreeSet<AccountKey>,
    locking: Locking,
) -> Result<Locked, sqlx::Error> {
    let [businesses, owners, assets] = columns(keys);
    let statement = match locking {
        Locking::Wait => LOCK,
        Locking::Skip => LOCK_FREE.as_str(),
    };
    let query = sqlx::query_as(statement).bind(businesses).bind(owners).bind(assets);
    let rows: Vec<AccountRow> = query.fetch_all(&mut *connection).await?;
    let now = match rows.iter().map(|row| row.now).max() {
        Some(now) => now,
        None => sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?,
    };
    let mut set = WorkingSet::new(now);
    for row in rows {
        let (key, account) = account(row)?;
        set.accounts.insert(key, account);
    }
    let mut missing: BTreeSet<AccountKey> =
        keys.iter().filter(|key| !set.accounts.contains_key(key)).cloned().collect();
    if locking == Locking::Skip && !missing.is_empty() {
        remove_stored(connection, &mut missing).await?;
    }
    Ok(Locked { set, missing })
}

/// Leaves those of the accounts that are not stored.
async fn remove_stored(
    connection: &mut PgConnection,
    keys: &mut BTreeSet<AccountKey>,
) -> Result<(), sqlx::Error> {
    let [businesses, owners, assets] = columns(keys);
    let query = sqlx::query_as(STORED).bind(businesses).bind(owners).bind(assets);
    let stored: Vec<(String, String, String)> = query.fetch_all(connection).await?;
    for (business, owner, asset) in stored {
        let business_id = BusinessId::try_from(business).map_err(decode)?;
        keys.remove(&AccountKey { business_id, owner, asset: asset.parse().map_err(decode)? });
    }
    Ok(())
}

/// Creates those of the accounts that are missing. On its own, outside a batch's transaction, so that no transaction waits
/// for a new account while it holds the lock of an old one.
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
    let business_id = BusinessId::try_from(row.business_id).map_err(decode)?;
    let key = AccountKey { business_id, owner: row.owner, asset };
    let account = AccountState {
        balance: Balance::try_new(row.posted, row.held, row.version).map_err(decode)?,
        status: rows::status(&row.status)?,
        ..AccountState::empty(row.account_no, &key)
    };
    Ok((key, account))
}
