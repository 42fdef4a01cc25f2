//! Redemptions whose saga was parked without them.
//!
//! A saga is parked whatever the database says of its redemption's row: where that row is refused, the dead letter is written alone.
//! Every second, each process looks for dead letters whose redemption is not under review, and moves the redemption after its saga,
//! by the same event and the same statement as the saga would have. Any number of processes may: a move is a compare-and-set.
//!
//! A pass reads two pages of open dead letters by `dead_letter_unfinished_by_time`: the newest, where new ones are, and the next of
//! a walk through all of them, so that its cost does not grow with their number. A row that is refused again is tried again later
//! and later, up to [`PAUSE_MAX`]; it never keeps the others.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use metrics::{counter, gauge};
use saga::{SagaId, in_time};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::{
    record::{Change, Moved, record},
    transition::Event,
};

/// Pause between two passes.
const EVERY: Duration = Duration::from_secs(1);
/// Dead letters of a page.
const PAGE: i64 = 200;
/// Pause after the first refusal of a row; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between attempts at one row.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Most rows whose refusals are remembered. What is forgotten is tried at the walk's pace.
const REFUSALS_MAX: usize = 10_000;

/// Open dead letters before a place, newest first, each with the redemption that its saga is or takes further, if that is not under
/// review.
const BEHIND: &str = "
SELECT d.opened_at, d.dead_letter_id, d.saga_id, r.redemption_id
FROM (
    SELECT opened_at, dead_letter_id, saga_id FROM saga.dead_letter
    WHERE closed_at IS NULL AND (opened_at, dead_letter_id) < (coalesce($1, 'infinity'::timestamptz), $2)
    ORDER BY opened_at DESC, dead_letter_id DESC LIMIT $3
) AS d
CROSS JOIN LATERAL (
    SELECT coalesce(parent_id, saga_id) AS subject FROM saga.saga WHERE saga_id = d.saga_id OFFSET 0
) AS s
LEFT JOIN LATERAL (
    SELECT redemption_id FROM wallet.redemption WHERE redemption_id = s.subject AND status <> 'under_review' OFFSET 0
) AS r ON true
ORDER BY d.opened_at DESC, d.dead_letter_id DESC";

/// Brings redemptions after their sagas, for ever.
pub async fn follow(pool: PgPool) {
    let mut walk = Walk::default();
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = walk.pass(&pool).await {
            tracing::warn!(%error, "could not look for redemptions that were not parked with their saga");
        }
    }
}

/// Where a page of dead letters ends.
type Place = (DateTime<Utc>, Uuid);

/// A dead letter whose redemption is not under review.
struct Behind {
    saga_id: SagaId,
    redemption_id: Uuid,
}

/// How often a row was refused, and when it is tried again.
struct Refusal {
    times: u32,
    again: Instant,
}

#[derive(Default)]
struct Walk {
    /// How far the walk through all open dead letters has come.
    place: Option<Place>,
    refusals: HashMap<Uuid, Refusal>,
}

impl Walk {
    async fn pass(&mut self, pool: &PgPool) -> sqlx::Result<()> {
        let (mut behind, first_end) = in_time(page(pool, None)).await?;
        let place = self.place.take().or(first_end);
        if place.is_some() {
            let (more, end) = in_time(page(pool, place)).await?;
            behind.extend(more);
            self.place = end;
        }
        behind.sort_by_key(|behind| behind.redemption_id);
        behind.dedup_by_key(|behind| behind.redemption_id);
        gauge!("wallet_redemptions_behind").set(f64::from(u32::try_from(behind.len()).unwrap_or(u32::MAX)));
        for behind in behind {
            self.bring(pool, &behind).await;
        }
        Ok(())
    }

    async fn bring(&mut self, pool: &PgPool, behind: &Behind) {
        let id = behind.redemption_id;
        if self.refusals.get(&id).is_some_and(|refusal| Instant::now() < refusal.again) {
            return;
        }
        match in_time(park(pool, behind)).await {
            Ok(moved) => {
                self.refusals.remove(&id);
                if moved {
                    counter!("wallet_redemptions_followed_total").increment(1);
                    tracing::warn!(redemption_id = %id, saga_id = %behind.saga_id, "a redemption was parked after its saga");
                }
            }
            Err(error) => {
                counter!("wallet_redemption_follow_refused_total").increment(1);
                tracing::error!(%error, redemption_id = %id, saga_id = %behind.saga_id,
                    "a redemption does not follow its saga, which is a dead letter");
                self.remember(id);
            }
        }
    }

    fn remember(&mut self, id: Uuid) {
        let times = self.refusals.get(&id).map_or(0, |refusal| refusal.times);
        if times > 0 || self.refusals.len() < REFUSALS_MAX {
            let again = Instant::now() + pause(times);
            self.refusals.insert(id, Refusal { times: times + 1, again });
        }
    }
}

/// How long a row is left alone that was refused so many times before.
fn pause(times: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(times)).min(PAUSE_MAX)
}

/// What is behind among one page of dead letters, and where the page ends; nowhere if it was the last.
async fn page(pool: &PgPool, before: Option<Place>) -> sqlx::Result<(Vec<Behind>, Option<Place>)> {
    let (at, id) = before.map_or((None, Uuid::max()), |(at, id)| (Some(at), id));
    let rows = sqlx::query(BEHIND).bind(at).bind(id).bind(PAGE).fetch_all(pool).await?;
    let is_full = i64::try_from(rows.len()) == Ok(PAGE);
    let mut behind = Vec::new();
    let mut end = None;
    for row in rows {
        if let Some(redemption_id) = row.try_get(3)? {
            behind.push(Behind { saga_id: row.try_get(2)?, redemption_id });
        }
        end = Some((row.try_get(0)?, row.try_get(1)?));
    }
    Ok((behind, end.filter(|_| is_full)))
}

/// Parks a redemption whose saga is still a dead letter; false if the saga was taken up meanwhile, or another process has parked the
/// redemption.
async fn park(pool: &PgPool, behind: &Behind) -> sqlx::Result<bool> {
    let mut tx = pool.begin().await?;
    // Locked, so that no operator takes the saga up between this look and the move.
    let trace: Option<Option<String>> =
        sqlx::query_scalar("SELECT trace_id FROM saga.saga WHERE saga_id = $1 AND state = 4 FOR UPDATE")
            .bind(behind.saga_id)
            .fetch_optional(&mut *tx)
            .await?;
    let Some(trace_id) = trace else { return Ok(false) };
    // Read behind the lock: another process may have held it to do the same.
    let is_behind: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM wallet.redemption WHERE redemption_id = $1 AND status <> 'under_review')",
    )
    .bind(behind.redemption_id)
    .fetch_one(&mut *tx)
    .await?;
    if !is_behind {
        return Ok(false);
    }
    let moved = Moved { trace_id, ..Moved::by(behind.redemption_id, Event::Parked) };
    record(&mut tx, &[(behind.saga_id, Change::Moved(moved))]).await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_refused_is_tried_again_later_and_later() {
        let pauses = [0, 1, 2, 8, 9, 40, u32::MAX].map(|times| pause(times).as_secs());
        assert_eq!(pauses, [1, 2, 4, 256, 300, 300, 300]);
    }
}
