//! Legs that are applied: each must belong to a saga. They are read once, oldest first, by a cursor that all processes share.
//!
//! A pass goes on until it has caught up with the legs that are still young, so that it keeps up with any number of them; one that
//! meets its bound is followed by the next at once. How far it is behind is `wallet_reconciliation_lag_seconds`, and while passes fail
//! it grows; those are `wallet_reconciliation_failures_total`.

use std::time::Duration;

use anyhow::Context as _;
use api::{
    leg_cursor,
    legs::{LegState, OpenLeg},
    wallet::TenderKind,
};
use chrono::{DateTime, TimeDelta, Utc};
use metrics::{counter, gauge};
use saga::in_time;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Leg, PAGE};
use crate::app::App;

/// A leg this young, by its tender's database, may be joined by one that is older and commits later.
const STILL_YOUNG: TimeDelta = TimeDelta::seconds(60);
/// Most pages of one pass.
const PAGES_MAX: usize = 1_000;

/// Compares for ever, each tender at its own pace. Any number of processes may: what they find is the same.
pub async fn compare_legs(app: App, every: Duration) {
    let tenders = TenderKind::ALL.map(|kind| compare_legs_of(&app, kind, every));
    futures_util::future::join_all(tenders).await;
}

async fn compare_legs_of(app: &App, kind: TenderKind, every: Duration) {
    let tender = kind.as_str();
    let mut succeeded = Instant::now();
    counter!("wallet_reconciliation_failures_total", "tender" => tender).increment(0);
    let mut seen = Seen::default();
    loop {
        match pass(app, kind, &mut seen).await {
            Ok(Pass::CaughtUp) => {
                succeeded = Instant::now();
                tokio::time::sleep(every).await;
            }
            Ok(Pass::Behind) => succeeded = Instant::now(),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(tender, error, "could not compare legs with sagas");
                counter!("wallet_reconciliation_failures_total", "tender" => tender).increment(1);
                // How old the oldest leg is that was not compared is not known: not older than this, if nothing was behind before.
                show_lag(kind, succeeded.elapsed());
                tokio::time::sleep(every).await;
            }
        }
    }
}

fn show_lag(kind: TenderKind, lag: Duration) {
    gauge!("wallet_reconciliation_lag_seconds", "tender" => kind.as_str()).set(lag.as_secs_f64());
}

/// How far a pass came.
enum Pass {
    /// Nothing is left but legs that are still young.
    CaughtUp,
    /// More waits.
    Behind,
}

async fn pass(app: &App, kind: TenderKind, seen: &mut Seen) -> anyhow::Result<Pass> {
    for _ in 0..PAGES_MAX {
        let mut compared = in_time(compared(&app.background_pool, kind)).await?;
        if let Some(compared) = &mut compared {
            compared.seconds_ago = compared.seconds_ago.max(seen.seconds_ago(&compared.cursor));
        }
        let cursor = compared.as_ref().map(|to| to.cursor.as_str());
        let page = app.tenders.get(kind).open_legs(cursor, PAGE).await?;
        if let Some(begin) = compared.as_ref().map(|to| to.begin_again(page.at)).transpose()?.flatten() {
            tracing::warn!(tender = kind.as_str(), at = %page.at, "the clock of a tender's database was set back");
            in_time(advance(&app.background_pool, kind, &leg_cursor::write(begin, Uuid::nil()))).await?;
            continue;
        }
        park_orphans(app, kind, &page.data).await?;
        let Some(next) = &page.next_cursor else {
            show_lag(kind, Duration::ZERO);
            return Ok(Pass::CaughtUp);
        };
        let (looked_to, _) = leg_cursor::parse(next).context("a cursor that cannot be read")?;
        let waits = page.at - STILL_YOUNG - looked_to;
        show_lag(kind, waits.to_std().unwrap_or_default());
        // Batches commit out of order: a page that is still young is read again by the next pass.
        if waits <= TimeDelta::zero() {
            return Ok(Pass::CaughtUp);
        }
        in_time(advance(&app.background_pool, kind, next)).await?;
    }
    Ok(Pass::Behind)
}

/// Up to where a tender's legs were compared.
#[derive(Debug, sqlx::FromRow)]
struct Compared {
    cursor: String,
    /// How long ago, by the wallet's database clock.
    seconds_ago: f64,
}

