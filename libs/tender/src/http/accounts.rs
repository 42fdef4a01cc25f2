//! Balances and lots of a customer. Without any value: zeros.

use api::{
    BusinessId, CurrencyCode, CustomerId, Problem,
    tender::{AccountStatus, AccountView, CurrencyAccount, LotView, PastAccountView, PastBalance, Totals},
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use money::{Asset, Currency};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Peer, Read},
    extract::{Path, Query},
};
use sqlx::PgPool;
use utoipa::{IntoParams, ToSchema};

use crate::{
    App,
    command::AccountKey,
    executor::ExecuteError,
    store::accounts::{self, StoredAccount},
};

/// Parameters of `GET /…/accounts/{customer_id}`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Show {
    /// Only this currency.
    #[param(value_type = Option<CurrencyCode>)]
    currency: Option<Currency>,
    /// The balance at this time in the past. What was answered once stands.
    at: Option<DateTime<Utc>>,
}

/// A customer's account: balances and lots, or with `at` the balance at a time in the past.
///
/// Without any value: zeros. So does another customer's account look to a customer.
#[utoipa::path(get, path = "/accounts/{customer_id}", params(("customer_id" = CustomerId, Path), Show),
    responses((status = 200, description = "The account", body = AccountOrPast)))]
pub async fn show_account(
    State(app): State<App>,
    caller: Allow<Read>,
    Path(customer): Path<CustomerId>,
    Query(show): Query<Show>,
) -> Result<Response, ApiError> {
    app.admit_read(&caller)?;
    let is_visible = caller.may_act_for(&customer);
    if let Some(at) = show.at {
        let found = match is_visible {
            true => past(&app.public_pool, &caller.business_id, customer.as_str(), at).await?,
            // Nobody's account: what is hidden is refused, or empty, like what does not exist.
            false => past(&app.public_pool, &caller.business_id, "", at).await?,
        };
        let accounts =
            found.into_iter().filter(|account| is_asked(account.currency, show.currency)).collect();
        return Ok(Json(PastAccountView { customer_id: customer.into(), at, accounts }).into_response());
    }
    let found = match is_visible {
        true => current(&app, &app.public_pool, &caller.business_id, customer.as_str()).await?,
        false => Vec::new(),
    };
    Ok(Json(view(&app, customer.into(), found, show.currency)?).into_response())
}

/// What [`show_account`] answers with.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum AccountOrPast {
    Now(AccountView),
    Past(PastAccountView),
}

/// Parameters of the internal call.
#[derive(Debug, Deserialize)]
pub struct ShowToPeer {
    business_id: BusinessId,
    currency: Option<Currency>,
}

/// `GET /internal/v1/accounts/{customer_id}?business_id=`: the same view, for the wallet.
pub async fn show_account_to_peer(
    State(app): State<App>,
    _: Peer,
    Path(customer): Path<CustomerId>,
    Query(show): Query<ShowToPeer>,
) -> Result<Json<AccountView>, ApiError> {
    let found = current(&app, &app.pool, &show.business_id, customer.as_str()).await?;
    view(&app, customer.into(), found, show.currency).map(Json)
}

/// The owner's accounts at a time in the past. The answer never changes: what is still to come is refused.
async fn past(
    pool: &PgPool,
    business: &BusinessId,
    owner: &str,
    at: DateTime<Utc>,
) -> Result<Vec<PastBalance>, ApiError> {
    if at > accounts::settled(pool, business, owner).await? {
        return Err(Problem::invalid("at", "must not be in the future").into());
    }
    Ok(accounts::past(pool, business, owner, at).await?)
}

/// The owner's accounts now. One of which more lots have lapsed than a statement looks at is swept before.
async fn current(
    app: &App,
    pool: &PgPool,
    business: &BusinessId,
    owner: &str,
) -> Result<Vec<StoredAccount>, ApiError> {
    let of_rewards = app.rules.takes_from_rewards();
    let found = accounts::current(pool, business, owner, of_rewards).await?;
    if found.iter().all(|account| !account.is_overdue) {
        return Ok(found);
    }
    for account in found.iter().filter(|account| account.is_overdue) {
        let key = AccountKey { business_id: business.clone(), owner: owner.to_owned(), asset: account.asset };
        app.executor.sweep(key).await.map_err(|error| match error {
            ExecuteError::Unavailable | ExecuteError::Unknown => ApiError::overloaded(),
            ExecuteError::Failed => ApiError::internal(&error),
        })?;
    }
    let found = accounts::current(pool, business, owner, of_rewards).await?;
    if found.iter().any(|account| account.is_overdue) {
        return Err(ApiError::overloaded());
    }
    Ok(found)
}

fn is_asked(currency: Option<Currency>, asked: Option<Currency>) -> bool {
    asked.is_none() || currency == asked
}

fn view(
    app: &App,
    customer_id: String,
    mut found: Vec<StoredAccount>,
    currency: Option<Currency>,
) -> Result<AccountView, ApiError> {
    let is_points = app.rules.accepts(Asset::Points);
    if is_points && currency.is_some() {
        return Err(Problem::invalid("currency", "points have no currency").into());
    }
    found.retain(|account| is_asked(account.asset.currency(), currency));
    // The strictest of several: it is the reason why value does not leave.
    let strictness = |status: &AccountStatus| match status {
        AccountStatus::Active => 0,
        AccountStatus::Frozen => 1,
        AccountStatus::Closed => 2,
    };
    let status = found.iter().map(|account| account.status).max_by_key(strictness);
    let total = match found.as_slice() {
        [] => Some(Totals::default()),
        [only] => Some(only.totals),
        _ => None,
    };
    let by_currency = found.iter().filter_map(|account| {
        account.asset.currency().map(|currency| CurrencyAccount { currency, totals: account.totals })
    });
    let accounts = (!is_points).then(|| by_currency.collect());
    let mut lots: Vec<LotView> = found.into_iter().flat_map(|account| account.lots).collect();
    lots.sort_by_key(|lot| (lot.expires_at.is_none(), lot.expires_at, lot.lot_id));
    Ok(AccountView { customer_id, status: status.unwrap_or(AccountStatus::Active), total, lots, accounts })
}
