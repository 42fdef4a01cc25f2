//! Operations by id, and by the key that they were asked for with.

use api::{
    Code, CustomerId, Outcome, Problem,
    derive::public_operation_id,
    tender::{OperationView, Quantity},
};
use axum::{Json, extract::State};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Caller, Read},
    extract::{Path, Query},
};
use utoipa::IntoParams;
use uuid::Uuid;

use super::answer;
use crate::{
    App,
    store::operations::{self, StoredOperation},
};

/// Public operations with an idempotency key of their own.
const KEYED: [&str; 1] = ["credit"];

/// An operation by its id.
#[utoipa::path(get, path = "/operations/{id}", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The operation", body = OperationView)))]
pub async fn show_operation(
    State(app): State<App>,
    caller: Allow<Read>,
    Path(id): Path<Uuid>,
) -> Result<Json<OperationView>, ApiError> {
    app.admit_read(&caller)?;
    let found = operations::find(&app.public_pool, &caller.business_id, &[id]).await?;
    view(&caller, found)
}

/// Parameters of the look-up by key.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Find {
    /// Whose account.
    customer_id: CustomerId,
    /// The key of the call whose answer was lost.
    #[param(min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$")]
    idempotency_key: String,
}

/// An operation by its idempotency key, for a caller whose answer was lost.
// The key's operation ids are functions of it, so this reads the primary key.
#[utoipa::path(get, path = "/operations", params(Find),
    responses((status = 200, description = "The operation", body = OperationView)))]
pub async fn find_operation(
    State(app): State<App>,
    caller: Allow<Read>,
    Query(find): Query<Find>,
) -> Result<Json<OperationView>, ApiError> {
    app.admit_read(&caller).map_err(answer::step_error)?;
    if !api::id::is_visible_ascii(&find.idempotency_key, 255) {
        return Err(Problem::invalid("idempotency_key", "must be 1 to 255 visible ASCII characters").into());
    }
    let id = |operation: &str| {
        public_operation_id(&caller.business_id, find.customer_id.as_str(), operation, &find.idempotency_key)
    };
    let ids: Vec<Uuid> = KEYED.into_iter().map(id).collect();
    let found = operations::find(&app.public_pool, &caller.business_id, &ids).await.map_err(ApiError::from);
    found.and_then(|found| view(&caller, found)).map_err(of_the_key)
}

/// The error of a look-up by key. It is made beside any call that is still under way: that nothing is stored now does not say that
/// nothing will be.
fn of_the_key(error: ApiError) -> ApiError {
    if error.problem().status != 404 {
        return answer::step_error(error);
    }
    let detail = "Nothing is stored under this key. A call that is under way may still use it.";
    Problem::new(Code::NotFound, detail).outcome(Outcome::Unknown).into()
}

fn view(caller: &Caller, found: Option<StoredOperation>) -> Result<Json<OperationView>, ApiError> {
    let found = found.ok_or_else(ApiError::not_found)?;
    if caller.own_customer.as_ref().is_some_and(|own| own.as_str() != found.owner) {
        return Err(ApiError::not_found());
    }
    let asset = found.asset.parse().map_err(|error: money::MoneyError| ApiError::internal(&error))?;
    Ok(Json(OperationView {
        operation_id: found.operation_id,
        customer_id: found.owner,
        kind: found.kind,
        status: found.state,
        quantity: Quantity::new(found.amount, asset),
        order_id: found.order_id,
        response: found.response,
        created_at: found.created_at,
        updated_at: found.updated_at,
    }))
}
