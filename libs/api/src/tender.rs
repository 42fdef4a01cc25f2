//! Public wire types of a tender (`/points`, `/store-credits`, `/digital-rewards`).
//!
//! Points are counted in `points`, everything else in `amount` (minor units) and `currency`: the fields of the
//! other kind are absent.

use chrono::{DateTime, Utc};
use money::{Asset, Currency};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{BusinessId, CurrencyCode, CustomerId};

/// Body of `POST /…/credits`: a new lot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreditRequest {
    /// Who receives it. A digital reward without a customer belongs to whoever bears its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<CustomerId>,
    /// Points, above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub points: Option<i64>,
    /// Minor units, above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub amount: Option<i64>,
    /// With `amount`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CurrencyCode>)]
    pub currency: Option<Currency>,
    /// Why: each tender has its own kinds.
    pub kind: String,
    /// Who pays.
    pub funding: Funding,
    /// The retailer's own reference, unique with the kind; 1 to 128 visible ASCII characters.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub reference: String,
    /// When the lot expires; never, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Where it is issued; 1 to 128 visible ASCII characters. A token for some locations must name one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub location_id: Option<String>,
    /// For people, at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
    /// Kept as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Who pays for a lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Funding {
    /// The customer.
    Paid,
    /// The retailer, as a promotion.
    Promo,
    /// The retailer, for goods that came back.
    Refund,
}

/// A quantity as tenders write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quantity {
    /// Points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
    /// Minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// Of `amount`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CurrencyCode>)]
    pub currency: Option<Currency>,
}

impl Quantity {
    /// `units` of `asset`, under the names that belong to it.
    #[must_use]
    pub fn new(units: i64, asset: Asset) -> Self {
        match asset {
            Asset::Points => Self { points: Some(units), amount: None, currency: None },
            Asset::Money(currency) => Self { points: None, amount: Some(units), currency: Some(currency) },
        }
    }
}

/// Answer to `POST /…/credits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreditAnswer {
    /// The operation, for `GET /…/operations/{id}`.
    pub operation_id: Uuid,
    /// Who received it; absent for a bearer's reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<String>,
    /// The new lot.
    pub lot: LotView,
    /// What can be spent now.
    pub balance_after: BalanceView,
    /// The reward, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_id: Option<Uuid>,
    /// The reward's code. It is answered to this call and its repetitions only, and stored nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A spendable balance and the account's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalanceView {
    /// Spendable units.
    #[serde(flatten)]
    pub quantity: Quantity,
    /// The account's version.
    pub version: i64,
}

/// A lot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LotView {
    /// Its id.
    pub lot_id: Uuid,
    /// The reward that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_id: Option<Uuid>,
    /// Its currency, unless it is points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CurrencyCode>)]
    pub currency: Option<Currency>,
    /// Units at issue.
    pub original: i64,
    /// Units free.
    pub remaining: i64,
    /// Units set aside.
    pub held: i64,
    /// Who paid.
    pub funding: Funding,
    /// Why it was issued.
    pub kind: String,
    /// When it expires; null if never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Until when it can still be spent after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<DateTime<Utc>>,
}

/// Answer to `GET /…/accounts/{customer_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountView {
    /// Whose account.
    pub customer_id: String,
    /// Whether value may leave it.
    pub status: AccountStatus,
    /// Of the customer's only account, or of the one in the currency that was asked for. A customer with several
    /// currencies has no total: `accounts` has each.
    #[serde(flatten)]
    pub total: Option<Totals>,
    /// Lots with value, in the order of spending.
    pub lots: Vec<LotView>,
    /// Each currency; absent for points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Vec<CurrencyAccount>>,
}

/// Whether value may leave an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    /// Yes.
    Active,
    /// Nothing leaves.
    Frozen,
    /// Nothing leaves, nothing new enters.
    Closed,
}

/// The balances of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Rises by one with each posting.
    pub version: i64,
    /// Units in the account.
    pub posted: i64,
    /// Units set aside.
    pub held: i64,
    /// Units that can be spent now.
    pub available: i64,
}

