//! All routes of the wallet, one file a use case; those of operators are on a screen of their own, in `ops`.

mod balance;
mod cancel_by_key;
mod capture;
mod held;
mod ops;
mod redeem;
mod redemptions;
mod stream;
mod void;
mod ws;

use api::tender::Page;
use axum::{
    Router,
    routing::{get, post},
};

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
        .route("/balance", get(balance::show_balance))
        .route("/stream", get(stream::stream_balances))
        .route("/ws", get(ws::open_socket));
    Router::new().nest("/api/v1/wallet", wallet).nest("/api/v1/ops", ops::routes()).with_state(app)
}

/// A page out of one row more than was asked for.
fn listing<T, C: ToString>(mut data: Vec<T>, limit: i64, cursor: impl Fn(&T) -> C) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = if has_more { data.last().map(|last| cursor(last).to_string()) } else { None };
    Page { data, next_cursor }
}
