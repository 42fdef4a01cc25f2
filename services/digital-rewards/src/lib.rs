//! Digital rewards: gift cards and vouchers. Each is a lot with an id and a code.

mod code;
mod issue;
mod pepper;
mod resolve;

pub use code::{Pepper, PepperTooShort};
pub use issue::CodeIssuer;
pub use pepper::{PepperError, Peppers, RecordError, is_for_development};
pub use resolve::routes;

use money::Asset;
use service::openapi::About;
use tender::rules::Rules;

/// The rules of digital rewards.
#[derive(Debug, Clone, Copy, Default)]
pub struct DigitalRewards;

impl Rules for DigitalRewards {
    fn name(&self) -> &'static str {
        "digital_reward"
    }

    fn path(&self) -> &'static str {
        "digital-rewards"
    }

    fn about(&self) -> About {
        About {
            title: "Digital rewards",
            description: "Gift cards and vouchers: each is a lot with an id and a code, a customer's or its bearer's.",
        }
    }

    fn accepts(&self, asset: Asset) -> bool {
        asset.currency().is_some()
    }

    fn credit_kinds(&self) -> &'static [&'static str] {
        &["issue"]
    }

    fn takes_from_rewards(&self) -> bool {
        true
    }
}
