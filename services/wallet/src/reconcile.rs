//! Comparing tenders' legs with sagas: what the wallet's database has forgotten is found, and never undone by itself.
//!
//! A wallet database that fails over may lose its tail, and with it sagas whose legs took value. A till that retries its
//! key meets its own legs again, since their id is derived from the key. What nobody retries is found here: the leg
//! becomes a parked saga (`orphan_leg`) for an operator. Held legs are left alone: they go when their hold ends.

use std::{collections::HashSet, time::Duration};

use api::{
    derive::{Bucket, fresh_id, orphan_key},
    legs::{LegInForce, LegState},
    wallet::TenderKind,
};
use chrono::TimeDelta;
use metrics::counter;
use saga::{Orphan, SagaId};
use sqlx::PgPool;

use crate::{
    app::App,
    plan::{OrphanPlan, Plan, ReturnLeg},
};

const PAGE: u32 = 200;
/// A leg this young may be joined by one that is older and commits later.
const STILL_YOUNG: TimeDelta = TimeDelta::seconds(60);
/// Pages of one pass; the next pass goes on where this one ended.
const PAGES: usize = 50;

/// Compares for ever. Any number of instances may: what they find is the same.
pub async fn compare_legs(app: App, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        for kind in TenderKind::ALL {
            if let Err(error) = pass(&app, kind).await {
                tracing::warn!(
                    tender = kind.as_str(),
                    error = format!("{error:#}"),
                    "could not compare legs with sagas"
                );
            }
        }
    }
}

async fn pass(app: &App, kind: TenderKind) -> anyhow::Result<()> {
    for _ in 0..PAGES {
        let cursor = cursor(&app.pool, kind).await?;
        let page = app.tenders.get(kind).legs_in_force(cursor.as_deref(), PAGE).await?;
        park_orphans(app, kind, &page.data).await?;
        // Batches commit out of order: a page that is still young is read again by the next pass.
        let young = app.clock.now() - STILL_YOUNG;
        match page.next_cursor.filter(|_| page.data.iter().all(|leg| leg.at < young)) {
            Some(next) => advance(&app.pool, kind, &next).await?,
            None => return Ok(()),
        }
    }
    Ok(())
}

async fn park_orphans(app: &App, kind: TenderKind, legs: &[LegInForce]) -> anyhow::Result<()> {
    let applied: Vec<_> = legs.iter().filter(|leg| leg.state == LegState::Applied).collect();
    let ids: HashSet<_> = applied.iter().map(|leg| leg.key.legs_id.0).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let known = app.engine.known_legs(&ids.iter().copied().collect::<Vec<_>>()).await?;
    for leg in applied.into_iter().filter(|leg| !known.contains(&leg.key.legs_id.0)) {
        let plan = Plan::Orphan(OrphanPlan {
            of: leg.key.legs_id,
            legs: vec![ReturnLeg { leg: leg.key.leg, tender: kind, account: leg.account.clone() }],
        });
        let orphan = Orphan {
            id: SagaId(fresh_id(Bucket::of_key(leg.key.legs_id))),
            business_id: leg.account.business_id.as_str().to_owned(),
            name: orphan_key(kind.as_str(), leg.key.legs_id, leg.key.leg),
            legs_id: leg.key.legs_id.0,
            participant: kind.as_str().to_owned(),
            plan,
            detail: serde_json::to_value(leg)?,
        };
        if app.engine.park_orphan(&orphan).await? {
            counter!("wallet_orphan_legs_total", "tender" => kind.as_str()).increment(1);
            tracing::error!(tender = kind.as_str(), legs_id = %leg.key.legs_id, leg = leg.key.leg, "a leg in force belongs to no saga; parked");
        }
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
