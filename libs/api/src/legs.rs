//! The leg protocol: what a saga may ask of a tender, on the internal listener only.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `POST /internal/v1/legs/batch` | [`Batch`] | [`BatchLine`]s, one JSON document a line, in the order they are done |
//! | `PUT /internal/v1/legs/{legs_id}/{leg}` | [`SingleForward`] | [`LegAnswer`] or a problem |
//! | `POST /internal/v1/legs/{legs_id}/{leg}/cancel` | [`Account`] | [`LegAnswer`] |
//! | `POST /internal/v1/legs/{legs_id}/{leg}/capture` | [`SingleCapture`] | [`LegAnswer`] |
//! | `GET /internal/v1/legs/{legs_id}/{leg}?business_id=&customer_id=&asset=` | – | [`LegAnswer`] or 404 |
//! | `GET /internal/v1/legs?after=&limit=` | – | [`LegPage`]: open legs, oldest first, for the wallet's reconciliation |
//! | `GET /internal/v1/holds-past-end?after=&limit=` | – | [`HoldPage`]: open holds whose end has passed, for the same |

use chrono::{DateTime, Utc};
use money::Asset;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{BusinessId, LegsId, Problem};

/// The header in which a caller says which tender it means. Any other answers 421, and does nothing.
pub const TENDER: &str = "x-tender";

/// Most legs in one [`Batch`].
pub const BATCH_MAX: usize = 64;

/// The account that a leg works on, as in the saga's plan. A command with another account than the
/// stored leg's is another request (409), if it is of the same bucket; of another bucket, it is another leg.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The retailer.
    pub business_id: BusinessId,
    /// The owner of the account: a customer id, or for a bearer's reward the owner that digital-rewards resolved.
    pub customer_id: String,
    /// What the account holds.
    pub asset: Asset,
}

/// One command to one leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegCommand {
    /// With `leg`, the key of the leg.
    pub legs_id: LegsId,
    /// Position of the leg in its saga.
    pub leg: u16,
    /// Where it acts.
    pub account: Account,
    /// What to do.
    pub action: LegAction,
    /// The saga's epoch when this was sent: recorded for diagnosis, never decides anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// W3C `traceparent` of the saga, since commands of several travel in one request. Never decides anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// When this was sent, by the clock that `not_after` was written by: where the tender's says something else altogether, it
    /// judges by neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
}

/// What to do with a leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegAction {
    /// Apply it, or answer as stored.
    Forward(Forward),
    /// Take back whatever is not taken back yet; without a row, leave a tombstone. Always succeeds.
    Cancel,
    /// As a cancel, of a leg that should only hold: one that is applied stays so, and is answered as it is.
    Release,
    /// Turn a held leg into a debit of `amount`, releasing the rest. Never refused for a business reason.
    Capture {
        /// Units to take, at most what is held.
        amount: i64,
    },
    /// Say what is stored, changing nothing.
    Query,
}

/// The plan of a forward leg. Its hash covers these fields and the account, without the times: [`crate::derive::requests::leg`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// What kind of leg.
    pub mode: Mode,
    /// Units asked for, at least 0.
    pub amount: i64,
    /// All of `amount` or nothing, or whatever is there.
    pub take: Take,
    /// `at_most` takes a multiple of this (points have a step); 1 or more.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub step: i64,
    /// Take from this reward only (digital rewards).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_id: Option<Uuid>,
    /// With [`Mode::Reverse`]: the leg whose value goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<LegKey>,
    /// With [`Mode::Hold`]: until when the tender keeps the hold (the wallet's own limit + 24 h).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<DateTime<Utc>>,
    /// Past this, by the tender's database clock, the answer is EXPIRED. It saves work; safety rests on tombstones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<DateTime<Utc>>,
    /// The order that this pays, shown in the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
}

const fn one() -> i64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_one(step: &i64) -> bool {
    *step == 1
}

/// What a forward leg does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Take value.
    Debit,
    /// Set value aside, its lots allocated at once.
    Hold,
    /// Give back what another leg took, to the same lots. Never refused for a business reason.
    Reverse,
}

