//! The read set of a batch, read once it holds its locks: stored operations, lots, references.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use api::derive::RequestHash;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, Row as _};
use uuid::Uuid;

use super::rows::{self, LotRow, decode};
use crate::{
    command::{AccountKey, Action, Command},
    fold::{
        LOTS_MAX, lapsed_max,
        working_set::{
            AccountState, Allocation, Dirty, Lot, OpenHold, Operation, Origin, SpendOrder, WorkingSet,
        },
    },
};

const OPERATIONS: &str = include_str!("operations.sql");
const ALLOCATIONS: &str = include_str!("allocations.sql");
const LOTS: &str = include_str!("lots.sql");
const REWARDS: &str = include_str!("rewards.sql");
const REFERENCES: &str = include_str!("references.sql");
const HOLDS: &str = include_str!("holds.sql");

/// So many lots of an account are read; more only where these do not cover what its batch asks for.
const LOTS_STEPS: [usize; 3] = [8, 64, LOTS_MAX];

/// Most holds of an account that are read, to say when one ends.
const HOLDS_MAX: i64 = 100;

/// The rows that the commands of a batch read.
#[derive(Debug, Default)]
pub struct ReadSet {
    /// Their accounts, with the units that forward legs ask for in all.
    accounts: BTreeMap<AccountKey, i64>,
    created: BTreeSet<AccountKey>,
    operations: HashSet<Uuid>,
    /// Operations that may be given back: their allocations are read as well.
    reversible: HashSet<Uuid>,
    rewards: HashSet<(AccountKey, Uuid)>,
    references: HashSet<(String, String, String)>,
}

impl ReadSet {
    /// The rows that `commands` read.
    #[must_use]
    pub fn of<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut read_set = Self::default();
        for command in commands {
            read_set.add(command);
        }
        read_set
    }

    /// The accounts to lock.
    #[must_use]
    pub fn accounts(&self) -> BTreeSet<AccountKey> {
        self.accounts.keys().cloned().collect()
    }

    /// Units that forward legs ask for of an account.
    fn units(&self, key: &AccountKey) -> i64 {
        self.accounts.get(key).copied().unwrap_or_default()
    }

    /// Accounts that are created where they are missing: those that value is issued to. What asks, declines or cancels creates none.
    #[must_use]
    pub fn to_create(&self) -> &BTreeSet<AccountKey> {
        &self.created
    }

    fn add(&mut self, command: &Command) {
        let units = self.accounts.entry(command.account.clone()).or_default();
        self.operations.insert(command.operation_id);
        match &command.action {
            Action::Forward(leg) => {
                // Rewards count too: their units may come out of the lots that other legs were to find.
                *units = units.saturating_add(leg.plan.amount);
                self.operations.extend(leg.reverses);
                self.reversible.extend(leg.reverses);
                self.rewards.extend(leg.plan.reward_id.map(|reward| (command.account.clone(), reward)));
            }
            Action::Cancel(_) | Action::Release(_) | Action::Capture { .. } => {
                self.reversible.insert(command.operation_id);
            }
            Action::Credit(credit) => {
                self.created.insert(command.account.clone());
                let business = command.account.business_id.to_string();
                self.references.insert((business, credit.kind.clone(), credit.reference.clone()));
            }
            Action::Query => {}
        }
    }
}

/// Reads the read set into the working set: two statements, and one more for each of reversals, rewards and credits if there
/// are any, for accounts that need many lots, and for those whose holds may be in the way.
///
/// # Errors
/// What the database says; [`sqlx::Error::Decode`] for what no version of this program wrote.
pub async fn read(
    connection: &mut PgConnection,
    set: &mut WorkingSet,
    read_set: &ReadSet,
) -> Result<(), sqlx::Error> {
    read_operations(connection, set, read_set).await?;
    read_lots(connection, set, read_set).await?;
    read_holds(connection, set, read_set).await?;
    if !read_set.reversible.is_empty() {
        read_allocations(connection, set, read_set).await?;
    }
    if !read_set.rewards.is_empty() {
        read_rewards(connection, set, read_set).await?;
    }
    if !read_set.references.is_empty() {
        read_references(connection, set, read_set).await?;
    }
    Ok(())
}

#[derive(FromRow)]
struct OperationRow {
    operation_id: Uuid,
    account_no: i64,
    kind: String,
    state: String,
    amount: i64,
    request_hash: Option<Vec<u8>>,
    hash_version: Option<i16>,
    response: String,
}

