//! Writes a book back: one statement a table and kind of change, whatever the size of the batch. Rows of one
//! table are written in the order of their keys.

use api::tender::BalanceChanged;
use sqlx::PgConnection;
use uuid::Uuid;

use super::rows;
use crate::command::AccountKey;
use crate::fold::book::{AccountState, Book, Lot, Mark, Operation};

const UPDATE_ACCOUNTS: &str = "
UPDATE tender.account a SET posted = u.posted, held = u.held, version = u.version
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS u(account_no, posted, held, version)
WHERE a.account_no = u.account_no";

const UPDATE_LOTS: &str = "
UPDATE tender.lot l SET remaining = u.remaining, held = u.held
FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[]) AS u(account_no, lot_id, remaining, held)
WHERE l.account_no = u.account_no AND l.lot_id = u.lot_id";

const INSERT_LOTS: &str = "
INSERT INTO tender.lot (account_no, lot_id, original, remaining, held, expires_at, grace_until, funding, kind,
                        operation_id, reward_id, created_at)
SELECT u.*, $12
FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[],
            $7::timestamptz[], $8::text[], $9::text[], $10::uuid[], $11::uuid[]) AS u";

const INSERT_OPERATIONS: &str = "
INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, request_hash, response,
                              legs_id, leg, reverses_id, hold_until, epoch, order_id, details, created_at,
                              updated_at)
SELECT u.id, u.business_id, u.account_no, u.kind, u.state, u.amount, u.request_hash, u.response::json, u.legs_id,
       u.leg, u.reverses_id, u.hold_until, u.epoch, u.order_id, u.details, $16, $16
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::text[],
            $9::uuid[], $10::int[], $11::uuid[], $12::timestamptz[], $13::bigint[], $14::text[], $15::jsonb[])
     AS u(id, business_id, account_no, kind, state, amount, request_hash, response, legs_id, leg, reverses_id,
          hold_until, epoch, order_id, details)";

const UPDATE_OPERATIONS: &str = "
UPDATE tender.operation o
SET state = u.state, amount = u.amount, response = u.response::json, updated_at = $5
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[]) AS u(operation_id, state, amount, response)
WHERE o.operation_id = u.operation_id";

const INSERT_ALLOCATIONS: &str = "
INSERT INTO tender.allocation (operation_id, position, lot_id, amount, reversed)
SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::bigint[], $5::bigint[])";

const UPDATE_ALLOCATIONS: &str = "
UPDATE tender.allocation a SET reversed = u.reversed
FROM unnest($1::uuid[], $2::smallint[], $3::bigint[]) AS u(operation_id, position, reversed)
WHERE a.operation_id = u.operation_id AND a.position = u.position";

const INSERT_RETURNS: &str = "
INSERT INTO tender.allocation_reversal (operation_id, position, by_operation_id, amount, created_at)
SELECT u.*, $5 FROM unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::bigint[]) AS u";

const INSERT_REFERENCES: &str = "
INSERT INTO tender.credit_reference (business_id, kind, reference, operation_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[])";

const INSERT_OUTBOX: &str = "
INSERT INTO tender.outbox (business_id, owner, asset, version, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::jsonb[])";

/// Writes whatever is new or changed. Returns whether the outbox has something to publish.
///
/// # Errors
/// What the database says.
pub async fn write(
    connection: &mut PgConnection,
    book: &Book,
    tender: &'static str,
) -> Result<bool, sqlx::Error> {
    let mut operations: Vec<(&Uuid, &Operation)> =
        book.operations.iter().filter(|(_, operation)| operation.mark != Mark::Stored).collect();
    operations.sort_unstable_by_key(|(id, _)| **id);
    insert_operations(connection, book, &operations).await?;
    update_operations(connection, book, &operations).await?;
    insert_references(connection, book).await?;
    write_allocations(connection, book).await?;

    let mut accounts: Vec<(&AccountKey, &AccountState)> =
        book.accounts.iter().filter(|(_, account)| account.mark != Mark::Stored).collect();
    accounts.sort_unstable_by_key(|(_, account)| account.reference.account_no);
    if accounts.is_empty() {
        return Ok(false);
    }
    insert_lots(connection, book, &accounts).await?;
    update_lots(connection, &accounts).await?;
    update_accounts(connection, &accounts).await?;
    ledger::write(connection, &book.postings, book.now).await?;
    insert_outbox(connection, book, &accounts, tender).await?;
    Ok(true)
}

async fn insert_operations(
    connection: &mut PgConnection,
    book: &Book,
    operations: &[(&Uuid, &Operation)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = operations.iter().filter(|(_, operation)| operation.mark == Mark::New).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let businesses: std::collections::HashMap<i64, &str> = book
        .accounts
        .values()
        .map(|account| (account.reference.account_no, &*account.reference.business_id))
        .collect();
    let business = |number| businesses.get(number).copied().unwrap_or_default();
    sqlx::query(INSERT_OPERATIONS)
        .bind(rows.iter().map(|(id, _)| **id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| business(&o.account_no)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.account_no).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| rows::kind_name(o.kind)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| rows::state_name(o.state)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.amount).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.request_hash.map(|hash| hash.to_vec())).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| &*o.response).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.origin.leg.map(|leg| leg.legs_id.0)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.origin.leg.map(|leg| i32::from(leg.leg))).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.origin.reverses).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.origin.hold_until).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.origin.epoch).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.origin.order_id.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.origin.details.clone()).collect::<Vec<_>>())
        .bind(book.now)
        .execute(connection)
        .await?;
    Ok(())
}

