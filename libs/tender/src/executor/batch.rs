//! One batch in one transaction.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use api::BusinessId;
use chrono::{DateTime, Utc};
use fail::fail_point;
use metrics::counter;
use money::Asset;
use sqlx::{Executor as _, PgConnection};
use uuid::Uuid;

use super::failure::Failure;
use crate::{
    command::{AccountKey, Action, Command, Outcome, Rejection},
    fold::{
        self,
        working_set::{AccountState, WorkingSet, absent_no},
    },
    store::{
        lock::{self, Locked, Locking},
        read::{self, ReadSet},
        write,
        write_set::WriteSet,
    },
};

/// How a batch treats accounts that would keep its other commands waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Locked ones are waited for.
    Shared,
    /// Locked ones are left out: the batch, or each of its accounts, has waited in vain before.
    Isolated,
    /// There is one account only: it is left out if it is locked, and too many lapsed lots of it are moved out.
    Alone,
}

/// The end of a command in a batch.
#[derive(Debug)]
pub enum Judged {
    /// The command has this outcome.
    Done(Outcome),
    /// The command was not looked at: another transaction has locked its account.
    Locked,
    /// The command was not looked at: its account has more lapsed lots than a batch moves out.
    Overdue,
}

/// A batch that is done but for its COMMIT.
pub struct Prepared {
    /// The end of each command, in their order.
    pub judged: Vec<Judged>,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// Whether the outbox has something new.
    pub has_news: bool,
}

/// Begins a transaction, locks, reads, folds and writes. After a failure the transaction is still open: the
/// caller rolls back, or gives the connection up.
///
/// # Errors
/// The class of what went wrong.
pub async fn prepare(
    connection: &mut PgConnection,
    commands: &[&Command],
    tender: &'static str,
    mode: Mode,
) -> Result<Prepared, Failure> {
    let read_set = ReadSet::of(commands.iter().copied());
    fail_point!("tender::before_begin");
    let mut set = begin(connection, &read_set, mode).await.map_err(classify)?;
    fail_point!("tender::locked");
    read::read(connection, &mut set, &read_set).await.map_err(classify)?;
    let judged = fold_all(&mut set, commands, mode)?;
    report_corruption(commands, &judged, tender);
    let has_news = write::write(connection, &set, tender).await.map_err(classify)?;
    fail_point!("tender::written");
    Ok(Prepared { judged, now: set.now, has_news })
}

/// A batch of nothing, done but for its COMMIT: it locks, reads and writes as every batch does, and finds and changes no row. What
/// fails it fails every batch.
///
/// # Errors
/// The class of what went wrong.
pub async fn probe(connection: &mut PgConnection, tender: &'static str) -> Result<(), Failure> {
    let business_id = BusinessId::try_from("probe".to_owned()).map_err(|_| Failure::Poison)?;
    let account = AccountKey { business_id, owner: String::new(), asset: Asset::Points };
    let question = Command { operation_id: Uuid::nil(), account, action: Action::Query };
    let prepared = prepare(connection, &[&question], tender, Mode::Shared).await?;
    WriteSet::of(&WorkingSet::new(prepared.now)).send(connection, tender).await.map(drop).map_err(classify)
}

/// Commits what was prepared.
///
/// # Errors
/// [`Failure::CommitUnknown`] unless the server itself refused.
pub async fn commit(connection: &mut PgConnection) -> Result<(), Failure> {
    connection.execute("COMMIT").await.map(drop).map_err(|error| {
        tracing::warn!(%error, "commit failed");
        Failure::at_commit(&error)
    })
}

/// Ends a transaction that failed.
///
/// # Errors
/// When the connection is of no more use.
pub async fn roll_back(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("ROLLBACK").await.map(drop)
}

