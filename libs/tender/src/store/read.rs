//! What a batch reads once it holds its locks: stored operations, lots, references.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use api::derive::RequestHash;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::rows::{self, LotRow, decode};
use crate::{
    command::{AccountKey, Action, Command},
    fold::{
        LOTS_MAX,
        book::{AccountState, Allocation, Book, Lot, Mark, Operation, Origin},
    },
};

const OPERATIONS: &str = include_str!("operations.sql");
const ALLOCATIONS: &str = include_str!("allocations.sql");
const LOTS: &str = include_str!("lots.sql");
const LOTS_UNTIL: &str = include_str!("lots_until.sql");
const REWARDS: &str = include_str!("rewards.sql");
const REFERENCES: &str = include_str!("references.sql");

/// So many lots of an account are read without a look at what is needed.
const FEW_LOTS: i64 = 32;

/// What the commands of a batch need to know.
#[derive(Debug, Default)]
pub struct Needs {
    /// Their accounts, with the units that forward legs ask for in all.
    accounts: BTreeMap<AccountKey, i64>,
    operations: HashSet<Uuid>,
    /// Operations that may be given back: their allocations are read as well.
    reversible: HashSet<Uuid>,
    rewards: HashSet<(AccountKey, Uuid)>,
    references: HashSet<(String, String, String)>,
}

impl Needs {
    /// The needs of `commands`.
    #[must_use]
    pub fn of<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut needs = Self::default();
        for command in commands {
            needs.add(command);
        }
        needs
    }

    /// The accounts to lock.
    #[must_use]
    pub fn accounts(&self) -> BTreeSet<AccountKey> {
        self.accounts.keys().cloned().collect()
    }

    fn add(&mut self, command: &Command) {
        let units = self.accounts.entry(command.account.clone()).or_default();
        self.operations.insert(command.operation_id);
        match &command.action {
            Action::Forward(leg) => {
                // Rewards count too: what they take may come out of the lots that others were to find.
                *units = units.saturating_add(leg.plan.amount);
                self.operations.extend(leg.reverses);
                self.reversible.extend(leg.reverses);
                self.rewards.extend(leg.plan.reward_id.map(|reward| (command.account.clone(), reward)));
            }
            Action::Cancel(_) | Action::Capture { .. } => {
                self.reversible.insert(command.operation_id);
            }
            Action::Credit(credit) => {
                let business = command.account.business_id.to_string();
                self.references.insert((business, credit.kind.clone(), credit.reference.clone()));
            }
            Action::Query => {}
        }
    }
}

/// Reads into the book whatever the batch needs: two statements, and one more for each of reversals, rewards and
/// credits if there are any.
///
/// # Errors
/// What the database says; [`sqlx::Error::Decode`] for what no version of this program wrote.
pub async fn read(connection: &mut PgConnection, book: &mut Book, needs: &Needs) -> Result<(), sqlx::Error> {
    read_operations(connection, book, needs).await?;
    read_lots(connection, book, needs).await?;
    if !needs.reversible.is_empty() {
        read_allocations(connection, book, needs).await?;
    }
    if !needs.rewards.is_empty() {
        read_rewards(connection, book, needs).await?;
    }
    if !needs.references.is_empty() {
        read_references(connection, book, needs).await?;
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
    book: &mut Book,
    needs: &Needs,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = needs.operations.iter().copied().collect();
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
            mark: Mark::Stored,
        };
        book.operations.insert(row.operation_id, operation);
    }
    Ok(())
}

fn request_hash((hash, version): (Vec<u8>, i16)) -> Result<RequestHash, sqlx::Error> {
    Ok(RequestHash { version, bytes: hash.as_slice().try_into().map_err(decode)? })
}

/// The lots of most accounts are few: they come with one look into an index. Of an account with more, those that its batch
/// needs are read, with the sum of them all.
async fn read_lots(connection: &mut PgConnection, book: &mut Book, needs: &Needs) -> Result<(), sqlx::Error> {
    let numbers: Vec<i64> = book.accounts.values().map(|account| account.reference.account_no).collect();
    let query = sqlx::query_as(LOTS).bind(numbers).bind(book.now).bind(FEW_LOTS + 1);
    let rows: Vec<LotRow> = query.fetch_all(&mut *connection).await?;
    let mut lots: HashMap<i64, Vec<LotRow>> = HashMap::with_capacity(book.accounts.len());
    for row in rows {
        lots.entry(row.account_no).or_default().push(row);
    }
    let mut many = Vec::new();
    for (number, account) in by_number(&mut book.accounts) {
        let rows = lots.remove(&number).unwrap_or_default();
        if i64::try_from(rows.len()).is_ok_and(|count| count <= FEW_LOTS) {
            account.available = rows.iter().map(|row| row.remaining).sum();
            for row in rows {
                account.insert(row.try_into()?);
            }
        } else {
            many.push(number);
        }
    }
    if many.is_empty() { Ok(()) } else { read_many_lots(connection, book, needs, &many).await }
}

