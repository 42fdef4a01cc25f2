//! Operations, read outside any batch.

use api::BusinessId;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool, Row as _};
use uuid::Uuid;

const FIND: &str = "
SELECT o.operation_id, coalesce(a.owner, o.details ->> 'owner') AS owner, coalesce(a.asset, o.details ->> 'asset') AS asset,
       o.kind, o.state, o.amount, o.order_id, o.response, o.created_at, o.updated_at
FROM tender.operation o
LEFT JOIN tender.account a ON a.account_no = o.account_no
WHERE o.operation_id = ANY ($1) AND o.business_id = $2
LIMIT 1";

/// Most legs that are looked at for one page of open legs: those that were declined, given back or applied with nothing cost no more
/// than that, however many come in a row.
const LOOKED_AT_MAX: i64 = 2_000;

/// Of so many legs, in the order of their index, those that have something in force: one that took nothing, or whose units have all
/// been given back, leaves nothing to a cancel. Each row says when it was read and which leg was looked at last; without any open leg
/// there is one row that says no more. The clock is read before the first leg is.
const OPEN_LEGS: &str = "
WITH looked_at AS MATERIALIZED (
    SELECT operation_id, legs_id, leg, business_id, account_no, kind, state, created_at
    FROM tender.operation
    WHERE legs_id IS NOT NULL AND (created_at, operation_id) > ($1, $2)
    ORDER BY created_at, operation_id
    LIMIT $4
), open AS MATERIALIZED (
    SELECT l.*, p.amount
    FROM (
        SELECT * FROM looked_at
        WHERE state IN ('applied', 'held') AND kind IN ('debit', 'hold')
        ORDER BY created_at, operation_id
    ) l
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount - reversed), 0)::bigint AS amount FROM tender.allocation
        WHERE operation_id = l.operation_id OFFSET 0
    ) p
    WHERE p.amount > 0
    ORDER BY l.created_at, l.operation_id
    LIMIT $3
)
SELECT statement_timestamp() AS read_at, l.last_at, l.last_id, o.operation_id, o.legs_id, o.leg, o.business_id, a.owner, a.asset,
       o.state, o.created_at, o.amount
FROM (VALUES (true)) AS always
LEFT JOIN LATERAL (
    SELECT created_at AS last_at, operation_id AS last_id FROM looked_at ORDER BY created_at DESC, operation_id DESC LIMIT 1
) l ON true
LEFT JOIN open o ON true
LEFT JOIN LATERAL (
    SELECT owner, asset FROM tender.account WHERE account_no = o.account_no OFFSET 0
) a ON true
ORDER BY o.created_at, o.operation_id";

/// In the order of their index, which holds nothing else than open holds. Each row of the index is answered for, so that a
/// short page is the last.
const PAST_THEIR_END: &str = "
SELECT o.operation_id, o.legs_id, o.leg, o.business_id, a.owner, a.asset, o.held_until, o.created_at, p.amount
FROM (
    SELECT * FROM tender.operation
    WHERE held_until IS NOT NULL AND held_until <= statement_timestamp() AND (held_until, operation_id) > ($1, $2)
    ORDER BY held_until, operation_id
    LIMIT $3
) o
LEFT JOIN LATERAL (
    SELECT owner, asset FROM tender.account WHERE account_no = o.account_no OFFSET 0
) a ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(amount - reversed), 0)::bigint AS amount FROM tender.allocation
    WHERE operation_id = o.operation_id OFFSET 0
) p
ORDER BY o.held_until, o.operation_id";

/// An operation as it is shown.
#[derive(Debug, FromRow)]
pub struct StoredOperation {
    /// Its id.
    pub operation_id: Uuid,
    /// Whose account.
    pub owner: String,
    /// What the account holds.
    pub asset: String,
    /// What it was.
    pub kind: String,
    /// Where it stands.
    pub state: String,
    /// Units.
    pub amount: i64,
    /// The order that it paid.
    pub order_id: Option<String>,
    /// Its answer.
    pub response: serde_json::Value,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its state changed last.
    pub updated_at: DateTime<Utc>,
}

