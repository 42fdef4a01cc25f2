//! A tender: its database, and its executor around the real fold.
//!
//! A batch is what it is in `libs/tender/src/executor`: lock, read, fold, write, commit, answer. The fold is the code
//! that runs in production; read and write are mirrored here over maps. A row that a transaction has locked keeps others
//! waiting until that transaction ends, also when its client is gone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use ledger::Balance;
use tender::{
    command::{AccountKey, Action, Command, Outcome, State},
    fold::{
        self,
        working_set::{AccountState, Dirty, Kind, Lot, Operation, Restoration, WorkingSet},
    },
};
use uuid::Uuid;

use crate::{Time, db::SagaId, faults::Defect, plan::instant};

/// A command on its way to a tender.
#[derive(Debug)]
pub struct Parcel {
    /// Whose reply it is.
    pub call: u64,
    /// Which tender.
    pub tender: usize,
    /// For which saga.
    pub id: SagaId,
    /// In which of its epochs.
    pub epoch: i64,
    /// What to do.
    pub command: Command,
}

#[derive(Debug)]
pub struct Account {
    account_no: i64,
    balance: Balance,
    lots: BTreeMap<Uuid, Lot>,
    /// Σ of the customer's side of all entries.
    entries: i64,
}

/// A movement of value by an operation, as the ledger has it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// By which operation.
    pub operation_id: Uuid,
    /// The signed change of what the account has.
    pub posted: i64,
    /// The signed change of what is set aside.
    pub held: i64,
}

/// A batch that is done but for its COMMIT.
#[derive(Debug)]
pub struct Prepared {
    set: WorkingSet,
    entries: Vec<(AccountKey, Entry)>,
    /// What each command came to.
    pub outcomes: Vec<Outcome>,
}

impl Prepared {
    /// The accounts that stay locked until it ends.
    pub fn locks(&self) -> BTreeSet<AccountKey> {
        self.set.accounts.keys().cloned().collect()
    }
}

/// A tender, with everything that it knows and everything that waits in it.
#[derive(Debug, Default)]
pub struct Tender {
    pub accounts: BTreeMap<AccountKey, Account>,
    /// Every operation that was ever recorded.
    pub operations: BTreeMap<Uuid, Operation>,
    /// Every entry, in order.
    pub entries: Vec<Entry>,
    /// Every restoration of units to a lot.
    pub restorations: Vec<Restoration>,
    /// What waits, urgent commands apart.
    pub queue: [VecDeque<Rc<Parcel>>; 2],
    /// Accounts locked by a transaction whose client is gone, and until when.
    pub locked: BTreeMap<AccountKey, Time>,
    /// Transactions whose client is gone: the batch is durable at the end, or not.
    pub pending: Vec<Option<(Prepared, bool)>>,
    /// Each start is another process.
    pub life: u32,
    /// Until when connections are refused.
    pub away_until: Time,
    /// Until when requests are accepted and forgotten.
    pub hung_until: Time,
    /// A batch is under way, or about to be.
    pub is_busy: bool,
    /// A rule that is left out.
    pub defect: Option<Defect>,
    /// The clock of its database, minus true time.
    pub skew: Time,
}

impl Tender {
    /// Opens an account with nothing in it.
    pub fn open(&mut self, key: AccountKey) {
        let account_no = i64::try_from(self.accounts.len() + 1).unwrap_or(i64::MAX);
        let account = Account { account_no, balance: Balance::default(), lots: BTreeMap::new(), entries: 0 };
        self.accounts.insert(key, account);
    }

    /// Queues a command; true if an executor has to be woken.
    pub fn enqueue(&mut self, parcel: Rc<Parcel>) -> bool {
        let lane = usize::from(!parcel.command.action.is_urgent());
        self.queue[lane].push_back(parcel);
        !std::mem::replace(&mut self.is_busy, true)
    }

