//! The working set of one batch: the accounts that it locked, with the lots and operations that it read. The fold changes
//! it in place; whatever is new or changed is written afterwards.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use api::{
    derive::{RequestHash, absent_account},
    legs::{BalanceAfter, LegKey},
};
use chrono::{DateTime, Utc};
use ledger::{AccountRef, Balance, Funding, Movement, Posting};
use uuid::Uuid;

use crate::command::{AccountKey, Rejection, State};

/// Whether a row is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dirty {
    /// The database has it as it is.
    Clean,
    /// It was changed since it was read.
    Changed,
    /// The database does not have it yet.
    New,
}

impl Dirty {
    /// Notes a change.
    pub fn touch(&mut self) {
        if *self == Self::Clean {
            *self = Self::Changed;
        }
    }
}

/// The number of an account that is not stored, since nothing was ever issued to it: below zero, and a function of its key, so that
/// operations that were declined or cancelled for it can be told apart from those of other accounts.
#[must_use]
pub fn absent_no(key: &AccountKey) -> i64 {
    absent_account(&key.business_id, &key.owner, key.asset.as_str())
}

/// All that a batch read, and what its commands make of it.
#[derive(Debug)]
pub struct WorkingSet {
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
    /// Restorations of units to lots, in order.
    pub restorations: Vec<Restoration>,
}

impl WorkingSet {
    /// An empty working set at `now`.
    #[must_use]
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            now,
            accounts: HashMap::new(),
            operations: HashMap::new(),
            references: HashMap::new(),
            new_references: Vec::new(),
            postings: Vec::new(),
            restorations: Vec::new(),
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
    /// those that the batch may take from.
    pub lots: BTreeMap<SpendOrder, Lot>,
    /// Where each lot stands in that order.
    pub order_of: HashMap<Uuid, SpendOrder>,
    /// Set where the read stopped at its limit: lots that are spent later may be missing.
    pub read_to: Option<SpendOrder>,
    /// More lots have lapsed than one batch moves out: nothing about the account is judged before they are.
    pub is_overdue: bool,
    /// Those of the rewards that legs of the batch name which are blocked: nothing more is taken or set aside of them. What was set
    /// aside before is captured or released, and what was taken comes back, as from any other. Their value stays in the account's
    /// balance, where entries and lots have it: a block moves nothing.
    pub blocked: HashSet<Uuid>,
    /// Its open holds, the first to end first. Read only where a refusal may name one.
    pub holds: Vec<OpenHold>,
    /// Whether it is to be written.
    pub dirty: Dirty,
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
pub struct SpendOrder {
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
    /// Whether it is to be written.
    pub dirty: Dirty,
}

/// A part of a lot that is set aside, and until when.
#[derive(Debug, Clone)]
pub struct OpenHold {
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
    pub fn spend_order(&self) -> SpendOrder {
        SpendOrder { expires_at: self.expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC), lot_id: self.lot_id }
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
    /// The parts of lots that it took or holds, in the order of spending. Read only where the batch may reverse it.
    pub allocations: Vec<Allocation>,
    /// Written once, with a new operation.
    pub origin: Origin,
    /// Whether it is to be written.
    pub dirty: Dirty,
}

impl Operation {
    /// Units that it took or holds and that were not given back.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        self.allocations.iter().map(Allocation::outstanding).sum()
    }
}

/// The part of an operation that is stored and never read again by the fold.
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
    /// Who asked and why; of a leg for an account that is not stored, the account's owner and asset.
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
    /// Whether it is to be written.
    pub dirty: Dirty,
}

impl Allocation {
    /// Units not given back.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        self.amount - self.reversed
    }
}

/// Units that went back to the lot that they were allocated from: a row of `tender.allocation_reversal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restoration {
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
    /// An account with nothing in it.
    #[must_use]
    pub fn empty(account_no: i64, key: &AccountKey) -> Self {
        Self {
            reference: AccountRef {
                account_no,
                business_id: key.business_id.as_str().into(),
                asset: key.asset,
            },
            balance: Balance::default(),
            status: Status::Active,
            lots: BTreeMap::new(),
            order_of: HashMap::new(),
            read_to: None,
            is_overdue: false,
            blocked: HashSet::new(),
            holds: Vec::new(),
            dirty: Dirty::Clean,
        }
    }

    /// Whether the database knows the account: value was issued to it.
    #[must_use]
    pub const fn is_stored(&self) -> bool {
        self.reference.account_no > 0
    }

    /// What the account has at `now`, of the reward or in all, as answers tell it. None of an account that is not stored: it has no
    /// versions by which one answer could be older or newer than another.
    #[must_use]
    pub fn after(&self, reward_id: Option<Uuid>, now: DateTime<Utc>) -> Option<BalanceAfter> {
        let after =
            || BalanceAfter { available: self.spendable(reward_id, now), version: self.balance.version() };
        self.is_stored().then(after)
    }

    /// Adds a lot that was read, or is new. A lot that was read twice is kept once.
    pub fn insert(&mut self, lot: Lot) {
        let order = lot.spend_order();
        if self.order_of.insert(lot.lot_id, order).is_none() {
            self.lots.insert(order, lot);
        }
    }

    /// The lot with this id, if it was read.
    #[must_use]
    pub fn lot(&self, lot_id: Uuid) -> Option<&Lot> {
        self.lots.get(self.order_of.get(&lot_id)?)
    }

    /// The lot with this id, if it was read.
    pub fn lot_mut(&mut self, lot_id: Uuid) -> Option<&mut Lot> {
        self.lots.get_mut(self.order_of.get(&lot_id)?)
    }

    /// Makes the posting of `movement` and takes its balance over; none, and no new version, where nothing moves. Fails before
    /// anything changed.
    ///
    /// # Errors
    /// [`Rejection::Corrupt`] where the ledger refuses the movement.
    pub fn post(&mut self, operation_id: Uuid, movement: Movement) -> Result<Option<Posting>, Rejection> {
        if movement.is_nothing() {
            return Ok(None);
        }
        let posting = Posting::try_new(operation_id, self.reference.clone(), self.balance, movement)
            .map_err(|_| Rejection::Corrupt("the account's balance is not what its lots are"))?;
        self.balance = posting.after();
        self.dirty.touch();
        Ok(Some(posting))
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
        let reward_of = |hold: &OpenHold| self.lot(hold.lot_id)?.reward_id;
        let is_asked_for = |hold: &&OpenHold| reward_id.is_none() || reward_of(hold) == reward_id;
        let mut holds: Vec<&OpenHold> = self.holds.iter().filter(is_asked_for).collect();
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
