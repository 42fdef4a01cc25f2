//! Taking over sagas without a live owner, as many as there is room for.
//!
//! A look without locks pages through what is free, and one statement claims what was chosen of a page. What needs a participant
//! that leaves too many legs without an answer stays free: a long outage would gather all of it in memory, and this process would
//! die of it as its owner did. What needs others is claimed all the same, so the look goes on where the last pass ended.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use fail::fail_point;
use metrics::counter;
use sqlx::Row;
use uuid::Uuid;

use crate::{
    domain::{Domain, SagaId},
    engine::Engine,
    reachability::{Room, UnansweredLegs},
    row::{Raw, columns},
    write::STUCK_AFTER_MS,
};

/// A pass ends when it has left as many sagas free as so many pages hold.
const PAGES_LEFT: usize = 4;

/// Whether the owner of the saga `f` is not alive, at a TTL of so many milliseconds. A beat from the future is no sign of life either:
/// it was written before the database's clock stepped back, and who is alive beats again at once.
macro_rules! is_free {
    ($ttl:literal) => {
        concat!(
            "f.state IN (0, 1) AND NOT EXISTS (
             SELECT 1 FROM saga.process p
             WHERE p.process_id = f.owner
               AND abs(extract(epoch FROM clock_timestamp() - p.beat_at)) < ",
            $ttl,
            " / 1000.0)"
        )
    };
}
pub(crate) use is_free;

/// A page of what is free, after a cursor. The unfinished sagas are found first: in the order of their ids alone, all that ever ended
/// would be read.
const LOOK: &str = concat!(
    "WITH free AS MATERIALIZED (
         SELECT f.saga_id FROM saga.saga f WHERE f.version = ANY($3) AND ",
    is_free!("$2"),
    "), page AS MATERIALIZED (
         SELECT saga_id FROM free WHERE saga_id > $1 ORDER BY saga_id LIMIT $4
     )
     SELECT s.saga_id, s.business_id, s.plan
     FROM page CROSS JOIN LATERAL (
         SELECT f.saga_id, f.business_id, f.plan FROM saga.saga f WHERE f.saga_id = page.saga_id OFFSET 0) s
     ORDER BY s.saga_id"
);

/// Claims those of the chosen sagas that are still free. The count of poison rises only where an owner died; `owner IS NULL` was handed
/// over.
const CLAIM: &str = concat!(
    "WITH free AS (
         SELECT f.saga_id FROM saga.saga f WHERE f.saga_id = ANY($3) AND ",
    is_free!("$2"),
    " ORDER BY f.saga_id FOR UPDATE SKIP LOCKED
     ), claimed AS (
         UPDATE saga.saga s SET owner = $1, epoch = s.epoch + 1,
             -- A process that claims what it owns itself has not died, only its beat was late.
             poison = s.poison + CASE WHEN s.owner IS NULL OR s.owner = $1 THEN 0 ELSE 1 END,
             due_at = clock_timestamp() + make_interval(secs => $4 / 1000.0)
         FROM free WHERE s.saga_id = free.saga_id
         RETURNING ",
    columns!(),
    "), told AS (
         INSERT INTO saga.saga_event (saga_id, epoch, owner, event, detail)
         SELECT saga_id, epoch, $1, 'taken_over', jsonb_build_object('poison', poison) FROM claimed
     )
     SELECT * FROM claimed"
);

/// A saga that nobody owns, as a page shows it.
struct Free {
    id: SagaId,
    business: String,
    plan: serde_json::Value,
}

/// Sagas to be claimed, each with the room that its legs take from now on.
type Chosen = HashMap<SagaId, UnansweredLegs>;

impl<D: Domain> Engine<D> {
    /// Claims what is free after the cursor, and moves that on: back to the beginning once nothing follows it.
    pub(crate) async fn claim(self: &Arc<Self>, cursor: &mut Uuid) -> sqlx::Result<()> {
        let page = usize::try_from(self.config.claim_batch).unwrap_or(usize::MAX);
        let mut left = 0;
        while self.room() > 0 {
            let free = self.free_after(*cursor).await?;
            let (seen, last) = (free.len(), free.last().map(|saga| saga.id.0));
            left += seen - self.claim_chosen(self.choose(free)).await?;
            *cursor = last.filter(|_| seen >= page).unwrap_or_default();
            if cursor.is_nil() || left >= PAGES_LEFT.saturating_mul(page) {
                break;
            }
        }
        Ok(())
    }

    async fn free_after(&self, cursor: Uuid) -> sqlx::Result<Vec<Free>> {
        let rows = sqlx::query(LOOK)
            .bind(cursor)
            .bind(self.ttl_ms())
            .bind(D::VERSIONS)
            .bind(self.config.claim_batch)
            .fetch_all(&self.pool)
            .await?;
        let free = |row: &sqlx::postgres::PgRow| {
            Ok(Free { id: row.try_get(0)?, business: row.try_get(1)?, plan: row.try_get(2)? })
        };
        rows.iter().map(free).collect()
    }

    /// Those of a page that there is room for.
    fn choose(&self, free: Vec<Free>) -> Chosen {
        let room = self.room();
        let mut chosen = Chosen::new();
        for saga in free {
            if chosen.len() >= room {
                break;
            }
            if let Some(legs) = self.take_room(saga.plan, &saga.business) {
                chosen.insert(saga.id, legs);
            }
        }
        chosen
    }

    /// Counts the legs of a saga; `None` if one of its participants is full. A plan that cannot be read, or that makes the domain panic,
    /// has no legs to wait for: its saga is on its way to be parked.
    fn take_room(&self, plan: serde_json::Value, business: &str) -> Option<UnansweredLegs> {
        let Ok(plan) = serde_json::from_value::<D::Plan>(plan) else { return Some(Vec::new()) };
        let take = || {
            self.has_room_to_go_on(&plan, business).then(|| self.expect_legs(&plan, business, Room::GoingOn))
        };
        catch_unwind(AssertUnwindSafe(take)).unwrap_or_else(|_| Some(Vec::new()))
    }

    /// Claims and adopts; how many sagas it were.
    async fn claim_chosen(self: &Arc<Self>, mut chosen: Chosen) -> sqlx::Result<usize> {
        if chosen.is_empty() {
            return Ok(0);
        }
        let rows = sqlx::query(CLAIM)
            .bind(self.process)
            .bind(self.ttl_ms())
            .bind(chosen.keys().map(|id| id.0).collect::<Vec<_>>())
            .bind(STUCK_AFTER_MS)
            .fetch_all(&self.pool)
            .await?;
        if !rows.is_empty() {
            counter!("saga_takeovers_total").increment(rows.len() as u64);
            tracing::info!(sagas = rows.len(), "took over sagas without a live owner");
            fail_point!("saga::claimed");
        }
        // All of them before any is adopted: one that is parked must not make the others look younger.
        let raws: Vec<_> = rows.iter().map(Raw::read).collect();
        for raw in raws {
            let raw = raw?;
            let legs = chosen.remove(&raw.stored.id).unwrap_or_default();
            self.adopt_raw(raw, legs);
        }
        Ok(rows.len())
    }

    /// How many more sagas this process takes up by itself. As many again as it takes of new work: neither takes the other's room.
    fn room(&self) -> usize {
        self.config.in_flight.saturating_mul(2).saturating_sub(self.registry.len())
    }

    pub(crate) fn ttl_ms(&self) -> i64 {
        i64::try_from(self.config.ttl.as_millis()).unwrap_or(i64::MAX)
    }
}