async fn update_operations(
    connection: &mut PgConnection,
    book: &Book,
    operations: &[(&Uuid, &Operation)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = operations.iter().filter(|(_, operation)| operation.mark == Mark::Changed).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(UPDATE_OPERATIONS)
        .bind(rows.iter().map(|(id, _)| **id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| rows::state_name(o.state)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.amount).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| &*o.response).collect::<Vec<_>>())
        .bind(book.now)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_references(connection: &mut PgConnection, book: &Book) -> Result<(), sqlx::Error> {
    if book.new_references.is_empty() {
        return Ok(());
    }
    // In the order of the key: two batches that issue under the same references wait, and never for each other.
    let mut rows: Vec<_> = book.new_references.iter().collect();
    rows.sort_unstable();
    sqlx::query(INSERT_REFERENCES)
        .bind(rows.iter().map(|(business, ..)| business.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, kind, ..)| kind.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, _, reference, _)| reference.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(.., operation)| *operation).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_allocations(connection: &mut PgConnection, book: &Book) -> Result<(), sqlx::Error> {
    let all = book.operations.iter().flat_map(|(id, operation)| {
        (0_i16..).zip(&operation.allocations).map(|(position, part)| (*id, position, part))
    });
    let mut all: Vec<_> = all.filter(|(.., part)| part.mark != Mark::Stored).collect();
    all.sort_unstable_by_key(|(id, position, _)| (*id, *position));
    let (new, changed): (Vec<_>, Vec<_>) = all.into_iter().partition(|(.., part)| part.mark == Mark::New);
    if !new.is_empty() {
        sqlx::query(INSERT_ALLOCATIONS)
            .bind(new.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
            .bind(new.iter().map(|(_, position, _)| *position).collect::<Vec<_>>())
            .bind(new.iter().map(|(.., part)| part.lot_id).collect::<Vec<_>>())
            .bind(new.iter().map(|(.., part)| part.amount).collect::<Vec<_>>())
            .bind(new.iter().map(|(.., part)| part.reversed).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    if !changed.is_empty() {
        sqlx::query(UPDATE_ALLOCATIONS)
            .bind(changed.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
            .bind(changed.iter().map(|(_, position, _)| *position).collect::<Vec<_>>())
            .bind(changed.iter().map(|(.., part)| part.reversed).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    if !book.returns.is_empty() {
        sqlx::query(INSERT_RETURNS)
            .bind(book.returns.iter().map(|back| back.operation_id).collect::<Vec<_>>())
            .bind(book.returns.iter().map(|back| back.position).collect::<Vec<_>>())
            .bind(book.returns.iter().map(|back| back.by_operation_id).collect::<Vec<_>>())
            .bind(book.returns.iter().map(|back| back.amount).collect::<Vec<_>>())
            .bind(book.now)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The accounts' lots with this mark.
fn lots<'a>(accounts: &[(&AccountKey, &'a AccountState)], mark: Mark) -> Vec<(i64, &'a Lot)> {
    let all = accounts
        .iter()
        .flat_map(|(_, account)| account.lots.values().map(|lot| (account.reference.account_no, lot)));
    all.filter(|(_, lot)| lot.mark == mark).collect()
}

async fn insert_lots(
    connection: &mut PgConnection,
    book: &Book,
    accounts: &[(&AccountKey, &AccountState)],
) -> Result<(), sqlx::Error> {
    let rows = lots(accounts, Mark::New);
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT_LOTS)
        .bind(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.lot_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.original).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.remaining).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.held).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.expires_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.grace_until).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.funding.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.kind.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.operation_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.reward_id).collect::<Vec<_>>())
        .bind(book.now)
        .execute(connection)
        .await?;
    Ok(())
}

async fn update_lots(
    connection: &mut PgConnection,
    accounts: &[(&AccountKey, &AccountState)],
) -> Result<(), sqlx::Error> {
    let rows = lots(accounts, Mark::Changed);
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(UPDATE_LOTS)
        .bind(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.lot_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.remaining).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, lot)| lot.held).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn update_accounts(
    connection: &mut PgConnection,
    accounts: &[(&AccountKey, &AccountState)],
) -> Result<(), sqlx::Error> {
    sqlx::query(UPDATE_ACCOUNTS)
        .bind(accounts.iter().map(|(_, a)| a.reference.account_no).collect::<Vec<_>>())
        .bind(accounts.iter().map(|(_, a)| a.balance.posted()).collect::<Vec<_>>())
        .bind(accounts.iter().map(|(_, a)| a.balance.held()).collect::<Vec<_>>())
        .bind(accounts.iter().map(|(_, a)| a.balance.version()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// One row an account: whoever hears of its last version has heard of all before.
async fn insert_outbox(
    connection: &mut PgConnection,
    book: &Book,
    accounts: &[(&AccountKey, &AccountState)],
    tender: &'static str,
) -> Result<(), sqlx::Error> {
    let payload = |(key, account): &(&AccountKey, &AccountState)| {
        let changed = BalanceChanged {
            tender: tender.into(),
            business_id: key.business_id.clone(),
            customer_id: key.owner.clone(),
            asset: key.asset,
            version: account.balance.version(),
            posted: account.balance.posted(),
            held: account.balance.held(),
            available: account.available,
            at: book.now,
        };
        serde_json::to_value(changed).expect("a balance is plain data")
    };
    sqlx::query(INSERT_OUTBOX)
        .bind(accounts.iter().map(|(key, _)| key.business_id.as_str()).collect::<Vec<_>>())
        .bind(accounts.iter().map(|(key, _)| key.owner.as_str()).collect::<Vec<_>>())
        .bind(accounts.iter().map(|(key, _)| key.asset.as_str()).collect::<Vec<_>>())
        .bind(accounts.iter().map(|(_, a)| a.balance.version()).collect::<Vec<_>>())
        .bind(accounts.iter().map(payload).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
