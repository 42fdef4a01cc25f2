//! Reconcilers that take no input and rescan state: no saga depends on its task alone.
//!
//! - What has no live owner is claimed in one batched statement, with SKIP LOCKED, so that one bad row never stops the pass. Only
//!   versions of plans that this process can read: what a newer release has begun waits for a process of that release.
//! - What this process owns and does not have in memory (its task panicked, or was dropped), or what is past `due_at` (its
//!   task is stuck), is started anew under the next epoch.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fail::fail_point;
use metrics::counter;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::{
    domain::{Domain, SagaId},
    engine::Engine,
    row::{Raw, columns},
    statement::in_time,
    write::STUCK_AFTER_MS,
};

/// Sagas whose owner is not alive. A beat from the future is no sign of life either: it was written before the database's clock
/// stepped back, and who is alive beats again at once. The count of poison rises only where an owner died; `owner IS NULL` was handed over.
const CLAIM: &str = concat!(
    "WITH free AS (
         SELECT f.saga_id FROM saga.saga f
         WHERE f.state IN (0, 1) AND f.version = ANY($5) AND NOT EXISTS (
             SELECT 1 FROM saga.process p
             WHERE p.process_id = f.owner
               AND abs(extract(epoch FROM clock_timestamp() - p.beat_at)) < $2 / 1000.0)
         ORDER BY f.saga_id LIMIT $3 FOR UPDATE SKIP LOCKED
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

/// Own sagas under their next epoch. A row that somebody has locked waits for a later pass, and keeps no other from being adopted.
const ADOPT: &str = concat!(
    "WITH free AS (
         SELECT f.saga_id FROM saga.saga f
         WHERE f.saga_id = ANY($2) AND f.owner = $1 AND f.state IN (0, 1) AND f.version = ANY($4)
         ORDER BY f.saga_id FOR UPDATE SKIP LOCKED
     ), adopted AS (
         UPDATE saga.saga s SET epoch = s.epoch + 1,
             due_at = clock_timestamp() + make_interval(secs => $3 / 1000.0)
         FROM free WHERE s.saga_id = free.saga_id
         RETURNING ",
    columns!(),
    "), told AS (
         INSERT INTO saga.saga_event (saga_id, epoch, owner, event)
         SELECT saga_id, epoch, $1, 'adopted_again' FROM adopted
     )
     SELECT * FROM adopted"
);

impl<D: Domain> Engine<D> {
    pub(crate) async fn recovery(self: Arc<Self>) {
        let mut is_tidy = false;
        loop {
            tokio::time::sleep(self.config.scan).await;
            if self.is_draining() {
                return;
            }
            if !self.lease.may_claim() {
                self.recovered_at.store(self.clock.local(), Ordering::Relaxed);
                continue;
            }
            if !is_tidy {
                is_tidy = forget_the_dead(&self.pool).await.is_ok();
            }
            let claimed = in_time(self.claim()).await;
            if let Err(error) = &claimed {
                tracing::warn!(%error, "could not look for sagas without an owner");
            }
            let rescanned = in_time(self.rescan()).await;
            if let Err(error) = &rescanned {
                tracing::warn!(%error, "could not compare own sagas with memory");
            }
            if claimed.is_ok() && rescanned.is_ok() {
                self.recovered_at.store(self.clock.local(), Ordering::Relaxed);
            }
        }
    }

    async fn claim(self: &Arc<Self>) -> sqlx::Result<()> {
        let ttl = i64::try_from(self.config.ttl.as_millis()).unwrap_or(i64::MAX);
        loop {
            let rows = sqlx::query(CLAIM)
                .bind(self.process)
                .bind(ttl)
                .bind(self.config.claim_batch)
                .bind(STUCK_AFTER_MS)
                .bind(D::VERSIONS)
                .fetch_all(&self.pool)
                .await?;
            let claimed = rows.len();
            if claimed > 0 {
                counter!("saga_takeovers_total").increment(claimed as u64);
                tracing::info!(sagas = claimed, "took over sagas without a live owner");
                fail_point!("saga::claimed");
            }
            // All of them before any is adopted: one that is parked must not make the others look younger.
            let rows: Vec<_> = rows.iter().map(Raw::read).collect();
            for row in rows {
                self.adopt_raw(row?);
            }
            if i64::try_from(claimed).unwrap_or(0) < self.config.claim_batch || self.is_laden() {
                return Ok(());
            }
        }
    }

    async fn rescan(self: &Arc<Self>) -> sqlx::Result<()> {
        let own = sqlx::query(
            "SELECT saga_id, due_at < clock_timestamp() FROM saga.saga WHERE owner = $1 AND state IN (0, 1)",
        )
        .bind(self.process)
        .fetch_all(&self.pool)
        .await?;
        // Between two attempts a healthy run may wait for a backoff and a timeout.
        let stuck_after = self.config.cancel_retry.cap + self.config.cancel_timeout + Duration::from_secs(10);
        let (mut lost, mut ids) = (Vec::new(), HashSet::with_capacity(own.len()));
        for row in own {
            let (id, overdue): (SagaId, bool) = (row.try_get(0)?, row.try_get(1)?);
            ids.insert(id);
            if self.registry.is_lost(id, overdue, stuck_after) {
                lost.push(id.0);
            }
        }
        self.registry.keep_lost(&ids);
        if lost.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(ADOPT)
            .bind(self.process)
            .bind(lost)
            .bind(STUCK_AFTER_MS)
            .bind(D::VERSIONS)
            .fetch_all(&self.pool)
            .await?;
        // What ended between the look at the rows and the look at memory is not adopted, and was not lost.
        if !rows.is_empty() {
            counter!("saga_adopted_again_total").increment(rows.len() as u64);
            tracing::warn!(sagas = rows.len(), "own sagas were not in memory, or stuck; started anew");
        }
        let rows: Vec<_> = rows.iter().map(Raw::read).collect();
        for row in rows {
            let mut raw = row?;
            // A run that vanishes again and again, though the process lives on, is poison as well.
            raw.poison = raw.poison.max(self.registry.count_lost(raw.stored.id));
            self.adopt_raw(raw);
        }
        Ok(())
    }
}

/// Rows of processes that ended long ago. What they owned has no live owner with or without them.
async fn forget_the_dead(pool: &PgPool) -> sqlx::Result<()> {
    let old = "DELETE FROM saga.process WHERE beat_at < clock_timestamp() - interval '1 day'";
    sqlx::query(old).execute(pool).await.map(drop)
}

/// Gives everything unfinished up, for anybody to claim at once; the number of sagas. What somebody has locked keeps its owner, and
/// is free all the same once the process's row is gone. That stays if what became of the process's inserts is in doubt: the age of
/// its beat says so to others.
pub(crate) async fn hand_over(pool: &PgPool, process: Uuid, is_in_doubt: bool) -> sqlx::Result<u64> {
    let handed = sqlx::query(
        "WITH free AS (
             SELECT f.saga_id FROM saga.saga f WHERE f.owner = $1 AND f.state IN (0, 1)
             ORDER BY f.saga_id FOR UPDATE SKIP LOCKED
         )
         UPDATE saga.saga s SET owner = NULL, epoch = s.epoch + 1 FROM free WHERE s.saga_id = free.saga_id",
    )
    .bind(process)
    .execute(pool)
    .await?;
    if !is_in_doubt {
        sqlx::query("DELETE FROM saga.process WHERE process_id = $1").bind(process).execute(pool).await?;
    }
    Ok(handed.rows_affected())
}
