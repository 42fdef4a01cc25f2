//! Amounts that cannot be added wrongly. No I/O.
//!
//! Every amount is an `i64` in the smallest unit of its [`Asset`]: minor units of a currency by its
//! ISO 4217 exponent, or whole loyalty points. Arithmetic is checked; adding two assets is an error
//! value. `rust_decimal` appears only where a rate does, and every use names its rounding.
#![deny(clippy::arithmetic_side_effects)]

mod amount;
mod asset;
mod rate;
mod split;

pub use amount::Amount;
pub use asset::{Asset, Currency};
pub use rate::{PointValue, Rounding};
pub use split::split_by_weight;

/// Why an amount could not be made or combined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Two assets met in one operation.
    #[error("cannot combine {0} with {1}")]
    AssetMismatch(Asset, Asset),
    /// The result does not fit an `i64`.
    #[error("amount out of range")]
    OutOfRange,
    /// Not an ISO 4217 code, or not in capital letters.
    #[error("unknown currency")]
    UnknownCurrency,
    /// A rate must be above zero, at most 10^9, and have at most nine decimal places.
    #[error("invalid rate")]
    InvalidRate,
}
