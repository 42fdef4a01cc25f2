//! Dead letters: sagas that wait for an operator.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgExecutor, Row, postgres::PgRow};
use uuid::Uuid;

use super::{Page, SagaDetail};
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

/// A dead letter with its saga: what led to it.
#[derive(Debug, Clone)]
pub struct DeadLetterDetail {
    /// The dead letter.
    pub letter: DeadLetterLine,
    /// Its saga, with cause, plan and timeline.
    pub saga: SagaDetail,
}

/// Filters of dead letters.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
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
pub struct LetterPlace {
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

/// The dead letters `d` of $1 that a [`LetterFilter`] lets through: $2 to $6, in the order of its fields.
macro_rules! matching {
    () => {
        "FROM saga.dead_letter d JOIN saga.saga s ON s.saga_id = d.saga_id
         WHERE d.business_id = $1
           AND ($2 OR d.closed_at IS NULL)
           AND ($3::text IS NULL OR d.code = $3)
           AND ($4::text IS NULL OR d.participant = $4)
           AND ($5::text[] IS NULL OR s.plan @> ANY ($5::text[]::jsonb[]))
           AND ($6::bigint IS NULL OR d.opened_at < clock_timestamp() - make_interval(secs => $6))"
    };
}
pub(super) use matching;

/// Binds $1 to $6 of `matching!`.
macro_rules! bind_filter {
    ($query:expr, $business_id:expr, $filter:expr) => {
        $query
            .bind($business_id)
            .bind($filter.with_closed)
            .bind(&$filter.code)
            .bind(&$filter.participant)
            .bind($crate::ops::alternatives(&$filter.plan_contains))
            .bind($filter.older_than_s)
    };
}
pub(super) use bind_filter;

impl<D: Domain> Engine<D> {
    /// Dead letters of a business, oldest first.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list_dead_letters(
        &self,
        business_id: &str,
        filter: &LetterFilter,
        page: &Page<LetterPlace>,
    ) -> sqlx::Result<Vec<DeadLetterLine>> {
        const SQL: &str = concat!(
            "SELECT ",
            columns!(),
            " ",
            matching!(),
            " AND ($7::timestamptz IS NULL OR (d.opened_at, d.dead_letter_id) > ($7, $8))
             ORDER BY d.opened_at, d.dead_letter_id LIMIT $9"
        );
        bind_filter!(sqlx::query(SQL), business_id, filter)
            .bind(page.after.map(|place| place.opened_at))
            .bind(page.after.map(|place| place.dead_letter_id))
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
        const SQL: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM saga.dead_letter d JOIN saga.saga s ON s.saga_id = d.saga_id
             WHERE d.business_id = $1 AND d.dead_letter_id = $2"
        );
        let row = sqlx::query(SQL).bind(business_id).bind(id).fetch_optional(&self.pool).await?;
        let Some(letter) = row.as_ref().map(dead_letter_line).transpose()? else { return Ok(None) };
        let saga = self.show_saga(business_id, letter.saga_id).await?;
        Ok(saga.map(|saga| DeadLetterDetail { letter, saga }))
    }
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
