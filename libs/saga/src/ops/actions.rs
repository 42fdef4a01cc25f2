//! Who did what, when and why: one append-only row for every action, carried out or refused.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, Postgres, QueryBuilder, Row, postgres::PgRow};
use uuid::Uuid;

use super::Page;
use crate::{
    domain::{Domain, SagaId},
    engine::Engine,
};

/// An action to be recorded, inside the transaction that carries it out.
#[derive(Debug, Clone)]
pub struct NewAction<'a> {
    /// The tenant of the operator.
    pub business_id: &'a str,
    /// The operator's own name for the action.
    pub operation_id: &'a str,
    /// Who.
    pub actor: &'a str,
    /// What was to be done.
    pub action: &'a str,
    /// The dead letter that it is about.
    pub dead_letter_id: Option<Uuid>,
    /// The saga that it is about.
    pub saga_id: Option<SagaId>,
    /// The participant that it is about.
    pub participant: Option<&'a str>,
    /// Why.
    pub reason: &'a str,
    /// Something to look it up by, outside.
    pub reference: Option<&'a str>,
    /// Whether it was done.
    pub accepted: bool,
    /// How things were.
    pub before: Value,
    /// How they are since.
    pub after: Value,
}

/// A recorded action.
#[derive(Debug, Clone)]
pub struct ActionLine {
    /// Rises with each action.
    pub action_id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The operator's own name for it.
    pub operation_id: String,
    /// Who.
    pub actor: String,
    /// What was to be done.
    pub action: String,
    /// The dead letter that it is about.
    pub dead_letter_id: Option<Uuid>,
    /// The saga that it is about.
    pub saga_id: Option<SagaId>,
    /// The participant that it is about.
    pub participant: Option<String>,
    /// Why.
    pub reason: String,
    /// Something to look it up by, outside.
    pub reference: Option<String>,
    /// Whether it was done.
    pub accepted: bool,
    /// How things were.
    pub before: Value,
    /// How they were then.
    pub after: Value,
}

/// Filters of the list of actions.
#[derive(Debug, Clone, Default)]
pub struct ActionFilter {
    /// Only this operator's.
    pub actor: Option<String>,
    /// Only of this kind.
    pub action: Option<String>,
    /// Only about this dead letter.
    pub dead_letter_id: Option<Uuid>,
    /// Only about this saga.
    pub saga_id: Option<Uuid>,
    /// Only under this operation id.
    pub operation_id: Option<String>,
    /// Only those that were done, or only those that were refused.
    pub accepted: Option<bool>,
}

/// Records an action.
///
/// # Errors
/// Of the database: also when an accepted one exists under the same operation id.
pub async fn record(db: impl PgExecutor<'_>, action: &NewAction<'_>) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO saga.operator_action (business_id, operation_id, actor, action, dead_letter_id, saga_id, participant,
             reason, reference, accepted, before, after)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(action.business_id)
    .bind(action.operation_id)
    .bind(action.actor)
    .bind(action.action)
    .bind(action.dead_letter_id)
    .bind(action.saga_id)
    .bind(action.participant)
    .bind(action.reason)
    .bind(action.reference)
    .bind(action.accepted)
    .bind(&action.before)
    .bind(&action.after)
    .execute(db)
    .await
    .map(drop)
}

/// What was done under an operation id to one dead letter, or to none: the action, and the participant that it was about.
///
/// # Errors
/// Of the database.
pub async fn was_done(
    conn: &mut PgConnection,
    business_id: &str,
    operation_id: &str,
    dead_letter: Option<Uuid>,
) -> sqlx::Result<Option<(String, Option<String>)>> {
    sqlx::query_as(
        "SELECT action, participant FROM saga.operator_action
         WHERE business_id = $1 AND operation_id = $2 AND dead_letter_id IS NOT DISTINCT FROM $3 AND accepted",
    )
    .bind(business_id)
    .bind(operation_id)
    .bind(dead_letter)
    .fetch_optional(conn)
    .await
}

impl<D: Domain> Engine<D> {
    /// Actions of a business's operators, newest first; `page.after` is the last one of the page before.
    ///
    /// # Errors
    /// Of the database.
    pub async fn list_actions(
        &self,
        business_id: &str,
        filter: &ActionFilter,
        page: &Page<i64>,
    ) -> sqlx::Result<Vec<ActionLine>> {
        list(business_id, filter, page)
            .build()
            .fetch_all(&self.ops_pool)
            .await?
            .iter()
            .map(action_line)
            .collect()
    }
}

/// The statement for a list. It names only what is asked for: the planner then knows which of the indexes serves.
fn list(business_id: &str, filter: &ActionFilter, page: &Page<i64>) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(
        "SELECT action_id, at, operation_id, actor, action, dead_letter_id, saga_id, participant, reason, reference,
             accepted, before, after
         FROM ",
    );
    match filter.dead_letter_id {
        // Few, and looked up first, by themselves: else the planner may walk all actions of the business in search of them.
        Some(dead_letter_id) => sql
            .push("(SELECT * FROM saga.operator_action WHERE dead_letter_id = ")
            .push_bind(dead_letter_id)
            .push(" OFFSET 0) AS action"),
        None => sql.push("saga.operator_action"),
    };
    sql.push(" WHERE business_id = ").push_bind(business_id);
    if let Some(actor) = &filter.actor {
        sql.push(" AND actor = ").push_bind(actor);
    }
    if let Some(action) = &filter.action {
        sql.push(" AND action = ").push_bind(action);
    }
    if let Some(saga_id) = filter.saga_id {
        sql.push(" AND saga_id = ").push_bind(saga_id);
    }
    if let Some(operation_id) = &filter.operation_id {
        sql.push(" AND operation_id = ").push_bind(operation_id);
    }
    if let Some(accepted) = filter.accepted {
        sql.push(" AND accepted = ").push_bind(accepted);
    }
    if let Some(after) = page.after {
        sql.push(" AND action_id < ").push_bind(after);
    }
    sql.push(" ORDER BY action_id DESC LIMIT ").push_bind(page.limit);
    sql
}

fn action_line(row: &PgRow) -> sqlx::Result<ActionLine> {
    Ok(ActionLine {
        action_id: row.try_get("action_id")?,
        at: row.try_get("at")?,
        operation_id: row.try_get("operation_id")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        dead_letter_id: row.try_get("dead_letter_id")?,
        saga_id: row.try_get("saga_id")?,
        participant: row.try_get("participant")?,
        reason: row.try_get("reason")?,
        reference: row.try_get("reference")?,
        accepted: row.try_get("accepted")?,
        before: row.try_get("before")?,
        after: row.try_get("after")?,
    })
}
