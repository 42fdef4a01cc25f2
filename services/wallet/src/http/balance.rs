//! `GET /wallet/balance`: what each tender holds, and what is in doubt.

use std::collections::HashMap;

use api::{
    BusinessId, CustomerId,
    tender::{AccountView, Totals},
    wallet::{Expiring, TenderBalance, TenderKind, WalletBalance},
};
use axum::{Json, extract::State};
use money::{Asset, Currency};
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Caller, Read},
    extract::Query,
};
use sqlx::{PgPool, Row};

use crate::{app::App, plan::Plan};

/// Whose balance.
#[derive(Debug, Deserialize)]
pub(super) struct Of {
    customer_id: CustomerId,
}

impl App {
    /// Counts a read of a customer's own token.
    ///
    /// # Errors
    /// 429 past the limit.
    pub(super) fn admit_read(&self, caller: &Caller) -> Result<(), ApiError> {
        match &caller.own_customer {
            Some(own) => self.limits.reads.admit(&format!("{} {own}", caller.business_id)),
            None => Ok(()),
        }
    }
}

/// The balance of a customer, read from the tenders. A tender that cannot be asked is named instead.
pub(super) async fn show_balance(
    State(app): State<App>,
    caller: Allow<Read>,
    Query(Of { customer_id }): Query<Of>,
) -> Result<Json<WalletBalance>, ApiError> {
    caller.require_customer(&customer_id)?;
    app.admit_read(&caller)?;
    app.require_database()?;
    let business = &caller.business_id;
    let accounts = TenderKind::ALL.map(|kind| {
        let tender = app.tenders.get(kind);
        let customer_id = customer_id.as_str();
        async move { (kind, tender.account(business, customer_id).await) }
    });
    let (accounts, in_doubt) =
        tokio::join!(futures_util::future::join_all(accounts), in_doubt(&app.pool, business, &customer_id));
    let in_doubt = in_doubt?;
    let mut answer =
        WalletBalance { customer_id: customer_id.into(), balances: Vec::new(), degraded: Vec::new() };
    for (kind, account) in accounts {
        match account {
            Ok(account) => answer.balances.extend(lines(kind, &account, &in_doubt)),
            Err(error) => {
                tracing::warn!(tender = kind.as_str(), %error, "balance without a tender");
                answer.degraded.push(kind);
            }
        }
    }
    Ok(Json(answer))
}

type InDoubt = HashMap<(TenderKind, Asset), i64>;

fn lines(kind: TenderKind, account: &AccountView, in_doubt: &InDoubt) -> Vec<TenderBalance> {
    let line = |currency: Option<Currency>, totals: &Totals| {
        let asset = currency.map_or(Asset::Points, Asset::Money);
        TenderBalance {
            tender: kind,
            currency,
            available: totals.available,
            held: totals.held,
            in_doubt: in_doubt.get(&(kind, asset)).copied().unwrap_or(0),
            expiring: expiring(account, currency),
            version: totals.version,
        }
    };
    match &account.accounts {
        Some(accounts) if !accounts.is_empty() => {
            accounts.iter().map(|a| line(Some(a.currency), &a.totals)).collect()
        }
        _ => vec![line(None, &account.total.unwrap_or_default())],
    }
}

/// What expires, soonest first; lots of one moment are one line.
fn expiring(account: &AccountView, currency: Option<Currency>) -> Vec<Expiring> {
    let mut lines: Vec<Expiring> = Vec::new();
    let mut lots: Vec<_> =
        account.lots.iter().filter(|lot| lot.currency == currency && lot.remaining > 0).collect();
    lots.sort_by_key(|lot| lot.expires_at);
    for lot in lots {
        let Some(expires_at) = lot.expires_at else { continue };
        match lines.last_mut() {
            Some(last) if last.expires_at == expires_at => {
                last.amount = last.amount.saturating_add(lot.remaining)
            }
            _ => lines.push(Expiring { amount: lot.remaining, expires_at }),
        }
    }
    lines
}

/// Units that legs of unfinished sagas and dead letters may have taken, by tender and asset.
async fn in_doubt(pool: &PgPool, business: &BusinessId, customer: &CustomerId) -> Result<InDoubt, ApiError> {
    let rows = sqlx::query(
        "SELECT s.plan FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id
         WHERE r.business_id = $1 AND r.customer_id = $2
           AND (r.status IN ('pending', 'capturing', 'reversing', 'under_review') OR r.reversal = 'pending')",
    )
    .bind(business.as_str())
    .bind(customer.as_str())
    .fetch_all(pool)
    .await?;
    let mut sums = InDoubt::new();
    for row in rows {
        let plan: serde_json::Value = row.try_get(0)?;
        let Ok(Plan::Redeem(plan)) = serde_json::from_value(plan) else { continue };
        for leg in plan.legs {
            let sum = sums.entry((leg.tender, leg.account.asset)).or_default();
            *sum = sum.saturating_add(leg.units);
        }
    }
    Ok(sums)
}
