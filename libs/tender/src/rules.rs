//! What makes one tender differ from another.

use std::fmt::Debug;

use api::BusinessId;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use money::Asset;
use service::{ApiError, openapi::About};
use uuid::Uuid;

/// A tender's rules: plain values in and out, no I/O, no clock.
pub trait Rules: Debug + Send + Sync + 'static {
    /// The name in messages, metrics and on a redemption's legs: `points`, `store_credit`, `digital_reward`.
    fn name(&self) -> &'static str;

    /// The first part of its public paths: `points`, `store-credits`, `digital-rewards`.
    fn path(&self) -> &'static str;

    /// What its OpenAPI document says of it.
    fn about(&self) -> About;

    /// Whether accounts may hold this.
    fn accepts(&self, asset: Asset) -> bool;

    /// Kinds of credits.
    fn credit_kinds(&self) -> &'static [&'static str];

    /// Those kinds that a till may issue without a manager.
    fn till_kinds(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether a leg takes from one reward, which it must name; otherwise it takes from the account, and names none.
    fn takes_from_rewards(&self) -> bool {
        false
    }

    /// How long a new lot can be spent, given the end that its issuer asked for: as asked, by default.
    fn lot_terms(&self, asked: Option<DateTime<Utc>>) -> LotTerms {
        LotTerms { expires_at: asked, grace_until: None }
    }
}

/// How long a lot can be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LotTerms {
    /// When it expires; never, if absent.
    pub expires_at: Option<DateTime<Utc>>,
    /// Until when it can still be spent after that.
    pub grace_until: Option<DateTime<Utc>>,
}

/// Gives new rewards an id and a code.
pub trait Issuer: Debug + Send + Sync + 'static {
    /// The reward with this id ([`api::derive::reward_id`]) and its code, which is always the same. They are kept before
    /// the value exists, so that no value is ever without its code.
    fn issue<'a>(
        &'a self,
        business_id: &'a BusinessId,
        reward_id: Uuid,
    ) -> BoxFuture<'a, Result<Issued, ApiError>>;
}

/// A reward's id and code.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The reward.
    pub reward_id: Uuid,
    /// What its bearer types in. It goes into the answer and nowhere else.
    pub code: String,
}
