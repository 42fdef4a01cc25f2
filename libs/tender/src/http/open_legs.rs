//! What the wallet's reconciliation asks for: `GET /internal/v1/legs`, open legs, oldest first; and
//! `GET /internal/v1/holds-past-end`, open holds whose end has passed, the first to end first.
//!
//! A leg's time is its batch's, and batches commit out of order: a reader that continues from a cursor begins some seconds
//! before it, or may miss a leg.

use api::{
    BusinessId, LegsId, Problem,
    legs::{Account, HoldPage, HoldPastEnd, LegKey, LegPage, OpenLeg},
};
use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use service::{
    ApiError,
    auth::Peer,
    extract::{Query, page_size},
};
use uuid::Uuid;

use crate::{
    App, cursor,
    store::{
        operations::{self, StoredHold, StoredLeg},
        rows,
    },
};

/// Parameters.
#[derive(Debug, Deserialize)]
pub struct List {
    after: Option<String>,
    limit: Option<i64>,
}

/// A page of legs of all businesses.
pub async fn list_legs(
    State(app): State<App>,
    _: Peer,
    Query(list): Query<List>,
) -> Result<Json<LegPage>, ApiError> {
    let limit = page_size(list.limit)?;
    let mut legs = operations::open_legs(&app.pool, place(list.after.as_deref())?, limit + 1).await?;
    let next_cursor = cut(&mut legs, limit, |leg| (leg.created_at, leg.operation_id));
    let at = legs.first().map(|leg| leg.read_at);
    let data = legs.into_iter().map(view).collect::<Result<_, _>>()?;
    Ok(Json(LegPage { data, next_cursor, at }))
}

/// A page of holds of all businesses. The tender judges by its database's clock, and ends none of them by itself.
pub async fn list_holds_past_end(
    State(app): State<App>,
    _: Peer,
    Query(list): Query<List>,
) -> Result<Json<HoldPage>, ApiError> {
    let limit = page_size(list.limit)?;
    let mut holds = operations::past_their_end(&app.pool, place(list.after.as_deref())?, limit + 1).await?;
    let next_cursor = cut(&mut holds, limit, |hold| (hold.held_until, hold.operation_id));
    let data = holds.into_iter().filter_map(|hold| view_hold(hold).transpose()).collect::<Result<_, _>>()?;
    Ok(Json(HoldPage { data, next_cursor }))
}

/// The place behind which a page begins.
fn place(after: Option<&str>) -> Result<(DateTime<Utc>, Uuid), ApiError> {
    let Some(cursor) = after else { return Ok((DateTime::<Utc>::UNIX_EPOCH, Uuid::nil())) };
    let place =
        cursor::parse(cursor).ok_or_else(|| Problem::invalid("after", "is not a next_cursor of this list"));
    Ok(place?)
}

/// Cuts off what is more than a page; the place where the next one begins, if there is one.
fn cut<T>(rows: &mut Vec<T>, limit: i64, place: impl Fn(&T) -> (DateTime<Utc>, Uuid)) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let (at, id) = place(rows.last().filter(|_| has_more)?);
    Some(cursor::write(at, id))
}

/// None of a hold whose account is missing: it is reported, and keeps no other from being found.
fn view_hold(hold: StoredHold) -> Result<Option<HoldPastEnd>, ApiError> {
    let Some((owner, asset)) = hold.owner.zip(hold.asset) else {
        let operation_id = hold.operation_id;
        tracing::error!(%operation_id, "the account of a hold is missing: run `walletctl verify`");
        return Ok(None);
    };
    Ok(Some(HoldPastEnd {
        key: key(hold.legs_id, hold.leg)?,
        account: account(hold.business_id, owner, &asset)?,
        amount: hold.amount,
        hold_until: hold.held_until,
        at: hold.created_at,
    }))
}

fn view(leg: StoredLeg) -> Result<OpenLeg, ApiError> {
    Ok(OpenLeg {
        key: key(leg.legs_id, leg.leg)?,
        account: account(leg.business_id, leg.owner, &leg.asset)?,
        state: rows::state(&leg.state)?,
        amount: leg.amount,
        at: leg.created_at,
    })
}

fn key(legs_id: Uuid, leg: i32) -> Result<LegKey, ApiError> {
    let leg = u16::try_from(leg).map_err(|error| ApiError::internal(&error))?;
    Ok(LegKey { legs_id: LegsId(legs_id), leg })
}

fn account(business_id: String, customer_id: String, asset: &str) -> Result<Account, ApiError> {
    let asset = asset.parse().map_err(|error: money::MoneyError| ApiError::internal(&error))?;
    let business_id = BusinessId::try_from(business_id).map_err(|error| ApiError::internal(&error))?;
    Ok(Account { business_id, customer_id, asset })
}
