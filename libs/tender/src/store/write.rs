//! Writes a working set back: one statement for what every batch changes (`write_set`), and one for each of the rarer changes, if
//! there are any. Rows of one table are written in the order of their keys.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{dirty, rows, write_set::WriteSet};
use crate::fold::working_set::{Dirty, WorkingSet};

const INSERT_LOTS: &str = "
INSERT INTO tender.lot (account_no, lot_id, original, remaining, held, expires_at, grace_until, funding, kind,
                        operation_id, reward_id, created_at)
SELECT u.*, $12
FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[],
            $7::timestamptz[], $8::text[], $9::text[], $10::uuid[], $11::uuid[]) AS u";

const UPDATE_OPERATIONS: &str = "
UPDATE tender.operation o
SET state = u.state, amount = u.amount, response = u.response::json, updated_at = $5
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[]) AS u(operation_id, state, amount, response)
WHERE o.operation_id = u.operation_id";

const UPDATE_ALLOCATIONS: &str = "
UPDATE tender.allocation a SET reversed = u.reversed
FROM unnest($1::uuid[], $2::smallint[], $3::bigint[]) AS u(operation_id, position, reversed)
WHERE a.operation_id = u.operation_id AND a.position = u.position";

const INSERT_RESTORATIONS: &str = "
INSERT INTO tender.allocation_reversal (operation_id, position, by_operation_id, amount, created_at)
SELECT u.*, $5 FROM unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::bigint[]) AS u";

const INSERT_REFERENCES: &str = "
INSERT INTO tender.credit_reference (business_id, kind, reference, operation_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[])";

/// Writes whatever is new or changed. Returns whether the outbox has something to publish.
///
/// # Errors
/// What the database says.
pub async fn write(
    connection: &mut PgConnection,
    set: &WorkingSet,
    tender: &'static str,
) -> Result<bool, sqlx::Error> {
    update_operations(connection, set).await?;
    insert_references(connection, set).await?;
    update_allocations(connection, set).await?;
    insert_restorations(connection, set).await?;
    insert_lots(connection, set).await?;
    WriteSet::of(set).write(connection, tender).await
}

async fn update_operations(connection: &mut PgConnection, set: &WorkingSet) -> Result<(), sqlx::Error> {
    let rows = dirty::operations(set, Dirty::Changed);
    if rows.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = rows.iter().map(|(id, _)| **id).collect();
    let done = sqlx::query(UPDATE_OPERATIONS)
        .bind(&ids)
        .bind(rows.iter().map(|(_, o)| o.state.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| o.amount).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, o)| &*o.response).collect::<Vec<_>>())
        .bind(set.now)
        .execute(connection)
        .await?;
    rows::all_found("operations", ids.len(), done.rows_affected())
}

async fn insert_references(connection: &mut PgConnection, set: &WorkingSet) -> Result<(), sqlx::Error> {
    if set.new_references.is_empty() {
        return Ok(());
    }
    // In the order of the key: two batches that issue under the same references wait, and never for each other.
    let mut rows: Vec<_> = set.new_references.iter().collect();
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

async fn update_allocations(connection: &mut PgConnection, set: &WorkingSet) -> Result<(), sqlx::Error> {
    let rows = dirty::allocations(set, Dirty::Changed);
    if rows.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(UPDATE_ALLOCATIONS)
        .bind(rows.iter().map(|(id, ..)| **id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, position, _)| *position).collect::<Vec<_>>())
        .bind(rows.iter().map(|(.., part)| part.reversed).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    rows::all_found("allocations", rows.len(), done.rows_affected())
}

async fn insert_restorations(connection: &mut PgConnection, set: &WorkingSet) -> Result<(), sqlx::Error> {
    if set.restorations.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT_RESTORATIONS)
        .bind(set.restorations.iter().map(|back| back.operation_id).collect::<Vec<_>>())
        .bind(set.restorations.iter().map(|back| back.position).collect::<Vec<_>>())
        .bind(set.restorations.iter().map(|back| back.by_operation_id).collect::<Vec<_>>())
        .bind(set.restorations.iter().map(|back| back.amount).collect::<Vec<_>>())
        .bind(set.now)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_lots(connection: &mut PgConnection, set: &WorkingSet) -> Result<(), sqlx::Error> {
    let rows = dirty::lots(set, Dirty::New);
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
        .bind(set.now)
        .execute(connection)
        .await?;
    Ok(())
}
