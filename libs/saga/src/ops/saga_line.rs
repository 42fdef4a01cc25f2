//! A saga as lists show it, and as its timeline begins and ends.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{domain::SagaId, machine::State};

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
    /// Why it was compensated.
    pub cause: Option<Value>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Reads the columns that a line is made of.
pub(super) fn saga_line(row: &PgRow) -> sqlx::Result<SagaLine> {
    let state: i16 = row.try_get("state")?;
    Ok(SagaLine {
        saga_id: row.try_get("saga_id")?,
        operation: row.try_get("operation")?,
        key: row.try_get("key")?,
        status: State::from_code(state).map_or("unknown", State::as_str),
        epoch: row.try_get("epoch")?,
        owner: row.try_get("owner")?,
        backward: row.try_get("backward")?,
        cause: row.try_get("cause")?,
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}
