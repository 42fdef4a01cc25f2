//! Operations, read outside any batch.

use api::BusinessId;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

const FIND: &str = "
SELECT o.operation_id, coalesce(a.owner, o.details ->> 'owner') AS owner, coalesce(a.asset, o.details ->> 'asset') AS asset,
       o.kind, o.state, o.amount, o.order_id, o.response, o.created_at, o.updated_at
FROM tender.operation o
LEFT JOIN tender.account a ON a.account_no = o.account_no
WHERE o.operation_id = ANY ($1) AND o.business_id = $2
LIMIT 1";

const OPEN_LEGS: &str = "
SELECT o.operation_id, o.legs_id, o.leg, a.business_id, a.owner, a.asset, o.state, o.created_at,
       clock_timestamp() AS read_at,
       coalesce((SELECT sum(p.amount - p.reversed) FROM tender.allocation p
                 WHERE p.operation_id = o.operation_id), 0)::bigint AS amount
FROM tender.operation o
JOIN tender.account a ON a.account_no = o.account_no
WHERE o.legs_id IS NOT NULL AND o.state IN ('applied', 'held') AND o.kind IN ('debit', 'hold')
  AND (o.created_at, o.operation_id) > ($1, $2)
ORDER BY o.created_at, o.operation_id
LIMIT $3";

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
    /// When it was read.
    pub read_at: DateTime<Utc>,
}

/// Open legs after this place, oldest first.
///
/// # Errors
/// What the database says.
pub async fn open_legs(
    pool: &PgPool,
    after: (DateTime<Utc>, Uuid),
    limit: i64,
) -> Result<Vec<StoredLeg>, sqlx::Error> {
    sqlx::query_as(OPEN_LEGS).bind(after.0).bind(after.1).bind(limit).fetch_all(pool).await
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
pub async fn past_their_end(
    pool: &PgPool,
    after: (DateTime<Utc>, Uuid),
    limit: i64,
) -> Result<Vec<StoredHold>, sqlx::Error> {
    sqlx::query_as(PAST_THEIR_END).bind(after.0).bind(after.1).bind(limit).fetch_all(pool).await
}