    /// Takes up to `most` commands whose accounts nobody has locked, urgent ones first.
    pub fn take_batch(&mut self, most: usize) -> Vec<Rc<Parcel>> {
        let mut batch = Vec::new();
        for lane in &mut self.queue {
            let mut left = VecDeque::new();
            while let Some(parcel) = lane.pop_front() {
                if batch.len() < most && !self.locked.contains_key(&parcel.command.account) {
                    batch.push(parcel);
                } else {
                    left.push_back(parcel);
                }
            }
            *lane = left;
        }
        batch
    }

    /// Whether anything waits.
    pub fn is_idle(&self) -> bool {
        self.queue.iter().all(VecDeque::is_empty) && self.pending.iter().all(Option::is_none)
    }

    /// Reads and folds, as one transaction that has not ended yet.
    pub fn prepare<'a>(&self, commands: impl Iterator<Item = &'a Command> + Clone, now: Time) -> Prepared {
        let mut set = self.read(commands.clone(), now);
        let mut balances: BTreeMap<i64, (AccountKey, Balance)> = set
            .accounts
            .iter()
            .map(|(key, account)| (account.reference.account_no, (key.clone(), account.balance)))
            .collect();
        let outcomes = commands.map(|command| fold::apply(&mut set, command)).collect();
        let mut entries = Vec::new();
        for posting in &set.postings {
            let Some((key, before)) = balances.get_mut(&posting.account_no()) else { continue };
            let after = posting.after();
            let entry = Entry {
                operation_id: posting.operation_id(),
                posted: after.posted() - before.posted(),
                held: after.held() - before.held(),
            };
            *before = after;
            entries.push((key.clone(), entry));
        }
        Prepared { set, entries, outcomes }
    }

    /// What `libs/tender/src/store/read.rs` reads: locked accounts, operations by id, allocations of what may be given back.
    fn read<'a>(&self, commands: impl Iterator<Item = &'a Command>, now: Time) -> WorkingSet {
        let mut set = WorkingSet::new(instant(now + self.skew));
        let mut reversible = BTreeSet::new();
        for command in commands {
            let Some(account) = self.accounts.get(&command.account) else { continue };
            if !set.accounts.contains_key(&command.account) {
                set.accounts.insert(command.account.clone(), locked(&command.account, account));
            }
            let mut ids = vec![command.operation_id];
            match &command.action {
                Action::Forward(leg) => {
                    ids.extend(leg.reverses);
                    reversible.extend(leg.reverses);
                }
                Action::Cancel(_) | Action::Release(_) | Action::Capture { .. } => {
                    reversible.insert(command.operation_id);
                }
                Action::Query | Action::Credit(_) => {}
            }
            for id in ids {
                let Some(stored) = self.operations.get(&id) else { continue };
                let bare = Operation { allocations: Vec::new(), ..stored.clone() };
                set.operations.entry(id).or_insert(bare);
            }
        }
        for id in reversible {
            if let (Some(read), Some(stored)) = (set.operations.get_mut(&id), self.operations.get(&id)) {
                read.allocations.clone_from(&stored.allocations);
            }
        }
        set
    }

    /// COMMIT: everything that the batch made new or changed is durable, and what must hold at every commit does.
    ///
    /// # Errors
    /// What does not hold.
    pub fn commit(&mut self, prepared: Prepared) -> Result<(), String> {
        let Prepared { set, entries, .. } = prepared;
        // Giving back changes an operation's parts, and not the operation that took them.
        let is_new =
            |o: &Operation| o.dirty != Dirty::Clean || o.allocations.iter().any(|a| a.dirty != Dirty::Clean);
        let mut operations: Vec<_> =
            set.operations.into_iter().filter(|(_, operation)| is_new(operation)).collect();
        operations.sort_unstable_by_key(|(id, _)| *id);
        for (id, mut operation) in operations {
            let is_lost = match operation.state {
                State::Tombstoned => self.defect == Some(Defect::NoTombstone),
                State::Declined => self.defect == Some(Defect::DeclineNotRecorded),
                _ => false,
            };
            if is_lost {
                continue;
            }
            if self.defect == Some(Defect::ReturnNotCounted) {
                operation.allocations.iter_mut().for_each(|part| part.reversed = 0);
            }
            operation.dirty = Dirty::Clean;
            operation.allocations.iter_mut().for_each(|part| part.dirty = Dirty::Clean);
            self.write_operation(id, operation)?;
        }
        for (key, state) in set.accounts {
            if let Some(account) = self.accounts.get_mut(&key) {
                write_account(account, state)?;
            }
        }
        for (key, entry) in entries {
            if let Some(account) = self.accounts.get_mut(&key) {
                account.entries += entry.posted;
            }
            self.entries.push(entry);
        }
        self.restorations.extend(set.restorations);
        self.accounts.values().try_for_each(check_account)
    }

    fn write_operation(&mut self, id: Uuid, mut operation: Operation) -> Result<(), String> {
        if let Some(stored) = self.operations.get(&id) {
            if !may_become(stored, operation.state) {
                return Err(format!("operation {id} went from {:?} to {:?}", stored.state, operation.state));
            }
            if operation.allocations.is_empty() {
                operation.allocations.clone_from(&stored.allocations);
            }
            let shrank =
                stored.allocations.iter().zip(&operation.allocations).any(|(a, b)| b.reversed < a.reversed);
            if shrank {
                return Err(format!("operation {id} took back what it had given back"));
            }
        }
        for part in &operation.allocations {
            if part.reversed > part.amount || part.reversed < 0 {
                return Err(format!("operation {id}: {} reversed of {} taken", part.reversed, part.amount));
            }
        }
        self.operations.insert(id, operation);
        Ok(())
    }

    /// What was left of lots at their ends.
    pub fn expired(&self) -> i64 {
        let expiries = self.operations.values().filter(|operation| operation.kind == Kind::Expire);
        expiries.map(|operation| operation.amount).sum()
    }

    /// What all accounts have: posted, and of that set aside.
    pub fn totals(&self) -> (i64, i64) {
        self.accounts.values().fold((0, 0), |(posted, held), account| {
            (posted + account.balance.posted(), held + account.balance.held())
        })
    }
}

