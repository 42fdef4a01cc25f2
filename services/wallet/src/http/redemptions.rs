//! `GET /wallet/redemptions` and `GET /wallet/redemptions/{id}`: the truth, any time.

use api::{
    BusinessId, CustomerId, Problem,
    tender::Page,
    wallet::{Links, Redemption, TenderResult},
};
use axum::{Json, extract::State};
use saga::SagaId;
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Caller, Read},
    extract::{Path, Query, page_size},
};
use sqlx::{PgPool, QueryBuilder, Row, postgres::PgRow};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{listing, redeem::OPERATION};
use crate::{app::App, sagas::link};

/// The columns of a redemption named `r`.
macro_rules! columns {
    () => {
        "r.redemption_id, r.customer_id, r.order_id, r.currency, r.amount, r.redeemed, r.status, r.reversal, \
         r.hold_expires_at, r.tenders, r.metadata, r.created_at, r.completed_at"
    };
}

/// What a redemption can be.
const STATUSES: [&str; 12] = [
    "pending",
    "completed",
    "authorized",
    "partially_refunded",
    "refunded",
    "voided",
    "expired",
    "declined",
    "reversing",
    "reversed",
    "under_review",
    "resolved",
];

/// Filters of the list; at least one.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filters {
    /// Of this order.
    order_id: Option<String>,
    /// Of the redeem with this key.
    idempotency_key: Option<String>,
    /// Of this customer.
    customer_id: Option<String>,
    /// In this status.
    status: Option<String>,
    /// Lines of a page; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
}

/// A redemption by its id: the truth, any time.
#[utoipa::path(get, path = "/redemptions/{id}", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The redemption", body = Redemption)))]
pub(super) async fn show_redemption(
    State(app): State<App>,
    caller: Allow<Read>,
    Path(id): Path<Uuid>,
) -> Result<Json<Redemption>, ApiError> {
    app.admit_read(&caller)?;
    app.require_database()?;
    visible(&app.pool, &caller, id).await?.map(Json).ok_or_else(ApiError::not_found)
}

/// Redemptions by order, key, customer or status, newest first. Customers see their own only.
#[utoipa::path(get, path = "/redemptions", params(Filters),
    responses((status = 200, description = "A page", body = Page<Redemption>)))]
pub(super) async fn list_redemptions(
    State(app): State<App>,
    caller: Allow<Read>,
    Query(filters): Query<Filters>,
) -> Result<Json<Page<Redemption>>, ApiError> {
    app.admit_read(&caller)?;
    app.require_database()?;
    let status = filters.status.as_deref().map(status_of).transpose()?;
    let limit = page_size(filters.limit)?;
    let own = caller.own_customer.as_ref().map(|c| c.as_str().to_owned());
    if let (Some(own), Some(asked)) = (&own, &filters.customer_id)
        && own != asked
    {
        return Ok(Json(Page { data: Vec::new(), next_cursor: None }));
    }
    let is_filtered = [&filters.order_id, &filters.idempotency_key, &filters.customer_id, &filters.status]
        .iter()
        .any(|f| f.is_some());
    if !is_filtered && own.is_none() {
        return Err(Problem::invalid(
            "order_id",
            "name at least one of order_id, idempotency_key, customer_id, status",
        )
        .into());
    }
    let mut sql =
        QueryBuilder::new(concat!("SELECT ", columns!(), " FROM wallet.redemption r WHERE r.business_id = "));
    // Only what is asked for is named, and a status as a literal: the planner then knows which of the partial indexes serves.
    sql.push_bind(caller.business_id.as_str());
    if let Some(customer) = own.as_ref().or(filters.customer_id.as_ref()) {
        sql.push(" AND r.customer_id = ").push_bind(customer);
    }
    if let Some(locations) = &caller.location_ids {
        sql.push(" AND r.location_id = ANY(").push_bind(locations).push(")");
    }
    if let Some(order) = &filters.order_id {
        sql.push(" AND r.order_id = ").push_bind(order);
    }
    if let Some(status) = status {
        sql.push(" AND r.status = '").push(status).push("'");
    }
    if let Some(key) = &filters.idempotency_key {
        // At most one saga, which is found first: as a join, it would be looked for in every redemption that there is.
        sql.push(" AND r.redemption_id = (SELECT s.saga_id FROM saga.saga s WHERE s.business_id = ");
        sql.push_bind(caller.business_id.as_str());
        sql.push(" AND s.operation = ").push_bind(OPERATION);
        sql.push(" AND s.scope = ").push_bind(own.as_deref().unwrap_or_default());
        sql.push(" AND s.key = ").push_bind(key).push(")");
    }
    if let Some(cursor) = filters.cursor {
        sql.push(" AND r.redemption_id < ").push_bind(cursor);
    }
    sql.push(" ORDER BY r.redemption_id DESC LIMIT ").push_bind(limit + 1);
    let rows = sql.build().fetch_all(&app.pool).await?;
    let data = rows.iter().map(read).collect::<sqlx::Result<Vec<_>>>()?;
    Ok(Json(listing(data, limit, |redemption| redemption.id)))
}

