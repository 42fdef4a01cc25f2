//! Operations, read outside any batch.

use api::BusinessId;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

const FIND: &str = "
SELECT o.operation_id, a.owner, a.asset, o.kind, o.state, o.amount, o.order_id, o.response, o.created_at,
       o.updated_at
FROM tender.operation o
JOIN tender.account a ON a.account_no = o.account_no
WHERE o.operation_id = ANY ($1) AND o.business_id = $2
LIMIT 1";

const IN_FORCE: &str = "
SELECT o.operation_id, o.legs_id, o.leg, a.business_id, a.owner, a.asset, o.state, o.created_at, o.hold_until,
       clock_timestamp() AS read_at,
       coalesce((SELECT sum(p.amount - p.reversed) FROM tender.allocation p
                 WHERE p.operation_id = o.operation_id), 0)::bigint AS amount
FROM tender.operation o
JOIN tender.account a ON a.account_no = o.account_no
WHERE o.legs_id IS NOT NULL AND o.state IN ('applied', 'held') AND o.kind IN ('debit', 'hold')
  AND (o.created_at, o.operation_id) > ($1, $2)
ORDER BY o.created_at, o.operation_id
LIMIT $3";

const HELD_PAST_END: &str = "
SELECT o.operation_id, o.legs_id, o.leg, a.business_id, a.owner, a.asset, o.state, o.created_at, o.hold_until,
       clock_timestamp() AS read_at,
       coalesce((SELECT sum(p.amount - p.reversed) FROM tender.allocation p
                 WHERE p.operation_id = o.operation_id), 0)::bigint AS amount
FROM tender.operation o
JOIN tender.account a ON a.account_no = o.account_no
WHERE o.legs_id IS NOT NULL AND o.state = 'held' AND o.hold_until < clock_timestamp()
  AND (o.hold_until, o.operation_id) > ($1, $2)
ORDER BY o.hold_until, o.operation_id
LIMIT $3";

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

/// A leg in force.
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
    /// Whose account.
    pub owner: String,
    /// What the account holds.
    pub asset: String,
    /// `applied` or `held`.
    pub state: String,
    /// When it was applied.
    pub created_at: DateTime<Utc>,
    /// Units not given back.
    pub amount: i64,
    /// Until when it is held, if it is.
    pub hold_until: Option<DateTime<Utc>>,
    /// When it was read.
    pub read_at: DateTime<Utc>,
}

/// Legs in force after this place, oldest first.
///
/// # Errors
/// What the database says.
pub async fn in_force(
    pool: &PgPool,
    after: (DateTime<Utc>, Uuid),
    limit: i64,
) -> Result<Vec<StoredLeg>, sqlx::Error> {
    sqlx::query_as(IN_FORCE).bind(after.0).bind(after.1).bind(limit).fetch_all(pool).await
}

/// Legs that are held past their end, by the database's clock, after this place: those that ended first come first.
///
/// # Errors
/// What the database says.
pub async fn held_past_end(
    pool: &PgPool,
    after: (DateTime<Utc>, Uuid),
    limit: i64,
) -> Result<Vec<StoredLeg>, sqlx::Error> {
    sqlx::query_as(HELD_PAST_END).bind(after.0).bind(after.1).bind(limit).fetch_all(pool).await
}