async fn read_operations(
    connection: &mut PgConnection,
    set: &mut WorkingSet,
    read_set: &ReadSet,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = read_set.operations.iter().copied().collect();
    let rows: Vec<OperationRow> = sqlx::query_as(OPERATIONS).bind(ids).fetch_all(connection).await?;
    for row in rows {
        let request_hash = row.request_hash.zip(row.hash_version).map(request_hash).transpose()?;
        let operation = Operation {
            account_no: row.account_no,
            kind: rows::kind(&row.kind)?,
            state: rows::state(&row.state)?,
            amount: row.amount,
            request_hash,
            response: row.response.into(),
            allocations: Vec::new(),
            origin: Origin::default(),
            dirty: Dirty::Clean,
        };
        set.operations.insert(row.operation_id, operation);
    }
    Ok(())
}

fn request_hash((hash, version): (Vec<u8>, i16)) -> Result<RequestHash, sqlx::Error> {
    Ok(RequestHash { version, bytes: hash.as_slice().try_into().map_err(decode)? })
}

/// A lot as it was found.
#[derive(FromRow)]
struct FoundLot {
    lapsed: bool,
    #[sqlx(flatten)]
    lot: LotRow,
}

/// A reward as it was found.
#[derive(FromRow)]
struct FoundReward {
    blocked: bool,
    #[sqlx(flatten)]
    lot: LotRow,
}

/// How many lots of each account are enough.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Lapsed ones that the batch moves out.
    lapsed: usize,
    /// Those that were asked for in the order of spending.
    spendable: usize,
}

/// What one reading found of an account.
#[derive(Debug, Default)]
struct Found {
    lapsed: usize,
    spendable: usize,
    units: i64,
    last: Option<SpendOrder>,
}

/// Reads the lots that have lapsed, and then lots in the order of spending until they cover what the batch asks for: few at first,
/// then more. Lots that no command asks for are not looked at, however many they are.
async fn read_lots(
    connection: &mut PgConnection,
    set: &mut WorkingSet,
    read_set: &ReadSet,
) -> Result<(), sqlx::Error> {
    let mut open: Vec<i64> = set.accounts.values().map(|account| account.reference.account_no).collect();
    let lapsed_max = lapsed_max(open.len());
    for limit in LOTS_STEPS {
        if open.is_empty() {
            break;
        }
        // One lapsed lot more than are moved out tells that there are too many.
        let [lapsed, spendable] =
            [lapsed_max + 1, limit].map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let query = sqlx::query_as(LOTS).bind(&open).bind(set.now).bind(lapsed).bind(spendable);
        let rows: Vec<FoundLot> = query.fetch_all(&mut *connection).await?;
        open = place_lots(set, read_set, open, rows, Limits { lapsed: lapsed_max, spendable: limit })?;
    }
    Ok(())
}

/// Puts lots that were read into their accounts. Returns the accounts whose lots do not cover what the batch asks for.
fn place_lots(
    set: &mut WorkingSet,
    read_set: &ReadSet,
    read: Vec<i64>,
    rows: Vec<FoundLot>,
    limits: Limits,
) -> Result<Vec<i64>, sqlx::Error> {
    let now = set.now;
    let mut found: HashMap<i64, Found> = read.into_iter().map(|number| (number, Found::default())).collect();
    let mut accounts = by_number(&mut set.accounts);
    for FoundLot { lapsed, lot } in rows {
        let number = lot.account_no;
        let (Some(found), Some(account)) = (found.get_mut(&number), accounts.get_mut(&number)) else {
            continue;
        };
        let lot = Lot::try_from(lot)?;
        if lapsed {
            found.lapsed += 1;
        } else {
            found.spendable += 1;
            found.units = found.units.saturating_add(lot.remaining);
            found.last = Some(lot.spend_order());
        }
        account.insert(lot);
    }
    let mut open = Vec::new();
    for (key, account) in &mut set.accounts {
        let Some(found) = found.get(&account.reference.account_no) else { continue };
        account.is_overdue = found.lapsed > limits.lapsed;
        let available = account.spendable(None, now);
        // Where not all that is available was read, lots behind the last are not known; else what the batch adds follows it.
        account.read_to = found.last.filter(|_| found.units < available);
        let is_covered = found.units >= read_set.units(key).min(available);
        if !account.is_overdue && !is_covered && found.spendable >= limits.spendable {
            open.push(account.reference.account_no);
        }
    }
    Ok(open)
}

