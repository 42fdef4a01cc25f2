//! An account's history, newest first.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

/// One entry on the account's side.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AccountEntry {
    /// What the account holds.
    pub asset: String,
    /// The account's version after it.
    pub version: i64,
    /// The operation that made it.
    pub operation_id: Uuid,
    /// What happened: the kinds of [`crate::Movement`].
    pub kind: String,
    /// The signed change of `posted`.
    pub amount: i64,
    /// `posted` after it.
    pub balance_after: i64,
    /// `held` after it.
    pub held_after: i64,
    /// The order that it paid, where it was for one.
    pub order_id: Option<String>,
    /// When, by the database's clock.
    pub created_at: DateTime<Utc>,
}

/// Where a page begins: in each asset's account, below this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// What the account holds.
    pub asset: String,
    /// Entries with a smaller version follow.
    pub version: i64,
}

/// An owner's accounts are paged together, newest first. Within an account the version orders; a page is the
/// newest of each account's next entries, so it is stable under inserts.
const PAGE: &str = "
SELECT a.asset, e.version, e.operation_id, e.kind, e.amount, e.balance_after, e.held_after, o.order_id, e.created_at
FROM tender.account a
LEFT JOIN unnest($3::text[], $4::bigint[]) AS b(asset, version) ON b.asset = a.asset
CROSS JOIN LATERAL (
    SELECT * FROM tender.entry
    WHERE account_no = a.account_no AND version < coalesce(b.version, 9223372036854775807)
    ORDER BY version DESC LIMIT $5
) e
LEFT JOIN tender.operation o ON o.operation_id = e.operation_id
WHERE a.business_id = $1 AND a.owner = $2 AND ($6::text IS NULL OR a.asset = $6)
ORDER BY e.created_at DESC, a.asset, e.version DESC
LIMIT $5";

/// Entries of all of an owner's accounts, or of the one in `asset`, newest first: at most `limit`, those after the place that `before` names.
///
/// # Errors
/// What the database says.
pub async fn page(
    executor: impl PgExecutor<'_>,
    business_id: &str,
    owner: &str,
    asset: Option<&str>,
    before: &[Before],
    limit: i64,
) -> Result<Vec<AccountEntry>, sqlx::Error> {
    let (assets, versions): (Vec<&str>, Vec<i64>) =
        before.iter().map(|b| (b.asset.as_str(), b.version)).unzip();
    sqlx::query_as(PAGE)
        .bind(business_id)
        .bind(owner)
        .bind(assets)
        .bind(versions)
        .bind(limit)
        .bind(asset)
        .fetch_all(executor)
        .await
}
