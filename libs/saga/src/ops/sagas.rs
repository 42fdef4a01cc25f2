//! Sagas in a list, and one by one with what led to where they are; a dead letter is shown with its saga.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::{
    Page, alternatives,
    dead_letters::{self, DeadLetterLine},
    saga_line::{SagaLine, saga_line},
    timeline::{self, LegAnswers, Recorded, TimelineEvent},
};
use crate::{
    domain::{Domain, Response, SagaId},
    engine::Engine,
    machine::{Kind, State},
    row::{self, Raw},
};

/// A saga with its plan and history.
#[derive(Debug, Clone)]
pub struct SagaDetail {
    /// The saga.
    pub saga: SagaLine,
    /// Whether it may be compensated; `None` where this version does not know.
    pub kind: Option<Kind>,
    /// What it set out to do.
    pub plan: Value,
    /// Under which participants know its legs.
    pub legs_id: Uuid,
    /// The saga whose effect this one takes further.
    pub parent_id: Option<SagaId>,
    /// The trace of the request that made it.
    pub trace_id: Option<String>,
    /// When it is compensated unless it is done.
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

/// A dead letter with its saga: what led to it.
#[derive(Debug, Clone)]
pub struct DeadLetterDetail {
    /// The dead letter.
    pub dead_letter: DeadLetterLine,
    /// Its saga, with cause, plan and timeline.
    pub saga: SagaDetail,
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
    /// Where such a plan may be found, so that not every saga is read for it: these sagas, those that take them further, and
    /// those of orphaned legs.
    pub among: Option<Vec<SagaId>>,
    /// Only those compensated for this reason, or by a decline or with a dead letter of this code.
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
        list(business_id, filter, page)
            .build()
            .fetch_all(&self.ops_pool)
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
        let row = sqlx::query(SQL).bind(business_id).bind(id).fetch_optional(&self.ops_pool).await?;
        let Some(row) = row else { return Ok(None) };
        let (saga, raw) = (saga_line(&row)?, Raw::read(&row)?);
        let events = self.events(id).await?;
        let participants = self.participants(&raw);
        let timeline = timeline::build(&saga, raw.stored.deadline_at, &participants, &events);
        Ok(Some(SagaDetail {
            kind: raw.kind,
            plan: raw.plan,
            legs_id: raw.legs_id,
            parent_id: raw.parent_id,
            trace_id: raw.trace_id,
            deadline_at: raw.stored.deadline_at,
            key_cancelled: raw.stored.key_cancelled,
            answer: raw.stored.response,
            answers: timeline::answers(&events),
            participants,
            timeline,
            dead_letters: dead_letters::of_saga(&self.ops_pool, id).await?,
            saga,
        }))
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
        let Some(dead_letter) = dead_letters::by_id(&self.ops_pool, business_id, id).await? else {
            return Ok(None);
        };
        let saga = self.show_saga(business_id, dead_letter.saga_id).await?;
        Ok(saga.map(|saga| DeadLetterDetail { dead_letter, saga }))
    }

    async fn events(&self, id: SagaId) -> sqlx::Result<Vec<Recorded>> {
        sqlx::query(
            "SELECT at, event, epoch, owner, detail FROM saga.saga_event WHERE saga_id = $1 ORDER BY event_id",
        )
        .bind(id)
        .fetch_all(&self.ops_pool)
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
        if !raw.is_known::<D>() {
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

/// The statement for a list. It names only what is asked for, and states as literals: the planner then knows which of the
/// partial indexes serves.
fn list(business_id: &str, filter: &SagaFilter, page: &Page<SagaId>) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(
        "SELECT saga_id, operation, key, state, epoch, owner, backward, cause, created_at, ended_at
         FROM saga.saga WHERE business_id = ",
    );
    // A row that only keeps legs from being taken again is no saga that anybody would look for.
    sql.push_bind(business_id).push(" AND operation <> 'taken_back'");
    if let Some(state) = filter.state {
        sql.push(" AND state = ").push(state.code());
    }
    if let Some(age) = filter.older_than_s {
        sql.push(" AND created_at < clock_timestamp() - make_interval(secs => ").push_bind(age).push(")");
    }
    if let Some(after) = page.after {
        sql.push(" AND saga_id < ").push_bind(after);
    }
    if let Some(among) = &filter.among {
        let ids: Vec<Uuid> = among.iter().map(|id| id.0).collect();
        sql.push(" AND (saga_id = ANY (").push_bind(ids.clone());
        sql.push(") OR parent_id = ANY (").push_bind(ids).push(") OR operation = 'orphan')");
    }
    if let Some(documents) = alternatives(&filter.plan_contains) {
        sql.push(" AND plan @> ANY (").push_bind(documents).push("::text[]::jsonb[])");
    }
    if let Some(code) = &filter.code {
        sql.push(" AND (")
            .push_bind(code)
            .push(" IN (cause ->> 'reason', cause #>> '{answer,decline,code}')");
        sql.push(" OR EXISTS (SELECT FROM saga.dead_letter d WHERE d.saga_id = saga.saga_id AND d.code = ");
        sql.push_bind(code).push("))");
    }
    if let Some(key) = &filter.key {
        sql.push(" AND key = ").push_bind(key);
    }
    sql.push(" ORDER BY saga_id DESC LIMIT ").push_bind(page.limit);
    sql
}
