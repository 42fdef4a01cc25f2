//! Ends holds that ran out, and carries out reversals that were asked for while a redemption was being moved.

use std::time::Duration;

use api::wallet::{RedemptionStatus, TenderKind};
use metrics::counter;
use saga::Submitted;
use sqlx::{PgPool, Row};

use crate::{
    app::App,
    plan::{ReversalReason, VERSIONS},
    reversal::{Reversible, read, reversible, saga},
};

/// How often holds that ran out are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Most redemptions in one sweep.
const SWEEP_MAX: i64 = 200;

/// Reverses what is held past its end by this database's clock, and what was asked back while it was being captured.
/// Any instance may; one wins.
pub async fn sweep(app: App) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let away: Vec<&str> = TenderKind::ALL
            .iter()
            .map(|kind| kind.as_str())
            .filter(|name| app.engine.is_unreachable(name))
            .collect();
        match due(&app.background_pool, &away).await {
            Ok(due) => reverse(&app, due).await,
            Err(error) => {
                tracing::warn!(%error, "could not look for redemptions that are due to be reversed")
            }
        }
    }
}

async fn reverse(app: &App, due: Vec<(Reversible, bool)>) {
    for (redemption, is_requested) in due {
        let why = match (is_requested, redemption.status) {
            (true, RedemptionStatus::Authorized) => ReversalReason::Void,
            (true, _) => ReversalReason::Reversal,
            (false, _) => ReversalReason::HoldExpired,
        };
        let Some(saga) = saga(&redemption, why) else {
            tracing::error!(redemption_id = %redemption.id, "a redemption in force without legs; it is left as it is");
            continue;
        };
        match app.engine.submit(saga).await {
            Ok(Submitted::Running) => {
                let why = if is_requested { "requested" } else { "hold_expired" };
                counter!("wallet_swept_total", "why" => why).increment(1);
            }
            // Another instance was first, or it has moved meanwhile.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(redemption_id = %redemption.id, %error, "a redemption that is due could not be reversed now");
            }
        }
    }
}

/// Redemptions that are due, and whether each was asked for; none that needs a tender which is `away`: its saga would only wait in
/// memory, where a long outage would gather all of them.
async fn due(pool: &PgPool, away: &[&str]) -> sqlx::Result<Vec<(Reversible, bool)>> {
    let rows = sqlx::query(concat!(
        // Each half reads an index of its own from the beginning: together they would read every redemption there is. What a newer
        // release has planned is that release's to sweep, and must not fill the page.
        "WITH due AS MATERIALIZED (
             (SELECT r.redemption_id FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id
              WHERE r.status = 'authorized' AND r.hold_expires_at < clock_timestamp() AND s.version = ANY ($2)
                AND (cardinality($3::text[]) = 0 OR NOT EXISTS (
                    SELECT FROM jsonb_array_elements(s.plan -> 'legs') AS l WHERE l ->> 'tender' = ANY ($3)))
              ORDER BY r.hold_expires_at LIMIT $1)
             UNION
             (SELECT r.redemption_id FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id
              WHERE r.cancel_requested AND r.status IN ('authorized', 'completed', 'partially_refunded')
                AND s.version = ANY ($2)
                AND (cardinality($3::text[]) = 0 OR NOT EXISTS (
                    SELECT FROM jsonb_array_elements(s.plan -> 'legs') AS l WHERE l ->> 'tender' = ANY ($3)))
              ORDER BY r.redemption_id LIMIT $1)) ",
        reversible!(),
        "WHERE r.redemption_id = ANY (ARRAY(SELECT redemption_id FROM due)) ORDER BY r.redemption_id"
    ))
    .bind(SWEEP_MAX)
    .bind(VERSIONS)
    .bind(away)
    .fetch_all(pool)
    .await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in rows {
        // One row that this version cannot read must not keep the others.
        match read(&row) {
            Ok(redemption) => due.push((redemption, row.try_get("cancel_requested")?)),
            Err(error) => tracing::error!(%error, "a redemption that is due to be reversed cannot be read"),
        }
    }
    Ok(due)
}