/// How much of the amount a leg must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// All or a decline.
    Exact,
    /// min(asked, available, step), zero included.
    AtMost,
}

/// The key of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegKey {
    /// The saga's id at tenders.
    pub legs_id: LegsId,
    /// Position in the saga.
    pub leg: u16,
}

/// Where a leg stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegState {
    /// In force (a captured hold too).
    Applied,
    /// Set aside, neither taken nor given back.
    Held,
    /// Refused, for ever.
    Declined,
    /// Came after `not_after`; refused, for ever.
    Expired,
    /// Was in force and was taken back.
    Reversed,
    /// Cancelled, perhaps before it came: nothing will ever apply under this key.
    Tombstoned,
}

impl LegState {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Held => "held",
            Self::Declined => "declined",
            Self::Expired => "expired",
            Self::Reversed => "reversed",
            Self::Tombstoned => "tombstoned",
        }
    }
}

/// What a tender answers. Stored, and the same bytes every time for as long as the leg's state stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegAnswer {
    /// Where the leg stands.
    pub state: LegState,
    /// Units taken, held or given back; 0 unless the state is applied, held or reversed.
    pub amount: i64,
    /// Which lots they came from or went to.
    #[serde(default)]
    pub lots: Vec<LotPart>,
    /// The account afterwards; absent where nothing was touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<BalanceAfter>,
    /// Why it was declined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decline: Option<Decline>,
}

/// A part of a lot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LotPart {
    /// The lot.
    pub lot_id: Uuid,
    /// Units of it.
    pub amount: i64,
    /// When the lot expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// An account right after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceAfter {
    /// Spendable units of the account, or of the reward that the leg names.
    pub available: i64,
    /// The account's version, which rises by one with each posting.
    pub version: i64,
}

/// Why a leg was declined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// A code of [`crate::Code`], as text so that a newer tender may add one.
    pub code: String,
    /// Spendable units, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<i64>,
    /// When a hold of another order ends, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<DateTime<Utc>>,
}

/// Several commands at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// 1 to [`BATCH_MAX`] commands, independent of each other.
    pub commands: Vec<LegCommand>,
}

/// One line of the answer to a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLine {
    /// Position of the command in the batch.
    pub index: usize,
    /// The tender's database clock in milliseconds since 1970, for the skew metric; 0 where there is a problem.
    pub at_ms: i64,
    /// Present on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<LegAnswer>,
    /// Present otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Body of a single forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SingleForward {
    /// Where it acts.
    pub account: Account,
    /// The plan.
    pub forward: Forward,
    /// As in [`LegCommand`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// As in [`LegCommand`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
}

/// Body of a single capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SingleCapture {
    /// Where it acts.
    pub account: Account,
    /// Units to take.
    pub amount: i64,
}

/// A page of open legs, of a bounded part of all legs: it may be short, or empty, and go on all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegPage {
    /// In the order of their cursor.
    pub data: Vec<OpenLeg>,
    /// The last leg that was looked at, open or not ([`crate::leg_cursor`]): the next page begins behind it. Absent where there was
    /// none to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// When it was read, by the tender's database clock, which also dates the legs.
    pub at: DateTime<Utc>,
}

/// An open leg: applied or held, so that a cancel would give value back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLeg {
    /// Its key.
    pub key: LegKey,
    /// Its account.
    pub account: Account,
    /// Applied or held.
    pub state: LegState,
    /// Units that are taken or held and were not given back: above 0.
    pub amount: i64,
    /// When it was applied, by the tender's database clock.
    pub at: DateTime<Utc>,
}

/// A page of holds past their end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldPage {
    /// In the order of their cursor: the first to end first.
    pub data: Vec<HoldPastEnd>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// An open hold whose end has passed by the tender's database clock. No tender ends a hold by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldPastEnd {
    /// Its key.
    pub key: LegKey,
    /// Its account.
    pub account: Account,
    /// Units set aside.
    pub amount: i64,
    /// The end that it was asked for with: [`Forward::hold_until`].
    pub hold_until: DateTime<Utc>,
    /// When it was applied, by the tender's database clock.
    pub at: DateTime<Utc>,
}
