//! `GET /internal/v1/legs`: legs in force, oldest first, for the wallet's search for legs without a saga.
//!
//! A leg's time is its batch's, and batches commit out of order: who continues from a cursor begins some seconds
//! before it, or may miss one.

use api::{
    BusinessId, LegsId, Problem,
    legs::{Account, LegInForce, LegKey, LegPage},
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
        operations::{self, StoredLeg},
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
    let after = match list.after.as_deref() {
        None => (DateTime::<Utc>::UNIX_EPOCH, Uuid::nil()),
        Some(cursor) => cursor::parse(cursor)
            .ok_or_else(|| Problem::invalid("after", "is not a next_cursor of this list"))?,
    };
    let mut legs = operations::in_force(&app.pool, after, limit + 1).await?;
    let has_more = legs.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if has_more {
        legs.pop();
    }
    let next_cursor =
        legs.last().filter(|_| has_more).map(|leg| cursor::write(leg.created_at, leg.operation_id));
    let at = legs.first().map(|leg| leg.read_at);
    let data = legs.into_iter().map(view).collect::<Result<_, _>>()?;
    Ok(Json(LegPage { data, next_cursor, at }))
}

/// Parameters of the list of holds past their end.
#[derive(Debug, Deserialize)]
pub struct PastEnd {
    cursor: Option<String>,
    limit: Option<i64>,
}

/// A page of legs of all businesses that are held past their end.
pub async fn list_holds_past_end(
    State(app): State<App>,
    _: Peer,
    Query(list): Query<PastEnd>,
) -> Result<Json<LegPage>, ApiError> {
    let limit = page_size(list.limit)?;
    let after = match list.cursor.as_deref() {
        None => (DateTime::<Utc>::UNIX_EPOCH, Uuid::nil()),
        Some(cursor) => cursor::parse(cursor)
            .ok_or_else(|| Problem::invalid("cursor", "is not a next_cursor of this list"))?,
    };
    let mut legs = operations::held_past_end(&app.pool, after, limit + 1).await?;
    let has_more = legs.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if has_more {
        legs.pop();
    }
    let last = legs.last().filter(|_| has_more);
    let next_cursor = last.and_then(|leg| Some(cursor::write(leg.hold_until?, leg.operation_id)));
    let at = legs.first().map(|leg| leg.read_at);
    let data = legs.into_iter().map(view).collect::<Result<_, _>>()?;
    Ok(Json(LegPage { data, next_cursor, at }))
}

fn view(leg: StoredLeg) -> Result<LegInForce, ApiError> {
    let asset = leg.asset.parse().map_err(|error: money::MoneyError| ApiError::internal(&error))?;
    let business_id = BusinessId::try_from(leg.business_id).map_err(|error| ApiError::internal(&error))?;
    let number = u16::try_from(leg.leg).map_err(|error| ApiError::internal(&error))?;
    Ok(LegInForce {
        key: LegKey { legs_id: LegsId(leg.legs_id), leg: number },
        account: Account { business_id, customer_id: leg.owner, asset },
        state: rows::state(&leg.state)?,
        amount: leg.amount,
        at: leg.created_at,
    })
}
