//! All routes of the wallet, one file a use case; those of operators are on a screen of their own, in `ops`.

mod balance;
mod cancel_by_key;
mod capture;
pub mod cursors;
mod held;
mod keyed;
mod ops;
mod redeem;
mod redemptions;
mod session;
mod stream;
mod transactions;
mod void;
mod ws;

use api::tender::Page;
use axum::Router;
use service::openapi::{self, About};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::App;

const ABOUT: About = About {
    title: "Wallet",
    description: "One call redeems from a customer's points, store credit and digital rewards, all or nothing.",
};

/// The public routes, with their OpenAPI document.
pub fn routes(app: App) -> Router {
    openapi::publish(documented().with_state(app), ABOUT)
}

/// The OpenAPI document of the public routes.
#[must_use]
pub fn document() -> OpenApi {
    openapi::document(documented(), ABOUT)
}

fn documented() -> OpenApiRouter<App> {
    let wallet = OpenApiRouter::new()
        .routes(routes!(redeem::redeem))
        .routes(routes!(redemptions::list_redemptions))
        .routes(routes!(redemptions::show_redemption))
        .routes(routes!(capture::capture_redemption))
        .routes(routes!(void::void_redemption))
        .routes(routes!(cancel_by_key::cancel_by_key))
        .routes(routes!(balance::show_balance))
        .routes(routes!(transactions::list_transactions))
        .routes(routes!(stream::stream_balances))
        .routes(routes!(ws::open_socket));
    OpenApiRouter::new().nest("/api/v1/wallet", wallet).nest("/api/v1/ops", ops::routes())
}

/// A page out of one row more than was asked for.
fn listing<T, C: ToString>(mut data: Vec<T>, limit: i64, cursor: impl Fn(&T) -> C) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let has_more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = if has_more { data.last().map(|last| cursor(last).to_string()) } else { None };
    Page { data, next_cursor }
}