/// Holds of accounts that may not have enough, so that a refusal can say when value becomes free again.
async fn read_holds(
    connection: &mut PgConnection,
    set: &mut WorkingSet,
    read_set: &ReadSet,
) -> Result<(), sqlx::Error> {
    let now = set.now;
    let may_refuse = |(key, account): &(&AccountKey, &AccountState)| {
        let names_a_reward = || read_set.rewards.iter().any(|(of, _)| of == *key);
        account.balance.held() > 0 && (read_set.units(key) > account.spendable(None, now) || names_a_reward())
    };
    let short = set.accounts.iter().filter(may_refuse);
    let numbers: Vec<i64> = short.map(|(_, account)| account.reference.account_no).collect();
    if numbers.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, Uuid, DateTime<Utc>, Uuid, i64)> =
        sqlx::query_as(HOLDS).bind(numbers).bind(HOLDS_MAX).fetch_all(connection).await?;
    let mut accounts = by_number(&mut set.accounts);
    for (number, operation_id, until, lot_id, units) in rows {
        if let Some(account) = accounts.get_mut(&number) {
            account.holds.push(OpenHold { operation_id, until, lot_id, units });
        }
    }
    Ok(())
}

fn by_number(accounts: &mut HashMap<AccountKey, AccountState>) -> HashMap<i64, &mut AccountState> {
    accounts.values_mut().map(|account| (account.reference.account_no, account)).collect()
}

#[derive(FromRow)]
struct AllocationRow {
    operation_id: Uuid,
    position: i16,
    taken_from: Uuid,
    amount: i64,
    reversed: i64,
}

async fn read_allocations(
    connection: &mut PgConnection,
    set: &mut WorkingSet,
    read_set: &ReadSet,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = read_set.reversible.iter().copied().collect();
    let rows = sqlx::query(ALLOCATIONS).bind(ids).fetch_all(connection).await?;
    let WorkingSet { accounts, operations, .. } = set;
    let mut by_number = by_number(accounts);
    for row in rows {
        let AllocationRow { operation_id, position, taken_from, amount, reversed } =
            AllocationRow::from_row(&row)?;
        let Some(operation) = operations.get_mut(&operation_id) else { continue };
        // An operation of an account that this batch has not locked is another command's.
        let Some(account) = by_number.get_mut(&operation.account_no) else { continue };
        let part = Allocation { position, lot_id: taken_from, amount, reversed, dirty: Dirty::Clean };
        operation.allocations.push(part);
        // A lot that is missing is not in the account: nothing that returns to it passes the fold.
        if row.try_get::<Option<Uuid>, _>("lot_id")?.is_some() {
            account.insert(LotRow::from_row(&row)?.try_into()?);
        }
    }
    Ok(())
}

async fn read_rewards(
    connection: &mut PgConnection,
    set: &mut WorkingSet,
    read_set: &ReadSet,
) -> Result<(), sqlx::Error> {
    let (mut numbers, mut rewards) = (Vec::new(), Vec::new());
    for (key, reward_id) in &read_set.rewards {
        if let Some(account) = set.accounts.get(key) {
            numbers.push(account.reference.account_no);
            rewards.push(*reward_id);
        }
    }
    let query = sqlx::query_as(REWARDS).bind(numbers).bind(rewards);
    let rows: Vec<FoundReward> = query.fetch_all(connection).await?;
    let mut by_number = by_number(&mut set.accounts);
    for FoundReward { blocked, lot } in rows {
        let Some(account) = by_number.get_mut(&lot.account_no) else { continue };
        account.blocked.extend(lot.reward_id.filter(|_| blocked));
        account.insert(lot.try_into()?);
    }
    Ok(())
}

async fn read_references(
    connection: &mut PgConnection,
    set: &mut WorkingSet,
    read_set: &ReadSet,
) -> Result<(), sqlx::Error> {
    let column = |field: fn(&(String, String, String)) -> &str| read_set.references.iter().map(field);
    let businesses: Vec<&str> = column(|r| &r.0).collect();
    let kinds: Vec<&str> = column(|r| &r.1).collect();
    let references: Vec<&str> = column(|r| &r.2).collect();
    let query = sqlx::query_as(REFERENCES).bind(businesses).bind(kinds).bind(references);
    let rows: Vec<(String, String, String, Uuid)> = query.fetch_all(connection).await?;
    for (business, kind, reference, operation_id) in rows {
        set.references.insert((business, kind, reference), operation_id);
    }
    Ok(())
}
