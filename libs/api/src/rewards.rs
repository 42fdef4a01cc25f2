//! `POST /internal/v1/rewards/resolve`: which reward a code or an id means, on the internal listener of digital-rewards.

use money::Asset;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{BusinessId, CustomerId};

/// A question with either a code or a reward's id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// The retailer.
    pub business_id: BusinessId,
    /// Who wants to spend it.
    pub customer_id: CustomerId,
    /// What is printed on the reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The reward's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_id: Option<Uuid>,
}

/// Without the code, which is worth money to whoever reads it in a log.
impl std::fmt::Debug for Resolve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolve")
            .field("business_id", &self.business_id)
            .field("customer_id", &self.customer_id)
            .field("reward_id", &self.reward_id)
            .finish_non_exhaustive()
    }
}

/// A reward that this customer may spend. Unknown, expired, spent, blocked and another's are one answer: 404
/// `reward_not_usable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The reward.
    pub reward_id: Uuid,
    /// The account that holds it: the `customer_id` of the leg's account.
    pub owner: String,
    /// Its currency.
    pub asset: Asset,
    /// The end of its code, to name it to a person.
    pub last_four: String,
    /// Minor units that can be spent now.
    pub available: i64,
}
