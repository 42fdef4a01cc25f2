//! Problem documents (RFC 9457) with the stable codes of `docs/ERRORS.md`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Whether what was asked for happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was done, and nothing will be done because of this request.
    NotApplied,
    /// It was done.
    Applied,
    /// It may have been done: ask again with the same key.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $title:literal, $suggestion:literal;)*) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code, in the order of `docs/ERRORS.md`.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The code as it is sent.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// The HTTP status that it is sent with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// A short summary, the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }

            /// What the person at the till can do.
            #[must_use]
            pub const fn suggestion(self) -> &'static str {
                match self { $(Code::$variant => $suggestion,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or not JSON that means one thing only.
    MalformedJson = "malformed_json", 400, "The body is not valid JSON", "Correct the request; this is a fault of the till's software.";
    /// A field that this call does not have.
    UnknownField = "unknown_field", 400, "The body has an unknown field", "Correct the request; this is a fault of the till's software.";
    /// A field, parameter or header out of its range.
    InvalidField = "invalid_field", 400, "A field is missing or invalid", "Correct the request; this is a fault of the till's software.";
    /// No `Idempotency-Key` where one is needed.
    IdempotencyKeyMissing = "idempotency_key_missing", 400, "The Idempotency-Key header is missing", "Send an Idempotency-Key; this is a fault of the till's software.";
    /// An `Idempotency-Key` that is empty, too long, not visible ASCII, or sent twice.
    IdempotencyKeyInvalid = "idempotency_key_invalid", 400, "The Idempotency-Key header is invalid", "Send one Idempotency-Key of 1 to 255 visible ASCII characters.";
    /// No token, or one that cannot be trusted.
    TokenInvalid = "token_invalid", 401, "The access token is missing or invalid", "Sign in again.";
    /// A token past its end.
    TokenExpired = "token_expired", 401, "The access token has expired", "Sign in again.";
    /// The token's roles do not allow this.
    RoleMissing = "role_missing", 403, "This role may not do this", "Ask someone with the right role.";
    /// Somebody else has to approve first.
    ApprovalRequired = "approval_required", 403, "An approval is required", "Ask a second person to approve.";
    /// A web page of another site, which the service was not told to trust.
    OriginNotAllowed = "origin_not_allowed", 403, "This origin is not allowed", "Open the page on its own site, or have the origin allowed.";
    /// Maker and checker are the same person.
    SelfApproval = "self_approval", 403, "Nobody approves their own request", "Ask a second person to approve.";
    /// It does not exist, or not for this caller.
    NotFound = "not_found", 404, "Not found", "Check the id.";
    /// The reward is unknown, expired, blocked or another's: one answer for all.
    RewardNotUsable = "reward_not_usable", 404, "This reward cannot be used", "Check the code, or use another tender.";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed", "Correct the request; this is a fault of the till's software.";
    /// The key was cancelled, before or after it was used.
    KeyCancelled = "key_cancelled", 409, "This key was cancelled", "Start again with a new key.";
    /// The object has reached an end state.
    AlreadyFinal = "already_final", 409, "This is already final", "Look the object up; nothing is left to do.";
    /// Value is set aside for another order.
    HeldByOtherOrder = "held_by_other_order", 409, "The value is held by another order", "Finish or void the other order, or use another tender.";
    /// The reference, or the till's sequence, was used before under another key.
    DuplicateReference = "duplicate_reference", 409, "This reference was used before", "Look up the earlier request.";
    /// A leg was sent again with another plan.
    LegConflict = "leg_conflict", 409, "This leg exists with another plan", "Report it: two different requests share a leg.";
    /// The body is larger than allowed.
    BodyTooLarge = "body_too_large", 413, "The body is too large", "Send less.";
    /// The request was meant for another tender than the one that it has reached.
    WrongTender = "wrong_tender", 421, "This is another tender", "Report it: the wallet has a wrong address of a tender.";
    /// The body is not declared as JSON.
    UnsupportedMediaType = "unsupported_media_type", 415, "The body must be application/json", "Send Content-Type: application/json.";
    /// The key was used with another body.
    IdempotencyKeyReused = "idempotency_key_reused", 422, "This key was used with another body", "Use a new key for a new request.";
    /// Not enough spendable value.
    InsufficientBalance = "insufficient_balance", 422, "The balance does not cover this", "Take less from this tender, or add another.";
    /// The tenders do not add up to the amount.
    TendersDoNotCover = "tenders_do_not_cover", 422, "The tenders do not add up to the amount", "Change the tenders, or let one take the rest.";
    /// Another currency than the redemption's.
    CurrencyMismatch = "currency_mismatch", 422, "The currency does not match", "Use a tender in the order's currency.";
    /// Below the smallest amount that can be redeemed.
    BelowMinimum = "below_minimum", 422, "Below the minimum", "Take more from this tender, or leave it out.";
    /// Above the largest amount that can be redeemed.
    AboveMaximum = "above_maximum", 422, "Above the maximum", "Take less from this tender.";
    /// A daily, monthly or structural limit.
    LimitExceeded = "limit_exceeded", 422, "A limit is exceeded", "Take less, or use another tender.";
    /// The reward does not apply to this cart.
    RewardNotEligible = "reward_not_eligible", 422, "This reward does not apply here", "Use another tender.";
    /// More than what was redeemed and not yet returned.
    RefundExceedsRedeemed = "refund_exceeds_redeemed", 422, "More than was redeemed", "Refund at most what is left.";
    /// The hold ended before.
    HoldExpired = "hold_expired", 422, "The hold has expired", "Authorize again with a new key.";
    /// The account is frozen or closed.
    AccountFrozen = "account_frozen", 422, "The account is frozen", "Use another tender; the customer should contact support.";
    /// Wallet value may not pay more than the cart's subtotal.
    AmountExceedsSubtotal = "amount_exceeds_subtotal", 422, "More than the subtotal", "Lower the amount to the subtotal: wallet value does not pay tax.";
    /// A tender gave no final answer in time, so everything was undone.
    NotCompletedInTime = "not_completed_in_time", 422, "Not completed in time; everything was undone", "Try again with a new key, or use another tender.";
    /// The caller sends too much.
    RateLimited = "rate_limited", 429, "Too many requests", "Wait, then try again.";
    /// Too many redemptions of one customer.
    VelocityBlocked = "velocity_blocked", 429, "Too many redemptions", "Wait, or ask a manager.";
    /// A tender cannot be reached now; nothing was written.
    TenderUnavailable = "tender_unavailable", 503, "A tender is unavailable", "Try again shortly with the same key, or use another tender.";
    /// The service has more work than it can take, or its database is away.
    Overloaded = "overloaded", 503, "The service is overloaded or starting", "Try again shortly with the same key.";
    /// A fault of ours.
    Internal = "internal", 500, "Internal error", "Try again with the same key; report the trace id.";
}

impl Code {
    /// The code with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// Whether the same request under the same key may still succeed.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self.status(), 401 | 421 | 429 | 500 | 503)
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the body (`/tenders/0/points`), or the name of a header or parameter.
    pub pointer: String,
    /// A code.
    pub code: Cow<'static, str>,
    /// For a developer to read.
    pub detail: String,
}

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI reference that names the code.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Summary of the code.
    pub title: Cow<'static, str>,
    /// HTTP status.
    pub status: u16,
    /// This occurrence, in words.
    pub detail: Cow<'static, str>,
    /// The path that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Stable code.
    pub code: Cow<'static, str>,
    /// Whether the same key may still succeed.
    pub retryable: bool,
    /// Whether it happened.
    pub outcome: Outcome,
    /// For support: the trace of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What the cashier can do.
    pub suggestion: Cow<'static, str>,
    /// Fields at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The redemption that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redemption_id: Option<Uuid>,
    /// Units that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<i64>,
    /// Units that were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<i64>,
    /// When the hold in the way ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<String>,
    /// Members of one kind of problem only (a declined redemption's `leg`, `returned`, `reversal`).
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// The problem of `code`, with the status, title and suggestion that belong to it; not applied.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: Cow::Owned(format!("/problems/{}", code.as_str())),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            instance: None,
            code: code.as_str().into(),
            retryable: code.is_retryable(),
            outcome: Outcome::NotApplied,
            trace_id: None,
            suggestion: code.suggestion().into(),
            errors: Vec::new(),
            redemption_id: None,
            available: None,
            required: None,
            held_until: None,
            extra: serde_json::Map::new(),
        }
    }

    /// An `invalid_field` that points at one field.
    #[must_use]
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(Code::InvalidField, "A field is missing or out of its range.");
        problem.errors.push(FieldError {
            pointer: pointer.into(),
            code: Code::InvalidField.as_str().into(),
            detail: detail.into(),
        });
        problem
    }

    /// The same problem with another outcome.
    #[must_use]
    pub const fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The code, if this version knows it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        Code::parse(&self.code)
    }
}
