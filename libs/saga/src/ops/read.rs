//! Sagas with their timelines, and dead letters.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    domain::{Domain, SagaId},
    engine::Engine,
    machine::State,
    task::state_name,
};

/// A saga in a list.
#[derive(Debug, Clone, Serialize)]
pub struct SagaLine {
    /// Its id.
    pub saga_id: SagaId,
    /// The use case.
    pub operation: String,
    /// The caller's key.
    pub idempotency_key: String,
    /// Its state.
    pub status: &'static str,
    /// Its epoch: how often it changed hands, plus one.
    pub epoch: i64,
    /// The process that runs it.
    pub owner: Option<Uuid>,
    /// Whether its direction is backward.
    pub backward: bool,
    /// Why it was turned back.
    pub cause: Option<Value>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A saga with its plan and history.
#[derive(Debug, Clone, Serialize)]
pub struct SagaDetail {
    /// The saga.
    #[serde(flatten)]
    pub saga: SagaLine,
    /// What it set out to do.
    pub plan: Value,
    /// Under which participants know its legs.
    pub legs_id: Uuid,
    /// The trace of the request that made it.
    pub trace_id: Option<String>,
    /// Everything that left the happy path, oldest first.
    pub timeline: Vec<TimelineEvent>,
}

/// One event of a saga's history.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineEvent {
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub event: String,
    /// Under which epoch.
    pub epoch: i64,
    /// By which process.
    pub owner: Option<Uuid>,
    /// Attempts, reasons.
    pub detail: Value,
}

/// A dead letter.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterLine {
    /// Its id.
    pub dead_letter_id: Uuid,
    /// The saga that is parked.
    pub saga_id: SagaId,
    /// Why.
    pub code: String,
    /// Which participant stands in the way.
    pub participant: Option<String>,
    /// Which legs are pending, and the attempts.
    pub detail: Value,
    /// When it was parked.
    pub opened_at: DateTime<Utc>,
    /// When it was replayed or resolved.
    pub closed_at: Option<DateTime<Utc>>,
    /// `replayed` or `resolved`.
    pub closed_as: Option<String>,
}

/// A dead letter with its saga: what led to it.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterDetail {
    /// The dead letter.
    #[serde(flatten)]
    pub letter: DeadLetterLine,
    /// Its saga, with cause, plan and timeline.
    pub saga: Option<SagaDetail>,
}

/// Which rows of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Where the page before ended.
    pub after: Option<Uuid>,
    /// Most rows.
    pub limit: i64,
}

/// Filters of the list of sagas.
#[derive(Debug, Clone, Default)]
pub struct SagaFilter {
    /// Only this state.
    pub state: Option<State>,
    /// Only older than so many seconds.
    pub older_than_s: Option<i64>,
    /// Only those whose plan contains this document.
    pub plan_contains: Option<Value>,
    /// Only those turned back for this reason, or with a dead letter of this code.
    pub code: Option<String>,
}

