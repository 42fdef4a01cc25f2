//! What one batch knows: the accounts that it locked, with the lots and operations that it read. The fold changes
//! it in place; whatever is marked as new or changed is written afterwards.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{derive::RequestHash, legs::LegKey};
use chrono::{DateTime, Utc};
use ledger::{AccountRef, Balance, Funding, LedgerError, Movement, Posting};
use uuid::Uuid;

use crate::command::{AccountKey, State};

/// Whether the database knows it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As read.
    Stored,
    /// Changed since.
    Changed,
    /// Not there yet.
    New,
}

impl Mark {
    /// The mark after a change.
    pub fn touch(&mut self) {
        if *self == Self::Stored {
            *self = Self::Changed;
        }
    }
}

/// Everything that a batch works on.
#[derive(Debug)]
pub struct Book {
    /// The database's clock, read after the last lock was taken.
    pub now: DateTime<Utc>,
    /// The locked accounts.
    pub accounts: HashMap<AccountKey, AccountState>,
    /// Operations by id: those of the batch that exist, and those that it reverses.
    pub operations: HashMap<Uuid, Operation>,
    /// The operations that own references of credits, by (business, kind, reference).
    pub references: HashMap<(String, String, String), Uuid>,
    /// References taken by this batch.
    pub new_references: Vec<(String, String, String, Uuid)>,
    /// Postings of this batch, in order.
    pub postings: Vec<Posting>,
    /// Returns to lots, in order.
    pub returns: Vec<Return>,
}

impl Book {
    /// An empty book at `now`.
    #[must_use]
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            now,
            accounts: HashMap::new(),
            operations: HashMap::new(),
            references: HashMap::new(),
            new_references: Vec::new(),
            postings: Vec::new(),
            returns: Vec::new(),
        }
    }
}

/// A locked account.
#[derive(Debug)]
pub struct AccountState {
    /// Number, business and asset, for postings.
    pub reference: AccountRef,
    /// What it has.
    pub balance: Balance,
    /// Whether value may leave it.
    pub status: Status,
    /// Spendable units: remaining of all lots that have not lapsed, those not read included.
    pub available: i64,
    /// The lots that were read, in the order of spending.
    pub lots: BTreeMap<Rank, Lot>,
    /// Where a lot stands in that order.
    pub ranks: HashMap<Uuid, Rank>,
    /// Set where the read stopped at its limit: lots of a later rank may be missing.
    pub read_to: Option<Rank>,
    /// Whether the database knows it.
    pub mark: Mark,
}

/// Whether value may leave or enter an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    Active,
    /// Nothing leaves.
    Frozen,
    /// Nothing leaves, nothing new enters.
    Closed,
}

/// The order of spending: soonest-expiring first (none last), then oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    expires_at: DateTime<Utc>,
    lot_id: Uuid,
}

/// A parcel of value.
#[derive(Debug, Clone)]
pub struct Lot {
    /// Its id; of two lots the older has the smaller.
    pub lot_id: Uuid,
    /// Units at issue.
    pub original: i64,
    /// Units free.
    pub remaining: i64,
    /// Units set aside.
    pub held: i64,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// Until when it can still be spent after that.
    pub grace_until: Option<DateTime<Utc>>,
    /// Who paid.
    pub funding: Funding,
    /// Why it was issued.
    pub kind: String,
    /// The credit that issued it.
    pub operation_id: Uuid,
    /// The reward that it is.
    pub reward_id: Option<Uuid>,
    /// Whether the database knows it.
    pub mark: Mark,
}

impl Lot {
    /// Where it stands in the order of spending.
    #[must_use]
    pub fn rank(&self) -> Rank {
        Rank { expires_at: self.expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC), lot_id: self.lot_id }
    }

    /// Whether it can be spent at `now`: also in its grace period.
    #[must_use]
    pub fn is_spendable(&self, now: DateTime<Utc>) -> bool {
        self.grace_until.or(self.expires_at).is_none_or(|end| now < end)
    }
}

