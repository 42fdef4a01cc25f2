//! What a tender says of one account: what the cache keeps, the hub compares and clients see.

use std::time::Duration;

use api::{
    tender::{AccountView, Totals},
    wallet::{Expiring, TenderBalance, TenderKind},
};
use chrono::{DateTime, Utc};
use money::{Asset, Currency};
use serde::{Deserialize, Serialize};

/// Longest time for which a balance may be shown again.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// One account of a customer in one tender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountBalance {
    /// Its currency; absent for points, and where a tender of money has no account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// Its balances and its version.
    #[serde(flatten)]
    pub totals: Totals,
    /// What expires, soonest first.
    pub expiring: Vec<Expiring>,
}

impl AccountBalance {
    /// What the account holds; `None` where there is no account.
    #[must_use]
    pub fn asset(&self, kind: TenderKind) -> Option<Asset> {
        match self.currency {
            Some(currency) => Some(Asset::Money(currency)),
            None if kind == TenderKind::Points => Some(Asset::Points),
            None => None,
        }
    }

    /// As a balance shows it.
    #[must_use]
    pub fn shown(&self, kind: TenderKind, in_doubt: i64) -> TenderBalance {
        TenderBalance {
            tender: kind,
            currency: self.currency,
            available: self.totals.available,
            held: self.totals.held,
            in_doubt,
            expiring: self.expiring.clone(),
            version: self.totals.version,
        }
    }
}

/// The lines of a customer's account view; without any account one line of zeros.
#[must_use]
pub fn lines(account: &AccountView) -> Vec<AccountBalance> {
    let line = |currency, totals| AccountBalance { currency, totals, expiring: expiring(account, currency) };
    match &account.accounts {
        Some(accounts) if !accounts.is_empty() => {
            accounts.iter().map(|a| line(Some(a.currency), a.totals)).collect()
        }
        _ => vec![line(None, account.total.unwrap_or_default())],
    }
}

/// For how long an account view may be shown again: what is available changes without a new version when a lot expires.
#[must_use]
pub fn fresh_for(account: &AccountView, now: DateTime<Utc>) -> Duration {
    let ends = account.lots.iter().flat_map(|lot| [lot.expires_at, lot.grace_until]).flatten();
    let next = ends.filter_map(|end| (end - now).to_std().ok()).min();
    next.map_or(FRESH_FOR, |next| next.min(FRESH_FOR))
}

/// Lots that expire at one moment are one entry.
fn expiring(account: &AccountView, currency: Option<Currency>) -> Vec<Expiring> {
    let mut entries: Vec<Expiring> = Vec::new();
    let mut lots: Vec<_> =
        account.lots.iter().filter(|lot| lot.currency == currency && lot.remaining > 0).collect();
    lots.sort_by_key(|lot| lot.expires_at);
    for lot in lots {
        let Some(expires_at) = lot.expires_at else { continue };
        match entries.last_mut() {
            Some(last) if last.expires_at == expires_at => {
                last.amount = last.amount.saturating_add(lot.remaining)
            }
            _ => entries.push(Expiring { amount: lot.remaining, expires_at }),
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use api::tender::{AccountStatus, Funding, LotView};
    use chrono::TimeDelta;

    use super::*;

    fn lot(remaining: i64, expires_at: Option<DateTime<Utc>>, grace: Option<DateTime<Utc>>) -> LotView {
        LotView {
            lot_id: uuid::Uuid::nil(),
            reward_id: None,
            currency: None,
            original: 10,
            remaining,
            held: 0,
            funding: Funding::Paid,
            kind: "earn".to_owned(),
            expires_at,
            grace_until: grace,
        }
    }

    fn view(lots: Vec<LotView>) -> AccountView {
        let total = Some(Totals { version: 3, posted: 9, held: 1, available: 8 });
        AccountView {
            customer_id: "c".to_owned(),
            status: AccountStatus::Active,
            total,
            lots,
            accounts: None,
        }
    }

    #[test]
    fn a_balance_is_fresh_until_the_next_lot_expires_or_its_grace_ends() {
        let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000);
        let at = |ms| Some(now + TimeDelta::milliseconds(ms));
        assert_eq!(fresh_for(&view(vec![]), now), FRESH_FOR);
        assert_eq!(fresh_for(&view(vec![lot(1, at(60_000), None)]), now), FRESH_FOR);
        assert_eq!(fresh_for(&view(vec![lot(1, at(700), None)]), now), Duration::from_millis(700));
        let in_grace = vec![lot(1, at(-5), at(40)), lot(1, at(900), None)];
        assert_eq!(fresh_for(&view(in_grace), now), Duration::from_millis(40));
    }

    #[test]
    fn lots_of_one_moment_are_one_entry() {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let (soon, late) = (Some(now), Some(now + TimeDelta::days(1)));
        let lots = vec![
            lot(2, late, None),
            lot(3, soon, None),
            lot(4, soon, None),
            lot(0, soon, None),
            lot(5, None, None),
        ];
        let amounts: Vec<i64> = lines(&view(lots))[0].expiring.iter().map(|entry| entry.amount).collect();
        assert_eq!(amounts, [7, 2]);
    }

    #[test]
    fn a_tender_of_money_without_accounts_has_a_line_but_no_asset() {
        let empty = AccountView { accounts: Some(vec![]), total: Some(Totals::default()), ..view(vec![]) };
        let line = &lines(&empty)[0];
        assert_eq!(line.asset(TenderKind::StoreCredit), None);
        assert_eq!(line.asset(TenderKind::Points), Some(Asset::Points));
    }
}
