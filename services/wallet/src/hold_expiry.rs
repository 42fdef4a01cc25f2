//! Ends holds that ran out, and carries out reversals that were asked for while a redemption was being moved.
//!
//! Many are tried at the same time, and what could not be written rests before it is tried again: a redemption whose row is locked
//! costs the store's whole patience, and delays no other.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use api::wallet::{RedemptionStatus, TenderKind};
use futures_util::{StreamExt, stream::FuturesUnordered};
use metrics::counter;
use saga::{StoreError, Submitted};
use sqlx::{PgPool, Row, postgres::PgRow};
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{
    app::App,
    plan::{ReversalReason, VERSIONS},
    reversal::{Reversible, read, reversible, saga},
};

/// How often redemptions that are due are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// Most redemptions whose reversals are being written at the same time.
const AT_ONCE: usize = 64;
/// Time until a redemption is tried again that could not be reversed for a reason of its own. No more rest at the same time than were
/// tried within it: [`AT_ONCE`] a look.
const REST: Duration = Duration::from_secs(10);

/// Reverses what is held past its end by this database's clock, and what was asked back while it was being captured.
/// Any instance may; one wins.
pub async fn sweep(app: App) {
    let (mut under_way, mut work) = (HashSet::new(), FuturesUnordered::new());
    let mut resting: HashMap<Uuid, Instant> = HashMap::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((id, tried)) = work.next() => {
                under_way.remove(&id);
                if matches!(tried, Tried::Rests) {
                    resting.insert(id, Instant::now() + REST);
                }
            }
            _ = looks.tick() => {
                resting.retain(|_, until| Instant::now() < *until);
                let passed_over: Vec<Uuid> = under_way.iter().chain(resting.keys()).copied().collect();
                for (id, row) in look(&app, &passed_over, AT_ONCE - under_way.len()).await {
                    under_way.insert(id);
                    work.push(reverse(app.clone(), id, row));
                }
            }
        }
    }
}

/// What came of a redemption that was due.
enum Tried {
    /// It is being reversed; or nothing can be written now, be it of this redemption or of another.
    Over,
    /// It was not reversed, for a reason of its own or of its tenders': it would fill the place of others if it were tried again at once.
    Rests,
}

async fn look(app: &App, passed_over: &[Uuid], room: usize) -> Vec<(Uuid, PgRow)> {
    if room == 0 || !app.engine.is_ready() {
        return Vec::new();
    }
    let away: Vec<&str> = TenderKind::ALL
        .iter()
        .map(|kind| kind.as_str())
        .filter(|name| app.engine.is_unreachable(name))
        .collect();
    saga::in_time(due(&app.background_pool, &away, passed_over, room)).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "could not look for redemptions that are due to be reversed");
        Vec::new()
    })
}

async fn reverse(app: App, id: Uuid, row: PgRow) -> (Uuid, Tried) {
    let (redemption, is_requested) = match read_due(&row) {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(redemption_id = %id, %error, "a redemption that is due to be reversed cannot be read");
            return (id, Tried::Rests);
        }
    };
    if redemption.is_short_of_room(&app.engine) {
        return (id, Tried::Rests);
    }
    let (reason, why) = match (is_requested, redemption.status) {
        (true, RedemptionStatus::Authorized) => (ReversalReason::Void, "requested"),
        (true, _) => (ReversalReason::Reversal, "requested"),
        (false, _) => (ReversalReason::HoldExpired, "hold_expired"),
    };
    let Some(saga) = saga(&redemption, reason) else {
        tracing::error!(redemption_id = %id, "a redemption in force without legs; it is left as it is");
        return (id, Tried::Rests);
    };
    let tried = match app.engine.submit(saga).await {
        Ok(Submitted::Running) => {
            counter!("wallet_swept_total", "why" => why).increment(1);
            Tried::Over
        }
        // Another instance was first, or it has moved meanwhile.
        Ok(_) => Tried::Rests,
        Err(error) => {
            tracing::warn!(redemption_id = %id, %error, "a redemption that is due could not be reversed now");
            match error {
                StoreError::Unavailable | StoreError::Unknown => Tried::Over,
                StoreError::Busy(_) | StoreError::Refused(_) => Tried::Rests,
            }
        }
    };
    (id, tried)
}

/// The redemption, and whether its reversal was asked for.
fn read_due(row: &PgRow) -> sqlx::Result<(Reversible, bool)> {
    Ok((read(row)?, row.try_get("cancel_requested")?))
}

/// Redemptions that are due, at most as many as there is `room` for: none that is `passed_over`, and none that needs a tender which is
/// `away`, since its saga would only wait in memory, where a long outage would gather all of them.
async fn due(
    pool: &PgPool,
    away: &[&str],
    passed_over: &[Uuid],
    room: usize,
) -> sqlx::Result<Vec<(Uuid, PgRow)>> {
    sqlx::query(concat!(
        // Each half reads an index of its own from the beginning: together they would read every redemption there is. What a newer
        // release has planned is that release's to sweep, and must not fill the page.
        "WITH due AS MATERIALIZED (
             (SELECT r.redemption_id FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id
              WHERE r.status = 'authorized' AND r.hold_expires_at < clock_timestamp() AND s.version = ANY ($2)
                AND r.redemption_id <> ALL ($4)
                AND (cardinality($3::text[]) = 0 OR NOT EXISTS (
                    SELECT FROM jsonb_array_elements(s.plan -> 'legs') AS l WHERE l ->> 'tender' = ANY ($3)))
              ORDER BY r.hold_expires_at LIMIT $1)
             UNION
             (SELECT r.redemption_id FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id
              WHERE r.cancel_requested AND r.status IN ('authorized', 'completed', 'partially_refunded')
                AND s.version = ANY ($2) AND r.redemption_id <> ALL ($4)
                AND (cardinality($3::text[]) = 0 OR NOT EXISTS (
                    SELECT FROM jsonb_array_elements(s.plan -> 'legs') AS l WHERE l ->> 'tender' = ANY ($3)))
              ORDER BY r.redemption_id LIMIT $1)) ",
        reversible!(),
        "WHERE r.redemption_id = ANY (ARRAY(SELECT redemption_id FROM due)) ORDER BY r.redemption_id LIMIT $1"
    ))
    .bind(i64::try_from(room).unwrap_or(i64::MAX))
    .bind(VERSIONS)
    .bind(away)
    .bind(passed_over)
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| Ok((row.try_get("redemption_id")?, row)))
    .collect()
}
