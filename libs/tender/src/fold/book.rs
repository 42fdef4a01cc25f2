//! What one batch knows: the accounts that it locked, with the lots and operations that it read. The fold changes
//! it in place; whatever is marked as new or changed is written afterwards.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{
    derive::{RequestHash, absent_account},
    legs::{BalanceAfter, LegKey},
};
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

/// The number of an account that is not stored, since nothing was ever issued to it: below zero, and a function of its key, so that
/// what is declined or cancelled for it can be told apart from what belongs to others.
#[must_use]
pub fn absent_no(key: &AccountKey) -> i64 {
    absent_account(&key.business_id, &key.owner, key.asset.as_str())
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
    /// The lots that were read, in the order of spending: all that have lapsed and are still in the balance, and of the others
    /// those that the batch needs.
    pub lots: BTreeMap<Rank, Lot>,
    /// Where a lot stands in that order.
    pub ranks: HashMap<Uuid, Rank>,
    /// Set where the read stopped at its limit: lots of a later rank may be missing.
    pub read_to: Option<Rank>,
    /// More lots have lapsed than one batch moves out: nothing about the account is judged before they are.
    pub is_overdue: bool,
    /// Its holds in force, the first to end first. Read only where a refusal may name one.
    pub holds: Vec<LiveHold>,
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
    /// How often what was left of it has been moved out.
    pub times_expired: i32,
    /// Whether the database knows it.
    pub mark: Mark,
}

/// A part of a lot that is set aside, and until when.
#[derive(Debug, Clone)]
pub struct LiveHold {
    /// The hold.
    pub operation_id: Uuid,
    /// Its end.
    pub until: DateTime<Utc>,
    /// The lot.
    pub lot_id: Uuid,
    /// Units.
    pub units: i64,
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
    /// The retailer.
    pub business_id: Arc<str>,
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
    /// Who and why; of a leg for an account that is not stored, whose that would be.
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
    /// What was left of a lot at its end, moved out.
    Expire,
}

/// A part of a lot that an operation took or holds.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// Its place among the operation's, from 0 on.
    pub position: i16,
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
            lots: BTreeMap::new(),
            ranks: HashMap::new(),
            read_to: None,
            is_overdue: false,
            holds: Vec::new(),
            mark: Mark::Stored,
        }
    }

    /// Whether the database knows the account: value was issued to it.
    #[must_use]
    pub const fn is_stored(&self) -> bool {
        self.reference.account_no > 0
    }

    /// What it has at `now`, of the reward or in all, as answers tell. Of an account that is not stored there is nothing to tell: it
    /// has no versions by which an answer could be older or newer than another.
    #[must_use]
    pub fn after(&self, reward_id: Option<Uuid>, now: DateTime<Utc>) -> Option<BalanceAfter> {
        let after =
            || BalanceAfter { available: self.spendable(reward_id, now), version: self.balance.version() };
        self.is_stored().then(after)
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

    /// Units that can be taken at `now`: of the reward, or of the account. Of the account they are what is not set aside, less
    /// what has lapsed and is still in the balance; so no lot is looked at that has not lapsed.
    #[must_use]
    pub fn spendable(&self, reward_id: Option<Uuid>, now: DateTime<Utc>) -> i64 {
        match reward_id {
            None => self.balance.free() - self.lapsed(now).map(|lot| lot.remaining).sum::<i64>(),
            Some(id) => self
                .lots
                .values()
                .filter(|lot| lot.reward_id == Some(id) && lot.is_spendable(now))
                .map(|lot| lot.remaining)
                .sum(),
        }
    }

    /// When so many more units will be free, of the reward or of the account, if its holds end no sooner than they say.
    #[must_use]
    pub fn free_again(&self, reward_id: Option<Uuid>, units: i64) -> Option<DateTime<Utc>> {
        let reward_of = |hold: &LiveHold| self.lots.get(self.ranks.get(&hold.lot_id)?)?.reward_id;
        let is_asked_for = |hold: &&LiveHold| reward_id.is_none() || reward_of(hold) == reward_id;
        let mut holds: Vec<&LiveHold> = self.holds.iter().filter(is_asked_for).collect();
        holds.sort_by_key(|hold| hold.until);
        let mut free: i64 = 0;
        holds.into_iter().find_map(|hold| {
            free = free.saturating_add(hold.units);
            (free >= units).then_some(hold.until)
        })
    }

    /// Lots that have lapsed at `now` and still have something free.
    pub fn lapsed(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Lot> {
        // None lapses before it expires, and what expires later comes later.
        let expired = self.lots.values().take_while(move |lot| lot.expires_at.is_some_and(|at| at <= now));
        expired.filter(move |lot| lot.remaining > 0 && !lot.is_spendable(now))
    }
}
