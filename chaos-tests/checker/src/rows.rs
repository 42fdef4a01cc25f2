//! Rows of the databases, as far as a rule asks for them. A line of a dump is a row as Postgres makes JSON of it.

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// Redeems are sagas of this operation.
pub const REDEEM: &str = "redeem";
/// What gives a redemption back is a saga of this operation.
pub const RETURN: &str = "reversal";
/// What takes what a redemption has set aside is a saga of this operation.
pub const CAPTURE: &str = "capture";
/// What frees what a redemption has set aside is a saga of this operation, where a till asked for it by name.
pub const VOID: &str = "void";

/// States of a saga.
pub mod state {
    /// Its legs are being sent.
    pub const RUNNING: i16 = 0;
    /// Its legs are being cancelled.
    pub const COMPENSATING: i16 = 1;
    /// Every leg is in force.
    pub const COMPLETED: i16 = 2;
    /// No leg is in force.
    pub const COMPENSATED: i16 = 3;
    /// An operator has to look at it.
    pub const DEAD_LETTER: i16 = 4;
    /// An operator has settled it.
    pub const RESOLVED: i16 = 5;
}

/// `saga.saga`.
#[derive(Debug, Clone, Deserialize)]
pub struct Saga {
    /// Its id.
    pub saga_id: String,
    /// The retailer.
    pub business_id: String,
    /// What was asked for.
    pub operation: String,
    /// Whose key it is, where that is not the business's.
    pub scope: String,
    /// The key.
    pub key: String,
    /// Under which id tenders know the legs.
    pub legs_id: String,
    /// The saga whose effect this one takes further.
    pub parent_id: Option<String>,
    /// What it set out to do.
    pub plan: Plan,
    /// Its [`state`].
    pub state: i16,
    /// Its direction is backward.
    pub backward: bool,
    /// Its epoch.
    pub epoch: i64,
    /// Its key was cancelled.
    pub key_cancelled: bool,
    /// The stored answer: `\x` and hexadecimal digits.
    pub response: Option<String>,
}

impl Saga {
    /// The bytes of the stored answer.
    #[must_use]
    pub fn answer(&self) -> Option<Vec<u8>> {
        let digits = self.response.as_ref()?.strip_prefix("\\x")?;
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
    }

    /// It takes its redemption further, or has: a refusal does nothing.
    #[must_use]
    pub const fn has_effect(&self) -> bool {
        !matches!(self.state, state::COMPENSATED)
    }

    /// Nothing works on it any more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, state::COMPLETED | state::COMPENSATED | state::RESOLVED)
    }
}

/// The plan of a saga.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Plan {
    /// Of a redeem: `automatic` or `manual`.
    #[serde(default)]
    pub capture: String,
    /// Of what gives back: why.
    #[serde(default)]
    pub why: String,
    /// Its legs.
    #[serde(default)]
    pub legs: Vec<PlannedLeg>,
}

impl Plan {
    /// It sets aside only.
    #[must_use]
    pub fn is_hold(&self) -> bool {
        self.capture == "manual"
    }
}

/// A leg of a plan.
#[derive(Debug, Clone, Deserialize)]
pub struct PlannedLeg {
    /// Its number.
    pub leg: i32,
    /// Which tender.
    pub tender: String,
    /// How many units; absent where it gives back.
    #[serde(default)]
    pub units: i64,
}

/// `saga.dead_letter`.
#[derive(Debug, Clone, Deserialize)]
pub struct DeadLetter {
    /// Its id.
    pub dead_letter_id: String,
    /// Which saga.
    pub saga_id: String,
    /// Which legs are pending, and more.
    pub detail: serde_json::Value,
    /// When an operator dealt with it.
    pub closed_at: Option<DateTime<Utc>>,
}

/// `saga.operator_action`.
#[derive(Debug, Clone, Deserialize)]
pub struct Action {
    /// Its number.
    pub action_id: i64,
    /// The retailer.
    pub business_id: String,
    /// The caller's own id of what it asked for.
    pub operation_id: String,
    /// Which dead letter.
    pub dead_letter_id: Option<String>,
    /// It was done.
    pub accepted: bool,
}

/// `wallet.redemption`.
#[derive(Debug, Clone, Deserialize)]
pub struct Redemption {
    /// Its id: its saga's.
    pub redemption_id: String,
    /// What its legs cover.
    pub redeemed: i64,
    /// Where it stands.
    pub status: String,
    /// Of a declined one: `pending` or `done`.
    pub reversal: Option<String>,
    /// What each tender gave.
    pub tenders: Vec<Given>,
}

/// What a tender gave.
#[derive(Debug, Clone, Deserialize)]
pub struct Given {
    /// Minor units.
    pub amount: i64,
}

/// `wallet.outbox`: events that were not published yet.
#[derive(Debug, Clone, Deserialize)]
pub struct Waiting {
    /// The events of one batch.
    pub payload: Vec<serde_json::Value>,
}

/// `tender.account`.
#[derive(Debug, Clone, Deserialize)]
pub struct Account {
    /// Its number.
    pub account_no: i64,
    /// The retailer.
    pub business_id: String,
    /// The customer.
    pub owner: String,
    /// What it holds.
    pub posted: i64,
    /// What of it is set aside.
    pub held: i64,
    /// Its version.
    pub version: i64,
}

/// `tender.lot`.
#[derive(Debug, Clone, Deserialize)]
pub struct Lot {
    /// Whose.
    pub account_no: i64,
    /// Its id.
    pub lot_id: String,
    /// What it began with.
    pub original: i64,
    /// What is free.
    pub remaining: i64,
    /// What is set aside.
    pub held: i64,
}

/// `tender.operation`.
#[derive(Debug, Clone, Deserialize)]
pub struct Operation {
    /// Its id.
    pub operation_id: String,
    /// Whose account.
    pub account_no: i64,
    /// What it is.
    pub kind: String,
    /// Where it stands.
    pub state: String,
    /// As a leg: of which saga.
    pub legs_id: Option<String>,
    /// As a leg: which.
    pub leg: Option<i32>,
}

/// `tender.allocation`.
#[derive(Debug, Clone, Deserialize)]
pub struct Allocation {
    /// Who took.
    pub operation_id: String,
    /// In which place.
    pub position: i32,
    /// From which lot.
    pub lot_id: String,
    /// How much.
    pub amount: i64,
    /// How much of it went back.
    pub reversed: i64,
}

/// `tender.allocation_reversal`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Return {
    /// Who took.
    pub operation_id: String,
    /// In which place.
    pub position: i32,
    /// How much went back.
    pub amount: i64,
}

/// `tender.entry`. The other side of an account's entry has no account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Of which operation.
    pub operation_id: String,
    /// The retailer.
    pub business_id: String,
    /// The asset.
    pub asset: String,
    /// What it is.
    pub kind: String,
    /// Signed units.
    pub amount: i64,
    /// Whose account.
    pub account_no: Option<i64>,
    /// The account's version.
    pub version: Option<i64>,
    /// What the account holds after it.
    pub balance_after: Option<i64>,
    /// What of it is set aside after it.
    pub held_after: Option<i64>,
    /// The other side.
    pub contra: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
}