#[derive(FromRow)]
struct OrderedLotRow {
    #[sqlx(flatten)]
    lot: LotRow,
    available: i64,
}

async fn read_many_lots(
    connection: &mut PgConnection,
    book: &mut Book,
    needs: &Needs,
    numbers: &[i64],
) -> Result<(), sqlx::Error> {
    let units: HashMap<i64, i64> = book
        .accounts
        .iter()
        .map(|(key, account)| {
            (account.reference.account_no, needs.accounts.get(key).copied().unwrap_or_default())
        })
        .collect();
    let units: Vec<i64> =
        numbers.iter().map(|number| units.get(number).copied().unwrap_or_default()).collect();
    let limit = i64::try_from(LOTS_MAX).unwrap_or(i64::MAX);
    let query = sqlx::query_as(LOTS_UNTIL).bind(numbers).bind(units).bind(book.now).bind(limit);
    let rows: Vec<OrderedLotRow> = query.fetch_all(connection).await?;
    let mut by_number = by_number(&mut book.accounts);
    for row in rows {
        let Some(account) = by_number.get_mut(&row.lot.account_no) else { continue };
        account.available = row.available;
        account.insert(row.lot.try_into()?);
    }
    for account in by_number.into_values().filter(|account| account.lots.len() >= LOTS_MAX) {
        account.read_to = account.lots.last_key_value().map(|(rank, _)| *rank);
    }
    Ok(())
}

fn by_number(accounts: &mut HashMap<AccountKey, AccountState>) -> HashMap<i64, &mut AccountState> {
    accounts.values_mut().map(|account| (account.reference.account_no, account)).collect()
}

#[derive(FromRow)]
struct AllocationRow {
    operation_id: Uuid,
    amount: i64,
    reversed: i64,
    #[sqlx(flatten)]
    lot: LotRow,
}

async fn read_allocations(
    connection: &mut PgConnection,
    book: &mut Book,
    needs: &Needs,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = needs.reversible.iter().copied().collect();
    let rows: Vec<AllocationRow> = sqlx::query_as(ALLOCATIONS).bind(ids).fetch_all(connection).await?;
    let Book { accounts, operations, .. } = book;
    let mut by_number = by_number(accounts);
    for AllocationRow { operation_id, amount, reversed, lot } in rows {
        // The lots of an account that this batch has not locked are none of its business.
        let account = by_number.get_mut(&lot.account_no);
        if let (Some(account), Some(operation)) = (account, operations.get_mut(&operation_id)) {
            let lot = Lot::try_from(lot)?;
            let part = Allocation { lot_id: lot.lot_id, amount, reversed, mark: Mark::Stored };
            operation.allocations.push(part);
            account.insert(lot);
        }
    }
    Ok(())
}

async fn read_rewards(
    connection: &mut PgConnection,
    book: &mut Book,
    needs: &Needs,
) -> Result<(), sqlx::Error> {
    let (mut numbers, mut rewards) = (Vec::new(), Vec::new());
    for (key, reward_id) in &needs.rewards {
        if let Some(account) = book.accounts.get(key) {
            numbers.push(account.reference.account_no);
            rewards.push(*reward_id);
        }
    }
    let rows: Vec<LotRow> = sqlx::query_as(REWARDS).bind(numbers).bind(rewards).fetch_all(connection).await?;
    let mut by_number = by_number(&mut book.accounts);
    for row in rows {
        if let Some(account) = by_number.get_mut(&row.account_no) {
            account.insert(row.try_into()?);
        }
    }
    Ok(())
}

async fn read_references(
    connection: &mut PgConnection,
    book: &mut Book,
    needs: &Needs,
) -> Result<(), sqlx::Error> {
    let column = |field: fn(&(String, String, String)) -> &str| needs.references.iter().map(field);
    let businesses: Vec<&str> = column(|r| &r.0).collect();
    let kinds: Vec<&str> = column(|r| &r.1).collect();
    let references: Vec<&str> = column(|r| &r.2).collect();
    let query = sqlx::query_as(REFERENCES).bind(businesses).bind(kinds).bind(references);
    let rows: Vec<(String, String, String, Uuid)> = query.fetch_all(connection).await?;
    for (business, kind, reference, operation_id) in rows {
        book.references.insert((business, kind, reference), operation_id);
    }
    Ok(())
}
