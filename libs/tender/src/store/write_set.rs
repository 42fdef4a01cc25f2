//! The rows that every batch writes, in one statement whatever its size: new operations with their allocations, lots and
//! accounts as they are now, entries, and one row of the outbox with a message an account. The statement says how many lots and
//! accounts it found.
//!
//! One statement, because a round trip costs both sides more than most of the rows in it. Rows of one table are written in the
//! order of their keys.

use std::sync::LazyLock;

use api::tender::BalanceChanged;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{dirty, rows};
use crate::{
    command::AccountKey,
    fold::working_set::{AccountState, Allocation, Dirty, Lot, Operation, WorkingSet},
};

static WRITE_SET: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH entry AS ({entries}), {rest}",
        entries = ledger::INSERT_ENTRIES,
        rest = include_str!("write_set.sql")
    )
});

/// The rows of that statement.
pub struct WriteSet<'a> {
    set: &'a WorkingSet,
    operations: Vec<(&'a Uuid, &'a Operation)>,
    allocations: Vec<(&'a Uuid, i16, &'a Allocation)>,
    lots: Vec<(i64, &'a Lot)>,
    accounts: Vec<(&'a AccountKey, &'a AccountState)>,
}

impl<'a> WriteSet<'a> {
    /// The rows of a working set.
    pub fn of(set: &'a WorkingSet) -> Self {
        Self {
            set,
            operations: dirty::operations(set, Dirty::New),
            allocations: dirty::allocations(set, Dirty::New),
            lots: dirty::lots(set, Dirty::Changed),
            accounts: dirty::accounts(set),
        }
    }

    /// Writes the rows, if there are any. Returns whether the outbox has something to publish.
    ///
    /// # Errors
    /// What the database says.
    pub async fn write(
        &self,
        connection: &mut PgConnection,
        tender: &'static str,
    ) -> Result<bool, sqlx::Error> {
        if self.operations.is_empty() && self.accounts.is_empty() {
            return Ok(false);
        }
        self.send(connection, tender).await
    }

    /// Sends the statement, also without any rows. Returns whether the outbox has something to publish.
    ///
    /// # Errors
    /// What the database says.
    pub async fn send(
        &self,
        connection: &mut PgConnection,
        tender: &'static str,
    ) -> Result<bool, sqlx::Error> {
        let entries = ledger::Entries::of(&self.set.postings);
        let statement = entries.bind(sqlx::query(WRITE_SET.as_str()), self.set.now);
        let statement = self.bind_operations(statement);
        let statement = self.bind_allocations(statement);
        let statement = self.bind_lots(statement);
        let statement = self.bind_accounts(statement);
        let messages = self.messages(tender);
        let has_news = messages.is_some();
        let found = statement.bind(messages).bind(self.hash_versions()).fetch_one(connection).await?;
        // A row that is not there any more would leave the ledger out of balance with what was written beside it.
        rows::all_found("lots", self.lots.len(), found.try_get::<i64, _>("lots")?)?;
        rows::all_found("accounts", self.accounts.len(), found.try_get::<i64, _>("accounts")?)?;
        Ok(has_news)
    }

    fn bind_operations<'q>(&self, statement: ledger::Insert<'q>) -> ledger::Insert<'q>
    where
        'a: 'q,
    {
        let rows = &self.operations;
        statement
            .bind(rows.iter().map(|(id, _)| **id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| &*o.origin.business_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.account_no).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| rows::kind_name(o.kind)).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.state.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.amount).collect::<Vec<_>>())
            .bind(
                rows.iter().map(|(_, o)| o.request_hash.map(|hash| hash.bytes.to_vec())).collect::<Vec<_>>(),
            )
            .bind(rows.iter().map(|(_, o)| &*o.response).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.origin.leg.map(|leg| leg.legs_id.0)).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.origin.leg.map(|leg| i32::from(leg.leg))).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.origin.reverses).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.origin.hold_until).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.origin.epoch).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.origin.order_id.as_deref()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, o)| o.origin.details.clone()).collect::<Vec<_>>())
    }

    fn bind_allocations<'q>(&self, statement: ledger::Insert<'q>) -> ledger::Insert<'q> {
        let rows = &self.allocations;
        statement
            .bind(rows.iter().map(|(id, ..)| **id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, position, _)| *position).collect::<Vec<_>>())
            .bind(rows.iter().map(|(.., part)| part.lot_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(.., part)| part.amount).collect::<Vec<_>>())
            .bind(rows.iter().map(|(.., part)| part.reversed).collect::<Vec<_>>())
    }

    fn bind_lots<'q>(&self, statement: ledger::Insert<'q>) -> ledger::Insert<'q> {
        let rows = &self.lots;
        statement
            .bind(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, lot)| lot.lot_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, lot)| lot.remaining).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, lot)| lot.held).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, lot)| lot.times_expired).collect::<Vec<_>>())
    }

    fn bind_accounts<'q>(&self, statement: ledger::Insert<'q>) -> ledger::Insert<'q> {
        let rows = &self.accounts;
        statement
            .bind(rows.iter().map(|(_, a)| a.reference.account_no).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, a)| a.balance.posted()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, a)| a.balance.held()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, a)| a.balance.version()).collect::<Vec<_>>())
    }

    fn hash_versions(&self) -> Vec<Option<i16>> {
        self.operations.iter().map(|(_, o)| o.request_hash.map(|hash| hash.version)).collect()
    }

    /// One message an account, of its last version. Of an account that is not swept to its end it is not known yet what is
    /// available: the batch that sweeps the rest tells.
    fn messages(&self, tender: &'static str) -> Option<String> {
        let message = |(key, account): &(&AccountKey, &AccountState)| BalanceChanged {
            tender: tender.into(),
            business_id: key.business_id.clone(),
            customer_id: key.owner.clone(),
            asset: key.asset,
            version: account.balance.version(),
            posted: account.balance.posted(),
            held: account.balance.held(),
            available: account.spendable(None, self.set.now),
            at: self.set.now,
        };
        let messages: Vec<_> =
            self.accounts.iter().filter(|(_, account)| !account.is_overdue).map(message).collect();
        (!messages.is_empty()).then(|| serde_json::to_string(&messages).expect("balances are plain data"))
    }
}
