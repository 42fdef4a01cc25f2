//! A saga's row, read.

use std::{sync::Arc, time::Instant};

use chrono::{DateTime, Utc};
use metrics::counter;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgExecutor, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    clock::RunClock,
    domain::{CompensationCause, Domain, Key, Reason, RequestHash, Response, Saga, SagaId},
    machine::{Kind, State},
    write::stored_response,
};

/// What is stored of a saga, short of its plan: enough to answer a caller under its key.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its id.
    pub id: SagaId,
    /// Its key.
    pub key: Key,
    /// Its state.
    pub state: State,
    /// Whether its direction is backward.
    pub backward: bool,
    /// Its epoch.
    pub epoch: i64,
    /// Whether its key was cancelled.
    pub key_cancelled: bool,
    /// Of the request that made it; none if nobody can repeat it.
    pub request_hash: Option<RequestHash>,
    /// The answer under its key, once there is one.
    pub response: Option<Response>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it is compensated.
    pub deadline_at: DateTime<Utc>,
}

/// What a caller who waits has to know of a saga.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub state: State,
    pub key_cancelled: bool,
    pub response: Option<Response>,
}

/// A row as read, its plan not yet understood.
#[derive(Debug)]
pub(crate) struct Raw {
    pub stored: Stored,
    pub kind: Option<Kind>,
    pub version: i16,
    pub legs_id: Uuid,
    pub parent_id: Option<SagaId>,
    pub plan: serde_json::Value,
    pub cause: Option<serde_json::Value>,
    pub owner: Option<Uuid>,
    pub poison: i16,
    pub trace_id: Option<String>,
    pub budget_from: DateTime<Utc>,
    pub clock: RunClock,
}

/// A row that this version understands.
#[derive(Debug)]
pub(crate) struct Loaded<D: Domain> {
    pub saga: Saga<D::Plan>,
    pub state: State,
    pub cause: Option<CompensationCause<D::Answer>>,
    pub poison: i16,
    pub budget_from: DateTime<Utc>,
    /// Tells the database's time since the row was read.
    pub clock: RunClock,
}

/// The columns that [`Raw`] is read from, of a saga named `s`.
macro_rules! columns {
    () => {
        "s.saga_id, s.business_id, s.operation, s.scope, s.key, s.state, s.backward, s.epoch, s.key_cancelled, \
         s.request_hash, s.hash_version, s.response_status, s.response, s.created_at, s.deadline_at, s.kind, s.version, \
         s.legs_id, s.parent_id, s.plan, s.cause, s.owner, s.poison, s.trace_id, s.budget_from, \
         clock_timestamp() AS read_at"
    };
}
pub(crate) use columns;

impl Raw {
    pub(crate) fn read(row: &PgRow) -> sqlx::Result<Self> {
        let stored = Stored {
            id: row.try_get("saga_id")?,
            key: Key {
                business_id: row.try_get("business_id")?,
                operation: row.try_get("operation")?,
                scope: row.try_get("scope")?,
                key: row.try_get("key")?,
            },
            state: state(row)?,
            backward: row.try_get("backward")?,
            epoch: row.try_get("epoch")?,
            key_cancelled: row.try_get("key_cancelled")?,
            request_hash: request_hash(row)?,
            response: stored_response(row.try_get("response_status")?, row.try_get("response")?),
            created_at: row.try_get("created_at")?,
            deadline_at: row.try_get("deadline_at")?,
        };
        let kind = match row.try_get::<i16, _>("kind")? {
            0 => Some(Kind::Compensable),
            1 => Some(Kind::ForwardOnly),
            _ => None,
        };
        Ok(Self {
            stored,
            kind,
            version: row.try_get("version")?,
            legs_id: row.try_get("legs_id")?,
            parent_id: row.try_get("parent_id")?,
            plan: row.try_get("plan")?,
            cause: row.try_get("cause")?,
            owner: row.try_get("owner")?,
            poison: row.try_get("poison")?,
            trace_id: row.try_get("trace_id")?,
            budget_from: row.try_get("budget_from")?,
            clock: RunClock::new(
                row.try_get::<DateTime<Utc>, _>("read_at")?.timestamp_millis(),
                Instant::now(),
            ),
        })
    }

