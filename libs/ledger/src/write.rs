use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use money::Asset;
use sqlx::{Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::{Balance, LedgerError, Movement};

/// A statement whose parameters are being bound.
pub type Insert<'a> = Query<'a, Postgres, PgArguments>;

/// The account that a posting belongs to.
#[derive(Debug, Clone)]
pub struct AccountRef {
    /// Its number in this database.
    pub account_no: i64,
    /// The retailer.
    pub business_id: Arc<str>,
    /// What it holds.
    pub asset: Asset,
}

/// One movement of one account, with the balance that it leads to. Its sides sum to zero.
#[derive(Debug, Clone)]
pub struct Posting {
    operation_id: Uuid,
    account: AccountRef,
    movement: Movement,
    /// The signed change of `posted`.
    amount: i64,
    after: Balance,
}

impl Posting {
    /// The posting that moves `account` from `before`, for the operation with this id.
    ///
    /// # Errors
    /// As [`Balance::after`].
    pub fn try_new(
        operation_id: Uuid,
        account: AccountRef,
        before: Balance,
        movement: Movement,
    ) -> Result<Self, LedgerError> {
        let after = before.after(movement)?;
        let amount = after.posted().checked_sub(before.posted()).ok_or(LedgerError::OutOfRange)?;
        Ok(Self { operation_id, account, movement, amount, after })
    }

    /// The operation that it belongs to.
    #[must_use]
    pub const fn operation_id(&self) -> Uuid {
        self.operation_id
    }

    /// The number of its account.
    #[must_use]
    pub const fn account_no(&self) -> i64 {
        self.account.account_no
    }

    /// What it did.
    #[must_use]
    pub const fn movement(&self) -> Movement {
        self.movement
    }

    /// The balance that it leads to.
    #[must_use]
    pub const fn after(&self) -> Balance {
        self.after
    }
}

/// Appends entries: the first thirteen parameters of a statement, which [`Entries::bind`] binds. A batch makes it a part of the
/// one statement that writes everything.
///
/// Time does not fall from one version of an account to the next, also where the clock was set back: a balance at a past time is
/// found by halving the versions. So no entry is dated before the account's last one, and both sides of a movement are dated alike.
pub const INSERT_ENTRIES: &str = "
INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount, account_no, version, balance_after,
                          held_after, contra, created_at)
SELECT u.operation_id, u.business_id, u.asset, u.kind, u.amount, u.account_no, u.version, u.balance_after, u.held_after, u.contra,
       greatest($11, last.created_at)
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::text[], $12::bigint[], $13::bigint[])
     AS u(operation_id, business_id, asset, kind, amount, account_no, version, balance_after, held_after, contra,
          moved_account_no, last_version)
LEFT JOIN LATERAL (
    SELECT created_at FROM tender.entry WHERE account_no = u.moved_account_no AND version = u.last_version OFFSET 0
) last ON true";

/// The entries of postings, by column: the account's row of each, and the programme's where value moved.
#[derive(Debug, Default)]
pub struct Entries<'a> {
    operation_id: Vec<Uuid>,
    business_id: Vec<&'a str>,
    asset: Vec<&'a str>,
    kind: Vec<&'a str>,
    amount: Vec<i64>,
    account_no: Vec<Option<i64>>,
    version: Vec<Option<i64>>,
    balance_after: Vec<Option<i64>>,
    held_after: Vec<Option<i64>>,
    contra: Vec<Option<&'a str>>,
    /// Of each side the account whose balance moved, and its last version before these postings.
    moved_account_no: Vec<i64>,
    last_version: Vec<i64>,
}

impl<'a> Entries<'a> {
    /// The entries of `postings`.
    #[must_use]
    pub fn of(postings: &'a [Posting]) -> Self {
        let mut entries = Self::default();
        let mut last_versions = HashMap::new();
        for posting in postings {
            let before = posting.after.version().saturating_sub(1);
            let last_version = *last_versions.entry(posting.account_no()).or_insert(before);
            entries.push(posting, last_version, posting.amount, Some(posting.after), None);
            if posting.amount != 0 {
                // A difference of two amounts that are not negative is never `i64::MIN`.
                let amount = posting.amount.saturating_neg();
                entries.push(posting, last_version, amount, None, Some(posting.movement.contra()));
            }
        }
        entries
    }

    fn push(
        &mut self,
        posting: &'a Posting,
        last_version: i64,
        amount: i64,
        balance: Option<Balance>,
        contra: Option<&'a str>,
    ) {
        self.operation_id.push(posting.operation_id);
        self.business_id.push(&posting.account.business_id);
        self.asset.push(posting.account.asset.as_str());
        self.kind.push(posting.movement.kind());
        self.amount.push(amount);
        self.account_no.push(balance.map(|_| posting.account.account_no));
        self.version.push(balance.map(Balance::version));
        self.balance_after.push(balance.map(Balance::posted));
        self.held_after.push(balance.map(Balance::held));
        self.contra.push(contra);
        self.moved_account_no.push(posting.account_no());
        self.last_version.push(last_version);
    }

    /// Binds the parameters of [`INSERT_ENTRIES`], the first of `statement`.
    ///
    /// Whoever runs it is in a transaction that holds the locks of these accounts, and writes the balances after.
    pub fn bind(&'a self, statement: Insert<'a>, at: DateTime<Utc>) -> Insert<'a> {
        statement
            .bind(&self.operation_id)
            .bind(&self.business_id)
            .bind(&self.asset)
            .bind(&self.kind)
            .bind(&self.amount)
            .bind(&self.account_no)
            .bind(&self.version)
            .bind(&self.balance_after)
            .bind(&self.held_after)
            .bind(&self.contra)
            .bind(at)
            .bind(&self.moved_account_no)
            .bind(&self.last_version)
    }
}
