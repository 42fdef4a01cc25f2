//! The ledger of a customer, newest first: to its owner and staff, and to the wallet, which merges those of several tenders.

use api::{
    BusinessId, CurrencyCode, CustomerId, Problem,
    history::Place,
    tender::{EntryKind, EntryView, Page, Quantity},
};
use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use ledger::read::{self, AccountEntry, Before, Filter};
use money::{Asset, Currency};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Peer, Read},
    extract::{Path, Query, page_size},
};
use sqlx::PgPool;
use utoipa::IntoParams;

use crate::App;

/// Parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct List {
    /// Only this currency.
    #[param(value_type = Option<CurrencyCode>)]
    currency: Option<Currency>,
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

/// The ledger of a customer, newest first. Another's ledger is empty.
///
/// A page looks at 2,000 entries at most: with a filter it may be short, or empty, and have a `next_cursor` all the same.
#[utoipa::path(get, path = "/accounts/{customer_id}/entries", params(("customer_id" = CustomerId, Path), List),
    responses((status = 200, description = "A page", body = Page<EntryView>)))]
pub async fn list_entries(
    State(app): State<App>,
    caller: Allow<Read>,
    Path(customer): Path<CustomerId>,
    Query(list): Query<List>,
) -> Result<Json<Page<EntryView>>, ApiError> {
    app.admit_read(&caller)?;
    let limit = page_size(list.limit)?;
    let place = Place::parse(list.cursor.as_deref().unwrap_or_default()).ok_or_else(bad_cursor)?;
    if !caller.may_act_for(&customer) {
        return Ok(Json(Page { data: Vec::new(), next_cursor: None }));
    }
    let mut page = entries(&app.public_pool, &caller.business_id, &customer, &list, &place, limit).await?;
    page.data.iter_mut().for_each(|entry| entry.legs_id = None);
    Ok(Json(page))
}

/// Parameters of the internal call.
#[derive(Debug, Deserialize)]
pub struct ListToPeer {
    business_id: BusinessId,
    kind: Option<EntryKind>,
    order_id: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    limit: i64,
    cursor: String,
}

/// `GET /internal/v1/accounts/{customer_id}/entries`: the same for the wallet, with the legs that entries belong to.
pub async fn list_entries_to_peer(
    State(app): State<App>,
    _: Peer,
    Path(customer): Path<CustomerId>,
    Query(list): Query<ListToPeer>,
) -> Result<Json<Page<EntryView>>, ApiError> {
    let place = Place::parse(&list.cursor).ok_or_else(bad_cursor)?;
    page_size(Some(list.limit))?;
    let ListToPeer { business_id, kind, order_id, from, to, limit, .. } = list;
    let list = List { currency: None, kind, order_id, from, to, limit: None, cursor: None };
    entries(&app.public_pool, &business_id, &customer, &list, &place, limit).await.map(Json)
}

async fn entries(
    pool: &PgPool,
    business: &BusinessId,
    customer: &CustomerId,
    list: &List,
    place: &Place,
    limit: i64,
) -> Result<Page<EntryView>, ApiError> {
    let limit = usize::try_from(limit).map_err(|error| ApiError::internal(&error))?;
    let asset = list.currency.map(Currency::code);
    let filter = Filter {
        asset,
        kind: list.kind.map(EntryKind::as_str),
        order_id: list.order_id.as_deref(),
        from: list.from,
        to: list.to,
    };
    let before: Vec<Before> =
        place.iter().map(|(asset, version)| Before { asset: asset.as_str().to_owned(), version }).collect();
    let part = read::page(pool, business.as_str(), customer.as_str(), &filter, &before, limit).await?;
    let next = part.next.map(place_of).transpose()?;
    let data = part.entries.into_iter().map(view).collect::<Result<_, _>>()?;
    Ok(Page { data, next_cursor: next.map(|place| place.to_string()) })
}

fn place_of(accounts: Vec<Before>) -> Result<Place, ApiError> {
    let place = |before: Before| Ok((asset(&before.asset)?, before.version));
    accounts.into_iter().map(place).collect()
}

fn asset(name: &str) -> Result<Asset, ApiError> {
    name.parse().map_err(|error: money::MoneyError| ApiError::internal(&error))
}

fn view(entry: AccountEntry) -> Result<EntryView, ApiError> {
    let asset = asset(&entry.asset)?;
    let unknown = || sqlx::Error::Decode(format!("{} is no kind of an entry", entry.kind).into());
    let kind = EntryKind::parse(&entry.kind).ok_or_else(unknown)?;
    Ok(EntryView {
        operation_id: entry.operation_id,
        kind,
        change: Quantity::new(entry.amount, asset),
        version: entry.version,
        balance_after: entry.balance_after,
        held_after: entry.held_after,
        order_id: entry.order_id,
        legs_id: entry.legs_id,
        created_at: entry.created_at,
    })
}

fn bad_cursor() -> Problem {
    Problem::invalid("cursor", "is not a next_cursor of this list")
}
