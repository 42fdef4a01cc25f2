//! Loyalty points: whole numbers, no currency.

use money::Asset;
use service::openapi::About;
use tender::rules::Rules;

/// The rules of points.
#[derive(Debug, Clone, Copy, Default)]
pub struct Points;

impl Rules for Points {
    fn name(&self) -> &'static str {
        "points"
    }

    fn path(&self) -> &'static str {
        "points"
    }

    fn about(&self) -> About {
        About {
            title: "Points",
            description: "Loyalty points of customers: whole numbers, kept in lots that expire.",
        }
    }

    fn accepts(&self, asset: Asset) -> bool {
        asset == Asset::Points
    }

    fn credit_kinds(&self) -> &'static [&'static str] {
        &["earn", "bonus", "adjust"]
    }

    /// Points are earned at the till, with the purchase.
    fn till_kinds(&self) -> &'static [&'static str] {
        &["earn"]
    }
}

#[cfg(test)]
mod tests {
    use money::Currency;

    use super::*;

    #[test]
    fn points_are_points_and_tills_only_earn() {
        assert!(Points.accepts(Asset::Points));
        assert!(!Points.accepts(Asset::Money(Currency::USD)));
        assert!(Points.till_kinds().iter().all(|kind| Points.credit_kinds().contains(kind)));
        assert!(!Points.takes_from_rewards());
    }
}