/// An operation, as stored or about to be.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The account that it was for.
    pub account_no: i64,
    /// What it was.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// Units.
    pub amount: i64,
    /// Of its request; none for a tombstone.
    pub request_hash: Option<RequestHash>,
    /// Its answer.
    pub response: Arc<str>,
    /// The lots that it took or holds, in the order of taking. Read only where the batch may reverse it.
    pub allocations: Vec<Allocation>,
    /// Written once, with a new operation.
    pub origin: Origin,
    /// Whether the database knows it.
    pub mark: Mark,
}

impl Operation {
    /// Units that it took or holds and that were not given back.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        self.allocations.iter().map(Allocation::outstanding).sum()
    }
}

/// What is stored of an operation and never read again by the fold.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The leg.
    pub leg: Option<LegKey>,
    /// The operation that it reverses.
    pub reverses: Option<Uuid>,
    /// Until when a hold is kept.
    pub hold_until: Option<DateTime<Utc>>,
    /// The saga's epoch.
    pub epoch: Option<i64>,
    /// The order that it pays.
    pub order_id: Option<String>,
    /// Who and why.
    pub details: Option<serde_json::Value>,
}

/// What an operation was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// New value.
    Credit,
    /// Value taken.
    Debit,
    /// Value set aside; captured once applied.
    Hold,
    /// Value given back.
    Reverse,
    /// A cancel that came before its leg.
    Cancel,
}

/// A part of a lot that an operation took or holds.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// The lot.
    pub lot_id: Uuid,
    /// Units.
    pub amount: i64,
    /// Units given back.
    pub reversed: i64,
    /// Whether the database knows it.
    pub mark: Mark,
}

impl Allocation {
    /// Units not given back.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        self.amount - self.reversed
    }
}

/// Units that went back to a lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Return {
    /// The operation that had taken them.
    pub operation_id: Uuid,
    /// Which of its allocations.
    pub position: i16,
    /// The operation that gave them back.
    pub by_operation_id: Uuid,
    /// Units.
    pub amount: i64,
}

impl AccountState {
    /// An account as it is stored before anything has happened to it.
    #[must_use]
    pub fn empty(reference: AccountRef) -> Self {
        Self {
            reference,
            balance: Balance::default(),
            status: Status::Active,
            available: 0,
            lots: BTreeMap::new(),
            ranks: HashMap::new(),
            read_to: None,
            mark: Mark::Stored,
        }
    }

    /// Adds a lot that was read, or is new. A lot that was read twice is kept once.
    pub fn insert(&mut self, lot: Lot) {
        let rank = lot.rank();
        if self.ranks.insert(lot.lot_id, rank).is_none() {
            self.lots.insert(rank, lot);
        }
    }

    /// The lot with this id, if it was read.
    pub fn lot_mut(&mut self, lot_id: Uuid) -> Option<&mut Lot> {
        let rank = self.ranks.get(&lot_id)?;
        self.lots.get_mut(rank)
    }

    /// Makes the posting of `movement` and takes its balance over. Fails before anything changed.
    ///
    /// # Errors
    /// As [`Posting::try_new`].
    pub fn post(&mut self, operation_id: Uuid, movement: Movement) -> Result<Posting, LedgerError> {
        let posting = Posting::try_new(operation_id, self.reference.clone(), self.balance, movement)?;
        self.balance = posting.after();
        self.mark.touch();
        Ok(posting)
    }

    /// Units that can be taken at `now`: of the reward, or of the account.
    #[must_use]
    pub fn spendable(&self, reward_id: Option<Uuid>, now: DateTime<Utc>) -> i64 {
        match reward_id {
            None => self.available,
            Some(id) => self
                .lots
                .values()
                .filter(|lot| lot.reward_id == Some(id) && lot.is_spendable(now))
                .map(|lot| lot.remaining)
                .sum(),
        }
    }
}
