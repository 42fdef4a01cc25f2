//! `POST /internal/v1/account-versions`: the wallet, which shows balances, asks whether it has missed a change.

use api::{
    Problem,
    tender::{VERSIONS_MAX, Versions, VersionsRequest},
};
use axum::{Json, extract::State};
use service::{ApiError, auth::Peer, json::Body};

use crate::{App, store::accounts};

/// The versions of all accounts of these owners.
pub async fn show_versions(
    State(app): State<App>,
    _: Peer,
    body: Body<VersionsRequest>,
) -> Result<Json<Versions>, ApiError> {
    let owners = body.value.owners;
    if !(1..=VERSIONS_MAX).contains(&owners.len()) {
        return Err(Problem::invalid("/owners", "must be 1 to 100 owners").into());
    }
    Ok(Json(Versions { accounts: accounts::versions(&app.pool, &owners).await? }))
}
