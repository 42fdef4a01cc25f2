//! `GET /wallet/transactions`: one history over all tenders, newest first.
//!
//! Each tender pages its own ledger by the versions of its accounts; a page here is the newest of what they have next, and its
//! cursor says where each of them goes on. So pages are the same whatever is written meanwhile.

use std::collections::HashMap;

use api::{
    BusinessId, Code, CustomerId, Problem,
    history::{Place, Transaction},
    tender::{EntryKind, EntryView, Page},
    wallet::TenderKind,
};
use axum::{Json, extract::State};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::future::try_join_all;
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Read},
    extract::{Query, page_size},
};
use sqlx::{PgPool, Row};
use utoipa::IntoParams;
use uuid::Uuid;

use super::cursors::{Places, Unread};
use crate::app::App;

/// Whose history, and which part of it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Whose history.
    customer_id: CustomerId,
    /// Only of this tender.
    tender: Option<TenderKind>,
    /// Only what happened so.
    kind: Option<EntryKind>,
    /// Only what paid this order, or took it back.
    order_id: Option<String>,
    /// Only from this time on.
    from: Option<DateTime<Utc>>,
    /// Only before this time.
    to: Option<DateTime<Utc>>,
    /// Lines of a page; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl List {
    /// As the tenders take it.
    fn filter(&self) -> Vec<(&'static str, String)> {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let parts = [
            ("kind", self.kind.map(|kind| kind.as_str().to_owned())),
            ("order_id", self.order_id.clone()),
            ("from", self.from.map(time)),
            ("to", self.to.map(time)),
        ];
        parts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// One history over all tenders, newest first.
#[utoipa::path(get, path = "/transactions", params(List),
    responses((status = 200, description = "A page", body = Page<Transaction>)))]
pub(super) async fn list_transactions(
    State(app): State<App>,
    caller: Allow<Read>,
    Query(list): Query<List>,
) -> Result<Json<Page<Transaction>>, ApiError> {
    caller.require_customer(&list.customer_id)?;
    app.admit_read(&caller)?;
    let limit = usize::try_from(page_size(list.limit)?).map_err(|error| ApiError::internal(&error))?;
    let mut places = Places::parse(list.cursor.as_deref()).ok_or_else(bad_cursor)?;
    let filter = list.filter();
    let asked = TenderKind::ALL.into_iter().filter(|kind| list.tender.is_none_or(|only| only == *kind));
    let asked = asked.filter_map(|kind| Some((kind, places.of(kind)?)));
    let read = asked.map(async |(kind, place)| {
        let (business, customer) = (&caller.business_id, list.customer_id.as_str());
        let found = app.tenders.get(kind).entries(business, customer, &filter, place, limit);
        let page = found.await.map_err(|error| away(kind, &error))?;
        let next = page
            .next_cursor
            .map(|cursor| Place::parse(&cursor).ok_or_else(|| unreadable(kind)))
            .transpose()?;
        Ok::<_, ApiError>(Unread { kind, entries: page.data.into(), next })
    });
    let mut lists = try_join_all(read).await?;
    let newest = take_newest(&mut lists, limit);
    let has_more = lists.iter().any(|list| !list.entries.is_empty() || list.next.is_some());
    places.advance(&newest, &lists);
    let redemptions = redemptions(&app.pool, &caller.business_id, &newest).await?;
    let data = newest.into_iter().map(|(kind, entry)| transaction(kind, entry, &redemptions)).collect();
    Ok(Json(Page { data, next_cursor: has_more.then(|| places.write()) }))
}

/// Takes the newest `limit` of all lists, each newest first. A list keeps its own order, whatever its tender's clock did;
/// what happened at one moment keeps the order of tenders. Where a tender has not looked any further, what it has next may be
/// newer than what the others have: there the page ends.
fn take_newest(lists: &mut [Unread], limit: usize) -> Vec<(TenderKind, EntryView)> {
    let mut newest = Vec::with_capacity(limit);
    while newest.len() < limit && lists.iter().all(|list| !list.entries.is_empty() || list.next.is_none()) {
        let heads = lists.iter_mut().rev().filter(|list| !list.entries.is_empty());
        let Some(list) = heads.max_by_key(|list| list.entries[0].created_at) else { break };
        newest.extend(list.entries.pop_front().map(|entry| (list.kind, entry)));
    }
    newest
}

/// Redemptions by the id under which tenders know their legs.
async fn redemptions(
    pool: &PgPool,
    business: &BusinessId,
    entries: &[(TenderKind, EntryView)],
) -> sqlx::Result<HashMap<Uuid, Uuid>> {
    let mut legs: Vec<Uuid> = entries.iter().filter_map(|(_, entry)| entry.legs_id).collect();
    legs.sort_unstable();
    legs.dedup();
    if legs.is_empty() {
        return Ok(HashMap::new());
    }
    // Sagas that take a redemption further have its legs, and are its children.
    let rows = sqlx::query(
        "SELECT legs_id, saga_id FROM saga.saga
         WHERE legs_id = ANY($1) AND operation <> 'orphan' AND operation <> 'taken_back'
           AND business_id = $2 AND parent_id IS NULL",
    )
    .bind(legs)
    .bind(business.as_str())
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn transaction(tender: TenderKind, entry: EntryView, redemptions: &HashMap<Uuid, Uuid>) -> Transaction {
    let redemption_id = entry.legs_id.and_then(|legs| redemptions.get(&legs).copied());
    let EntryView {
        operation_id,
        kind,
        change,
        version,
        balance_after,
        held_after,
        order_id,
        created_at,
        ..
    } = entry;
    Transaction {
        tender,
        operation_id,
        redemption_id,
        kind,
        change,
        version,
        balance_after,
        held_after,
        order_id,
        created_at,
    }
}

/// A history with a hole in it would not be one.
fn away(kind: TenderKind, error: &api::client::CallError) -> ApiError {
    tracing::warn!(tender = kind.as_str(), %error, "history without a tender");
    let detail = format!("{} does not answer; the others can be read with tender=.", kind.as_str());
    ApiError::new(Code::TenderUnavailable, detail)
}

fn unreadable(kind: TenderKind) -> ApiError {
    tracing::error!(tender = kind.as_str(), "history goes on at a place that cannot be read");
    ApiError::new(Code::TenderUnavailable, format!("{} gave a place that cannot be read.", kind.as_str()))
}

fn bad_cursor() -> Problem {
    Problem::invalid("cursor", "is not a next_cursor of this list")
}
