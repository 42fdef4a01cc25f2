//! Legs that are applied: each must belong to a saga. They are read once, oldest first, by a cursor that all processes share.
//!
//! A pass goes on until it has caught up with the legs that are still young, so that it keeps up with any number of them; one that
//! meets its bound is followed by the next at once. How far it is behind is `wallet_reconciliation_lag_seconds`.

use std::time::Duration;

use api::{
    legs::{LegPage, LegState, OpenLeg},
    wallet::TenderKind,
};
use chrono::TimeDelta;
use metrics::gauge;
use sqlx::PgPool;
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
    loop {
        match pass(app, kind).await {
            Ok(Pass::CaughtUp) => tokio::time::sleep(every).await,
            Ok(Pass::Behind) => {}
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(tender = kind.as_str(), error, "could not compare legs with sagas");
                tokio::time::sleep(every).await;
            }
        }
    }
}

/// How far a pass came.
enum Pass {
    /// Nothing is left but legs that are still young.
    CaughtUp,
    /// More waits.
    Behind,
}

async fn pass(app: &App, kind: TenderKind) -> anyhow::Result<Pass> {
    for _ in 0..PAGES_MAX {
        let cursor = cursor(&app.background_pool, kind).await?;
        let page = app.tenders.get(kind).open_legs(cursor.as_deref(), PAGE).await?;
        park_orphans(app, kind, &page.data).await?;
        gauge!("wallet_reconciliation_lag_seconds", "tender" => kind.as_str()).set(lag_seconds(&page));
        // Batches commit out of order: a page that is still young is read again by the next pass.
        match page.next_cursor.clone().filter(|_| is_settled(&page)) {
            Some(next) => advance(&app.background_pool, kind, &next).await?,
            None => return Ok(Pass::CaughtUp),
        }
    }
    Ok(Pass::Behind)
}

/// Whether nothing can come before the end of a page any more, by the clock that dated its legs.
fn is_settled(page: &LegPage) -> bool {
    page.at.is_some_and(|at| page.data.iter().all(|leg| leg.at < at - STILL_YOUNG))
}

/// The age of the oldest leg that may not have been compared; 0 where only young ones wait.
fn lag_seconds(page: &LegPage) -> f64 {
    let oldest = page.data.iter().map(|leg| leg.at).min();
    let age = page.at.zip(oldest).map_or(TimeDelta::zero(), |(at, oldest)| at - oldest);
    let seconds = (age - STILL_YOUNG).num_seconds().max(0);
    f64::from(u32::try_from(seconds).unwrap_or(u32::MAX))
}

async fn park_orphans(app: &App, kind: TenderKind, legs: &[OpenLeg]) -> anyhow::Result<()> {
    let applied = || legs.iter().filter(|leg| leg.state == LegState::Applied);
    let mut ids: Vec<Uuid> = applied().map(|leg| leg.key.legs_id.0).collect();
    if ids.is_empty() {
        return Ok(());
    }
    ids.sort_unstable();
    ids.dedup();
    let known = app.engine.known_legs(&ids).await?;
    for leg in applied().filter(|leg| !known.contains(&leg.key.legs_id.0)) {
        Leg { tender: kind, key: leg.key, account: &leg.account }.park(app, false, leg).await?;
    }
    Ok(())
}

async fn cursor(pool: &PgPool, kind: TenderKind) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT cursor FROM wallet.reconciliation WHERE tender = $1")
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
    use chrono::{DateTime, Utc};

    use super::*;

    fn page(now: Option<i64>, legs: &[i64]) -> LegPage {
        let time = |s: i64| DateTime::<Utc>::from_timestamp(s, 0).unwrap();
        let leg = |at: &i64| {
            let key = serde_json::json!({ "legs_id": uuid::Uuid::nil(), "leg": 0 });
            let account = serde_json::json!({ "business_id": "b", "customer_id": "c", "asset": "USD" });
            serde_json::from_value(serde_json::json!({ "key": key, "account": account, "state": "applied",
                "amount": 1, "at": time(*at) }))
            .unwrap()
        };
        LegPage { data: legs.iter().map(leg).collect(), next_cursor: None, at: now.map(time) }
    }

    #[test]
    fn a_page_is_settled_by_the_clock_that_dated_its_legs() {
        assert!(is_settled(&page(Some(1_000), &[100, 939])));
        assert!(!is_settled(&page(Some(1_000), &[100, 940])));
        assert!(!is_settled(&page(None, &[100])), "a tender that tells no time");
    }

    #[test]
    fn the_lag_is_the_age_of_what_was_not_compared() {
        assert_eq!(lag_seconds(&page(Some(1_000), &[500, 600])), 440.0);
        assert_eq!(lag_seconds(&page(Some(1_000), &[990])), 0.0);
        assert_eq!(lag_seconds(&page(None, &[])), 0.0);
    }
}