/// The balances of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CurrencyAccount {
    /// The currency.
    #[schema(value_type = CurrencyCode)]
    pub currency: Currency,
    /// Its balances.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Answer to `GET /…/accounts/{customer_id}?at=`: what the ledger says of that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PastAccountView {
    /// Whose account.
    pub customer_id: String,
    /// The time that was asked for.
    pub at: DateTime<Utc>,
    /// Each asset that the customer had an account in.
    pub accounts: Vec<PastBalance>,
}

/// A balance at a past time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PastBalance {
    /// The currency; absent for points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CurrencyCode>)]
    pub currency: Option<Currency>,
    /// The account's version then.
    pub version: i64,
    /// Units in the account.
    pub posted: i64,
    /// Units set aside.
    pub held: i64,
}

/// What may have happened to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Value was issued.
    Credit,
    /// Value was taken.
    Debit,
    /// Value was set aside.
    Hold,
    /// Value that was set aside is free again.
    Release,
    /// Value that was set aside was taken.
    Capture,
    /// Value that was taken came back.
    Reverse,
    /// A redemption was undone.
    Cancel,
    /// What was left of a lot at its end is gone.
    Expire,
}

impl EntryKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Credit,
        Self::Debit,
        Self::Hold,
        Self::Release,
        Self::Capture,
        Self::Reverse,
        Self::Cancel,
        Self::Expire,
    ];

    /// The kind with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name on the wire and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Debit => "debit",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Capture => "capture",
            Self::Reverse => "reverse",
            Self::Cancel => "cancel",
            Self::Expire => "expire",
        }
    }
}

/// A line of an account's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryView {
    /// The operation that made it.
    pub operation_id: Uuid,
    /// What happened.
    pub kind: EntryKind,
    /// Signed change: points, or minor units of `currency`; 0 for a hold and its release.
    #[serde(flatten)]
    pub change: Quantity,
    /// The account's version after it.
    pub version: i64,
    /// Units in the account after it.
    pub balance_after: i64,
    /// Units set aside after it.
    pub held_after: i64,
    /// The order that it paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// Between services: the legs that it belongs to, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub legs_id: Option<Uuid>,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    /// Its id.
    pub operation_id: Uuid,
    /// Whose account.
    pub customer_id: String,
    /// `credit`, `debit`, `hold`, `reverse` or `cancel`.
    pub kind: String,
    /// `applied`, `held`, `declined`, `expired`, `reversed` or `tombstoned`.
    pub status: String,
    /// How much.
    #[serde(flatten)]
    pub quantity: Quantity,
    /// The order that it paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// What was answered, without the code of a reward.
    pub response: serde_json::Value,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its status changed last.
    pub updated_at: DateTime<Utc>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The page.
    pub data: Vec<T>,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// What a tender tells the world after a batch: one message for each account that it touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceChanged {
    /// `points`, `store_credit` or `digital_reward`.
    pub tender: String,
    /// The retailer.
    pub business_id: BusinessId,
    /// The owner of the account.
    pub customer_id: String,
    /// What it holds.
    pub asset: Asset,
    /// Messages of a lower version are older, whatever the order of their coming.
    pub version: i64,
    /// Units in the account.
    pub posted: i64,
    /// Units set aside.
    pub held: i64,
    /// Units that could be spent at that time.
    pub available: i64,
    /// When, by the tender's database clock.
    pub at: DateTime<Utc>,
}

/// Most owners in one [`VersionsRequest`]: as many as fit into a body whatever their names.
pub const VERSIONS_MAX: usize = 100;

/// Body of `POST /internal/v1/account-versions`: has anything of these owners changed?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionsRequest {
    /// 1 to [`VERSIONS_MAX`].
    pub owners: Vec<Owner>,
}

/// The owner of accounts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The retailer.
    pub business_id: BusinessId,
    /// The customer.
    pub customer_id: CustomerId,
}

/// Answer to a [`VersionsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Every account of the owners; who has none is not here.
    pub accounts: Vec<AccountVersion>,
}

/// The version of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountVersion {
    /// Whose account.
    pub owner: Owner,
    /// What it holds.
    pub asset: Asset,
    /// Rises by one with each posting.
    pub version: i64,
}
