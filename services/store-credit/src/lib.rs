//! Store credit: money that a customer may spend at this retailer, in any currency.

use money::Asset;
use service::openapi::About;
use tender::rules::Rules;

/// The rules of store credit.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreCredit;

impl Rules for StoreCredit {
    fn name(&self) -> &'static str {
        "store_credit"
    }

    fn path(&self) -> &'static str {
        "store-credits"
    }

    fn about(&self) -> About {
        About {
            title: "Store credit",
            description: "Store credit of customers, in minor units of a currency, kept in lots that may expire.",
        }
    }

    fn accepts(&self, asset: Asset) -> bool {
        asset.currency().is_some()
    }

    fn credit_kinds(&self) -> &'static [&'static str] {
        &["issue", "top_up", "bonus", "deposit", "refund"]
    }
}

#[cfg(test)]
mod tests {
    use money::Currency;

    use super::*;

    #[test]
    fn store_credit_is_money_and_no_till_issues_it() {
        assert!(StoreCredit.accepts(Asset::Money(Currency::USD)));
        assert!(!StoreCredit.accepts(Asset::Points));
        assert!(StoreCredit.till_kinds().is_empty());
    }
}
