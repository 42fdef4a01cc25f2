//! All routes of the wallet, one file a use case.

mod balance;
mod cancel_by_key;
mod capture;
mod held;
mod ops;
mod redeem;
mod redemptions;
mod void;

use api::tender::Page;
use axum::{
    Router,
    routing::{get, post},
};

use uuid::Uuid;

use crate::app::App;

/// The public routes.
pub fn routes(app: App) -> Router {
    let wallet = Router::new()
        .route("/redeem", post(redeem::redeem))
        .route("/redemptions", get(redemptions::list_redemptions))
        .route("/redemptions/{id}", get(redemptions::show_redemption))
        .route("/redemptions/{id}/capture", post(capture::capture_redemption))
        .route("/redemptions/{id}/void", post(void::void_redemption))
        .route("/redemptions/cancel-by-key", post(cancel_by_key::cancel_by_key))
        .route("/balance", get(balance::show_balance));
    let ops = Router::new()
        .route("/sagas", get(ops::list_sagas))
        .route("/sagas/{id}", get(ops::show_saga))
        .route("/dead-letters", get(ops::list_dead_letters))
        .route("/dead-letters/{id}", get(ops::show_dead_letter))
        .route("/dead-letters/{id}/replay", post(ops::replay_dead_letter))
        .route("/dead-letters/{id}/resolve", post(ops::resolve_dead_letter));
    Router::new().nest("/api/v1/wallet", wallet).nest("/api/v1/ops", ops).with_state(app)
}

/// A page out of one row more than was asked for.
fn listing<T>(mut data: Vec<T>, limit: i64, id: impl Fn(&T) -> Uuid) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = if has_more { data.last().map(|last| id(last).to_string()) } else { None };
    Page { data, next_cursor }
}
