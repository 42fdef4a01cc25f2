//! What a tender can be asked to do, and what it answers: plain values, checked at the edge.

use std::sync::Arc;

use api::{
    BusinessId,
    derive::{RequestForm, UnknownHashVersion},
    legs::{Account, Forward, LegKey},
};
use chrono::{DateTime, Utc};
use ledger::Funding;
use money::Asset;
use uuid::Uuid;

/// Whose account in which asset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey {
    /// The retailer.
    pub business_id: BusinessId,
    /// A customer, or `bearer:<reward id>` for a reward that belongs to the bearer of its code.
    pub owner: String,
    /// What it holds.
    pub asset: Asset,
}

impl From<Account> for AccountKey {
    fn from(account: Account) -> Self {
        Self { business_id: account.business_id, owner: account.customer_id, asset: account.asset }
    }
}

/// One command to one account.
#[derive(Debug, Clone)]
pub struct Command {
    /// Derived from the command's unique scope ([`api::derive`]), so that its primary key is the idempotency key.
    pub operation_id: Uuid,
    /// The account that is locked for it.
    pub account: AccountKey,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Apply a leg, or answer as stored.
    Forward(ForwardLeg),
    /// Take back what is left of a leg, or leave a tombstone.
    Cancel(LegKey),
    /// As a cancel, but an applied leg stays as it is.
    Release(LegKey),
    /// Turn a held leg into a debit.
    Capture {
        /// Units to take; the rest is released.
        amount: i64,
    },
    /// Say what is stored.
    Query,
    /// Issue new value.
    Credit(Credit),
}

impl Action {
    /// Whether it is done before forwards and credits that wait: it gives value back, or ends a hold.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        match self {
            Self::Cancel(_) | Self::Release(_) | Self::Capture { .. } => true,
            Self::Forward(leg) => leg.plan.mode == api::legs::Mode::Reverse,
            Self::Query | Self::Credit(_) => false,
        }
    }

    /// The leg that it names, where it names one.
    #[must_use]
    pub fn leg(&self) -> Option<LegKey> {
        match self {
            Self::Forward(leg) => Some(leg.key),
            Self::Cancel(key) | Self::Release(key) => Some(*key),
            Self::Capture { .. } | Self::Query | Self::Credit(_) => None,
        }
    }
}

/// A forward leg.
#[derive(Debug, Clone)]
pub struct ForwardLeg {
    /// Its key.
    pub key: LegKey,
    /// Its plan.
    pub plan: Forward,
    /// The operation that a reversal gives back.
    pub reverses: Option<Uuid>,
    /// Account and plan, to tell a retry from another leg.
    pub form: RequestForm,
    /// The saga's epoch.
    pub epoch: Option<i64>,
    /// When it was sent, by the clock that its plan's times were written by.
    pub sent_at: Option<DateTime<Utc>>,
}

/// New value.
#[derive(Debug, Clone)]
pub struct Credit {
    /// Id of the new lot, in order of age (UUIDv7).
    pub lot_id: Uuid,
    /// Units, above 0.
    pub amount: i64,
    /// Why it is issued, among the tender's kinds.
    pub kind: String,
    /// Who pays.
    pub funding: Funding,
    /// The retailer's reference, unique with business and kind.
    pub reference: String,
    /// When the lot expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// Until when it can still be spent after that.
    pub grace_until: Option<DateTime<Utc>>,
    /// The reward that the lot is.
    pub reward_id: Option<Uuid>,
    /// The customer's id as answered; none for a bearer's reward.
    pub customer_id: Option<String>,
    /// Who asked and why, as stored.
    pub details: serde_json::Value,
    /// What was asked for, to tell a retry from another request.
    pub form: RequestForm,
    /// The request, named in a refusal that is stored.
    pub request: RequestRef,
}

/// The request at hand, as problem documents name it.
#[derive(Debug, Clone, Default)]
pub struct RequestRef {
    /// Its path.
    pub instance: Option<String>,
    /// Its trace.
    pub trace_id: Option<String>,
}

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command was done now, or refused now and for ever; stored.
    Recorded(Answer),
    /// The command was done or refused before; the answer is as stored then.
    Replayed(Answer),
    /// The command is turned away; nothing is stored, nothing changed.
    Rejected(Rejection),
}

/// An answer as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Where the operation stands.
    pub state: State,
    /// The JSON document that answers: a [`api::legs::LegAnswer`], or what a public call answers with.
    pub body: Arc<str>,
}

/// Where an operation stands: [`api::legs::LegState`], for legs and public operations alike.
pub type State = api::legs::LegState;

/// Why a command is turned away without a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The key exists with another plan, another account, or cannot be captured so.
    Conflict,
    /// There is no such leg.
    NotFound,
    /// The leg has ended.
    AlreadyFinal,
    /// More than is left to give back.
    ExceedsRedeemed {
        /// Units that are left.
        available: i64,
    },
    /// A field that only the database's clock can judge.
    InvalidField {
        /// JSON pointer.
        pointer: &'static str,
        /// For a developer to read.
        detail: &'static str,
    },
    /// Whether it is the stored request cannot be said here: its hash was made by a version that is not known.
    UnknownHashVersion(UnknownHashVersion),
    /// The stored data contradict themselves, in this way: the tender's operators have to look.
    Corrupt(&'static str),
}
