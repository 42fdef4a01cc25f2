//! `GET /wallet/balance`: what each tender holds, and what is in doubt.
//!
//! What was read a moment ago is shown again unless something has changed since: one round trip to Redis and nothing
//! else. What the cache does not know is asked of the tenders, and of this service's own redemptions.

use std::collections::HashMap;

use api::{
    CustomerId,
    client::CallError,
    tender::Owner,
    wallet::{TenderKind, WalletBalance},
};
use axum::{Json, extract::State};
use money::Asset;
use serde::Deserialize;
use service::{
    ApiError,
    auth::{Allow, Caller, Read},
    extract::Query,
};
use sqlx::PgPool;
use utoipa::IntoParams;

use crate::{
    app::App,
    live::account_balance::{self, AccountBalance},
    plan::REDEEM_VERSION,
};

/// Whose balance.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Of {
    /// Whose wallet.
    pub customer_id: CustomerId,
}

/// The balance of a customer. A tender that cannot be asked is named instead.
#[utoipa::path(get, path = "/balance", params(Of),
    responses((status = 200, description = "The balance", body = WalletBalance)))]
pub(super) async fn show_balance(
    State(app): State<App>,
    caller: Allow<Read>,
    Query(Of { customer_id }): Query<Of>,
) -> Result<Json<WalletBalance>, ApiError> {
    caller.require_customer(&customer_id)?;
    app.admit_read(&caller)?;
    let owner = Owner { business_id: caller.business_id.clone(), customer_id };
    Ok(Json(app.balance(&owner).await?.0))
}

impl App {
    /// Counts a read of a customer's own token.
    ///
    /// # Errors
    /// 429 past the limit.
    pub(crate) fn admit_read(&self, caller: &Caller) -> Result<(), ApiError> {
        match &caller.own_customer {
            Some(own) => self.limits.reads.admit(&format!("{} {own}", caller.business_id)),
            None => Ok(()),
        }
    }

    /// A customer's balance, and the lines that it was made of.
    ///
    /// # Errors
    /// 503 where the database has to be asked and is away.
    pub(crate) async fn balance(
        &self,
        owner: &Owner,
    ) -> Result<(WalletBalance, Vec<(TenderKind, AccountBalance)>), ApiError> {
        let mut cached = self.live.cache.read(owner).await;
        let is_free_of_doubt = cached.is_free_of_doubt;
        let tenders = TenderKind::ALL.map(|kind| {
            let known = cached.take(kind);
            async move {
                match known {
                    Some(lines) => Ok(lines),
                    None => self.read_through(owner, kind).await,
                }
            }
        });
        let in_doubt =
            async { if is_free_of_doubt { Ok(InDoubt::new()) } else { self.in_doubt(owner).await } };
        let (tenders, in_doubt) = tokio::join!(futures_util::future::join_all(tenders), in_doubt);
        let in_doubt = in_doubt?;
        let mut answer = WalletBalance {
            customer_id: owner.customer_id.as_str().to_owned(),
            balances: Vec::new(),
            degraded: Vec::new(),
        };
        let mut all = Vec::new();
        for (kind, lines) in TenderKind::ALL.into_iter().zip(tenders) {
            match lines {
                Ok(lines) => all.extend(lines.into_iter().map(|line| (kind, line))),
                Err(error) => {
                    tracing::warn!(tender = kind.as_str(), %error, "balance without a tender");
                    answer.degraded.push(kind);
                }
            }
        }
        let shown = all.iter().map(|(kind, line)| {
            let units = line.asset(*kind).and_then(|asset| in_doubt.get(&(*kind, asset)).copied());
            line.shown(*kind, units.unwrap_or(0))
        });
        answer.balances = shown.collect();
        Ok((answer, all))
    }

    async fn read_through(&self, owner: &Owner, kind: TenderKind) -> Result<Vec<AccountBalance>, CallError> {
        let account = self.tenders.get(kind).account(&owner.business_id, owner.customer_id.as_str()).await?;
        let lines = account_balance::lines(&account);
        let fresh_for = account_balance::fresh_for(&account, self.clock.now());
        self.live.cache.store(owner, kind, &lines, fresh_for).await;
        Ok(lines)
    }

    async fn in_doubt(&self, owner: &Owner) -> Result<InDoubt, ApiError> {
        self.require_database()?;
        let in_doubt = in_doubt(&self.pool, owner).await?;
        if in_doubt.is_empty() {
            self.live.cache.store_free_of_doubt(owner).await;
        }
        Ok(in_doubt)
    }
}

type InDoubt = HashMap<(TenderKind, Asset), i64>;

/// Units that a customer's open redemptions ask for, by tender and asset: one row of each, however many redemptions are open and
/// whatever else their plans hold. $1 business, $2 customer, $3 the version of a redeem's plan.
const IN_DOUBT: &str = "SELECT leg ->> 'tender', leg #>> '{account,asset}',
           least(sum((leg ->> 'units')::bigint), 9223372036854775807)::bigint
    FROM wallet.redemption r
    CROSS JOIN LATERAL (SELECT plan FROM saga.saga WHERE saga_id = r.redemption_id AND version = $3 OFFSET 0) AS s
    CROSS JOIN LATERAL jsonb_array_elements(s.plan -> 'legs') AS leg
    WHERE r.business_id = $1 AND r.customer_id = $2
      AND (r.status IN ('pending', 'capturing', 'reversing', 'under_review') OR r.reversal = 'pending')
    GROUP BY 1, 2";

/// Units that legs of unfinished sagas and dead letters may have taken, by tender and asset.
async fn in_doubt(pool: &PgPool, owner: &Owner) -> Result<InDoubt, ApiError> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(IN_DOUBT)
        .bind(owner.business_id.as_str())
        .bind(owner.customer_id.as_str())
        .bind(REDEEM_VERSION)
        .fetch_all(pool)
        .await?;
    let known = |(tender, asset, units): (String, String, i64)| {
        Some(((TenderKind::parse(&tender)?, asset.parse().ok()?), units))
    };
    Ok(rows.into_iter().filter_map(known).collect())
}
