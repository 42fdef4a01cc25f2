//! Sagas, in a list and one by one.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    DeadLetterLine, Page, alternatives, letters,
    story::{self, Recorded, TimelineEvent},
};
use crate::{
    domain::{Domain, Response, SagaId},
    engine::Engine,
    machine::{Kind, State},
    row::{self, Raw},
    task::state_name,
};

/// A saga in a list.
#[derive(Debug, Clone)]
pub struct SagaLine {
    /// Its id.
    pub saga_id: SagaId,
    /// The use case.
    pub operation: String,
    /// The caller's key.
    pub key: String,
    /// Its state.
    pub status: &'static str,
    /// Its epoch: how often it changed hands, plus one.
    pub epoch: i64,
    /// The process that runs it, or ran it last.
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
#[derive(Debug, Clone)]
pub struct SagaDetail {
    /// The saga.
    pub saga: SagaLine,
    /// Whether it may be turned back; `None` where this version does not know.
    pub kind: Option<Kind>,
    /// What it set out to do.
    pub plan: Value,
    /// Under which participants know its legs.
    pub legs_id: Uuid,
    /// The saga whose effect this one takes further.
    pub parent_id: Option<SagaId>,
    /// The trace of the request that made it.
    pub trace_id: Option<String>,
    /// When it is turned back unless it is done.
    pub deadline_at: DateTime<Utc>,
    /// Whether its key was cancelled.
    pub key_cancelled: bool,
    /// The answer under its key.
    pub answer: Option<Response>,
    /// Who carries out its legs; empty where this version cannot read the plan.
    pub participants: Vec<String>,
    /// The participants' answers, as far as they were recorded.
    pub answers: LegAnswers,
    /// Everything that is known to have happened, oldest first.
    pub timeline: Vec<TimelineEvent>,
    /// Its dead letters, oldest first.
    pub dead_letters: Vec<DeadLetterLine>,
}

/// Answers by leg, in the participants' own form; null where there was none.
#[derive(Debug, Clone, Default)]
pub struct LegAnswers {
    /// Of the way forward.
    pub forward: Vec<Value>,
    /// Of the way back.
    pub back: Vec<Value>,
}

/// Filters of the list of sagas.
#[derive(Debug, Clone, Default)]
pub struct SagaFilter {
    /// Only this state.
    pub state: Option<State>,
    /// Only older than so many seconds.
    pub older_than_s: Option<i64>,
    /// Only those whose plan contains one of these documents; empty: all.
    pub plan_contains: Vec<Value>,
    /// Only those turned back for this reason, or by a decline or with a dead letter of this code.
    pub code: Option<String>,
    /// Only those under this key.
    pub key: Option<String>,
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
        page: &Page<SagaId>,
    ) -> sqlx::Result<Vec<SagaLine>> {
        sqlx::query(
            "SELECT saga_id, operation, key, state, epoch, owner, backward, cause, created_at, ended_at
             FROM saga.saga
             WHERE business_id = $1 AND ($2::smallint IS NULL OR state = $2)
               AND ($3::bigint IS NULL OR created_at < clock_timestamp() - make_interval(secs => $3))
               AND ($4::uuid IS NULL OR saga_id < $4)
               AND ($6::text[] IS NULL OR plan @> ANY ($6::text[]::jsonb[]))
               AND ($7::text IS NULL OR $7 IN (cause ->> 'reason', cause #>> '{answer,decline,code}') OR EXISTS (
                   SELECT FROM saga.dead_letter d WHERE d.saga_id = saga.saga_id AND d.code = $7))
               AND ($8::text IS NULL OR key = $8)
             ORDER BY saga_id DESC LIMIT $5",
        )
        .bind(business_id)
        .bind(filter.state.map(State::code))
        .bind(filter.older_than_s)
        .bind(page.after)
        .bind(page.limit)
        .bind(alternatives(&filter.plan_contains))
        .bind(&filter.code)
        .bind(&filter.key)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(saga_line)
        .collect()
    }

    /// A saga of a business with everything that is known of it.
    ///
    /// # Errors
    /// Of the database.
    pub async fn show_saga(&self, business_id: &str, id: SagaId) -> sqlx::Result<Option<SagaDetail>> {
        const SQL: &str = concat!(
            "SELECT ",
            row::columns!(),
            ", s.ended_at FROM saga.saga s WHERE s.business_id = $1 AND s.saga_id = $2"
        );
        let row = sqlx::query(SQL).bind(business_id).bind(id).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let (saga, raw) = (saga_line(&row)?, Raw::read(&row)?);
        let events = self.events(id).await?;
        let participants = self.participants(&raw);
        let timeline = story::tell(&saga, raw.stored.deadline_at, &participants, &events);
        Ok(Some(SagaDetail {
            kind: raw.kind,
            plan: raw.plan,
            legs_id: raw.legs_id,
            parent_id: raw.parent_id,
            trace_id: raw.trace_id,
            deadline_at: raw.stored.deadline_at,
            key_cancelled: raw.stored.key_cancelled,
            answer: raw.stored.response,
            answers: story::answers(&events),
            participants,
            timeline,
            dead_letters: letters::of_saga(&self.pool, id).await?,
            saga,
        }))
    }

    async fn events(&self, id: SagaId) -> sqlx::Result<Vec<Recorded>> {
        sqlx::query(
            "SELECT at, event, epoch, owner, detail FROM saga.saga_event WHERE saga_id = $1 ORDER BY event_id",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            Ok(Recorded {
                at: row.try_get("at")?,
                event: row.try_get("event")?,
                epoch: row.try_get("epoch")?,
                owner: row.try_get("owner")?,
                detail: row.try_get("detail")?,
            })
        })
        .collect()
    }

    fn participants(&self, raw: &Raw) -> Vec<String> {
        if raw.version != D::PLAN_VERSION {
            return Vec::new();
        }
        match serde_json::from_value::<D::Plan>(raw.plan.clone()) {
            Ok(plan) => (0..self.domain.legs(&plan))
                .map(|leg| self.domain.participant(&plan, leg).to_owned())
                .collect(),
            Err(_) => Vec::new(),
        }
    }
}

fn saga_line(row: &PgRow) -> sqlx::Result<SagaLine> {
    let state: i16 = row.try_get("state")?;
    Ok(SagaLine {
        saga_id: row.try_get("saga_id")?,
        operation: row.try_get("operation")?,
        key: row.try_get("key")?,
        status: State::from_code(state).map_or("unknown", state_name),
        epoch: row.try_get("epoch")?,
        owner: row.try_get("owner")?,
        backward: row.try_get("backward")?,
        cause: row.try_get("cause")?,
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}