/// The business's operation with one of these ids.
///
/// # Errors
/// What the database says.
pub async fn find(
    pool: &PgPool,
    business_id: &BusinessId,
    ids: &[Uuid],
) -> Result<Option<StoredOperation>, sqlx::Error> {
    sqlx::query_as(FIND).bind(ids).bind(business_id.as_str()).fetch_optional(pool).await
}

/// A place among all legs: when a leg was applied, and its operation.
pub type Place = (DateTime<Utc>, Uuid);

/// Open legs of a bounded part of all legs.
#[derive(Debug)]
pub struct OpenLegs {
    /// Those that are open, oldest first.
    pub legs: Vec<StoredLeg>,
    /// The last leg that was looked at, open or not; none where there was none.
    pub looked_to: Option<Place>,
    /// When they were read, by the database's clock.
    pub read_at: DateTime<Utc>,
}

/// An open leg.
#[derive(Debug, FromRow)]
pub struct StoredLeg {
    /// Its operation.
    pub operation_id: Uuid,
    /// Its key.
    pub legs_id: Uuid,
    /// Its key.
    pub leg: i32,
    /// The retailer.
    pub business_id: String,
    /// Whose account; none if that is missing.
    pub owner: Option<String>,
    /// What the account holds.
    pub asset: Option<String>,
    /// `applied` or `held`.
    pub state: String,
    /// When it was applied.
    pub created_at: DateTime<Utc>,
    /// Units not given back.
    pub amount: i64,
}

/// Open legs after this place, oldest first: at most `limit`, of at most [`LOOKED_AT_MAX`] legs.
///
/// # Errors
/// What the database says.
pub async fn open_legs(pool: &PgPool, after: Place, limit: i64) -> Result<OpenLegs, sqlx::Error> {
    let query = sqlx::query(OPEN_LEGS).bind(after.0).bind(after.1).bind(limit).bind(LOOKED_AT_MAX);
    let rows = query.fetch_all(pool).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let read_at = first.try_get("read_at")?;
    let last: Option<DateTime<Utc>> = first.try_get("last_at")?;
    let last = last.zip(first.try_get("last_id")?);
    let mut legs = Vec::with_capacity(rows.len());
    for row in &rows {
        if row.try_get::<Option<Uuid>, _>("operation_id")?.is_some() {
            legs.push(StoredLeg::from_row(row)?);
        }
    }
    let is_full = i64::try_from(legs.len()).is_ok_and(|count| count >= limit);
    let last_open = legs.last().filter(|_| is_full).map(|leg| (leg.created_at, leg.operation_id));
    Ok(OpenLegs { legs, looked_to: last_open.or(last), read_at })
}

/// An open hold past its end.
#[derive(Debug, FromRow)]
pub struct StoredHold {
    /// Its operation.
    pub operation_id: Uuid,
    /// Its key.
    pub legs_id: Uuid,
    /// Its key.
    pub leg: i32,
    /// The retailer.
    pub business_id: String,
    /// Whose account; none if that is missing.
    pub owner: Option<String>,
    /// What the account holds.
    pub asset: Option<String>,
    /// Its end.
    pub held_until: DateTime<Utc>,
    /// When it was applied.
    pub created_at: DateTime<Utc>,
    /// Units set aside.
    pub amount: i64,
}

/// Open holds whose end has passed by the database's clock, those after this place, the first to end first.
///
/// # Errors
/// What the database says.
pub async fn past_their_end(pool: &PgPool, after: Place, limit: i64) -> Result<Vec<StoredHold>, sqlx::Error> {
    sqlx::query_as(PAST_THEIR_END).bind(after.0).bind(after.1).bind(limit).fetch_all(pool).await
}
