//! Effects at a participant of which no saga is known: parked for an operator, never undone by themselves.

use std::collections::HashSet;

use sqlx::Row;
use uuid::Uuid;

use crate::{
    domain::{Domain, Reason, SagaId},
    engine::Engine,
};

/// The operation of stub sagas.
pub(crate) const ORPHAN: &str = "orphan";

/// An effect without a saga.
#[derive(Debug)]
pub struct Orphan<P> {
    /// The id of its stub.
    pub id: SagaId,
    /// The tenant.
    pub business_id: String,
    /// Names the effect, so that it is parked once.
    pub name: String,
    /// Under which id the participant knows the legs.
    pub legs_id: Uuid,
    /// Who holds it.
    pub participant: String,
    /// What going back would take back.
    pub plan: P,
    /// What is known of it.
    pub detail: serde_json::Value,
}

impl<D: Domain> Engine<D> {
    /// Which of these ids of legs belong to a saga, stubs aside.
    ///
    /// # Errors
    /// Of the database.
    pub async fn known_legs(&self, legs: &[Uuid]) -> sqlx::Result<HashSet<Uuid>> {
        sqlx::query("SELECT legs_id FROM saga.saga WHERE legs_id = ANY($1) AND operation <> $2")
            .bind(legs)
            .bind(ORPHAN)
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect()
    }

    /// Writes a stub saga in DEAD_LETTER whose direction is backward: replayed, it takes the effect back; resolved, the
    /// effect stands. False if it is parked already.
    ///
    /// # Errors
    /// Of the database.
    pub async fn park_orphan(&self, orphan: &Orphan<D::Plan>) -> sqlx::Result<bool> {
        let plan =
            serde_json::to_value(&orphan.plan).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        let parked = sqlx::query(
            "WITH stub AS (
                 INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id,
                     plan, state, backward, epoch, deadline_at, budget_from, due_at)
                 VALUES ($1, $2, $9, '', $3, '', 0, $4, $10, $5, 4, true, 1,
                     clock_timestamp(), clock_timestamp(), clock_timestamp())
                 ON CONFLICT ON CONSTRAINT saga_key DO NOTHING RETURNING saga_id
             ), letter AS (
                 INSERT INTO saga.dead_letter (saga_id, business_id, code, participant, detail)
                 SELECT saga_id, $2, $6, $7, $8 FROM stub
             )
             INSERT INTO saga.saga_event (saga_id, epoch, event, detail) SELECT saga_id, 1, 'dead_letter', $8 FROM stub",
        )
        .bind(orphan.id)
        .bind(&orphan.business_id)
        .bind(&orphan.name)
        .bind(D::PLAN_VERSION)
        .bind(plan)
        .bind(Reason::OrphanLeg.as_str())
        .bind(&orphan.participant)
        .bind(&orphan.detail)
        .bind(ORPHAN)
        .bind(orphan.legs_id)
        .execute(&self.pool)
        .await?;
        Ok(parked.rows_affected() == 1)
    }
}
