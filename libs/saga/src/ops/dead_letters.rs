//! Dead letters: sagas that wait for an operator.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgExecutor, Postgres, QueryBuilder, Row, postgres::PgRow};
use uuid::Uuid;

use super::{Page, alternatives};
use crate::{
    domain::{Domain, SagaId},
    engine::Engine,
};

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetterLine {
    /// Its id.
    pub dead_letter_id: Uuid,
    /// The saga that is parked.
    pub saga_id: SagaId,
    /// The use case of the saga.
    pub operation: String,
    /// The key of the saga.
    pub key: String,
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

/// Filters of dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// Also those that were dealt with.
    pub with_closed: bool,
    /// Only with this code.
    pub code: Option<String>,
    /// Only where this participant stands in the way.
    pub participant: Option<String>,
    /// Only of sagas whose plan contains one of these documents; empty: of all.
    pub plan_contains: Vec<Value>,
    /// Only those opened more than so many seconds ago.
    pub older_than_s: Option<i64>,
}

/// A place in a list of dead letters, which is in the order of their opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterCursor {
    /// When the dead letter was opened.
    pub opened_at: DateTime<Utc>,
    /// Its id.
    pub dead_letter_id: Uuid,
}

/// The columns of a [`DeadLetterLine`], of `d` and its saga `s`.
macro_rules! columns {
    () => {
        "d.dead_letter_id, d.saga_id, s.operation, s.key, d.code, d.participant, d.detail, d.opened_at, d.closed_at, d.closed_as"
    };
}

/// Adds the dead letters `d` of a business, with their sagas `s`, that a filter lets through. The statement names only what is
/// asked for: the planner then knows that the index of open dead letters serves, and reads no closed one.
pub(super) fn push_matching(sql: &mut QueryBuilder<Postgres>, business_id: &str, filter: &DeadLetterFilter) {
    sql.push(" FROM saga.dead_letter d JOIN saga.saga s ON s.saga_id = d.saga_id WHERE d.business_id = ");
    sql.push_bind(business_id);
    if !filter.with_closed {
        sql.push(" AND d.closed_at IS NULL");
    }
    if let Some(code) = &filter.code {
        sql.push(" AND d.code = ").push_bind(code);
    }
    if let Some(participant) = &filter.participant {
        sql.push(" AND d.participant = ").push_bind(participant);
    }
    if let Some(documents) = alternatives(&filter.plan_contains) {
        sql.push(" AND s.plan @> ANY (").push_bind(documents).push("::text[]::jsonb[])");
    }
    if let Some(age) = filter.older_than_s {
        sql.push(" AND d.opened_at < clock_timestamp() - make_interval(secs => ").push_bind(age).push(")");
    }
}

/// The statement for a list.
fn list(
    business_id: &str,
    filter: &DeadLetterFilter,
    page: &Page<DeadLetterCursor>,
) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(concat!("SELECT ", columns!()));
    push_matching(&mut sql, business_id, filter);
    if let Some(place) = page.after {
        sql.push(" AND (d.opened_at, d.dead_letter_id) > (").push_bind(place.opened_at);
        sql.push(", ").push_bind(place.dead_letter_id).push(")");
    }
    sql.push(" ORDER BY d.opened_at, d.dead_letter_id LIMIT ").push_bind(page.limit);
    sql
}

impl<D: Domain> Engine<D> {
    /// Dead letters of a business, oldest first.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list_dead_letters(
        &self,
        business_id: &str,
        filter: &DeadLetterFilter,
        page: &Page<DeadLetterCursor>,
    ) -> sqlx::Result<Vec<DeadLetterLine>> {
        list(business_id, filter, page)
            .build()
            .fetch_all(&self.ops_pool)
            .await?
            .iter()
            .map(dead_letter_line)
            .collect()
    }
}

/// A dead letter of a business.
pub(super) async fn by_id(
    db: impl PgExecutor<'_>,
    business_id: &str,
    id: Uuid,
) -> sqlx::Result<Option<DeadLetterLine>> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM saga.dead_letter d JOIN saga.saga s ON s.saga_id = d.saga_id
         WHERE d.business_id = $1 AND d.dead_letter_id = $2"
    );
    let row = sqlx::query(SQL).bind(business_id).bind(id).fetch_optional(db).await?;
    row.as_ref().map(dead_letter_line).transpose()
}

/// Every dead letter of a saga, oldest first.
pub(super) async fn of_saga(db: impl PgExecutor<'_>, id: SagaId) -> sqlx::Result<Vec<DeadLetterLine>> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM saga.dead_letter d JOIN saga.saga s ON s.saga_id = d.saga_id WHERE d.saga_id = $1 ORDER BY d.opened_at"
    );
    sqlx::query(SQL).bind(id).fetch_all(db).await?.iter().map(dead_letter_line).collect()
}

fn dead_letter_line(row: &PgRow) -> sqlx::Result<DeadLetterLine> {
    Ok(DeadLetterLine {
        dead_letter_id: row.try_get("dead_letter_id")?,
        saga_id: row.try_get("saga_id")?,
        operation: row.try_get("operation")?,
        key: row.try_get("key")?,
        code: row.try_get("code")?,
        participant: row.try_get("participant")?,
        detail: row.try_get("detail")?,
        opened_at: row.try_get("opened_at")?,
        closed_at: row.try_get("closed_at")?,
        closed_as: row.try_get("closed_as")?,
    })
}
