//! An account's history, newest first.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
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

/// Most entries of an owner that are looked at for one page: a filter that little matches costs no more than that.
pub const LOOKED_AT_MAX: i64 = 2_000;

const ACCOUNTS: &str = "
SELECT account_no, asset, version FROM tender.account
WHERE business_id = $1 AND owner = $2 AND ($3::text IS NULL OR asset = $3)
ORDER BY asset";

/// Of each account the entries between two versions, newest first.
const ENTRIES: &str = "
SELECT u.asset, e.version, e.operation_id, e.kind, e.amount, e.balance_after, e.held_after, e.order_id, e.legs_id,
    e.created_at
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) AS u(account_no, asset, bottom, top)
CROSS JOIN LATERAL (
    SELECT e.*, o.order_id, o.legs_id
    FROM tender.entry e
    LEFT JOIN LATERAL (
        SELECT order_id, legs_id FROM tender.operation WHERE operation_id = e.operation_id OFFSET 0
    ) o ON true
    WHERE e.account_no = u.account_no AND e.version >= u.bottom AND e.version < u.top
      AND ($6::text IS NULL OR e.kind = $6) AND ($7::text IS NULL OR o.order_id = $7)
      AND ($8::timestamptz IS NULL OR e.created_at >= $8) AND ($9::timestamptz IS NULL OR e.created_at < $9)
    ORDER BY e.version DESC LIMIT $5
) e
ORDER BY u.asset, e.version DESC";

/// A part of an owner's history.
#[derive(Debug, Default)]
pub struct Part {
    /// At most as many as were asked for, newest first.
    pub entries: Vec<AccountEntry>,
    /// Where the next part begins, in every account of the owner; none at the end. A part may be short, or empty, and go on all
    /// the same.
    pub next: Option<Vec<Before>>,
}

/// What one account has for a page.
#[derive(Debug)]
struct Source {
    before: Before,
    /// What matched between here and the bottom, newest first.
    entries: VecDeque<AccountEntry>,
    /// The lowest version that was looked at; entries below it are not known.
    bottom: i64,
}

/// Entries of an owner's accounts, newest first: at most `limit`, those after the place that `before` names. Of at most
/// [`LOOKED_AT_MAX`] entries those that the filter lets through.
///
/// # Errors
/// What the database says.
pub async fn page(
    pool: &PgPool,
    business_id: &str,
    owner: &str,
    filter: &Filter<'_>,
    before: &[Before],
    limit: usize,
) -> Result<Part, sqlx::Error> {
    let accounts: Vec<(i64, String, i64)> =
        sqlx::query_as(ACCOUNTS).bind(business_id).bind(owner).bind(filter.asset).fetch_all(pool).await?;
    let count = i64::try_from(accounts.len()).unwrap_or(i64::MAX).max(1);
    let each = LOOKED_AT_MAX.checked_div(count).unwrap_or(1).max(1);
    let (mut numbers, mut sources) = (Vec::new(), Vec::new());
    for (number, asset, version) in accounts {
        let known = before.iter().find(|place| place.asset == asset);
        let top = known.map_or(version.saturating_add(1), |place| place.version);
        let bottom = top.saturating_sub(each).max(1);
        numbers.push(number);
        sources.push(Source { before: Before { asset, version: top }, entries: VecDeque::new(), bottom });
    }
    let rows: Vec<AccountEntry> = sqlx::query_as(ENTRIES)
        .bind(numbers)
        .bind(sources.iter().map(|source| source.before.asset.as_str()).collect::<Vec<_>>())
        .bind(sources.iter().map(|source| source.bottom).collect::<Vec<_>>())
        .bind(sources.iter().map(|source| source.before.version).collect::<Vec<_>>())
        // One more than fits tells that there is more.
        .bind(i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX))
        .bind(filter.kind)
        .bind(filter.order_id)
        .bind(filter.from.map(within_history))
        .bind(filter.to.map(within_history))
        .fetch_all(pool)
        .await?;
    for row in rows {
        if let Some(source) = sources.iter_mut().find(|source| source.before.asset == row.asset) {
            source.entries.push_back(row);
        }
    }
    Ok(merge(sources, limit))
}

