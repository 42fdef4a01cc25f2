//! Public wire types of `/ops`: sagas, dead letters, what an operator did, and tenders taken out of service.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{CustomerId, wallet::TenderKind};

/// Body of `POST /ops/dead-letters/{id}/replay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// The operator's own name for it: the same again changes nothing.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub operation_id: String,
    /// Why; kept for ever.
    #[schema(min_length = 1, max_length = 1000, pattern = "[!-~]")]
    pub reason: String,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of `POST /ops/dead-letters/{id}/resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// The operator's own name for it: the same again changes nothing.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub operation_id: String,
    /// Why; kept for ever.
    #[schema(min_length = 1, max_length = 1000, pattern = "[!-~]")]
    pub reason: String,
    /// Where the proof is.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub reference: String,
}

/// Body of `POST /ops/dead-letters/replay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkReplayRequest {
    /// The operator's own name for it: the same again answers how far it is.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub operation_id: String,
    /// Which; without conditions, every open one.
    #[serde(default)]
    pub filter: BulkFilter,
    /// Dead letters a second, at most: 1 to 500.
    #[serde(default = "default_rate")]
    #[schema(minimum = 1, maximum = 500)]
    pub rate_per_second: i32,
    /// Why; kept for ever.
    #[schema(min_length = 1, max_length = 1000, pattern = "[!-~]")]
    pub reason: String,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Dead letters a second unless the request says: slow enough for a tender that has just come back.
pub const RATE_DEFAULT: i32 = 20;

const fn default_rate() -> i32 {
    RATE_DEFAULT
}

/// Which open dead letters are replayed: those that meet every condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkFilter {
    /// Why they were parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Which tender stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tender: Option<TenderKind>,
    /// Whose wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<CustomerId>,
    /// Parked more than so many seconds ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 3_162_240_000_i64)]
    pub older_than_s: Option<i64>,
}

/// Body of `POST /ops/tenders/{tender}/pause` and `/resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenderOrder {
    /// The operator's own name for it: the same again changes nothing.
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    pub operation_id: String,
    /// Why; kept for ever.
    #[schema(min_length = 1, max_length = 1000, pattern = "[!-~]")]
    pub reason: String,
}

/// A saga in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SagaLine {
    /// Its id; of a redeem, also the redemption's.
    pub saga_id: Uuid,
    /// The use case.
    pub operation: String,
    /// The caller's key.
    pub idempotency_key: String,
    /// `running`, `compensating`, `completed`, `compensated`, `dead_letter` or `resolved`.
    pub status: String,
    /// How often it changed hands, plus one.
    pub epoch: i64,
    /// The process that runs it, or ran it last.
    pub owner: Option<Uuid>,
    /// Whether it goes, or went, back.
    pub backward: bool,
    /// Why it was compensated.
    pub cause: Option<Value>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A saga with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SagaDetail {
    /// The saga.
    #[serde(flatten)]
    pub saga: SagaLine,
    /// `compensable` or `forward_only`; null where this version does not know.
    pub kind: Option<String>,
    /// How long it took, or has been taking, in milliseconds.
    pub duration_ms: i64,
    /// When it is compensated unless it is done.
    pub deadline_at: DateTime<Utc>,
    /// The trace of the request that made it.
    pub trace_id: Option<String>,
    /// The saga whose effect this one takes further.
    pub parent_id: Option<Uuid>,
    /// Under which tenders know its legs.
    pub legs_id: Uuid,
    /// Whether its key was cancelled: then no other answer is given under it.
    pub key_cancelled: bool,
    /// What it set out to do.
    pub plan: Value,
    /// Its legs, and how far they are.
    pub legs: Vec<SagaLeg>,
    /// What is answered under its key.
    pub answer: Option<StoredAnswer>,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineEvent>,
    /// Its dead letters, oldest first.
    pub dead_letters: Vec<DeadLetterLine>,
}

/// A leg of a saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SagaLeg {
    /// Its place in the saga, as the timeline and dead letters name it.
    pub leg: usize,
    /// Who carries it out.
    pub tender: String,
    /// Units asked for: points, or minor units; null where the leg is taken back, whatever it took.
    pub units: Option<i64>,
    /// How far it is.
    pub status: LegStatus,
    /// The tender's answer on the way forward, as far as it was recorded.
    pub forward: Option<Value>,
    /// The tender's answer on the way back.
    pub back: Option<Value>,
}

/// How far a leg is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LegStatus {
    /// The tender has not confirmed what the saga asks for: it may have happened.
    Pending,
    /// The tender has confirmed it.
    Confirmed,
    /// The tender has confirmed that it is taken back, or was never in force.
    Undone,
    /// The saga was settled by hand.
    Settled,
}

/// The answer that is stored under a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

