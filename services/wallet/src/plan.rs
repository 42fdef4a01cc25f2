//! What a saga of the wallet set out to do: stored with it, never changed.

use api::{
    LegsId,
    legs::{Account, Take},
    wallet::{Capture, Redemption, TenderKind},
};
use money::Currency;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of the redeem operation in keys.
pub const REDEEM: &str = "redeem";

/// The versions of [`Plan`] that this release reads. Each variant has a number of its own, and so has each later format of one:
/// a release that does not know a number leaves its sagas to those that do. A number is never used again.
pub const VERSIONS: &[i16] = &[1, 2, 3, 4, 5];

/// The version that a redeem's plan is written as; what SQL reads of one is in this format.
pub const REDEEM_VERSION: i16 = 1;

/// The plan of any saga of the wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Plan {
    /// Take value, all or nothing.
    Redeem(RedeemPlan),
    /// Give back everything that a redemption has in force.
    Reversal(ReversalPlan),
    /// Take what an authorized redemption holds, or a part of it.
    Capture(CapturePlan),
    /// Nothing: the row only keeps an answer under its key.
    Nothing,
    /// Legs that a tender holds without a saga; going back cancels them.
    Orphan(OrphanPlan),
}

/// A redemption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeemPlan {
    /// Whose wallet.
    pub customer_id: String,
    /// Which order.
    pub order_id: String,
    /// In which currency.
    pub currency: Currency,
    /// What was asked for, in minor units.
    pub amount: i64,
    /// Take at once, or hold.
    pub capture: Capture,
    /// How long a hold lasts, in seconds.
    pub hold_ttl_s: i64,
    /// As it was sent.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub metadata: std::collections::BTreeMap<String, serde_json::Value>,
    /// What each tender is asked for.
    pub legs: Vec<PlannedLeg>,
}

/// What one tender is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLeg {
    /// Position in the request: the number under which the tender knows it.
    pub leg: u16,
    /// Which tender.
    pub tender: TenderKind,
    /// Where the value is.
    pub account: Account,
    /// Units asked for: points, or minor units.
    pub units: i64,
    /// What they are worth, in minor units.
    pub amount: i64,
    /// All of it, or what there is.
    pub take: Take,
    /// Units are taken in multiples of this, so that none are taken that cover nothing.
    pub step: i64,
    /// For points: what one is worth in major units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Decimal>,
    /// For a reward: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_id: Option<Uuid>,
    /// For a reward named by its code: the code's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_four: Option<String>,
}

/// The full return of a redemption: every leg is cancelled, which takes back whatever is not back yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReversalPlan {
    /// Which redemption.
    pub redemption_id: Uuid,
    /// Why.
    pub why: ReversalReason,
    /// Under which id tenders know its legs.
    pub of: LegsId,
    /// Its legs.
    pub legs: Vec<LegRef>,
    /// What the caller is answered, but for the status; absent where nobody waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Redemption>,
}

/// The capture of an authorized redemption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePlan {
    /// Which redemption.
    pub redemption_id: Uuid,
    /// Under which id tenders know its legs.
    pub of: LegsId,
    /// Its legs.
    pub legs: Vec<CaptureLeg>,
    /// What the caller is answered once everything is captured.
    pub answer: Redemption,
}

/// A held leg to be captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureLeg {
    /// The leg.
    #[serde(flatten)]
    pub leg: LegRef,
    /// Units to take, the rest of the hold is released; 0 releases all of it.
    pub units: i64,
}

/// Why a redemption is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReversalReason {
    /// Its key was cancelled after it was completed.
    Reversal,
    /// Its key was cancelled while it held value.
    Void,
    /// Its hold ran out.
    HoldExpired,
}

/// A leg to be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRef {
    /// Its number.
    pub leg: u16,
    /// Which tender.
    pub tender: TenderKind,
    /// Its account.
    pub account: Account,
}

/// Legs of which no saga is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanPlan {
    /// Under which id the tender knows them.
    pub of: LegsId,
    /// The legs.
    pub legs: Vec<LegRef>,
}

/// A plan that a newer release has written, and this one does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a plan of version {0}, which this release does not know")]
pub struct UnknownVersion(pub i16);

impl Plan {
    /// Reads a plan of this version as it is stored.
    ///
    /// # Errors
    /// [`sqlx::Error::Decode`]; of an [`UnknownVersion`] where a newer release has written it.
    pub fn read(version: i16, plan: serde_json::Value) -> sqlx::Result<Self> {
        if !VERSIONS.contains(&version) {
            return Err(sqlx::Error::Decode(Box::new(UnknownVersion(version))));
        }
        serde_json::from_value(plan).map_err(|error| sqlx::Error::Decode(Box::new(error)))
    }

    /// The version that it is written as.
    #[must_use]
    pub const fn version(&self) -> i16 {
        match self {
            Self::Redeem(_) => REDEEM_VERSION,
            Self::Reversal(_) => 2,
            Self::Capture(_) => 3,
            Self::Nothing => 4,
            Self::Orphan(_) => 5,
        }
    }

    /// How many legs there are.
    #[must_use]
    pub fn legs(&self) -> usize {
        match self {
            Self::Redeem(plan) => plan.legs.len(),
            Self::Reversal(plan) => plan.legs.len(),
            Self::Capture(plan) => plan.legs.len(),
            Self::Nothing => 0,
            Self::Orphan(plan) => plan.legs.len(),
        }
    }

    /// Which tender a leg is with. Asking for a leg that is not there is a defect; the answer is then nobody's name.
    #[must_use]
    pub fn tender(&self, leg: usize) -> Option<TenderKind> {
        match self {
            Self::Redeem(plan) => plan.legs.get(leg).map(|l| l.tender),
            Self::Reversal(plan) => plan.legs.get(leg).map(|l| l.tender),
            Self::Capture(plan) => plan.legs.get(leg).map(|l| l.leg.tender),
            Self::Nothing => None,
            Self::Orphan(plan) => plan.legs.get(leg).map(|l| l.tender),
        }
    }
}

impl RedeemPlan {
    /// The same legs, to be taken back.
    #[must_use]
    pub fn legs_to_reverse(&self) -> Vec<LegRef> {
        let back = |l: &PlannedLeg| LegRef { leg: l.leg, tender: l.tender, account: l.account.clone() };
        self.legs.iter().map(back).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_that_is_written_can_be_read() {
        assert!(VERSIONS.contains(&Plan::Nothing.version()));
        let orphan = Plan::Orphan(OrphanPlan { of: LegsId(Uuid::nil()), legs: Vec::new() });
        assert!(VERSIONS.contains(&orphan.version()));
        let mut numbers = VERSIONS.to_vec();
        numbers.dedup();
        assert_eq!(numbers, VERSIONS, "one number, one format");
    }
}