/// The newest of what all accounts have next. Within an account the version orders, also where the clock stepped back; and the
/// page ends where an account's next entry is not known, since it may be newer than what the others have.
fn merge(mut sources: Vec<Source>, limit: usize) -> Part {
    let mut entries = Vec::new();
    while entries.len() < limit {
        if sources.iter().any(|source| source.entries.is_empty() && source.bottom > 1) {
            break;
        }
        let heads = sources.iter_mut().rev().filter(|source| !source.entries.is_empty());
        let Some(newest) = heads.max_by_key(|source| source.entries[0].created_at) else { break };
        let Some(entry) = newest.entries.pop_front() else { break };
        newest.before.version = entry.version;
        entries.push(entry);
    }
    let has_more = sources.iter().any(|source| !source.entries.is_empty() || source.bottom > 1);
    let next = has_more.then(|| sources.into_iter().map(Source::next).collect());
    Part { entries, next }
}

impl Source {
    /// Below the last entry of the page, or below all that was looked at.
    fn next(self) -> Before {
        let version = if self.entries.is_empty() { self.bottom } else { self.before.version };
        Before { version, ..self.before }
    }
}

/// The time, or the first that any entry can have: Postgres fails on times that it cannot keep.
fn within_history(time: DateTime<Utc>) -> DateTime<Utc> {
    time.max(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account whose matching entries are these versions, each at this second.
    fn source(asset: &str, bottom: i64, entries: &[(i64, i64)]) -> Source {
        let entry = |(version, second): &(i64, i64)| AccountEntry {
            asset: asset.to_owned(),
            version: *version,
            operation_id: Uuid::nil(),
            kind: "debit".to_owned(),
            amount: -1,
            balance_after: 0,
            held_after: 0,
            order_id: None,
            legs_id: None,
            created_at: DateTime::from_timestamp_secs(*second).unwrap_or_default(),
        };
        let before = Before { asset: asset.to_owned(), version: 100 };
        Source { before, entries: entries.iter().map(entry).collect(), bottom }
    }

    fn versions(part: &Part) -> Vec<(&str, i64)> {
        part.entries.iter().map(|entry| (entry.asset.as_str(), entry.version)).collect()
    }

    fn next(part: &Part) -> Option<Vec<(&str, i64)>> {
        Some(part.next.as_ref()?.iter().map(|place| (place.asset.as_str(), place.version)).collect())
    }

    #[test]
    fn accounts_are_merged_by_time_and_each_keeps_its_order() {
        // The clock of the first stepped back between 8 and 9.
        let sources = || vec![source("EUR", 1, &[(9, 4), (8, 9)]), source("USD", 1, &[(7, 6), (3, 2)])];
        let all = merge(sources(), 10);
        assert_eq!(versions(&all), [("USD", 7), ("EUR", 9), ("EUR", 8), ("USD", 3)]);
        assert_eq!(next(&all), None);
        let first = merge(sources(), 2);
        assert_eq!(versions(&first), [("USD", 7), ("EUR", 9)]);
        assert_eq!(next(&first), Some(vec![("EUR", 9), ("USD", 7)]));
    }

    #[test]
    fn a_page_ends_where_an_account_is_not_known_any_further() {
        let part = merge(vec![source("EUR", 50, &[(60, 5)]), source("USD", 1, &[(7, 6), (3, 2)])], 10);
        assert_eq!(versions(&part), [("USD", 7), ("EUR", 60)]);
        assert_eq!(next(&part), Some(vec![("EUR", 50), ("USD", 7)]));
        let none = merge(vec![source("EUR", 50, &[]), source("USD", 1, &[(7, 6)])], 10);
        assert_eq!((versions(&none), next(&none)), (vec![], Some(vec![("EUR", 50), ("USD", 100)])));
    }
}