impl<D: Domain> Engine<D> {
    /// Sagas of a business, newest first; `page.after` is the last one of the page before.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list_sagas(
        &self,
        business_id: &str,
        filter: &SagaFilter,
        page: &Page,
    ) -> sqlx::Result<Vec<SagaLine>> {
        sqlx::query(
            "SELECT saga_id, operation, key, state, epoch, owner, backward, cause, created_at, ended_at
             FROM saga.saga
             WHERE business_id = $1 AND ($2::smallint IS NULL OR state = $2)
               AND ($3::bigint IS NULL OR created_at < clock_timestamp() - make_interval(secs => $3))
               AND ($4::uuid IS NULL OR saga_id < $4)
               AND ($6::jsonb IS NULL OR plan @> $6)
               AND ($7::text IS NULL OR cause ->> 'reason' = $7 OR EXISTS (
                   SELECT FROM saga.dead_letter d WHERE d.saga_id = saga.saga_id AND d.code = $7))
             ORDER BY saga_id DESC LIMIT $5",
        )
        .bind(business_id)
        .bind(filter.state.map(State::code))
        .bind(filter.older_than_s)
        .bind(page.after)
        .bind(page.limit)
        .bind(&filter.plan_contains)
        .bind(&filter.code)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(saga_line)
        .collect()
    }

    /// A saga of a business with its timeline.
    ///
    /// # Errors
    /// Of the database.
    pub async fn show_saga(&self, business_id: &str, id: SagaId) -> sqlx::Result<Option<SagaDetail>> {
        let row = sqlx::query(
            "SELECT saga_id, operation, key, state, epoch, owner, backward, cause, created_at, ended_at, plan, legs_id, trace_id
             FROM saga.saga WHERE business_id = $1 AND saga_id = $2",
        )
        .bind(business_id)
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let timeline = sqlx::query("SELECT at, event, epoch, owner, detail FROM saga.saga_event WHERE saga_id = $1 ORDER BY event_id")
            .bind(id)
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|e| {
                Ok(TimelineEvent {
                    at: e.try_get(0)?,
                    event: e.try_get(1)?,
                    epoch: e.try_get(2)?,
                    owner: e.try_get(3)?,
                    detail: e.try_get(4)?,
                })
            })
            .collect::<sqlx::Result<_>>()?;
        Ok(Some(SagaDetail {
            saga: saga_line(&row)?,
            plan: row.try_get("plan")?,
            legs_id: row.try_get("legs_id")?,
            trace_id: row.try_get("trace_id")?,
            timeline,
        }))
    }

    /// Dead letters of a business; only open ones unless `closed` too. In no order but that of their ids.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list_dead_letters(
        &self,
        business_id: &str,
        closed: bool,
        page: &Page,
    ) -> sqlx::Result<Vec<DeadLetterLine>> {
        sqlx::query(
            "SELECT dead_letter_id, saga_id, code, participant, detail, opened_at, closed_at, closed_as
             FROM saga.dead_letter
             WHERE business_id = $1 AND ($2 OR closed_at IS NULL) AND ($3::uuid IS NULL OR dead_letter_id > $3)
             ORDER BY dead_letter_id LIMIT $4",
        )
        .bind(business_id)
        .bind(closed)
        .bind(page.after)
        .bind(page.limit)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(dead_letter_line)
        .collect()
    }

    /// A dead letter of a business.
    ///
    /// # Errors
    /// Of the database.
    pub async fn show_dead_letter(
        &self,
        business_id: &str,
        id: Uuid,
    ) -> sqlx::Result<Option<DeadLetterDetail>> {
        let letter = sqlx::query(
            "SELECT dead_letter_id, saga_id, code, participant, detail, opened_at, closed_at, closed_as
             FROM saga.dead_letter WHERE business_id = $1 AND dead_letter_id = $2",
        )
        .bind(business_id)
        .bind(id)
        .fetch_optional(&self.pool)
        .await?
        .as_ref()
        .map(dead_letter_line)
        .transpose()?;
        let Some(letter) = letter else { return Ok(None) };
        let saga = self.show_saga(business_id, letter.saga_id).await?;
        Ok(Some(DeadLetterDetail { letter, saga }))
    }
}

fn saga_line(row: &PgRow) -> sqlx::Result<SagaLine> {
    let state: i16 = row.try_get("state")?;
    Ok(SagaLine {
        saga_id: row.try_get("saga_id")?,
        operation: row.try_get("operation")?,
        idempotency_key: row.try_get("key")?,
        status: State::from_code(state).map_or("unknown", state_name),
        epoch: row.try_get("epoch")?,
        owner: row.try_get("owner")?,
        backward: row.try_get("backward")?,
        cause: row.try_get("cause")?,
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}

fn dead_letter_line(row: &PgRow) -> sqlx::Result<DeadLetterLine> {
    Ok(DeadLetterLine {
        dead_letter_id: row.try_get(0)?,
        saga_id: row.try_get(1)?,
        code: row.try_get(2)?,
        participant: row.try_get(3)?,
        detail: row.try_get(4)?,
        opened_at: row.try_get(5)?,
        closed_at: row.try_get(6)?,
        closed_as: row.try_get(7)?,
    })
}
