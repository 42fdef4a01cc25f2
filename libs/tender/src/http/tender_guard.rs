//! Refuses calls that are meant for another tender: a wrong address must not take value from the wrong ledger, nor
//! show one ledger's balance as another's.

use api::{Code, legs::TENDER};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use service::ApiError;

use crate::App;

/// 421 where the caller names another tender. A caller that names none is let through: versions of the wallet that do not name
/// the tender may be running beside this one.
pub(super) async fn refuse_others(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_ours = |name: &axum::http::HeaderValue| name.as_bytes() == app.rules.name().as_bytes();
    if request.headers().get(TENDER).is_none_or(is_ours) {
        next.run(request).await
    } else {
        ApiError::new(Code::WrongTender, format!("This is {}. Nothing was done.", app.rules.name()))
            .into_response()
    }
}