/// An account as a batch locks and reads it.
fn locked(key: &AccountKey, account: &Account) -> AccountState {
    let mut state = AccountState { balance: account.balance, ..AccountState::empty(account.account_no, key) };
    account.lots.values().for_each(|lot| state.insert(lot.clone()));
    state
}

fn write_account(account: &mut Account, state: AccountState) -> Result<(), String> {
    let (before, after) = (account.balance.version(), state.balance.version());
    if after < before {
        return Err(format!("an account's version fell from {before} to {after}"));
    }
    account.balance = state.balance;
    for mut lot in state.lots.into_values().filter(|lot| lot.dirty != Dirty::Clean) {
        lot.dirty = Dirty::Clean;
        account.lots.insert(lot.lot_id, lot);
    }
    Ok(())
}

/// posted = Σ lots = Σ entries, held = Σ held, and no lot out of its bounds.
fn check_account(account: &Account) -> Result<(), String> {
    let posted: i64 = account.lots.values().map(|lot| lot.remaining + lot.held).sum();
    let held: i64 = account.lots.values().map(|lot| lot.held).sum();
    let bad = account
        .lots
        .values()
        .any(|lot| lot.remaining < 0 || lot.held < 0 || lot.remaining + lot.held > lot.original);
    let balance = account.balance;
    if bad || posted != balance.posted() || held != balance.held() || posted != account.entries {
        let no = account.account_no;
        return Err(format!(
            "account {no}: lots say {posted} ({held} held), balance {} ({} held), entries {}",
            balance.posted(),
            balance.held(),
            account.entries
        ));
    }
    Ok(())
}

/// A refusal, a tombstone and what was undone stand for ever; what is in force ends once.
fn may_become(stored: &Operation, state: State) -> bool {
    match (stored.state, state) {
        (before, after) if before == after => true,
        (State::Held, State::Applied) => stored.kind == Kind::Hold,
        (State::Held | State::Applied, State::Reversed) => true,
        _ => false,
    }
}
