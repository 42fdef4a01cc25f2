//! Rows as they come, and the words of their text columns.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    command::State,
    fold::book::{Kind, Lot, Mark, Status},
};

#[derive(sqlx::FromRow)]
pub struct LotRow {
    pub account_no: i64,
    lot_id: Uuid,
    original: i64,
    pub remaining: i64,
    held: i64,
    expires_at: Option<DateTime<Utc>>,
    grace_until: Option<DateTime<Utc>>,
    funding: String,
    kind: String,
    issued_by: Uuid,
    reward_id: Option<Uuid>,
    times_expired: i32,
}

impl TryFrom<LotRow> for Lot {
    type Error = sqlx::Error;

    fn try_from(row: LotRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            lot_id: row.lot_id,
            original: row.original,
            remaining: row.remaining,
            held: row.held,
            expires_at: row.expires_at,
            grace_until: row.grace_until,
            funding: ledger::Funding::from_str(&row.funding).map_err(decode)?,
            kind: row.kind,
            operation_id: row.issued_by,
            reward_id: row.reward_id,
            times_expired: row.times_expired,
            mark: Mark::Stored,
        })
    }
}

/// What is stored cannot be read: no word of ours, or not within its bounds.
pub fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// Fails unless as many rows were found as were to be changed.
pub fn all_found(what: &'static str, asked: usize, found: impl TryInto<usize>) -> Result<(), sqlx::Error> {
    let found = found.try_into().unwrap_or(usize::MAX);
    if found == asked { Ok(()) } else { Err(decode(Missing { what, asked, found })) }
}

#[derive(Debug, thiserror::Error)]
#[error("of {asked} {what} to change, {found} were found")]
struct Missing {
    what: &'static str,
    asked: usize,
    found: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a known {1}")]
pub struct UnknownWord(String, &'static str);

/// Names of the states, as in the column's CHECK.
const STATES: [(State, &str); 6] = [
    (State::Applied, "applied"),
    (State::Held, "held"),
    (State::Declined, "declined"),
    (State::Expired, "expired"),
    (State::Reversed, "reversed"),
    (State::Tombstoned, "tombstoned"),
];

const KINDS: [(Kind, &str); 6] = [
    (Kind::Credit, "credit"),
    (Kind::Debit, "debit"),
    (Kind::Hold, "hold"),
    (Kind::Reverse, "reverse"),
    (Kind::Cancel, "cancel"),
    (Kind::Expire, "expire"),
];

const STATUSES: [(Status, &str); 3] =
    [(Status::Active, "active"), (Status::Frozen, "frozen"), (Status::Closed, "closed")];

fn value<T: Copy>(words: &[(T, &'static str)], word: &str, what: &'static str) -> Result<T, sqlx::Error> {
    let found = words.iter().find(|(_, name)| *name == word).map(|(value, _)| *value);
    found.ok_or_else(|| decode(UnknownWord(word.to_owned(), what)))
}

fn word<T: Copy + PartialEq>(words: &[(T, &'static str)], value: T) -> &'static str {
    words.iter().find(|(known, _)| *known == value).map_or("", |(_, name)| name)
}

pub fn state(name: &str) -> Result<State, sqlx::Error> {
    value(&STATES, name, "state")
}

pub fn state_name(state: State) -> &'static str {
    word(&STATES, state)
}

pub fn kind(name: &str) -> Result<Kind, sqlx::Error> {
    value(&KINDS, name, "kind of operation")
}

pub fn kind_name(kind: Kind) -> &'static str {
    word(&KINDS, kind)
}

pub fn status(name: &str) -> Result<Status, sqlx::Error> {
    value(&STATUSES, name, "status")
}