    /// Whether this process knows the version of the row's plan. One that it does not know is another process's to run.
    pub(crate) fn is_known<D: Domain>(&self) -> bool {
        D::VERSIONS.contains(&self.version)
    }

    /// Understands the row, or says why it cannot be.
    pub(crate) fn load<D: Domain>(self) -> Result<Loaded<D>, String> {
        if !self.is_known::<D>() {
            return Err(format!("plan version {} is not known here", self.version));
        }
        let kind = self.kind.ok_or("unknown kind of saga")?;
        let saga = Saga {
            id: self.stored.id,
            key: self.stored.key,
            kind,
            legs_id: self.legs_id,
            parent_id: self.parent_id,
            plan: Arc::new(decode(self.plan)?),
            epoch: self.stored.epoch,
            deadline_at: self.stored.deadline_at,
            created_at: self.stored.created_at,
            trace_id: self.trace_id,
        };
        Ok(Loaded {
            saga,
            state: self.stored.state,
            cause: self.cause.map(|cause| readable_cause(self.stored.id, cause)),
            poison: self.poison,
            budget_from: self.budget_from,
            clock: self.clock,
        })
    }
}

fn state(row: &PgRow) -> sqlx::Result<State> {
    let state: i16 = row.try_get("state")?;
    State::from_code(state).ok_or_else(|| sqlx::Error::Decode(format!("unknown saga state {state}").into()))
}

/// Version 0: there is none.
pub(crate) fn request_hash(row: &PgRow) -> sqlx::Result<Option<RequestHash>> {
    let version: i16 = row.try_get("hash_version")?;
    if version == 0 {
        return Ok(None);
    }
    let bytes: Vec<u8> = row.try_get("request_hash")?;
    let bytes = bytes.try_into().map_err(|_| sqlx::Error::Decode("a request's hash is cut".into()))?;
    Ok(Some(RequestHash { version, bytes }))
}

/// A cause as far as this version can read it. It says why legs are cancelled and never which ones, so what a newer release has put
/// into it stops nothing.
fn readable_cause<A: DeserializeOwned + Serialize>(
    id: SagaId,
    cause: serde_json::Value,
) -> CompensationCause<A> {
    decode(cause).unwrap_or_else(|error| {
        tracing::warn!(saga_id = %id, error, "the cause of a saga is a newer release's; it is kept as it is");
        counter!("saga_causes_unread_total").increment(1);
        CompensationCause::because(Reason::Other)
    })
}

fn decode<T: DeserializeOwned>(json: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

pub(crate) async fn by_id(db: impl PgExecutor<'_>, id: SagaId) -> sqlx::Result<Option<Raw>> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM saga.saga s WHERE s.saga_id = $1");
    sqlx::query(SQL).bind(id).fetch_optional(db).await?.as_ref().map(Raw::read).transpose()
}

pub(crate) async fn by_key(db: impl PgExecutor<'_>, key: &Key) -> sqlx::Result<Option<Raw>> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM saga.saga s WHERE s.business_id = $1 AND s.operation = $2 AND s.scope = $3 AND s.key = $4"
    );
    sqlx::query(SQL)
        .bind(&key.business_id)
        .bind(&key.operation)
        .bind(&key.scope)
        .bind(&key.key)
        .fetch_optional(db)
        .await?
        .as_ref()
        .map(Raw::read)
        .transpose()
}

/// Short of plan and cause, which are large: callers look again and again.
pub(crate) async fn outcome(db: impl PgExecutor<'_>, id: SagaId) -> sqlx::Result<Option<Outcome>> {
    const SQL: &str =
        "SELECT state, key_cancelled, response_status, response FROM saga.saga WHERE saga_id = $1";
    let Some(row) = sqlx::query(SQL).bind(id).fetch_optional(db).await? else { return Ok(None) };
    Ok(Some(Outcome {
        state: state(&row)?,
        key_cancelled: row.try_get("key_cancelled")?,
        response: stored_response(row.try_get("response_status")?, row.try_get("response")?),
    }))
}
