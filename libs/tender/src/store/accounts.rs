//! An owner's accounts, read outside any batch: one statement, so one moment.

use std::sync::LazyLock;

use api::{
    BusinessId,
    tender::{AccountStatus, AccountVersion, Funding, LotView, Owner, PastBalance, Totals},
};
use chrono::{DateTime, Utc};
use money::Asset;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::rows::{self, decode};
use crate::{
    fold::{LAPSED_MAX, working_set::Status},
    wire,
};

/// Most lots of one account that are shown.
const LOTS_SHOWN: i64 = 1_000;

/// What is available is what a batch would find at this moment: what is not set aside, less what has lapsed and is still in the
/// balance. Lapsed lots are not shown unless something of them is set aside; so many more are looked at. Which other lots are shown,
/// the tender adds: lots are what can be spent, so that planning takes none that its leg would be declined for.
const CURRENT: &str = "
SELECT a.asset, a.posted, a.held AS account_held, a.version, a.status, a.posted - a.held - s.lapsed AS available,
       s.lapsed_lots, l.lot_id, l.original, l.remaining, l.held, l.expires_at, l.grace_until, l.funding, l.kind, l.reward_id
FROM tender.account a
CROSS JOIN LATERAL (
    SELECT coalesce(sum(remaining), 0)::bigint AS lapsed, count(*) AS lapsed_lots
    FROM (SELECT remaining FROM tender.lot
          WHERE account_no = a.account_no AND free AND ends_at <= statement_timestamp()
          ORDER BY ends_at, lot_id
          LIMIT $4) ended
) s
LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT * FROM tender.lot
        WHERE account_no = a.account_no AND NOT spent
        ORDER BY expires_at, lot_id
        LIMIT $3 + $4
    ) in_order
    WHERE (held > 0 OR coalesce(ends_at, 'infinity') > statement_timestamp()) AND {is_usable}
    LIMIT $3
) l ON true
WHERE a.business_id = $1 AND a.owner = $2
ORDER BY a.asset, l.expires_at, l.lot_id";

static CURRENT_LOTS: LazyLock<String> = LazyLock::new(|| CURRENT.replace("{is_usable}", "true"));

/// A blocked reward is not shown. Its value stays in the balance, also in what is available: that is a sum over the account, which a
/// block does not move.
static CURRENT_REWARDS: LazyLock<String> = LazyLock::new(|| {
    let is_usable =
        "NOT EXISTS (SELECT FROM tender.reward_code c WHERE c.reward_id = in_order.reward_id AND c.blocked)";
    CURRENT.replace("{is_usable}", is_usable)
});

/// The clock before which nothing about the owner's accounts changes any more: a batch that read its clock by then held the lock of its
/// account, and has ended where it can be shared. Of an account that is not there yet nothing is dated before it is.
const SETTLED: &str = "
SELECT statement_timestamp(), count(*)
FROM (SELECT FROM tender.account WHERE business_id = $1 AND owner = $2 ORDER BY asset FOR SHARE) a";

/// How long it waits for an account that a batch has locked, and keeps a connection that others read with: batches are done sooner.
const SETTLED_WITHIN: &str = "SET LOCAL lock_timeout = '100ms'";

/// The last entry that is not later, found by halving the account's versions: they have no gaps, and time does not fall from one
/// to the next.
const PAST: &str = "
WITH RECURSIVE search AS (
    SELECT account_no, asset, 0::bigint AS low, version AS high
    FROM tender.account
    WHERE business_id = $1 AND owner = $2
    UNION ALL
    SELECT s.account_no, s.asset,
           CASE WHEN e.created_at <= $3 THEN m.middle ELSE s.low END,
           CASE WHEN e.created_at <= $3 THEN s.high ELSE m.middle - 1 END
    FROM search s
    CROSS JOIN LATERAL (SELECT (s.low + s.high + 1) / 2 AS middle) m
    CROSS JOIN LATERAL (
        SELECT created_at FROM tender.entry WHERE account_no = s.account_no AND version = m.middle OFFSET 0
    ) e
    WHERE s.low < s.high
)
SELECT s.asset, e.version, e.balance_after, e.held_after
FROM search s
CROSS JOIN LATERAL (
    SELECT version, balance_after, held_after FROM tender.entry
    WHERE account_no = s.account_no AND version = s.low OFFSET 0
) e
WHERE s.low = s.high
ORDER BY s.asset";

/// One look into the unique index an owner, whatever the planner believes of the table's size.
const VERSIONS: &str = "
SELECT u.place, a.asset, a.version
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u(business_id, owner, place)
CROSS JOIN LATERAL (
    SELECT asset, version FROM tender.account
    WHERE business_id = u.business_id AND owner = u.owner OFFSET 0
) a";

/// An account with the lots that have value, in the order of spending.
#[derive(Debug)]
pub struct StoredAccount {
    /// What it holds.
    pub asset: Asset,
    /// Whether value may leave it.
    pub status: AccountStatus,
    /// Its balances.
    pub totals: Totals,
    /// At most 1,000.
    pub lots: Vec<LotView>,
    /// More lots have lapsed than were looked at: it has to be swept before it can be shown.
    pub is_overdue: bool,
}