/// One event of a saga's story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEvent {
    /// When.
    pub at: DateTime<Utc>,
    /// Milliseconds since the saga was written.
    pub after_ms: i64,
    /// What: `began`, `attempt`, `compensating`, `taken_over`, `dead_letter`, `replayed` and others.
    pub event: String,
    /// What, in a sentence.
    pub text: String,
    /// Under which epoch.
    pub epoch: i64,
    /// By which process.
    pub owner: Option<Uuid>,
    /// What was recorded.
    pub detail: Value,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterLine {
    /// Its id.
    pub dead_letter_id: Uuid,
    /// The saga that is parked.
    pub saga_id: Uuid,
    /// The use case of the saga.
    pub operation: String,
    /// The caller's key.
    pub idempotency_key: String,
    /// Why.
    pub code: String,
    /// Which tender stands in the way.
    pub tender: Option<String>,
    /// Which legs are pending, and the attempts.
    pub detail: Value,
    /// When it was parked.
    pub opened_at: DateTime<Utc>,
    /// When it was replayed or resolved.
    pub closed_at: Option<DateTime<Utc>>,
    /// `replayed` or `resolved`.
    pub closed_as: Option<String>,
}

/// A dead letter with its saga: what led to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterDetail {
    /// The dead letter.
    #[serde(flatten)]
    pub dead_letter: DeadLetterLine,
    /// Its saga, with cause, plan and timeline.
    pub saga: SagaDetail,
}

/// Answer to a replay or a resolution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterActionAnswer {
    /// Which dead letter.
    pub dead_letter_id: Uuid,
    /// What came of it.
    pub result: DeadLetterActionResult,
    /// The saga's status before; absent where nothing was, or would be, done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The saga's status after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What came of a replay or a resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterActionResult {
    /// Done now.
    Done,
    /// It would be done.
    WouldDo,
    /// Done earlier under the same operation id.
    AlreadyDone,
    /// Somebody has dealt with this dead letter before: nothing is left to do.
    AlreadyClosed,
    /// The legs belong to a saga after all (its caller tried again): nothing is to be taken back. Resolve it.
    SagaExists,
}

/// Answer to a bulk replay with `dry_run`: what it would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkPreview {
    /// How many match.
    pub matched: i64,
    /// Whether one replay would not take them all.
    pub truncated: bool,
    /// How many by code.
    pub by_code: BTreeMap<String, i64>,
    /// How many by the tender that stands in the way; `none` where no tender does.
    pub by_tender: BTreeMap<String, i64>,
    /// The oldest of them.
    pub sample: Vec<Uuid>,
}

/// A replay of many dead letters, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BulkReplay {
    /// The operator's own name for it.
    pub operation_id: String,
    /// Whether members wait for their turn.
    pub status: BulkStatus,
    /// How many dead letters it has.
    pub matched: i64,
    /// Whether more matched than one replay may have; another operation takes the next ones.
    pub truncated: bool,
    /// How many were taken up again.
    pub replayed: i64,
    /// How many somebody else had dealt with before.
    pub already_closed: i64,
    /// How many could not be taken up again.
    pub refused: i64,
    /// How many wait for their turn.
    pub remaining: i64,
    /// The first of those that were refused, and why.
    pub refusals: Vec<BulkRefusal>,
    /// Which were asked for.
    pub filter: Value,
    /// Dead letters a second, at most.
    pub rate_per_second: i32,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was made.
    pub started_at: DateTime<Utc>,
    /// When its last member was dealt with.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Whether a replay of many goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkStatus {
    /// Members wait for their turn.
    Running,
    /// Every member is dealt with.
    Finished,
}

/// A member that could not be taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkRefusal {
    /// Which dead letter.
    pub dead_letter_id: Uuid,
    /// Why not.
    pub reason: String,
}

/// Something that an operator did, or was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActionLine {
    /// Rises with each action.
    pub action_id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The operator's own name for it.
    pub operation_id: String,
    /// Who: the token's `sub`.
    pub actor: String,
    /// `replay`, `resolve`, `bulk_replay`, `pause` or `resume`.
    pub action: String,
    /// Whether it was done.
    pub accepted: bool,
    /// The dead letter that it is about.
    pub dead_letter_id: Option<Uuid>,
    /// The saga that it is about.
    pub saga_id: Option<Uuid>,
    /// The tender that it is about.
    pub tender: Option<String>,
    /// Why.
    pub reason: String,
    /// Where the proof is.
    pub reference: Option<String>,
    /// How things were.
    pub before: Value,
    /// How they were then.
    pub after: Value,
}

/// Answer to `GET /ops/tenders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenderList {
    /// The tenders.
    pub data: Vec<TenderState>,
}

/// A tender, as the process that answers sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenderState {
    /// Which.
    pub tender: TenderKind,
    /// Whether this business's new redemptions are refused that need it.
    pub paused: bool,
    /// Since when.
    pub paused_at: Option<DateTime<Utc>>,
    /// By whom.
    pub paused_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Whether it says that it is ready, asked just now.
    pub reachable: bool,
    /// Whether it failed so often that redemptions that need it are refused for the moment.
    pub breaker_open: bool,
    /// How far its database's clock is ahead of the wallet's, in milliseconds, as of its last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_ms: Option<i64>,
}

/// Answer to a pause or a resumption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenderAnswer {
    /// Which tender.
    pub tender: TenderKind,
    /// What came of it.
    pub result: PauseResult,
    /// Whether it is paused now.
    pub paused: bool,
}

/// What came of a pause or a resumption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PauseResult {
    /// Done now.
    Done,
    /// Done earlier under the same operation id.
    AlreadyDone,
    /// It was so already: somebody else had done it.
    AlreadySo,
}
