//! Rows as they are read, and the names in their text columns.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    command::State,
    fold::working_set::{Dirty, Kind, Lot, Status},
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
    pub reward_id: Option<Uuid>,
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
            dirty: Dirty::Clean,
        })
    }
}

/// A stored value that cannot be read: an unknown name, or out of its bounds.
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

/// The states, whose names are those in the column's CHECK.
const STATES: [State; 6] =
    [State::Applied, State::Held, State::Declined, State::Expired, State::Reversed, State::Tombstoned];

const KINDS: [Kind; 6] = [Kind::Credit, Kind::Debit, Kind::Hold, Kind::Reverse, Kind::Cancel, Kind::Expire];

const STATUSES: [Status; 3] = [Status::Active, Status::Frozen, Status::Closed];

/// The value with this name.
fn named<T: Copy>(
    values: &[T],
    name_of: impl Fn(T) -> &'static str,
    name: &str,
    what: &'static str,
) -> Result<T, sqlx::Error> {
    let found = values.iter().copied().find(|value| name_of(*value) == name);
    found.ok_or_else(|| decode(UnknownWord(name.to_owned(), what)))
}

pub fn state(name: &str) -> Result<State, sqlx::Error> {
    named(&STATES, State::as_str, name, "state")
}

pub fn kind(name: &str) -> Result<Kind, sqlx::Error> {
    named(&KINDS, kind_name, name, "kind of operation")
}

/// The name of a kind, as in the column's CHECK.
pub const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Credit => "credit",
        Kind::Debit => "debit",
        Kind::Hold => "hold",
        Kind::Reverse => "reverse",
        Kind::Cancel => "cancel",
        Kind::Expire => "expire",
    }
}

pub fn status(name: &str) -> Result<Status, sqlx::Error> {
    named(&STATUSES, status_name, name, "status")
}

const fn status_name(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Frozen => "frozen",
        Status::Closed => "closed",
    }
}
