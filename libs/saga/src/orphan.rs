//! Effects at a participant of which no saga is known: parked for an operator, never undone by themselves.

use std::collections::HashSet;

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::{
    domain::{Domain, Reason, Saga, SagaId},
    engine::Engine,
};

/// The operation of stub sagas.
pub(crate) const ORPHAN: &str = "orphan";
/// The operation of rows under which legs are known that an operator has had taken back.
const TAKEN_BACK: &str = "taken_back";
/// The scope of the key of stubs whose effect has outlived the saga to which it belonged.
const OUTLIVED: &str = "outlived";

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
    /// Whether a saga knows the legs and is over, and the effect is there all the same: replayed, it is taken back beside that saga.
    pub has_outlived: bool,
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
        // In the words of the index that guards them: with a parameter it would not be used.
        sqlx::query("SELECT legs_id FROM saga.saga WHERE legs_id = ANY($1) AND operation <> 'orphan' AND operation <> $2")
            .bind(legs)
            .bind(TAKEN_BACK)
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect()
    }

    /// Whether legs are nobody's any more, since an operator has had them taken back: what comes late under their key is answered as
    /// if the key had been cancelled.
    ///
    /// # Errors
    /// Of the database.
    pub async fn is_taken_back(&self, legs_id: Uuid) -> sqlx::Result<bool> {
        let pool = self.lookups.clone();
        self.to_its_end(async move {
            let mut connection = pool.acquire().await?;
            Ok(whose(&mut connection, legs_id).await?.is_some_and(|(operation, _)| operation == TAKEN_BACK))
        })
        .await
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
                 VALUES ($1, $2, $9, $11, $3, '', 0, $4, $10, $5, 4, true, 1,
                     clock_timestamp(), clock_timestamp(), clock_timestamp())
                 ON CONFLICT ON CONSTRAINT saga_key DO NOTHING RETURNING saga_id
             ), dead_letter AS (
                 INSERT INTO saga.dead_letter (saga_id, business_id, code, participant, detail)
                 SELECT saga_id, $2, $6, $7, $8 FROM stub
             )
             INSERT INTO saga.saga_event (saga_id, epoch, event, detail) SELECT saga_id, 1, 'dead_letter', $8 FROM stub",
        )
        .bind(orphan.id)
        .bind(&orphan.business_id)
        .bind(&orphan.name)
        .bind(D::version(&orphan.plan))
        .bind(plan)
        .bind(Reason::OrphanLeg.as_str())
        .bind(&orphan.participant)
        .bind(&orphan.detail)
        .bind(ORPHAN)
        .bind(orphan.legs_id)
        .bind(if orphan.has_outlived { OUTLIVED } else { "" })
        .execute(&self.pool)
        .await?;
        Ok(parked.rows_affected() == 1)
    }
}

/// A fresh id with the last byte of another, where a domain may keep what its ids have in common.
fn beside(SagaId(id): SagaId) -> SagaId {
    let mut bytes = Uuid::now_v7().into_bytes();
    bytes[15] = id.as_bytes()[15];
    SagaId(Uuid::from_bytes(bytes))
}

/// The operation of the saga to which legs belong, and whether it is over.
async fn whose(connection: &mut PgConnection, legs_id: Uuid) -> sqlx::Result<Option<(String, bool)>> {
    sqlx::query_as(
        "SELECT operation, state IN (2, 3, 5) FROM saga.saga WHERE legs_id = $1 AND operation <> 'orphan'",
    )
    .bind(legs_id)
    .fetch_optional(connection)
    .await
}

/// Whether the legs that an orphan stands for are a saga's to end: one that has come back to them, or, of an effect that has outlived
/// its saga, one that is not over.
pub(crate) async fn has_saga<P>(connection: &mut PgConnection, orphan: &Saga<P>) -> sqlx::Result<bool> {
    let owner = whose(connection, orphan.legs_id).await?;
    Ok(owner.is_some_and(|(operation, is_over)| {
        operation != TAKEN_BACK && !(is_over && orphan.key.scope == OUTLIVED)
    }))
}

/// Makes the legs that an orphan stands for nobody's, inside the transaction that has them taken back. False if their saga has come
/// back: its row is there, or was written by a transaction for which this one has waited.
pub(crate) async fn take_back<D: Domain>(
    connection: &mut PgConnection,
    orphan: &Saga<D::Plan>,
) -> sqlx::Result<bool> {
    let plan = serde_json::to_value(&*orphan.plan).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    // Forward-only and over: it has no legs of its own that could be in force.
    sqlx::query(
        "INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state,
             key_cancelled, epoch, deadline_at, budget_from, due_at, ended_at)
         VALUES ($1, $2, $3, '', $4, '', 1, $5, $6, $7, 5, true, 1,
             clock_timestamp(), clock_timestamp(), clock_timestamp(), clock_timestamp())
         ON CONFLICT DO NOTHING",
    )
    .bind(beside(orphan.id))
    .bind(&orphan.key.business_id)
    .bind(TAKEN_BACK)
    .bind(orphan.legs_id.to_string())
    .bind(D::version(&orphan.plan))
    .bind(orphan.legs_id)
    .bind(plan)
    .execute(&mut *connection)
    .await?;
    has_saga(connection, orphan).await.map(|has_saga| !has_saga)
}
