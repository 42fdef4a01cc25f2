//! Every byte that crosses a process border: wire types, problem documents, events, and what a failed call tells.
//!
//! Nothing here knows axum or sqlx. Domain types are converted from these by `TryFrom` at the edge, so
//! that a change of the wire never reaches a decision unseen.

pub mod client;
pub mod derive;
pub mod history;
pub mod id;
pub mod leg_cursor;
pub mod legs;
pub mod live;
pub mod ops;
pub mod problem;
mod redemption;
pub mod rewards;
mod schema;
pub mod tender;
pub mod wallet;

pub use id::{BusinessId, CustomerId, InvalidId, LegsId};
pub use problem::{Code, FieldError, Outcome, Problem};
pub use schema::CurrencyCode;
