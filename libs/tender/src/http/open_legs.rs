//! What the wallet's reconciliation asks for: `GET /internal/v1/legs`, open legs, oldest first; and
//! `GET /internal/v1/holds-past-end`, open holds whose end has passed, the first to end first.
//!
//! A leg's time is its batch's, and batches commit out of order: a leg may still come before one that was read. A reader moves its
//! cursor only over legs that are old enough that nothing can come before them any more ([`LegPage::at`] is the clock to judge by).

use anyhow::Context as _;
use api::{
    BusinessId, LegsId, Problem, leg_cursor,
    legs::{Account, HoldPage, HoldPastEnd, LegKey, LegPage, OpenLeg},
};
use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use metrics::counter;
use serde::Deserialize;
use service::{
    ApiError,
    auth::Peer,
    extract::{Query, page_size},
};
use uuid::Uuid;

use crate::{
    App,
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
    let found = operations::open_legs(&app.pool, place(list.after.as_deref())?, limit).await?;
    let next_cursor = found.looked_to.map(|(at, id)| leg_cursor::write(at, id));
    let data = found.legs.into_iter().filter_map(|leg| readable(&app, leg.operation_id, view(leg))).collect();
    Ok(Json(LegPage { data, next_cursor, at: found.read_at }))
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
    let data =
        holds.into_iter().filter_map(|hold| readable(&app, hold.operation_id, view_hold(hold))).collect();
    Ok(Json(HoldPage { data, next_cursor }))
}

/// The place behind which a page begins.
fn place(after: Option<&str>) -> Result<(DateTime<Utc>, Uuid), ApiError> {
    let Some(cursor) = after else { return Ok((DateTime::<Utc>::UNIX_EPOCH, Uuid::nil())) };
    let place = leg_cursor::parse(cursor)
        .ok_or_else(|| Problem::invalid("after", "is not a next_cursor of this list"));
    Ok(place?)
}

/// Cuts off what is more than a page; the place where the next one begins, if there is one.
fn cut<T>(rows: &mut Vec<T>, limit: i64, place: impl Fn(&T) -> (DateTime<Utc>, Uuid)) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let (at, id) = place(rows.last().filter(|_| has_more)?);
    Some(leg_cursor::write(at, id))
}

/// None of a row that cannot be read: it is reported, and keeps no other from being found.
fn readable<T>(app: &App, operation_id: Uuid, row: anyhow::Result<T>) -> Option<T> {
    row.inspect_err(|error| {
        let (tender, error) = (app.rules.name(), format!("{error:#}"));
        counter!("tender_corrupt_data_total", "tender" => tender).increment(1);
        tracing::error!(tender, %operation_id, error, "a leg cannot be read: run `walletctl verify`");
    })
    .ok()
}

fn view_hold(hold: StoredHold) -> anyhow::Result<HoldPastEnd> {
    Ok(HoldPastEnd {
        key: key(hold.legs_id, hold.leg)?,
        account: account(hold.business_id, hold.owner, hold.asset)?,
        amount: hold.amount,
        hold_until: hold.held_until,
        at: hold.created_at,
    })
}

fn view(leg: StoredLeg) -> anyhow::Result<OpenLeg> {
    Ok(OpenLeg {
        key: key(leg.legs_id, leg.leg)?,
        account: account(leg.business_id, leg.owner, leg.asset)?,
        state: rows::state(&leg.state)?,
        amount: leg.amount,
        at: leg.created_at,
    })
}

fn key(legs_id: Uuid, leg: i32) -> anyhow::Result<LegKey> {
    Ok(LegKey { legs_id: LegsId(legs_id), leg: leg.try_into()? })
}

fn account(business_id: String, owner: Option<String>, asset: Option<String>) -> anyhow::Result<Account> {
    let (customer_id, asset) = owner.zip(asset).context("its account is missing")?;
    Ok(Account { business_id: BusinessId::try_from(business_id)?, customer_id, asset: asset.parse()? })
}
