//! `GET /api/v1/…/accounts/{customer_id}/entries`: the ledger of a customer, newest first.

use api::{
    CustomerId, Problem,
    tender::{EntryView, Page, Quantity},
};
use axum::{Json, extract::State};
use ledger::read::{self, AccountEntry, Before};
use money::{Asset, Currency};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Read},
    extract::{Path, Query, page_size},
};

use crate::App;

/// Parameters.
#[derive(Debug, Deserialize)]
pub struct List {
    currency: Option<Currency>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Entries of all of a customer's accounts. Another's ledger is empty.
pub async fn list_entries(
    State(app): State<App>,
    caller: Allow<Read>,
    Path(customer): Path<CustomerId>,
    Query(list): Query<List>,
) -> Result<Json<Page<EntryView>>, ApiError> {
    app.admit_read(&caller)?;
    let limit = page_size(list.limit)?;
    let mut before = list.cursor.as_deref().map_or(Some(Vec::new()), parse_cursor).ok_or_else(bad_cursor)?;
    if !caller.may_act_for(&customer) {
        return Ok(Json(Page { data: Vec::new(), next_cursor: None }));
    }
    let asset = list.currency.map(Currency::code);
    let business = caller.business_id.as_str();
    // One more than asked for tells whether there is a next page.
    let mut entries = read::page(&app.pool, business, customer.as_str(), asset, &before, limit + 1).await?;
    let has_more = entries.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if has_more {
        entries.pop();
    }
    for entry in &entries {
        advance(&mut before, entry);
    }
    let next_cursor = has_more.then(|| write_cursor(&before));
    Ok(Json(Page { data: entries.into_iter().map(view).collect::<Result<_, _>>()?, next_cursor }))
}

fn view(entry: AccountEntry) -> Result<EntryView, ApiError> {
    let asset: Asset = entry.asset.parse().map_err(|error: money::MoneyError| ApiError::internal(&error))?;
    Ok(EntryView {
        operation_id: entry.operation_id,
        kind: entry.kind,
        change: Quantity::new(entry.amount, asset),
        version: entry.version,
        balance_after: entry.balance_after,
        held_after: entry.held_after,
        order_id: entry.order_id,
        created_at: entry.created_at,
    })
}

/// A cursor says for each asset below which version the next page begins: `USD:45,KHR:7`.
fn parse_cursor(cursor: &str) -> Option<Vec<Before>> {
    let part = |part: &str| {
        let (asset, version) = part.split_once(':')?;
        let asset: Asset = asset.parse().ok()?;
        let version = version.parse().ok().filter(|version| *version > 0)?;
        Some(Before { asset: asset.as_str().to_owned(), version })
    };
    cursor.split(',').map(part).collect()
}

fn write_cursor(before: &[Before]) -> String {
    let parts: Vec<String> = before.iter().map(|b| format!("{}:{}", b.asset, b.version)).collect();
    parts.join(",")
}

fn advance(before: &mut Vec<Before>, entry: &AccountEntry) {
    match before.iter_mut().find(|b| b.asset == entry.asset) {
        Some(known) => known.version = entry.version,
        None => before.push(Before { asset: entry.asset.clone(), version: entry.version }),
    }
}

fn bad_cursor() -> Problem {
    Problem::invalid("cursor", "is not a next_cursor of this list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_and_garbage_is_refused() {
        let before = parse_cursor("USD:45,KHR:7").unwrap();
        assert_eq!(write_cursor(&before), "USD:45,KHR:7");
        for bad in
            ["", "USD", "USD:", "USD:x", "USD:0", "USD:-1", "usd:1", "USD:1,", "USD:99999999999999999999"]
        {
            assert_eq!(parse_cursor(bad), None, "{bad}");
        }
    }
}
