//! The routes of a tender, public and internal.

mod accounts;
mod answer;
mod credits;
mod entries;
mod legs;
mod open_legs;
mod openapi_fields;
mod operations;
mod tender_guard;
mod versions;

use axum::{
    Router, middleware,
    routing::{get, post, put},
};
use service::openapi;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{App, rules::Rules};

impl App {
    /// Routes of the public listener, for tills, managers and customers, with their OpenAPI document.
    pub fn public(&self) -> Router {
        openapi::publish(routes(&*self.rules).with_state(self.clone()), self.rules.about())
    }

    /// The OpenAPI document of a tender of these rules.
    #[must_use]
    pub fn document(rules: &dyn Rules) -> OpenApi {
        openapi::document(routes(rules), rules.about())
    }

    /// Routes of the internal listener, for the wallet.
    pub fn internal(&self) -> Router {
        Router::new()
            .route("/internal/v1/legs", get(open_legs::list_legs))
            .route("/internal/v1/holds-past-end", get(open_legs::list_holds_past_end))
            .route("/internal/v1/legs/batch", post(legs::run_batch))
            .route("/internal/v1/legs/{legs_id}/{leg}", put(legs::forward_leg).get(legs::query_leg))
            .route("/internal/v1/legs/{legs_id}/{leg}/cancel", post(legs::cancel_leg))
            .route("/internal/v1/legs/{legs_id}/{leg}/release", post(legs::release_leg))
            .route("/internal/v1/legs/{legs_id}/{leg}/capture", post(legs::capture_leg))
            .route("/internal/v1/accounts/{customer_id}", get(accounts::show_account_to_peer))
            .route("/internal/v1/accounts/{customer_id}/entries", get(entries::list_entries_to_peer))
            .route("/internal/v1/account-versions", post(versions::show_versions))
            .layer(middleware::from_fn_with_state(self.clone(), tender_guard::refuse_others))
            .with_state(self.clone())
    }
}

fn routes(rules: &dyn Rules) -> OpenApiRouter<App> {
    // Where a till may issue nothing, it lacks the role whatever it sends.
    let credits = if rules.till_kinds().is_empty() {
        routes!(credits::create_credit)
    } else {
        routes!(credits::create_credit_at_till)
    };
    let tender = OpenApiRouter::new()
        .routes(credits)
        .routes(routes!(accounts::show_account))
        .routes(routes!(entries::list_entries))
        .routes(routes!(operations::find_operation))
        .routes(routes!(operations::show_operation));
    let mut routes = OpenApiRouter::new().nest(&format!("/api/v1/{}", rules.path()), tender);
    openapi_fields::restrict(routes.get_openapi_mut(), rules);
    routes
}