/// A transaction that holds the locks of the accounts: of all that are stored, or of those that nobody else has locked. What is
/// not stored is in the working set as well, with nothing in it.
async fn begin(
    connection: &mut PgConnection,
    read_set: &ReadSet,
    mode: Mode,
) -> Result<WorkingSet, sqlx::Error> {
    let keys = read_set.accounts();
    let (begin, locking) = match mode {
        Mode::Shared => ("BEGIN", Locking::Wait),
        // Rows of other tables may be locked too.
        Mode::Isolated | Mode::Alone => ("BEGIN; SET LOCAL lock_timeout = '50ms'", Locking::Skip),
    };
    connection.execute(begin).await?;
    let Locked { mut set, mut missing } = lock::lock(connection, &keys, locking).await?;
    let new: BTreeSet<AccountKey> = missing.intersection(read_set.to_create()).cloned().collect();
    if !new.is_empty() {
        // They are created while no lock is held, so that no transactions wait for each other in a circle.
        connection.execute("ROLLBACK").await?;
        lock::create(connection, &new).await?;
        connection.execute(begin).await?;
        Locked { set, missing } = lock::lock(connection, &keys, locking).await?;
        if !missing.is_disjoint(&new) {
            return Err(sqlx::Error::RowNotFound);
        }
    }
    for key in missing {
        let account = AccountState::empty(absent_no(&key), &key);
        set.accounts.insert(key, account);
    }
    Ok(set)
}

fn fold_all(set: &mut WorkingSet, commands: &[&Command], mode: Mode) -> Result<Vec<Judged>, Failure> {
    // The working set is thrown away after a panic: one that is half changed is never used.
    let fold = || {
        fail_point!("tender::fold");
        let swept = match commands.first().filter(|_| mode == Mode::Alone) {
            Some(command) if is_overdue(set, command) => fold::sweep(set, &command.account),
            _ => Ok(()),
        };
        commands.iter().map(|command| judge(set, command, &swept)).collect()
    };
    catch_unwind(AssertUnwindSafe(fold)).map_err(|_| Failure::Poison)
}

fn judge(set: &mut WorkingSet, command: &Command, swept: &Result<(), Rejection>) -> Judged {
    match (set.accounts.contains_key(&command.account), swept) {
        (false, _) => Judged::Locked,
        (true, Err(rejection)) => Judged::Done(Outcome::Rejected(rejection.clone())),
        (true, Ok(())) if is_overdue(set, command) => Judged::Overdue,
        (true, Ok(())) => Judged::Done(fold::apply(set, command)),
    }
}

fn is_overdue(set: &WorkingSet, command: &Command) -> bool {
    set.accounts.get(&command.account).is_some_and(|account| account.is_overdue)
}

/// Stored data that contradict themselves are nothing that a caller can mend: they are logged for the tender's operators.
fn report_corruption(commands: &[&Command], judged: &[Judged], tender: &'static str) {
    for (command, judged) in commands.iter().zip(judged) {
        let Judged::Done(Outcome::Rejected(Rejection::Corrupt(what))) = judged else { continue };
        counter!("tender_corrupt_data_total", "tender" => tender).increment(1);
        tracing::error!(
            tender,
            operation_id = %command.operation_id,
            leg = command.action.leg().map(|key| format!("{}/{}", key.legs_id, key.leg)),
            business_id = command.account.business_id.as_str(),
            owner = command.account.owner,
            asset = command.account.asset.as_str(),
            what,
            "stored data contradict themselves: run `walletctl verify`"
        );
    }
}

/// Names a command that fails every batch that it is in; why, is in the line of the batch that failed before this one.
pub fn report_poison(command: &Command, tender: &'static str) {
    tracing::error!(
        tender,
        operation_id = %command.operation_id,
        business_id = command.account.business_id.as_str(),
        owner = command.account.owner,
        asset = command.account.asset.as_str(),
        "a command fails every batch that it is in"
    );
}

fn classify(error: sqlx::Error) -> Failure {
    let class = Failure::of(&error);
    match class {
        Failure::Conflict => tracing::debug!(%error, "batch in conflict"),
        // Rare, and where the key stays taken, the only line that names it.
        Failure::Duplicate => tracing::info!(%error, "batch in conflict"),
        _ => tracing::warn!(%error, ?class, "batch failed"),
    }
    class
}
