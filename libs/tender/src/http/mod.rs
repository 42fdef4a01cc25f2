//! The routes of a tender, public and internal.

mod accounts;
mod answer;
mod credits;
mod entries;
mod legs;
mod legs_in_force;
mod operations;
mod versions;

use axum::{
    Router,
    routing::{get, post, put},
};
use service::auth::{Issue, Till};

use crate::App;

/// Routes for tills, managers and customers.
pub fn public(app: App) -> Router {
    let tender = Router::new()
        .route(
            "/credits",
            // Where a till may issue nothing, it lacks the role whatever it sends.
            if app.rules.till_kinds().is_empty() {
                post(credits::create_credit::<Issue>)
            } else {
                post(credits::create_credit::<Till>)
            },
        )
        .route("/accounts/{customer_id}", get(accounts::show_account))
        .route("/accounts/{customer_id}/entries", get(entries::list_entries))
        .route("/operations", get(operations::find_operation))
        .route("/operations/{id}", get(operations::show_operation));
    Router::new().nest(&format!("/api/v1/{}", app.rules.path()), tender).with_state(app)
}

/// Routes for the wallet.
pub fn internal(app: App) -> Router {
    Router::new()
        .route("/internal/v1/legs", get(legs_in_force::list_legs))
        .route("/internal/v1/legs/batch", post(legs::run_batch))
        .route("/internal/v1/legs/{legs_id}/{leg}", put(legs::forward_leg).get(legs::query_leg))
        .route("/internal/v1/legs/{legs_id}/{leg}/cancel", post(legs::cancel_leg))
        .route("/internal/v1/legs/{legs_id}/{leg}/capture", post(legs::capture_leg))
        .route("/internal/v1/accounts/{customer_id}", get(accounts::show_account_to_peer))
        .route("/internal/v1/account-versions", post(versions::show_versions))
        .with_state(app)
}
