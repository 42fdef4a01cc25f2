//! Balanced, append-only postings or nothing.
//!
//! A [`Balance`] is moved by a [`Movement`] and never goes below zero; each move raises the account's version by
//! one and yields a [`Posting`], whose two sides sum to zero by construction. [`INSERT_ENTRIES`] appends postings as
//! one set, inside the transaction of its caller, who holds the lock of every account among them; [`read`] pages
//! through an account's history.
//!
//! | movement | posted | held | contra side |
//! |---|---|---|---|
//! | credit *n* | +n | | `issued:<funding>` −n |
//! | debit *n* | −n | | `redeemed` +n |
//! | hold *n* | | +n | |
//! | release *n* | | −n | |
//! | capture *n*, rest *r* released | −n | −n−r | `redeemed` +n |
//! | return *n* (reverse, cancel) | +n | | `redeemed` −n |
//! | expire *n* | −n | | `expired` +n |
//!
//! The database refuses what this crate would never write: an unbalanced operation, a version twice, a change
//! or removal of an entry (`migrations/tender/0001_tender.sql`).
#![deny(clippy::arithmetic_side_effects)]

mod balance;
mod movement;
pub mod read;
mod write;

pub use balance::{Balance, LedgerError};
pub use movement::{Funding, Movement, UnknownFunding};
pub use write::{AccountRef, Entries, INSERT_ENTRIES, Insert, Posting};
