//! Public wire types of the wallet.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use money::Currency;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

pub use crate::redemption::{RedemptionStatus, Reversal};
use crate::{CurrencyCode, CustomerId};

/// How long a hold lasts, in seconds, unless the request says.
pub const HOLD_DEFAULT_S: i64 = 15 * 60;

/// Body of `POST /wallet/redeem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedeemRequest {
    /// Whose wallet.
    pub customer_id: CustomerId,
    /// Which order.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub order_id: String,
    /// In which currency.
    #[schema(value_type = CurrencyCode)]
    pub currency: Currency,
    /// What the wallet should cover, in minor units.
    #[schema(minimum = 1)]
    pub amount: i64,
    /// From which tenders; absent: by `strategy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 10)]
    pub tenders: Option<Vec<TenderRequest>>,
    /// How to choose tenders where none are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Take what there is instead of all or nothing.
    #[serde(default)]
    pub allow_partial: bool,
    /// Take at once, or hold first.
    #[serde(default)]
    pub capture: Capture,
    /// With `capture: manual`: how long the hold lasts, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ttl_s: Option<i64>,
    /// What is in the cart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cart: Option<Cart>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location_id: Option<String>,
    /// At which till.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_id: Option<String>,
    /// With location, terminal and order: a second guard against doing the same twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// How long the caller waits, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 500, maximum = 30_000)]
    pub deadline_ms: Option<u64>,
    /// What becomes of a redemption that the caller no longer waits for.
    #[serde(default)]
    pub on_deadline: OnDeadline,
    /// Kept as it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Value>,
}

/// A tender in a redeem request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenderRequest {
    /// Which kind.
    #[serde(rename = "type")]
    pub kind: TenderKind,
    /// Exactly so many points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub points: Option<i64>,
    /// At most so many points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_points: Option<i64>,
    /// Exactly so many minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub amount: Option<i64>,
    /// At most so many minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_amount: Option<i64>,
    /// Which reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_id: Option<Uuid>,
    /// Which reward, by the code printed on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// The kinds of tender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenderKind {
    /// Loyalty points.
    Points,
    /// Gift cards and vouchers.
    DigitalReward,
    /// Store credit.
    StoreCredit,
}

impl TenderKind {
    /// All kinds, in the order in which a merchant spends them: what costs it least first.
    pub const ALL: [Self; 3] = [Self::Points, Self::DigitalReward, Self::StoreCredit];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Points => "points",
            Self::DigitalReward => "digital_reward",
            Self::StoreCredit => "store_credit",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// How tenders are chosen where none are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The lot that expires soonest, whatever tender it is in.
    #[default]
    ExpiringFirst,
    /// Points, then rewards, then store credit.
    MerchantOrder,
}

/// When value is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// At once.
    #[default]
    Automatic,
    /// It is held now and captured later.
    Manual,
}

/// What becomes of a redemption when its caller's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    /// It goes on; the key tells later how it ended.
    #[default]
    Continue,
    /// It is compensated.
    Cancel,
}

/// The cart, as far as rules ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cart {
    /// Minor units before tax.
    pub subtotal: i64,
    /// Minor units of tax.
    #[serde(default)]
    pub tax: i64,
}

/// A redemption, as it is answered and looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redemption {
    /// Its id.
    pub id: Uuid,
    /// Where it stands.
    pub status: RedemptionStatus,
    /// Whose wallet.
    pub customer_id: String,
    /// Which order.
    pub order_id: String,
    /// In which currency.
    pub currency: String,
    /// What was asked for, in minor units.
    pub amount: i64,
    /// What the wallet covers, in minor units.
    pub redeemed: i64,
    /// What is left to pay otherwise, in minor units.
    pub amount_due: i64,
    /// Of a declined one, and of one under review whose value was on its way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reversal: Option<Reversal>,
    /// Until when held value is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_expires_at: Option<DateTime<Utc>>,
    /// What each tender gave.
    pub tenders: Vec<TenderResult>,
    /// As it was sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Value>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
    /// Where to look it up.
    pub links: Links,
}

/// What a tender gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenderResult {
    /// Position in the request.
    pub leg: u16,
    /// Which kind.
    #[serde(rename = "type")]
    pub kind: TenderKind,
    /// `applied`, `held` or `reversed`.
    pub status: String,
    /// Points taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
    /// Which reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_id: Option<Uuid>,
    /// The end of its code, if it was named by its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_four: Option<String>,
    /// Minor units covered.
    pub amount: i64,
    /// What a point is worth in major units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Decimal>,
    /// From which lots.
    pub lots: Vec<LotResult>,
    /// What is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_after: Option<BalanceAfter>,
}

/// A part of a lot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LotResult {
    /// The lot.
    pub lot_id: Uuid,
    /// Points of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
    /// Minor units of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// When it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// What is left in a tender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalanceAfter {
    /// Points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
    /// Minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
}

/// Links of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Links {
    /// The resource itself.
    #[serde(rename = "self")]
    pub own: String,
}

/// Value that went back, in the answer to a declined redemption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Returned {
    /// Position in the request.
    pub leg: u16,
    /// Which kind.
    #[serde(rename = "type")]
    pub kind: TenderKind,
    /// Points given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
    /// Minor units given back; for points, what they were worth.
    pub amount: i64,
    /// To which lots.
    pub lots: Vec<LotResult>,
}

/// Body of `POST /wallet/redemptions/cancel-by-key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelByKeyRequest {
    /// The key of the redeem.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$")]
    pub idempotency_key: String,
}

/// Answer to `POST /wallet/redemptions/cancel-by-key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelByKeyAnswer {
    /// What comes of it.
    pub result: CancelResult,
    /// The redemption, if the key had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redemption_id: Option<Uuid>,
}

/// What comes of cancelling a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelResult {
    /// The key was not used; a redeem that comes late is refused.
    CancelledBeforeArrival,
    /// Everything goes back.
    WillReverse,
    /// Nothing was in force.
    AlreadyReversed,
    /// An operator has settled the redemption by hand: what is in force is what the record of that says. Nothing goes back by
    /// this cancel.
    Resolved,
}

/// Answer to `GET /wallet/balance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WalletBalance {
    /// Whose wallet.
    pub customer_id: String,
    /// One line for each tender and currency.
    pub balances: Vec<TenderBalance>,
    /// Tenders that could not be asked.
    pub degraded: Vec<TenderKind>,
}

/// The balance of one tender in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenderBalance {
    /// Which tender.
    pub tender: TenderKind,
    /// Its currency; absent for points, and where there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CurrencyCode>)]
    pub currency: Option<Currency>,
    /// Units that can be spent now.
    pub available: i64,
    /// Units set aside.
    pub held: i64,
    /// Units that legs of unfinished sagas may have taken, or may still take or give back.
    pub in_doubt: i64,
    /// What expires, soonest first.
    pub expiring: Vec<Expiring>,
    /// Rises with each change of the account.
    pub version: i64,
}

/// Value that expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Expiring {
    /// Units.
    pub amount: i64,
    /// When.
    pub expires_at: DateTime<Utc>,
}
