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
    /// The legs that it belongs to, where it is one.
    pub legs_id: Option<Uuid>,
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

/// Which entries; `None` is all of them.
#[derive(Debug, Clone, Default)]
pub struct Filter<'a> {
    /// Of the account in this asset.
    pub asset: Option<&'a str>,
    /// Of this kind.
    pub kind: Option<&'a str>,
    /// That paid this order, or took it back.
    pub order_id: Option<&'a str>,
    /// At this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
}

/// An owner's accounts are paged together, newest first. Within an account the version orders; a page is the
/// newest of each account's next entries, so it is stable under inserts. Should the clock have stepped back, an entry
/// counts as no newer than those after it: a page never ends between an entry and a later one of its account.
const PAGE: &str = "
SELECT a.asset, e.version, e.operation_id, e.kind, e.amount, e.balance_after, e.held_after, e.order_id, e.legs_id,
    e.created_at
FROM tender.account a
LEFT JOIN unnest($3::text[], $4::bigint[]) AS b(asset, version) ON b.asset = a.asset
CROSS JOIN LATERAL (
    SELECT e.*, o.order_id, o.legs_id FROM tender.entry e LEFT JOIN tender.operation o USING (operation_id)
    WHERE e.account_no = a.account_no AND e.version < coalesce(b.version, 9223372036854775807)
      AND ($7::text IS NULL OR e.kind = $7) AND ($8::text IS NULL OR o.order_id = $8)
      AND ($9::timestamptz IS NULL OR e.created_at >= $9) AND ($10::timestamptz IS NULL OR e.created_at < $10)
    ORDER BY e.version DESC LIMIT $5
) e
WHERE a.business_id = $1 AND a.owner = $2 AND ($6::text IS NULL OR a.asset = $6)
ORDER BY min(e.created_at) OVER (PARTITION BY a.account_no ORDER BY e.version DESC) DESC, a.asset, e.version DESC
LIMIT $5";

/// Entries of an owner's accounts, newest first: at most `limit`, those after the place that `before` names.
///
/// # Errors
/// What the database says.
pub async fn page(
    executor: impl PgExecutor<'_>,
    business_id: &str,
    owner: &str,
    filter: &Filter<'_>,
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
        .bind(filter.asset)
        .bind(filter.kind)
        .bind(filter.order_id)
        .bind(filter.from.map(within_history))
        .bind(filter.to.map(within_history))
        .fetch_all(executor)
        .await
}

/// The time, or the first that any entry can have: Postgres fails on times that it cannot keep.
fn within_history(time: DateTime<Utc>) -> DateTime<Utc> {
    time.max(DateTime::UNIX_EPOCH)
}