impl Compared {
    /// Where to begin again if the tender's clock, which stands at `at`, was set back since by so much that legs may have been applied
    /// before the cursor. When it was compared, the clock was past the cursor by [`STILL_YOUNG`] at least; so a clock that is not even
    /// past it by the time since then has lost more than that. What was compared before is compared once more: a leg is parked once.
    ///
    /// # Errors
    /// When the cursor cannot be read.
    fn begin_again(&self, at: DateTime<Utc>) -> anyhow::Result<Option<DateTime<Utc>>> {
        let (to, _) = leg_cursor::parse(&self.cursor).context("a cursor that cannot be read")?;
        let since = Duration::try_from_secs_f64(self.seconds_ago.max(0.0)).ok();
        let since = since.and_then(|since| TimeDelta::from_std(since).ok()).unwrap_or(TimeDelta::MAX);
        let begin = at.checked_sub_signed(since).and_then(|begin| begin.checked_sub_signed(STILL_YOUNG));
        let is_set_back = to.checked_add_signed(since).is_none_or(|expected| expected > at);
        Ok(is_set_back.then(|| begin.unwrap_or_default().max(DateTime::UNIX_EPOCH)))
    }
}

/// The place up to which was compared, and since when this process knows that: where the wallet's and a tender's databases have one
/// clock, that says nothing of how far it was set back.
#[derive(Default)]
struct Seen(Option<(String, Instant)>);

impl Seen {
    /// For how many seconds at least it has been compared up to this place.
    fn seconds_ago(&mut self, cursor: &str) -> f64 {
        match &self.0 {
            Some((seen, since)) if seen == cursor => since.elapsed().as_secs_f64(),
            _ => {
                self.0 = Some((cursor.to_owned(), Instant::now()));
                0.0
            }
        }
    }
}

async fn park_orphans(app: &App, kind: TenderKind, legs: &[OpenLeg]) -> anyhow::Result<()> {
    let applied = || legs.iter().filter(|leg| leg.state == LegState::Applied);
    let mut ids: Vec<Uuid> = applied().map(|leg| leg.key.legs_id.0).collect();
    if ids.is_empty() {
        return Ok(());
    }
    ids.sort_unstable();
    ids.dedup();
    let known = in_time(app.engine.known_legs(&ids)).await?;
    for leg in applied().filter(|leg| !known.contains(&leg.key.legs_id.0)) {
        Leg { tender: kind, key: leg.key, account: &leg.account }.park(app, false, leg).await?;
    }
    Ok(())
}

async fn compared(pool: &PgPool, kind: TenderKind) -> sqlx::Result<Option<Compared>> {
    sqlx::query_as(
        "SELECT cursor, extract(epoch FROM clock_timestamp() - compared_at)::float8 AS seconds_ago
         FROM wallet.reconciliation WHERE tender = $1",
    )
    .bind(kind.as_str())
    .fetch_optional(pool)
    .await
}

async fn advance(pool: &PgPool, kind: TenderKind, cursor: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO wallet.reconciliation (tender, cursor) VALUES ($1, $2)
         ON CONFLICT (tender) DO UPDATE SET cursor = excluded.cursor, compared_at = clock_timestamp()",
    )
    .bind(kind.as_str())
    .bind(cursor)
    .execute(pool)
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed_to_what_was_applied_since() {
        let begin = |to, seconds_ago, at| {
            let compared = Compared { cursor: leg_cursor::write(time(to), Uuid::nil()), seconds_ago };
            compared.begin_again(time(at)).unwrap()
        };
        assert_eq!(begin(1_000, 5.0, 1_065), None);
        assert_eq!(begin(1_000, 5.0, 1_005), None, "no leg stands before the cursor");
        assert_eq!(begin(1_000, 30.0, 1_016), Some(time(926)), "it has passed the cursor again meanwhile");
        assert_eq!(begin(1_000, 5.0, 999), Some(time(934)), "since it was compared, and what was young then");
        assert_eq!(begin(1_000, -5.0, 999), Some(time(939)), "the wallet's clock was set back as well");
        assert_eq!(begin(1_000, f64::MAX, 999), Some(DateTime::UNIX_EPOCH));
        let unreadable = Compared { cursor: "x".to_owned(), seconds_ago: 0.0 };
        assert!(unreadable.begin_again(time(1)).is_err());
    }
}