#[derive(FromRow)]
struct Row {
    asset: String,
    posted: i64,
    account_held: i64,
    version: i64,
    status: String,
    available: i64,
    lapsed_lots: i64,
    lot_id: Option<Uuid>,
    original: Option<i64>,
    remaining: Option<i64>,
    held: Option<i64>,
    expires_at: Option<DateTime<Utc>>,
    grace_until: Option<DateTime<Utc>>,
    funding: Option<String>,
    kind: Option<String>,
    reward_id: Option<Uuid>,
}

/// The owner's accounts now, in a tender whose legs take from single rewards or in another.
///
/// # Errors
/// What the database says.
pub async fn current(
    pool: &PgPool,
    business_id: &BusinessId,
    owner: &str,
    of_rewards: bool,
) -> Result<Vec<StoredAccount>, sqlx::Error> {
    let lapsed_limit = i64::try_from(LAPSED_MAX).map_err(decode)?;
    let statement = if of_rewards { &CURRENT_REWARDS } else { &CURRENT_LOTS };
    let query = sqlx::query_as(statement.as_str()).bind(business_id.as_str()).bind(owner);
    let query = query.bind(LOTS_SHOWN).bind(lapsed_limit + 1);
    let rows: Vec<Row> = query.fetch_all(pool).await?;
    let mut accounts: Vec<StoredAccount> = Vec::new();
    for row in rows {
        let asset: Asset = row.asset.parse().map_err(decode)?;
        let lot = lot(&row, asset)?;
        match accounts.last_mut() {
            Some(account) if account.asset == asset => account.lots.extend(lot),
            _ => accounts.push(StoredAccount {
                asset,
                status: status(rows::status(&row.status)?),
                totals: Totals {
                    version: row.version,
                    posted: row.posted,
                    held: row.account_held,
                    available: row.available,
                },
                lots: Vec::from_iter(lot),
                is_overdue: row.lapsed_lots > lapsed_limit,
            }),
        }
    }
    Ok(accounts)
}

const fn status(status: Status) -> AccountStatus {
    match status {
        Status::Active => AccountStatus::Active,
        Status::Frozen => AccountStatus::Frozen,
        Status::Closed => AccountStatus::Closed,
    }
}

fn lot(row: &Row, asset: Asset) -> Result<Option<LotView>, sqlx::Error> {
    let (Some(lot_id), Some(original), Some(remaining), Some(held), Some(funding), Some(kind)) =
        (row.lot_id, row.original, row.remaining, row.held, &row.funding, &row.kind)
    else {
        return Ok(None);
    };
    let funding: Funding = wire::funding(funding.parse().map_err(decode)?);
    Ok(Some(LotView {
        lot_id,
        reward_id: row.reward_id,
        currency: asset.currency(),
        original,
        remaining,
        held,
        funding,
        kind: kind.clone(),
        expires_at: row.expires_at,
        grace_until: row.grace_until,
    }))
}

/// What the ledger says of one account at a past time.
#[derive(FromRow)]
struct PastRow {
    asset: String,
    version: i64,
    balance_after: i64,
    held_after: i64,
}

impl From<PastRow> for PastBalance {
    fn from(row: PastRow) -> Self {
        let currency = row.asset.parse().ok();
        Self { currency, version: row.version, posted: row.balance_after, held: row.held_after }
    }
}

/// Up to when the past of the owner's accounts stands, by the database's clock. It waits a moment for batches that are under way.
///
/// # Errors
/// What the database says, also that an account is locked for longer.
pub async fn settled(
    pool: &PgPool,
    business_id: &BusinessId,
    owner: &str,
) -> Result<DateTime<Utc>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query(SETTLED_WITHIN).execute(&mut *transaction).await?;
    let query = sqlx::query_as(SETTLED).bind(business_id.as_str()).bind(owner);
    let (at, _): (DateTime<Utc>, i64) = query.fetch_one(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(at)
}

/// The owner's accounts as they were at `at`, a time that is settled.
///
/// # Errors
/// What the database says.
pub async fn past(
    pool: &PgPool,
    business_id: &BusinessId,
    owner: &str,
    at: DateTime<Utc>,
) -> Result<Vec<PastBalance>, sqlx::Error> {
    // Nothing is older, and Postgres fails on times that it cannot keep.
    let at = at.max(DateTime::UNIX_EPOCH);
    let rows: Vec<PastRow> =
        sqlx::query_as(PAST).bind(business_id.as_str()).bind(owner).bind(at).fetch_all(pool).await?;
    Ok(rows.into_iter().map(PastBalance::from).collect())
}

/// The versions of all accounts of these owners.
///
/// # Errors
/// What the database says.
pub async fn versions(pool: &PgPool, owners: &[Owner]) -> Result<Vec<AccountVersion>, sqlx::Error> {
    let rows: Vec<(i64, String, i64)> = sqlx::query_as(VERSIONS)
        .bind(owners.iter().map(|owner| owner.business_id.as_str()).collect::<Vec<_>>())
        .bind(owners.iter().map(|owner| owner.customer_id.as_str()).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    let mut versions = Vec::with_capacity(rows.len());
    for (place, asset, version) in rows {
        let place = usize::try_from(place - 1).map_err(decode)?;
        let Some(owner) = owners.get(place).cloned() else { continue };
        versions.push(AccountVersion { owner, asset: asset.parse().map_err(decode)?, version });
    }
    Ok(versions)
}
