//! Reconcilers that take no input and rescan state: no saga depends on its task alone.
//!
//! - What has no live owner is claimed as far as there is room ([`crate::claim`]), with SKIP LOCKED, so that one bad row never stops
//!   the pass. Only versions of plans that this process can read: what a newer release has begun waits for a process of that release.
//! - What this process owns and does not have in memory (its task panicked, or was dropped), or what is past `due_at` (its
//!   task is stuck), is started anew under the next epoch.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
        let (mut is_tidy, mut cursor) = (false, Uuid::nil());
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
                is_tidy = in_time(forget_the_dead(&self.pool)).await.is_ok();
            }
            // First: what this process owns takes its room before more is claimed.
            let rescanned = in_time(self.rescan()).await;
            if let Err(error) = &rescanned {
                tracing::warn!(%error, "could not compare own sagas with memory");
            }
            let claimed = in_time(self.claim(&mut cursor)).await;
            if let Err(error) = &claimed {
                tracing::warn!(%error, "could not look for sagas without an owner");
            }
            if claimed.is_ok() && rescanned.is_ok() {
                self.recovered_at.store(self.clock.local(), Ordering::Relaxed);
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
            self.adopt_raw(raw, Vec::new());
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
