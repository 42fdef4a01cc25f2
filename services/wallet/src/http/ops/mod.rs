//! `/ops`: sagas with their stories, dead letters, and what an operator may do about them. One file a use case.
//!
//! A token of role `ops` speaks for one business: what belongs to another answers as if it did not exist.

mod actions;
mod bulk_replays;
mod dead_letter_actions;
mod dead_letters;
mod legs;
mod sagas;
mod tenders;
mod views;

use api::{Code, CustomerId, Outcome, Problem, id::is_visible_ascii, wallet::TenderKind};
use saga::Reason;
use serde_json::{Value, json};
use service::ApiError;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::App;

/// Longest reason in bytes.
const REASON_MAX: usize = 1_000;
/// Longest age in seconds that a filter may ask for: a century.
const AGE_MAX_S: i64 = 100 * 366 * 86_400;

/// The routes below `/ops`.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sagas::list_sagas))
        .routes(routes!(sagas::show_saga))
        .routes(routes!(dead_letters::list_dead_letters))
        .routes(routes!(bulk_replays::replay_dead_letters))
        .routes(routes!(dead_letters::show_dead_letter))
        .routes(routes!(dead_letter_actions::replay_dead_letter))
        .routes(routes!(dead_letter_actions::resolve_dead_letter))
        .routes(routes!(bulk_replays::show_bulk_replay))
        .routes(routes!(actions::list_actions))
        .routes(routes!(tenders::list_tenders))
        .routes(routes!(tenders::pause_tender))
        .routes(routes!(tenders::resume_tender))
}

/// Checks what every order carries.
fn check_command(operation_id: &str, reason: &str) -> Result<(), ApiError> {
    if !is_visible_ascii(operation_id, 128) {
        return Err(Problem::invalid("/operation_id", "must be 1 to 128 visible ASCII characters").into());
    }
    if reason.trim().is_empty() || reason.len() > REASON_MAX {
        return Err(Problem::invalid("/reason", "must say why, in at most 1000 bytes").into());
    }
    Ok(())
}

/// The operation id means something else already.
fn reused() -> ApiError {
    ApiError::new(Code::IdempotencyKeyReused, "This operation_id was used for something else. Use a new one.")
}

/// An order whose COMMIT may not have been answered. The same operation id again tells.
fn unsure(error: sqlx::Error) -> ApiError {
    let mut problem = ApiError::from(error).into_problem().outcome(Outcome::Unknown);
    problem.detail = "Whether this was done cannot be said now. Ask again with the same operation_id.".into();
    problem.into()
}

/// Checks an age in a filter.
fn check_age(pointer: &'static str, seconds: Option<i64>) -> Result<(), ApiError> {
    if seconds.is_some_and(|seconds| !(0..=AGE_MAX_S).contains(&seconds)) {
        return Err(Problem::invalid(pointer, "must be 0 to 3162240000 seconds").into());
    }
    Ok(())
}

/// Checks the code of dead letters in a filter.
fn check_dead_letter_code(pointer: &'static str, code: Option<&str>) -> Result<(), ApiError> {
    if code.is_some_and(|code| !is_reason(code)) {
        return Err(Problem::invalid(pointer, "is no code of a dead letter").into());
    }
    Ok(())
}

fn is_reason(code: &str) -> bool {
    Reason::ALL.iter().any(|reason| reason.as_str() == code)
}

/// What the plan of a saga about this customer, or with a leg on this tender, contains: one of these.
///
/// A redemption names its customer; sagas that take one further name them in their legs, whose accounts are the same
/// customer's but for a reward that belongs to its bearer.
fn plan_filter(customer: Option<&CustomerId>, tender: Option<TenderKind>) -> Vec<Value> {
    match (customer, tender) {
        (None, None) => Vec::new(),
        (None, Some(tender)) => vec![json!({ "legs": [{ "tender": tender }] })],
        (Some(customer), None) => vec![
            json!({ "customer_id": customer }),
            json!({ "legs": [{ "account": { "customer_id": customer } }] }),
        ],
        (Some(customer), Some(tender)) => vec![
            json!({ "customer_id": customer, "legs": [{ "tender": tender }] }),
            json!({ "legs": [{ "tender": tender }, { "account": { "customer_id": customer } }] }),
        ],
    }
}