fn status_of(name: &str) -> Result<&'static str, ApiError> {
    let status = STATUSES.into_iter().find(|status| *status == name);
    status.ok_or_else(|| Problem::invalid("status", "is no status of a redemption").into())
}

/// The ids of all redemptions of a customer.
pub(super) async fn of_customer(
    pool: &PgPool,
    business: &BusinessId,
    customer: &CustomerId,
) -> sqlx::Result<Vec<SagaId>> {
    sqlx::query_scalar(
        "SELECT redemption_id FROM wallet.redemption WHERE business_id = $1 AND customer_id = $2",
    )
    .bind(business.as_str())
    .bind(customer.as_str())
    .fetch_all(pool)
    .await
}

/// A redemption that the caller may see: of its business, and of its own customer and locations if its token names some.
pub(super) async fn visible(pool: &PgPool, caller: &Caller, id: Uuid) -> sqlx::Result<Option<Redemption>> {
    let own = caller.own_customer.as_ref().map(CustomerId::as_str);
    find(pool, &caller.business_id, id, own, caller.location_ids.as_deref()).await
}

/// A redemption of a business, whoever asks.
pub(super) async fn by_id(
    pool: &PgPool,
    business: &BusinessId,
    id: Uuid,
) -> sqlx::Result<Option<Redemption>> {
    find(pool, business, id, None, None).await
}

async fn find(
    pool: &PgPool,
    business: &BusinessId,
    id: Uuid,
    own: Option<&str>,
    locations: Option<&[String]>,
) -> sqlx::Result<Option<Redemption>> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM wallet.redemption r WHERE r.business_id = $1 AND r.redemption_id = $2 AND ($3::text IS NULL OR r.customer_id = $3) \
          AND ($4::text[] IS NULL OR r.location_id = ANY($4))"
    );
    sqlx::query(SQL)
        .bind(business.as_str())
        .bind(id)
        .bind(own)
        .bind(locations)
        .fetch_optional(pool)
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

fn read(row: &PgRow) -> sqlx::Result<Redemption> {
    let decode = |error: serde_json::Error| sqlx::Error::Decode(Box::new(error));
    let id: Uuid = row.try_get("redemption_id")?;
    let status: String = row.try_get("status")?;
    let is_held = ["authorized", "capturing"].contains(&status.as_str());
    let is_back = ["reversed", "voided", "expired"].contains(&status.as_str());
    let mut tenders: Vec<TenderResult> = serde_json::from_value(row.try_get("tenders")?).map_err(decode)?;
    for tender in tenders.iter_mut().filter(|_| is_back) {
        "reversed".clone_into(&mut tender.status);
    }
    let (amount, redeemed): (i64, i64) = (row.try_get("amount")?, row.try_get("redeemed")?);
    Ok(Redemption {
        id,
        status: shown(status),
        customer_id: row.try_get("customer_id")?,
        order_id: row.try_get("order_id")?,
        currency: row.try_get("currency")?,
        amount,
        redeemed,
        amount_due: amount.saturating_sub(redeemed),
        reversal: row.try_get("reversal")?,
        hold_expires_at: if is_held { row.try_get("hold_expires_at")? } else { None },
        tenders,
        metadata: serde_json::from_value(row.try_get("metadata")?).map_err(decode)?,
        created_at: row.try_get("created_at")?,
        completed_at: row.try_get("completed_at")?,
        links: Links { own: link(id) },
    })
}

/// A capture in progress is no status of its own: until it is done, the redemption is authorized.
fn shown(status: String) -> String {
    if status == "capturing" { "authorized".to_owned() } else { status }
}
